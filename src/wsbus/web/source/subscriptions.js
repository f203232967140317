// What a client is subscribed to, and who in it wants what. Pure; a port of `ClientHoldings` in
// `core/client/subscriptions.py`.
//
// The server is asked for a name once, however many holders want it. Holders get something only while
// the server has confirmed their name.
//
// A name of channels with history has a mark: the position up to which its holders have everything. The
// confirmation sets it, and each new event moves it. After a lost connection the name goes on at its mark,
// and the server says whether nothing is missing since.
import { CommandError } from "./errors.js";
import { sum } from "./gaps.js";
import { bytesOf, fits } from "./text.js";

/** @import { Failure, GapCause, LostOn, Message } from "./actions.js" */
/** @import { BusEvent, MaxRate, Position } from "./types.js" */
/**
 * One name, as it was spelled. `isHeld`: the server has confirmed it. `missed`: the holders that got
 * something before the last connection ended. `from`: what it has had begins after this position. `ref`: of the request that asks for it; none: the server is
 * still to be asked. `start`: where the application wants it to begin, and `starter`: for this holder. `isFresh`:
 * the last confirmation has begun it, so that the latest events are for it. `gaps`: they came before it was
 * confirmed. `rates`: the events a second that holders want at most, if they do not want all. `asked`: what was
 * asked for last.
 * @template H
 * @typedef {{ text: string, segments: string[], holders: Set<H>, missed: Set<H>, isHeld: boolean, ref?: string,
 *   mark?: Position, from?: Position, start?: Position, rates: Map<H, MaxRate>, asked?: number, starter?: H, isFresh?: boolean,
 *   gaps?: [number | null, GapCause, LostOn[] | undefined][] }} Name
 */

/** What a text takes in a list, in bytes: with quotes and a comma. @param {string} [text] */
const MAX_RECOVERED = 10;
const size = (text = "") => bytesOf(text) + 3;

/** A position, and nothing else that came with it. @type {(position: Position) => Position} */
const plain = ({ epoch, offset, tag }) => ({ epoch, offset, ...(tag && { tag }) });

/** What a name takes in a request, in bytes: its text, and where it goes on. @type {(name: Name<unknown>) => number} */
const sizeOf = ({ text, start, mark, rates }) => {
  const since = start ?? mark;
  return size(text) + (rates.size && size(text) + 24) + (since ? size(text) + size(since.epoch) + size(since.tag) + 48 : 0);
};

/** Where a request for a name goes on, if the server can read that. @type {(name: Name<unknown>, maxBytes: number) => Position | undefined} */
const sinceOf = (name, maxBytes) => name.start ?? (sizeOf(name) + 72 > 2 * maxBytes ? undefined : name.mark);

/** Tell whether the holders of a name have had an event. @type {(name: Name<unknown>, event: BusEvent) => unknown} */
const hasHad = ({ mark, from }, { position }) =>
  position && from?.epoch === position.epoch && mark?.epoch === position.epoch && from.offset < position.offset && position.offset <= mark.offset;

/** Tell whether an event is new for the holders of a name; if it is, it moves the mark. @type {(name: Name<unknown>, event: BusEvent) => unknown} */
const takes = (name, { position, latest }) => {
  const { mark } = name;
  if (latest) return name.isFresh;
  if (position && mark) {
    if (mark.epoch === position.epoch && position.offset <= mark.offset) return false;
    name.mark = plain(position);
  }
  return true;
};

/**
 * @template H
 * @typedef {ReturnType<typeof makeSubscriptions<H>>} Subscriptions
 */

/**
 * @template H
 * @param {import("./actions.js").Emit<H, never>} emit
 * @param {(most: MaxRate) => number} limit What to ask for now, of what a holder wants at most.
 */
