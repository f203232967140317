// SPDX-License-Identifier: MIT
// The connections on a channel, as the server tells them, across reconnects: beside wsbus.js, for the
// pages that show them. A port of `client/watches.py` and `core/client/attendees.py`.
import { CommandError } from "./wsbus.js";

/** @import { PresenceChange, Roster } from "./wsbus.js" */
/** @import { RosterChange, Watchable } from "./wsbus-presence.js" */
/** @typedef {{ wake(): void, end(error?: unknown): void }} Holder */
/** @typedef {Roster["members"][number]} Occupant */

/** @type {(one: Occupant | undefined, other: Occupant) => boolean} */
const isSame = (one, other) => one?.id === other.id && one.subject === other.subject;

/** Those of some connections that are not among others. @type {(some: Map<string, Occupant>, others: Map<string, Occupant>) => Occupant[]} */
const without = (some, others) => [...some.values()].filter((each) => !isSame(others.get(each.id), each));

/** @type {WeakMap<Watchable, Map<string, Watched>>} */
const clients = new WeakMap();

/** A channel that a client watches, however many hold it. One request is under way at a time. */
class Watched {
  /** @type {Set<Holder>} */
  holders = new Set();
  /** By the id of the connection, those that joined first at first. @type {Map<string, Occupant>} */
  members = new Map();
  count = 0;
  /** The server has answered at all. */
  isKnown = false;
  /** The server tells changes over this connection. */
  #isTold = false;
  #isAsking = false;
  /** Some were not named, so that the members may be wrong. */
  #isPart = false;
  #listening = new AbortController();

  /** @param {Watchable} client @param {string} channel @param {() => void} forget */
  constructor(client, channel, forget) {
    this.client = client;
    this.channel = channel;
    this.forget = forget;
    const { signal } = this.#listening;
    // The answer before it is a promise, and comes in this turn, too.
    client.addEventListener("presence", ({ detail }) => detail.channel === channel && queueMicrotask(() => this.#changed(detail)), { signal });
    client.addEventListener("connected", () => this.#anew(), { signal });
    client.addEventListener("disconnected", ({ detail }) => this.end(detail.error), { signal });
  }

  get isOver() {
    return this.#listening.signal.aborted;
  }

  /** Ask the server for what is wanted now. */
  settle() {
    if (this.#isAsking || this.isOver) return;
    const watch = this.holders.size > 0;
    // Without a connection, the server knows of no watch.
    if (!watch && !(this.#isTold && this.client.state === "connected")) return this.end();
    if (watch === this.#isTold) return;
    this.#isAsking = true;
    const options = { watch, idempotent: true, timeout: Infinity };
    const failed = (/** @type {unknown} */ error) => this.end(error);
    this.client.presence(this.channel, options).then((roster) => this.#answered(roster, watch), failed);
  }

  /** It is over. @param {unknown} [error] */
  end(error) {
    if (this.isOver) return;
    this.#listening.abort();
    this.forget();
    for (const holder of [...this.holders]) holder.end(error);
  }

  #anew() {
    this.#isTold = false;
    this.settle();
  }

  /** @param {Roster} roster It stands for all that came before. @param {boolean} isWanted */
  #answered({ members, count, watching }, isWanted) {
    if (this.isOver) return;
    if (isWanted && !watching) return this.end(new CommandError("NO_PRESENCE", `${this.channel}: the server tells no changes`));
    this.#isAsking = false;
    this.#isTold = watching;
    this.members = new Map(members.map((each) => [each.id, each]));
    this.count = count;
    this.#isPart = this.members.size !== count;
    this.isKnown = true;
    for (const { wake } of this.holders) wake();
    this.settle();
  }

  /** @param {PresenceChange} change */
  #changed({ count, joined, left, watching }) {
    if (!this.#isTold) return;
    if (watching === false) return this.end(new CommandError("FORBIDDEN", `presence of ${this.channel}: the server does not tell it any more`));
    this.count = count;
    if (!joined && !left) this.#isPart = true; // Too many: the answer would not name them either.
    else {
      for (const { id } of left ?? []) this.members.delete(id);
      for (const each of joined ?? []) this.members.set(each.id, each);
      if (this.#isPart || this.members.size !== count) return this.#anew();
    }
    for (const { wake } of this.holders) wake();
  }
}

/** @type {(client: Watchable, channel: string) => Watched} */
const watchedOf = (client, channel) => {
  let channels = clients.get(client);
  if (!channels) clients.set(client, (channels = new Map()));
  let watched = channels.get(channel);
  if (!watched) channels.set(channel, (watched = new Watched(client, channel, () => clients.get(client)?.delete(channel))));
  return watched;
};

/** @type {typeof import("./wsbus-presence.js").watchPresence} */
export const watchPresence = (client, channel, { signal } = {}) => {
  const watched = watchedOf(client, channel);
  /** @type {{ members: Map<string, Occupant>, count: number } | undefined} */
  let seen;
  /** @type {{ error: unknown } | undefined} */
  let ended;
  let wake = () => {};
  /** @type {Promise<void>} */
  let news;
  const renew = () => void (news = new Promise((resolve) => (wake = resolve)));
  renew();

  const leave = () => holder.end(signal?.reason);
  /** @type {Holder} */
  const holder = {
    wake: () => wake(),
    end(error) {
      ended ??= { error };
      watched.holders.delete(holder);
      signal?.removeEventListener("abort", leave);
      wake();
      setTimeout(() => watched.settle()); // Another one may come in this turn.
    },
  };
  watched.holders.add(holder);
  signal?.addEventListener("abort", leave);
  if (signal?.aborted) leave();
  queueMicrotask(() => watched.settle());

  /** What has changed since the step before; undefined: nothing. @returns {RosterChange | undefined} */
  const change = () => {
    const { members, count, isKnown } = watched;
    const before = seen?.members ?? new Map();
    const joined = without(members, before);
    const left = without(before, members);
    if (!isKnown || (seen && !joined.length && !left.length && count === seen.count)) return undefined;
    seen = { members: new Map(members), count };
    return { channel, members: [...members.values()], count, joined, left };
  };

  return {
    async next() {
      for (;;) {
        if (ended?.error) throw ended.error;
        if (ended) return { done: true, value: undefined };
        const value = change();
        if (value) return { done: false, value };
        await news;
        renew();
      }
    },
    async return() {
      holder.end();
      return { done: true, value: undefined };
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
};
