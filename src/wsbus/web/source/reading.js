// A finite stream: what has come so far, and what is new. A port of `StreamFold` in `core/streams.py`.
import { CommandError } from "./errors.js";

/** @import { BusEvent, Compact, Position, StreamPart } from "./types.js" */
/** @import { Stream } from "./stream.js" */

const FAILED = `failed`; // Not in quotes: the same word is an input of the session, which gets a short name.
const UNFIT = "a delta is no text: `compact` joins others";
const ANEW = "the stream has begun anew";

/**
 * @param {(() => void)} renew Has the server send the whole value again.
 * @param {() => void} leave Called when it ends.
 * @param {Compact} [compact] Joins deltas that are no texts.
 * @returns {Omit<Stream, "events"> & { parts: AsyncGenerator<StreamPart, undefined> }}
 */
export const makeReading = (renew, leave, compact) => {
  /** @type {unknown} */
  let value;
  let state = "open";
  /** @type {string | undefined} */
  let message;
  /** @type {unknown} */
  let result;
  /** @type {Position | undefined} */
  let last;
  /** Entries are missing: only the whole value helps. */
  let isStale = false;
  /** @type {{ error: unknown } | undefined} */
  let ended;
  let wake = () => {};

  const textOf = () => (typeof value === "string" ? value : "");

  /** @param {string} why */
  const fail = (why) => {
    state = FAILED;
    message = why;
  };

  const ask = () => {
    isStale = true;
    renew();
  };

  /** @param {{ value: unknown, state: string, message?: string, result?: unknown }} whole @param {Position} position */
  const replace = (whole, position) => {
    if (whole.value || whole.state !== FAILED) {
      if (!`${whole.value}`.startsWith(textOf())) return fail(ANEW);
      value = whole.value;
    }
    ({ state, message, result } = whole);
    last = position;
    isStale = false;
  };

  /** @param {string} kind @param {unknown} data */
  const add = (kind, data) => {
    if (kind === "append") {
      if (compact) value = compact(/** @type {never} */ (value), /** @type {never} */ (data));
      else if (typeof data === "string") value = textOf() + data;
      else fail(UNFIT);
    } else if (kind === "end") {
      state = "ended";
      ({ result } = /** @type {{ result: unknown }} */ (data));
    } else if (kind === "fail" || kind === "cancel") {
      state = kind === "fail" ? FAILED : "cancelled";
      ({ message } = /** @type {{ message: string }} */ (data));
    }
  };

  const reading = {
    /** @param {unknown} [error] */
    end(error) {
      if (ended) return;
      ended = { error };
      wake();
      leave();
    },
    /** @param {unknown} error */
    dismiss: (error) => reading.end(error),
    /** @param {{ cause: string }} gap After a reconnect the whole value comes anyway. */
    lose({ cause }) {
      if (cause === "reconnect") isStale = true;
      else if (state === "open") ask();
    },
    /** @param {BusEvent} entry */
    push({ event, data, position }) {
      const before = last;
      if (!position || state !== "open") return;
      if (before?.epoch === position.epoch && position.offset <= before.offset - Number(event === "whole")) return; // A copy.
      if (event === "whole") replace(/** @type {Parameters<typeof replace>[0]} */ (data), position);
      else {
        const follows = before ? before.epoch === position.epoch && position.previous === before.offset : !position.previous;
        last = position;
        if (isStale || !follows) ask();
        else add(event, data);
      }
      wake();
    },
  };

  const parts = (async function* () {
    let shown = /** @type {unknown} */ ("");
    for (;;) {
      const text = textOf();
      if (value && value !== shown) {
        const delta = text.slice(`${shown ?? ""}`.length * Number(typeof shown === "string"));
        shown = value;
        yield { delta, "text": text, value }; // In quotes, since this name leaves the module.
      } else if (state !== "open") {
        reading.end();
        if (state === "ended") return undefined;
        throw new CommandError(`STREAM_${state.toUpperCase()}`, message || `the stream ${state}`);
      } else if (ended) {
        if (ended.error) throw ended.error;
        return undefined;
      } else await /** @type {Promise<void>} */ (new Promise((resolve) => (wake = resolve)));
    }
  })();
  const stop = parts.return;
  parts.return = (given) => {
    reading.end();
    return stop.call(parts, given);
  };
  Object.defineProperty(parts, "result", { get: () => result });
  return Object.assign(reading, { parts });
};
