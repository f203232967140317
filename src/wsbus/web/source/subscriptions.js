// What a client is subscribed to, and who in it wants what. Pure; a port of `ClientHoldings` in
// `core/client/subscriptions.py`.
//
// The server is asked for a name once, however many holders want it. Holders get something only while
// the server has confirmed their name.
import { bytesOf, fits } from "./text.js";

/** @import { Failure, LostOn, Message } from "./actions.js" */
/**
 * @template H
 * @typedef {import("./actions.js").Action<H, never>} Action
 */
/**
 * One name, as it was spelled. `isHeld`: the server has confirmed it. `missed`: the holders that got
 * something before the last connection ended. `ref`: of the request that asks for it; none: the server is
 * still to be asked.
 * @template H
 * @typedef {{ text: string, segments: string[], holders: Set<H>, missed: Set<H>, isHeld: boolean, ref?: string }} Name
 */

/** @template H */
export class Subscriptions {
  /** @type {Map<string, Name<H>>} In the order in which they were wanted. */
  #names = new Map();
  /** Names that the server is still to be asked to forget. @type {Set<string>} */
  #unwanted = new Set();
  /** Names that the server was asked to forget, by the request. @type {Map<string, string[]>} */
  #leaving = new Map();
  #emit;

  /** @param {(action: Action<H>) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  /** How many names somebody wants. */
  get size() {
    return this.#names.size;
  }

  /** Something is still to be said to the server. */
  get hasRequests() {
    return this.#unwanted.size + this.#askedBy().length > 0;
  }

  /** The server has not forgotten yet what nobody wants any more. */
  get isLeaving() {
    return this.#unwanted.size + this.#leaving.size > 0;
  }

  /** The server has confirmed all that is wanted. */
  get isSettled() {
    return this.#all.every(({ isHeld }) => isHeld);
  }

  /** Some holders may have missed something since the last connection ended. */
  get haveMissed() {
    return this.#all.some(({ missed }) => missed.size > 0);
  }

  /** Who wants a name. @param {string} text @returns {Iterable<H>} */
  holders(text) {
    return this.#names.get(text)?.holders ?? [];
  }

  /** Who gets what is published on a channel now. @param {string} channel */
  audience(channel) {
    const segments = channel.split(".");
    /** @type {H[]} */
    const found = [];
    for (const name of this.#names.values()) {
      if (name.isHeld && fits(name.segments, segments)) found.push(...name.holders);
    }
    return found;
  }

  /** @param {string} text @param {H} holder */
  add(text, holder) {
    let name = this.#names.get(text);
    if (!name) {
      name = { text, segments: text.split("."), holders: new Set(), missed: new Set(), isHeld: false };
      this.#names.set(text, name);
    }
    name.holders.add(holder);
    if (name.isHeld) this.#emit({ type: "confirm", holder });
  }

  /** Idempotent. @param {string} text @param {H} holder */
  remove(text, holder) {
    const name = this.#names.get(text);
    if (!name?.holders.delete(holder)) return;
    name.missed.delete(holder);
    if (name.holders.size) return;
    this.#names.delete(text);
    if (name.isHeld || name.ref) this.#unwanted.add(text);
  }

  /** Forget everything: the application does not want it any more. */
  clear() {
    this.#names.clear();
    this.disconnected();
  }

