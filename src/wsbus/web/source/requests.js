// Requests that wait for an answer: each gets one, and none gets two. Pure; a port of
// `core/client/requests.py`.
import { CommandError } from "./errors.js";
import { json } from "./json.js";
import { bytesOf } from "./text.js";

/** @import { Failure } from "./actions.js" */
/** @import { Pace } from "./pace.js" */
/**
 * `text`: the message without its id, as it was when the application made the request. `hasKey`: the server
 * finds it by its key, should it come again. `lost`: why no answer came over an earlier connection.
 * @template K
 * @typedef {{ key: K, number: number, type: string, isCommand: boolean, text: import("./json.js").Written, bytes: number,
 *   isIdempotent?: boolean, hasKey: boolean, lost?: CommandError }} Pending
 */

/** The bytes of the id, with its key, are added to those of the text. @type {(pending: Pending<unknown>, ref: string) => number} */
const sizeOf = ({ bytes }, ref) => bytes + 8 + ref.length;

/**
 * @template K
 * @typedef {ReturnType<typeof makeRequests<K>>} Requests
 */

/**
 * @template K
 * @param {import("./actions.js").Emit<never, K>} emit
 * @param {Pace} pace
 * @param {import("./json.js").Codec} [codec]
 */
export const makeRequests = (emit, pace, codec = json) => {
  /** Those that are not sent, in the order in which they were made. @type {Set<Pending<K>>} */
  let waiting = new Set();
  /** Those that were sent over this connection. @type {Map<string, Pending<K>>} */
  const sent = new Map();
  /** The size of the largest message that was ever answered. */
  let known = 0;
  let count = 0;

  /** @type {(one: Pending<K>, other: Pending<K>) => number} */
  const byNumber = (one, other) => one.number - other.number;

  /** In the order in which they were made. */
  const all = () => [...sent.values(), ...waiting].sort(byNumber);

  /** It is to be sent again. @param {Pending<K>} pending */
  const wait = (pending) => {
    waiting = new Set([...waiting, pending].sort(byNumber));
  };

  /** @param {Pending<K>} pending @param {Failure} [error] @param {unknown} [data] */
  const settle = (pending, error, data) => {
    waiting.delete(pending);
    emit("answer", pending.key, error, data);
  };

  /** @param {Pending<K>} pending @param {string} code @param {string} message */
  const fail = (pending, code, message) => settle(pending, new CommandError(code, message));

  /** Tell whether it is too large, and has failed. @param {Pending<K>} pending @param {string} [ref] */
  const refuse = (pending, ref = "0") => {
    const size = sizeOf(pending, ref);
    const { maxBytes } = pace;
    if (size <= maxBytes) return false;
    fail(pending, "TOO_LARGE", `not sent: it has ${size} bytes, the server reads at most ${maxBytes}`);
    return true;
  };

  return {
    /** When the first that waits can be sent; Infinity: nothing waits. @param {number} now */
    readyAt(now) {
      for (const { isCommand } of waiting) return pace.readyAt(now, isCommand);
      return Infinity;
    },

    /** Whether a request may have been carried out. @param {K} key */
    wasSent: (key) => all().some((pending) => pending.key === key && (pending.lost || !waiting.has(pending))),

    /** @param {K} key @param {{ type: string, idempotency_key?: string }} message @param {boolean} [isIdempotent] */
    add(key, message, isIdempotent) {
      const { type } = message;
      const text = codec.write(message);
      const isCommand = type === "command";
      const hasKey = !!message.idempotency_key;
      const pending = { key, number: count++, type, isCommand, text, bytes: bytesOf(text), isIdempotent, hasKey };
      waiting.add(pending);
      refuse(pending);
    },

    /** The server has told its limit: fail what is too large for it. */
    judge() {
      for (const pending of waiting) refuse(pending);
    },

    /**
     * Send those that wait, as many as the rates of the server allow.
     * @param {() => string} newRef
     * @param {number} now
     * @param {number} held How many subscriptions there are: the answer to `get_status` names them all.
     */
    send(newRef, now, held) {
      for (const pending of waiting) {
        const { type, isCommand, text } = pending;
        if (pace.readyAt(now, isCommand) > now) return;
        const ref = newRef();
        if (refuse(pending, ref)) continue;
        pace.take(now, type === "get_status" ? held : 1, isCommand);
        waiting.delete(pending);
        sent.set(ref, pending);
        emit("say", codec.add(text, "id", ref));
      }
    },

    /**
     * Take an answer. One that says that there were too many is none: the request is sent again.
     * @param {string} ref
     * @param {number} now
     * @param {CommandError} [error]
     * @param {unknown} [data]
     * @returns {boolean} Whether there is such a request.
     */
    answer(ref, now, error, data) {
      const pending = sent.get(ref);
      if (!pending) return false;
      sent.delete(ref);
      known = Math.max(known, sizeOf(pending, ref));
      const limit = pace.of(pending.isCommand);
      if (error?.code === "RATE_LIMITED") {
        limit.refused(now);
        wait(pending);
      } else {
        limit.answered();
        settle(pending, error?.code === "NOT_REPEATABLE" ? (pending.lost ?? error) : error, data);
      }
      return true;
    },

    /** Nobody waits for the answer any more. Idempotent. @param {K} key */
    forget(key) {
      for (const pending of waiting) if (pending.key === key) waiting.delete(pending);
      for (const [ref, pending] of sent) if (pending.key === key) sent.delete(ref);
    },

    /**
     * The connection ended: fail what was sent, but what may be sent again waits once more.
     * @param {string} why
     * @param {boolean} isTooBig A message was too large: one that is larger than all that were ever
     *   answered may have been it.
     */
    cut(why, isTooBig) {
      for (const [ref, pending] of sent) {
        const size = sizeOf(pending, ref);
        const isSuspect = isTooBig && size > known;
        const what = isSuspect ? `it had ${size} bytes and is not sent again` : "no answer came";
        const error = new CommandError("CONNECTION_LOST", `${what}: ${why}`);
        if (isSuspect || !(pending.isIdempotent || pending.hasKey)) settle(pending, error);
        else {
          if (!pending.isIdempotent && !pending.lost) {
            pending.text = codec.add(pending.text, "retry", true);
            pending.bytes += 13;
          }
          pending.lost = error;
          wait(pending);
        }
      }
      sent.clear();
    },

    /** There will be no answers any more. @param {Failure} error */
    fail(error) {
      for (const pending of all()) settle(pending, error);
      sent.clear();
    },
  };
};