export const makeSubscriptions = (emit, limit) => {
  /** @type {Map<string, Name<H>>} In the order in which they were wanted. */
  const names = new Map();
  /** Names that the server is still to be asked to forget. @type {Set<string>} */
  const unwanted = new Set();
  /** Names that the server was asked to forget, by the request. @type {Map<string, string[]>} */
  const leaving = new Map();
  /** Names whose rates were asked for anew, by the request. @type {Map<string, Name<H>[]>} */
  const tuning = new Map();

  const all = () => [...names.values()];

  /** The names that a request asks for; without one: those that the server is still to be asked for. @param {string} [ref] */
  const askedBy = (ref) => all().filter((name) => !name.isHeld && name.ref === ref);

  /** The rate that serves all holders; undefined: all events. @param {Name<H>} name */
  const rateOf = ({ holders, rates }) =>
    holders.size > rates.size ? undefined : Math.max(...[...rates.values()].map(limit));

  /** The names whose rate is to be another one. */
  const untuned = () => all().filter((name) => name.isHeld && rateOf(name) !== name.asked);

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
    hasRequests: () => unwanted.size + askedBy().length + untuned().length > 0,

    /** Some holder does not want all events. */
    isRated: () => all().some(({ rates }) => rates.size),

    /** The server has not forgotten yet what nobody wants any more. */
    isLeaving: () => unwanted.size + leaving.size > 0,

    /** The server has confirmed all that is wanted. */
    isSettled: () => all().every(({ isHeld }) => isHeld),

    /** Some holders may have missed something since the last connection ended. */
    haveMissed,

    /** Who wants a name. @param {string} text @returns {Iterable<H>} */
    holders: (text) => names.get(text)?.holders ?? [],

    /** Up to where the holders of a name have everything. @param {string} text */
    position: (text) => names.get(text)?.mark,

    /**
     * Who gets an event, and whether it is new for this client: not so if it is new for no name that matches, or
     * came for another one before. Moves the marks: once for each event.
     * @param {BusEvent} event
     */
    receive(event) {
      const segments = event.channel.split(".");
      const held = all().filter((name) => name.isHeld && fits(name.segments, segments));
      const isOld = held.some((name) => hasHad(name, event));
      const takers = held.filter((name) => takes(name, event));
      return { holders: takers.flatMap(({ holders }) => [...holders]), isNew: !isOld && (!held.length || !!takers.length) };
    },

    /** @param {string} text @param {H} holder @param {Position} [since] Nothing after it may be missing. @param {MaxRate} [most] */
    add(text, holder, since, most) {
      let name = names.get(text);
      if (!name) {
        name = { text, segments: text.split("."), holders: new Set(), rates: new Map(), missed: new Set(), isHeld: false, start: since, starter: holder };
        names.set(text, name);
      } else if (since) {
        return emit("dismiss", holder, new CommandError("ALREADY_SUBSCRIBED", `${text}: it cannot begin at a position`));
      }
      name.holders.add(holder);
      if (most) name.rates.set(holder, most);
      if (name.isHeld) emit("confirm", holder);
    },

    /** Give a confirmed name up and ask for it again, from now on; its holders miss something. @param {string} text */
    renew(text) {
      const name = names.get(text);
      if (!name?.isHeld) return;
      for (const holder of name.holders) name.missed.add(holder);
      name.isHeld = false;
      name.ref = name.mark = undefined;
      unwanted.add(text);
    },

    /** Idempotent. @param {string} text @param {H} holder */
    remove(text, holder) {
      const name = names.get(text);
      if (!name?.holders.delete(holder)) return;
      name.missed.delete(holder);
      name.rates.delete(holder);
      if (name.holders.size) return;
      names.delete(text);
      if (name.isHeld || name.ref) unwanted.add(text);
    },

    /**
     * What to say to the server next: that names are not wanted any more, then which ones are.
     * @param {string} id
     * @param {number} maxNames
     * @param {number} maxBytes Of names and positions, half of what the server reads; one is always taken.
     */
    next(id, maxNames, maxBytes) {
      let bytes = 0;
      /** @type {(size: number, i: number) => boolean} */
      const fitsIn = (size, i) => i < maxNames && ((bytes += size) <= maxBytes || !i);
      if (unwanted.size) {
        const channels = [...unwanted].filter((text, i) => fitsIn(size(text), i));
        for (const text of channels) unwanted.delete(text);
        leaving.set(id, channels);
        return { type: "unsubscribe", channels, id };
      }
      // A server recovers so many names of a request.
      if (askedBy().some(({ start, mark }) => start ?? mark)) maxNames = Math.min(maxNames, MAX_RECOVERED);
      const isNew = askedBy().length;
      const asked = (isNew ? askedBy() : untuned()).filter((name, i) => fitsIn(sizeOf(name), i));
      if (!isNew) tuning.set(id, asked);
      /** @type {[string, object][]} */
      const since = [];
      /** @type {[string, number][]} */
      const rates = [];
      for (const name of asked) {
        name.asked = rateOf(name);
        if (name.asked) rates.push([name.text, name.asked]);
        if (!isNew) continue;
        const position = sinceOf(name, maxBytes);
        if (position) since.push([name.text, { ...plain(position), ...(name.start && { strict: true }) }]);
        name.ref = id;
      }
      return {
        type: "subscribe",
        channels: asked.map(({ text }) => text),
        since: since.length ? Object.fromEntries(since) : undefined,
        max_rate: rates.length ? Object.fromEntries(rates) : undefined,
        id,
      };
    },

    /** How many names a request has that is not answered yet; 0: it is none of these. @param {string} ref */
    count: (ref) => (leaving.get(ref) ?? tuning.get(ref) ?? askedBy(ref)).length,

    isRenewal,

    /** The server cannot serve now what it served over an earlier connection. @param {Message} message */
    isCutShort: ({ id, data: { rejected = [] } }) => rejected.some(({ code }) => code === "UNAVAILABLE") && isRenewal(id),

    /** The request was not acted on, and is to be made again. @param {string} ref */
    postpone(ref) {
      for (const text of leaving.get(ref) ?? []) unwanted.add(text);
      leaving.delete(ref);
      for (const name of tuning.get(ref) ?? []) name.asked = NaN;
      tuning.delete(ref);
      for (const name of askedBy(ref)) name.ref = undefined;
    },

    /** The server forgot the names of this request. @param {string} ref */
    left: (ref) => void leaving.delete(ref),

    /**
     * The answer to a request; names that it did not ask for are ignored. Returns whether something may be missing.
     * @param {Message} message
     */
    answered({ id, data: { channels = [], rejected = [], positions = [] } }) {
      const asked = askedBy(id);
      tuning.delete(`${id}`);
      let isMissing = false;
      if (asked.length) for (const name of all()) name.isFresh = false;
      for (const name of asked) {
        const { text, holders, missed, starter } = name;
        /** @param {{ channel: string }} answer */
        const isIts = ({ channel }) => channel === text;
        const { code, message } = rejected.find(isIts) ?? { code: "INTERNAL_ERROR", message: "the server did not answer" };
        const error = new CommandError(code, `${text}: ${message}`);
        if (channels.includes(text)) {
          const position = positions.find(isIts);
          name.isHeld = true;
          name.isFresh = !position?.recovered;
          name.mark = position && plain(position);
          name.from = name.start ?? (name.isFresh ? name.mark : name.from);
          name.start = undefined;
          for (const holder of holders) {
            if (!missed.delete(holder)) emit("confirm", holder);
            else if (name.isFresh) {
              isMissing = true;
              emit("lose", holder, null, "reconnect");
            }
            for (const gap of name.gaps ?? []) emit("lose", holder, ...gap);
          }
          name.gaps = undefined;
        } else if (code === "POSITION_LOST" && name.start && holders.size > +holders.has(/** @type {H} */ (starter))) {
          // The others ask for no position.
          name.ref = name.start = undefined;
          name.rates.delete(/** @type {H} */ (starter));
          if (holders.delete(/** @type {H} */ (starter))) emit("dismiss", /** @type {H} */ (starter), error);
        } else dismiss(name, error);
      }
      return isMissing;
    },

    /** The whole request was refused. @param {string} ref @param {Failure} error */
    refused(ref, error) {
      leaving.delete(ref);
      tuning.delete(ref);
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
        name.ref = name.gaps = undefined;
      }
      unwanted.clear();
      leaving.clear();
      tuning.clear();
    },

    /**
     * The server dropped events. If it says of which channels, only holders that match one miss something.
     * @param {number | null} lost
     * @param {GapCause} cause
     * @param {LostOn[]} [channels]
     */
    lose(lost, cause, channels) {
      for (const name of all()) {
        const theirs = channels?.filter(({ channel }) => fits(name.segments, channel.split(".")));
        if (theirs?.length === 0) continue;
        const count = theirs ? theirs.map(({ lost = null }) => lost).reduce(sum, 0) : lost;
        if (name.isHeld) for (const holder of name.holders) emit("lose", holder, count, cause, theirs);
        // It may count for what is missing after the confirmation.
        else if (name.ref) (name.gaps ??= []).push([count, cause, theirs]);
      }
    },
  };
};
