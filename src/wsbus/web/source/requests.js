// Requests that wait for an answer: each gets one, and none gets two. Pure; a port of
// `core/client/requests.py`.
import { bytesOf } from "./names.js";

/** @typedef {import("./actions.js").Failure} Failure */
/** @typedef {import("./actions.js").Outcome} Outcome */
/** @typedef {import("./pace.js").Pace} Pace */
/**
 * @template K
 * @typedef {import("./actions.js").Action<never, K>} Action
 */

/**
 * `text`: the message without its id, as it was when the application made the request. `wasSent`: it
 * was sent over a connection that was lost, so that it may have been carried out.
 * @template K
 * @typedef {{ key: K, type: string, text: string, bytes: number, isIdempotent: boolean, wasSent: boolean }} Pending
 */

/** The bytes of the id, with its key, are added to those of the text. @type {(bytes: number, ref: string) => number} */
const sizeOf = (bytes, ref) => bytes + 8 + ref.length;

/** @type {(type: string) => boolean} */
const isCommand = (type) => type === "command";

/** @template K */
export class Requests {
  /** Those without an answer, in the order in which they were made. @type {Map<K, Pending<K>>} */
  #all = new Map();
  /** Those to be sent: first those that were sent before. @type {Set<Pending<K>>} */
  #again = new Set();
  /** @type {Set<Pending<K>>} */
  #waiting = new Set();
  /** Of those to be sent: not compared with the limit of this connection yet. @type {Set<Pending<K>>} */
  #unjudged = new Set();
  /** Those that were sent over this connection. @type {Map<string, Pending<K>>} */
  #sent = new Map();
  /** The size of the largest message that was ever answered. */
  #known = 0;
  #emit;

  /** @param {(action: Action<K>) => void} emit */
  constructor(emit) {
    this.#emit = emit;
  }

  /** Whether the first that waits is a command; undefined: nothing waits. */
  get nextIsCommand() {
    for (const { type } of this.#again.size ? this.#again : this.#waiting) return isCommand(type);
    return undefined;
  }

  /** Whether a request was sent, so that it may have been carried out. @param {K} key */
  wasSent(key) {
    const pending = this.#all.get(key);
    return !!pending && (pending.wasSent || (!this.#again.has(pending) && !this.#waiting.has(pending)));
  }

  /** @param {K} key @param {{ type: string }} message @param {boolean} isIdempotent */
  add(key, message, isIdempotent) {
    const text = JSON.stringify(message);
    const pending = { key, type: message.type, text, bytes: bytesOf(text), isIdempotent, wasSent: false };
    this.#all.set(key, pending);
    this.#waiting.add(pending);
    this.#unjudged.add(pending);
  }

  /**
   * Send those that wait, as many as the rates of the server allow; fail all that are too large for it.
   * @param {() => string} newRef
   * @param {Pace} pace
   * @param {number} now
   * @param {number} held How many subscriptions there are: the answer to `get_status` names them all.
   */
  send(newRef, pace, now, held) {
    for (const pending of this.#unjudged) this.#isTooLarge(pending, "0", pace);
    this.#unjudged.clear();
    for (const queue of [this.#again, this.#waiting]) {
      for (const pending of queue) {
        const { type, text } = pending;
        if (pace.readyAt(now, isCommand(type)) > now) return;
        const ref = newRef();
        if (this.#isTooLarge(pending, ref, pace)) continue;
        pace.take(now, isCommand(type), type === "get_status" ? held : 1);
        queue.delete(pending);
        this.#sent.set(ref, pending);
        this.#emit({ type: "say", text: `${text.slice(0, -1)},"id":"${ref}"}` });
      }
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
    this.#known = Math.max(this.#known, sizeOf(pending.bytes, ref));
    if (outcome.error?.code === "RATE_LIMITED") {
      pace.refused(now, isCommand(pending.type));
      this.#again.add(pending);
    } else {
      pace.answered(isCommand(pending.type));
      this.#settle(pending, outcome);
    }
    return true;
  }

  /** Nobody waits for the answer any more. Idempotent. @param {K} key */
  forget(key) {
    const pending = this.#all.get(key);
    if (!pending) return;
    this.#drop(pending);
    for (const [ref, each] of this.#sent) if (each === pending) this.#sent.delete(ref);
  }

  /**
   * The connection ended: fail what was sent, but what may be sent again waits once more.
   * @param {string} why
   * @param {boolean} isTooBig A message was too large: one that is larger than all that were ever
   *   answered may have been it.
   */
  cut(why, isTooBig) {
    const waiting = [...this.#again];
    this.#again.clear();
    for (const [ref, pending] of this.#sent) {
      const size = sizeOf(pending.bytes, ref);
      const isSuspect = isTooBig && size > this.#known;
      if (pending.isIdempotent && !isSuspect) {
        pending.wasSent = true;
        this.#again.add(pending);
        continue;
      }
      const what = isSuspect ? `it had ${size} bytes and is not sent again` : "no answer came";
      this.#settle(pending, { error: { code: "CONNECTION_LOST", message: `${what}: ${why}` } });
    }
    this.#sent.clear();
    for (const pending of waiting) this.#again.add(pending);
    this.#unjudged = new Set([...this.#again, ...this.#waiting]);
  }

  /** There will be no answers any more. @param {Failure} error */
  fail(error) {
    this.#sent.clear();
    for (const pending of [...this.#all.values()]) this.#settle(pending, { error });
  }

  /** @param {Pending<K>} pending @param {string} ref @param {Pace} pace */
  #isTooLarge(pending, ref, { maxBytes }) {
    const size = sizeOf(pending.bytes, ref);
    if (size <= maxBytes) return false;
    const message = `not sent: it has ${size} bytes, the server reads at most ${maxBytes}`;
    this.#settle(pending, { error: { code: "TOO_LARGE", message } });
    return true;
  }

  /** @param {Pending<K>} pending @param {Outcome} outcome */
  #settle(pending, outcome) {
    this.#drop(pending);
    this.#emit({ type: "answer", key: pending.key, outcome });
  }

  /** @param {Pending<K>} pending */
  #drop(pending) {
    this.#all.delete(pending.key);
    this.#again.delete(pending);
    this.#waiting.delete(pending);
    this.#unjudged.delete(pending);
  }
}
