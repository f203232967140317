// What a client is subscribed to, and who in it wants what. Pure; a port of `ClientHoldings` in
// `core/client/subscriptions.py`.
//
// The server is asked for a name once, however many holders want it. Holders get something only while
// the server has confirmed their name.
import { CommandError } from "./errors.js";
import { sum } from "./gaps.js";
import { bytesOf, fits } from "./text.js";

/** @import { Failure, GapCause, LostOn, Message } from "./actions.js" */
/**
 * One name, as it was spelled. `isHeld`: the server has confirmed it. `missed`: the holders that got
 * something before the last connection ended. `ref`: of the request that asks for it; none: the server is
 * still to be asked.
 * @template H
 * @typedef {{ text: string, segments: string[], holders: Set<H>, missed: Set<H>, isHeld: boolean, ref?: string }} Name
 */

/**
 * @template H
 * @typedef {ReturnType<typeof makeSubscriptions<H>>} Subscriptions
 */

/**
 * @template H
 * @param {import("./actions.js").Emit<H, never>} emit
 */
export const makeSubscriptions = (emit) => {
  /** @type {Map<string, Name<H>>} In the order in which they were wanted. */
  const names = new Map();
  /** Names that the server is still to be asked to forget. @type {Set<string>} */
  const unwanted = new Set();
  /** Names that the server was asked to forget, by the request. @type {Map<string, string[]>} */
  const leaving = new Map();

  const all = () => [...names.values()];

  /** The names that a request asks for; without one: those that the server is still to be asked for. @param {string} [ref] */
  const askedBy = (ref) => all().filter((name) => !name.isHeld && name.ref === ref);

  /** @param {Name<H>} name @param {Failure} error */
  const dismiss = ({ text, holders }, error) => {
    names.delete(text);
    for (const holder of holders) emit("dismiss", holder, error);
  };

  /** The request asks for what was held before. @param {string} [ref] */
  const isRenewal = (ref) => haveMissed(askedBy(ref));

  const haveMissed = (some = all()) => some.some(({ missed }) => missed.size);

  return {
    /** How many names somebody wants. */
    size: () => names.size,

    /** Something is still to be said to the server. */
    hasRequests: () => unwanted.size + askedBy().length > 0,

    /** The server has not forgotten yet what nobody wants any more. */
    isLeaving: () => unwanted.size + leaving.size > 0,

    /** The server has confirmed all that is wanted. */
    isSettled: () => all().every(({ isHeld }) => isHeld),

    /** Some holders may have missed something since the last connection ended. */
    haveMissed,

    /** Who wants a name. @param {string} text @returns {Iterable<H>} */
    holders: (text) => names.get(text)?.holders ?? [],

    /** Who gets what is published on a channel now. @param {string} channel */
    audience(channel) {
      const segments = channel.split(".");
      return all().flatMap((name) => (name.isHeld && fits(name.segments, segments) ? [...name.holders] : []));
    },

    /** @param {string} text @param {H} holder */
    add(text, holder) {
      let name = names.get(text);
      if (!name) {
        name = { text, segments: text.split("."), holders: new Set(), missed: new Set(), isHeld: false };
        names.set(text, name);
      }
      name.holders.add(holder);
      if (name.isHeld) emit("confirm", holder);
    },

    /** Idempotent. @param {string} text @param {H} holder */
    remove(text, holder) {
      const name = names.get(text);
      if (!name?.holders.delete(holder)) return;
      name.missed.delete(holder);
      if (name.holders.size) return;
      names.delete(text);
      if (name.isHeld || name.ref) unwanted.add(text);
    },

    /**
     * What to say to the server next: that names are not wanted any more, then which ones are.
     * @param {string} id
     * @param {number} maxNames
     * @param {number} maxBytes Of the names together; one is always taken.
     */
    next(id, maxNames, maxBytes) {
      const isLeaving = unwanted.size > 0;
      const texts = isLeaving ? [...unwanted] : askedBy().map(({ text }) => text);
      let size = 0;
      const channels = texts.slice(0, maxNames).filter((text, i) => (size += bytesOf(text) + 3) <= maxBytes || !i);
      for (const text of channels) {
        const name = names.get(text);
        if (name && !isLeaving) name.ref = id;
        unwanted.delete(text);
      }
      if (isLeaving) leaving.set(id, channels);
      return { type: isLeaving ? "unsubscribe" : "subscribe", channels, id };
    },

    /** How many names a request has that is not answered yet; 0: it is none of these. @param {string} ref */
    count: (ref) => (leaving.get(ref) ?? askedBy(ref)).length,

    isRenewal,

    /** The server cannot serve now what it served over an earlier connection. @param {Message} message */
    isCutShort: ({ id, data: { rejected = [] } }) => rejected.some(({ code }) => code === "UNAVAILABLE") && isRenewal(id),

    /** The request was not acted on, and is to be made again. @param {string} ref */
    postpone(ref) {
      for (const text of leaving.get(ref) ?? []) unwanted.add(text);
      leaving.delete(ref);
      for (const name of askedBy(ref)) name.ref = undefined;
    },

    /** The server forgot the names of this request. @param {string} ref */
    left: (ref) => void leaving.delete(ref),

    /** The answer to a request; names that it did not ask for are ignored. @param {Message} message */
    answered({ id, data: { channels = [], rejected = [] } }) {
      for (const name of askedBy(id)) {
        const { text, holders, missed } = name;
        if (channels.includes(text)) {
          name.isHeld = true;
          for (const holder of holders) {
            if (missed.delete(holder)) emit("lose", holder, null, "reconnect");
            else emit("confirm", holder);
          }
        } else {
          const { code, message } = rejected.find(({ channel }) => channel === text) ?? {
            code: "INTERNAL_ERROR",
            message: "the server did not answer",
          };
          dismiss(name, new CommandError(code, `${text}: ${message}`));
        }
      }
    },

    /** The whole request was refused. @param {string} ref @param {Failure} error */
    refused(ref, error) {
      leaving.delete(ref);
      for (const name of askedBy(ref)) dismiss(name, error);
    },

    /** The server took names away that it had confirmed. @param {string[]} channels @param {string} [reason] */
    taken(channels, reason = "") {
      for (const text of channels) {
        const name = names.get(text);
        const message = `${text}: the server took the subscription away${reason && `: ${reason}`}`;
        if (name?.isHeld) dismiss(name, new CommandError("FORBIDDEN", message));
      }
    },

    /** There is no connection any more: nothing is confirmed, nobody gets anything. @param {boolean} [isOver] Nothing is wanted any more. */
    disconnected(isOver) {
      if (isOver) names.clear();
      for (const name of all()) {
        if (name.isHeld) for (const holder of name.holders) name.missed.add(holder);
        name.isHeld = false;
        name.ref = undefined;
      }
      unwanted.clear();
      leaving.clear();
    },

    /**
     * The server dropped events. If it says of which channels, only holders that match one miss something.
     * @param {number | null} lost
     * @param {GapCause} cause
     * @param {LostOn[]} [channels]
     */
    lose(lost, cause, channels) {
      for (const { segments, isHeld, holders } of all()) {
        const theirs = channels?.filter(({ channel }) => fits(segments, channel.split(".")));
        if (!isHeld || theirs?.length === 0) continue;
        const count = theirs ? theirs.map(({ lost = null }) => lost).reduce(sum, 0) : lost;
        for (const holder of holders) emit("lose", holder, count, cause, theirs);
      }
    },
  };
};
