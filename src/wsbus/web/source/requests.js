// Requests that wait for an answer: each gets one, and none gets two. Pure; a port of
// `core/client/requests.py`.
import { bytesOf } from "./text.js";

/** @import { Failure, Outcome } from "./actions.js" */
/** @import { Pace } from "./pace.js" */
/**
 * @template K
 * @typedef {import("./actions.js").Action<never, K>} Action
 */
/**
 * `text`: the message without its id, as it was when the application made the request. `wasSent`: it may
 * have been carried out.
 * @template K
 * @typedef {{ key: K, number: number, type: string, isCommand: boolean, text: string, bytes: number,
 *   isIdempotent: boolean, wasSent: boolean }} Pending
 */

/** The bytes of the id, with its key, are added to those of the text. @type {(pending: Pending<unknown>, ref: string) => number} */
const sizeOf = ({ bytes }, ref) => bytes + 8 + ref.length;

/** @template K */
export class Requests {
  /** Those that are not sent, in the order in which they were made. @type {Set<Pending<K>>} */
  #waiting = new Set();
  /** Those that were sent over this connection. @type {Map<string, Pending<K>>} */
  #sent = new Map();
  /** The size of the largest message that was ever answered. */
  #known = 0;
  #count = 0;
  #emit;

  /** @param {(action: Action<K>) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  /** Whether the first that waits is a command; undefined: nothing waits. */
  get nextIsCommand() {
    for (const { isCommand } of this.#waiting) return isCommand;
    return undefined;
  }

  /** Whether a request may have been carried out. @param {K} key */
  wasSent(key) {
    return this.#all.some((pending) => pending.key === key && pending.wasSent);
  }

  /** @param {K} key @param {{ type: string }} message @param {boolean} isIdempotent @param {Pace} pace */
  add(key, message, isIdempotent, pace) {
    const { type } = message;
    const text = JSON.stringify(message);
    const flags = { isCommand: type === "command", isIdempotent, wasSent: false };
    const pending = { key, number: this.#count++, type, text, bytes: bytesOf(text), ...flags };
    this.#waiting.add(pending);
    this.#refuse(pending, "0", pace);
  }

  /** The server has told its limit: fail what is too large for it. @param {Pace} pace */
  judge(pace) {
    for (const pending of this.#waiting) this.#refuse(pending, "0", pace);
  }

  /**
   * Send those that wait, as many as the rates of the server allow.
   * @param {() => string} newRef
   * @param {Pace} pace
   * @param {number} now
   * @param {number} held How many subscriptions there are: the answer to `get_status` names them all.
   */
  send(newRef, pace, now, held) {
    for (const pending of this.#waiting) {
      const { type, isCommand, text } = pending;
      if (pace.readyAt(now, isCommand) > now) return;
      const ref = newRef();
      if (this.#refuse(pending, ref, pace)) continue;
      pace.take(now, isCommand, type === "get_status" ? held : 1);
      pending.wasSent = true;
      this.#waiting.delete(pending);
      this.#sent.set(ref, pending);
      this.#emit({ type: "say", text: `${text.slice(0, -1)},"id":"${ref}"}` });
    }
  }

  /**
   * Take an answer. One that says that there were too many is none: the request is sent again.
   * @param {string} ref
   * @param {Outcome} outcome
   * @param {Pace} pace
   * @param {number} now
   * @returns {boolean} Whether there is such a request.
   */
  answer(ref, outcome, pace, now) {
    const pending = this.#sent.get(ref);
    if (!pending) return false;
    this.#sent.delete(ref);
    this.#known = Math.max(this.#known, sizeOf(pending, ref));
    if (outcome.error?.code === "RATE_LIMITED") {
      pace.refused(now, pending.isCommand);
      pending.wasSent = false;
      this.#wait(pending);
    } else {
      pace.answered(pending.isCommand);
      this.#settle(pending, outcome);
    }
    return true;
  }

  /** Nobody waits for the answer any more. Idempotent. @param {K} key */
  forget(key) {
    for (const pending of this.#waiting) if (pending.key === key) this.#waiting.delete(pending);
    for (const [ref, pending] of this.#sent) if (pending.key === key) this.#sent.delete(ref);
  }

  /**
   * The connection ended: fail what was sent, but what may be sent again waits once more.
   * @param {string} why
   * @param {boolean} isTooBig A message was too large: one that is larger than all that were ever
   *   answered may have been it.
   */
  cut(why, isTooBig) {
    const sent = [...this.#sent];
    this.#sent.clear();
    for (const [ref, pending] of sent) {
      const size = sizeOf(pending, ref);
      const isSuspect = isTooBig && size > this.#known;
      const what = isSuspect ? `it had ${size} bytes and is not sent again` : "no answer came";
      if (pending.isIdempotent && !isSuspect) this.#wait(pending);
      else this.#settle(pending, { error: { code: "CONNECTION_LOST", message: `${what}: ${why}` } });
    }
  }

  /** There will be no answers any more. @param {Failure} error */
  fail(error) {
    const all = this.#all;
    this.#sent.clear();
    for (const pending of all) this.#settle(pending, { error });
  }

  get #all() {
    return [...this.#sent.values(), ...this.#waiting];
  }

  /** It is to be sent again. @param {Pending<K>} pending */
  #wait(pending) {
    this.#waiting = new Set([...this.#waiting, pending].sort((one, other) => one.number - other.number));
  }

  /** Tell whether it is too large, and has failed. @param {Pending<K>} pending @param {string} ref @param {Pace} pace */
  #refuse(pending, ref, { maxBytes }) {
    const size = sizeOf(pending, ref);
    if (size <= maxBytes) return false;
    const message = `not sent: it has ${size} bytes, the server reads at most ${maxBytes}`;
    this.#settle(pending, { error: { code: "TOO_LARGE", message } });
    return true;
  }

  /** @param {Pending<K>} pending @param {Outcome} outcome */
  #settle(pending, outcome) {
    this.#waiting.delete(pending);
    this.#emit({ type: "answer", key: pending.key, outcome });
  }
}