  /**
   * What to say to the server next: that names are not wanted any more, then which ones are.
   * @param {string} id
   * @param {number} maxNames
   * @param {number} maxBytes Of the names together; one is always taken.
   */
  next(id, maxNames, maxBytes) {
    const isLeaving = this.#unwanted.size > 0;
    const texts = isLeaving ? [...this.#unwanted] : this.#askedBy().map(({ text }) => text);
    let size = 0;
    const channels = texts.slice(0, maxNames).filter((text, i) => (size += bytesOf(text) + 3) <= maxBytes || !i);
    for (const text of channels) {
      const name = this.#names.get(text);
      if (name && !isLeaving) name.ref = id;
      this.#unwanted.delete(text);
    }
    if (isLeaving) this.#leaving.set(id, channels);
    return { type: isLeaving ? "unsubscribe" : "subscribe", channels, id };
  }

  /** How many names a request has that is not answered yet; 0: it is none of these. @param {string} ref */
  count(ref) {
    return this.#leaving.get(ref)?.length ?? this.#askedBy(ref).length;
  }

  /** The request asks for what was held before. @param {string} ref */
  isRenewal(ref) {
    return this.#askedBy(ref).some(({ missed }) => missed.size > 0);
  }

  /** The request was not acted on, and is to be made again. @param {string} ref */
  postpone(ref) {
    for (const text of this.#leaving.get(ref) ?? []) this.#unwanted.add(text);
    this.#leaving.delete(ref);
    for (const name of this.#askedBy(ref)) {
      name.ref = undefined;
    }
  }

  /** The server forgot the names of this request. @param {string} ref */
  left(ref) {
    this.#leaving.delete(ref);
  }

  /** The answer to a request; names that it did not ask for are ignored. @param {Message} message */
  answered({ id, data: { channels = [], rejected = [] } }) {
    for (const name of this.#askedBy(id)) {
      if (channels.includes(name.text)) {
        this.#hold(name);
        continue;
      }
      const { code, message } = rejected.find(({ channel }) => channel === name.text) ?? {
        code: "INTERNAL_ERROR",
        message: "the server did not say whether it accepts this",
      };
      this.#dismiss(name, { code, message: `${name.text}: ${message}` });
    }
  }

  /** The whole request was refused. @param {string} ref @param {Failure} error */
  refused(ref, error) {
    for (const name of this.#askedBy(ref)) this.#dismiss(name, error);
  }

  /** The server took names away that it had confirmed. @param {string[]} channels @param {string} [reason] */
  taken(channels, reason) {
    const why = reason === undefined ? "" : `: ${reason}`;
    for (const text of channels) {
      const name = this.#names.get(text);
      const message = `${text}: the server took the subscription away${why}`;
      if (name?.isHeld) this.#dismiss(name, { code: "FORBIDDEN", message });
    }
  }

  /** There is no connection any more: nothing is confirmed, nobody gets anything. */
  disconnected() {
    for (const name of this.#all) {
      if (name.isHeld) for (const holder of name.holders) name.missed.add(holder);
      name.isHeld = false;
      name.ref = undefined;
    }
    this.#unwanted.clear();
    this.#leaving.clear();
  }

  /**
   * The server dropped events. If it says of which channels, only holders that match one miss something.
   * @param {number} lost
   * @param {LostOn[]} [channels]
   */
  lose(lost, channels) {
    for (const { segments, isHeld, holders } of this.#all) {
      const theirs = channels?.filter(({ channel }) => fits(segments, channel.split(".")));
      if (!isHeld || theirs?.length === 0) continue;
      const count = theirs ? theirs.reduce((sum, each) => sum + each.lost, 0) : lost;
      for (const holder of holders) this.#emit({ type: "lose", holder, lost: count, cause: "server", channels: theirs });
    }
  }

  get #all() {
    return [...this.#names.values()];
  }

  /** The names that a request asks for; without one: those that the server is still to be asked for. @param {string} [ref] */
  #askedBy(ref) {
    return this.#all.filter((name) => !name.isHeld && name.ref === ref);
  }

  /** @param {Name<H>} name */
  #hold(name) {
    name.isHeld = true;
    for (const holder of name.holders) {
      const isBack = name.missed.has(holder);
      this.#emit(isBack ? { type: "lose", holder, lost: null, cause: "reconnect" } : { type: "confirm", holder });
    }
    name.missed.clear();
  }

  /** @param {Name<H>} name @param {Failure} error */
  #dismiss({ text, holders }, error) {
    this.#names.delete(text);
    for (const holder of holders) this.#emit({ type: "dismiss", holder, error });
  }
}
