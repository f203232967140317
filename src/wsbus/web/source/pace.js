// How fast a client may send: the token buckets of its server, kept with a margin. Pure; a port of
// `core/client/pace.py`. Times are in ms, rates in messages per second.

/** A request costs one message for each so many names that it begins. */
const NAMES_PER_MESSAGE = 8;
/** Names in one request, if the server tells no limit. */
const UNTOLD_NAMES = 128;
/** The network may deliver late what was sent early, so that it arrives together with more. */
const RATE_SHARE = 0.97;
const BURST_SHARE = 0.8;
/** The rate after the first refusal by a server that told none; it halves with each further one. */
const FIRST_GUESS = 5;
const SLOWEST = 0.2;
/** An answer makes the rate faster by this; a guess that is faster than the last figure is no limit. */
const SPEED_UP = 0.5;
const FASTEST_GUESS = 1000;
const ROUNDING = 1e-6;

/** One token bucket. */
class Rate {
  #most;
  #rate;
  #burst;
  #last;
  #quietUntil = -Infinity;
  tokens;

  /** @param {number} told Infinity: no limit is known. @param {number} now */
  constructor(told, now) {
    this.#most = this.#rate = told * RATE_SHARE;
    this.#burst = this.tokens = Math.max(1, told * BURST_SHARE);
    this.#last = now;
  }

  /** When there is a token: `now`, or later. @param {number} now */
  readyAt(now) {
    this.#refill(now);
    const missing = 1 - this.tokens;
    return missing <= ROUNDING ? now : now + (missing / this.#rate) * 1000;
  }

  /** What cannot wait is sent without a token, and delays what follows. @param {number} now @param {number} count */
  take(now, count) {
    this.#refill(now); // First: what comes in afterwards, up to the burst, would hide it.
    this.tokens = Math.max(-this.#burst, this.tokens - count);
  }

  /** @param {number} now */
  #refill(now) {
    if (this.tokens < this.#burst) {
      this.tokens = Math.min(this.#burst, this.tokens + (Math.max(0, now - this.#last) / 1000) * this.#rate);
    }
    this.#last = now;
  }

  /** Slow down after a refusal. The refusals of one burst count once. @param {number} now */
  refused(now) {
    if (now < this.#quietUntil) return;
    this.#rate = this.#rate < Infinity ? Math.max(SLOWEST, this.#rate / 2) : FIRST_GUESS;
    this.#burst = Math.min(this.#burst, Math.max(1, this.#rate));
    this.tokens = 0;
    this.#last = now;
    this.#quietUntil = now + 1000 / this.#rate;
  }

  /** Speed up a little after an answer. */
  answered() {
    if (this.#rate >= this.#most) return;
    this.#rate = Math.min(this.#most, this.#rate + SPEED_UP);
    if (this.#rate > FASTEST_GUESS) this.#rate = this.#burst = this.tokens = Infinity;
  }
}

/** A limit that the server tells, if it is one. @type {(value: unknown) => number} */
const limitOf = (value) => (typeof value === "number" && value > 0 ? value : Infinity);

/** The limits of one connection, and what is left of them. */
export class Pace {
  /** The largest message that the server reads. */
  maxBytes;
  /** The most names in one request. */
  maxNames;
  #messages;
  #commands;

  /** @param {import("./actions.js").Terms} terms What the server tells of its limits. @param {number} now */
  constructor(terms, now) {
    this.maxBytes = limitOf(terms.max_message_bytes);
    const names = limitOf(terms.max_names);
    this.maxNames = names < Infinity ? Math.max(1, names) : UNTOLD_NAMES;
    this.#messages = new Rate(limitOf(terms.messages_per_second), now);
    this.#commands = new Rate(limitOf(terms.commands_per_second), now);
  }

  /** When one more message may be sent: `now`, or later. @param {number} now @param {boolean} isCommand */
  readyAt(now, isCommand) {
    return Math.max(this.#messages.readyAt(now), isCommand ? this.#commands.readyAt(now) : now);
  }

  /** How many names one request may hold now. */
  names() {
    const { tokens } = this.#messages;
    return Math.min(this.maxNames, NAMES_PER_MESSAGE * Math.max(1, Math.floor(tokens + ROUNDING)));
  }

  /** A message is sent. @param {number} now @param {boolean} [isCommand] @param {number} [names] */
  take(now, isCommand = false, names = 1) {
    this.#messages.take(now, Math.max(1, Math.ceil(names / NAMES_PER_MESSAGE)));
    if (isCommand) this.#commands.take(now, 1);
  }

  /** The server answered `RATE_LIMITED`. @param {number} now @param {boolean} isCommand */
  refused(now, isCommand) {
    (isCommand ? this.#commands : this.#messages).refused(now);
  }

  /** The server acted on a message. @param {boolean} isCommand */
  answered(isCommand) {
    (isCommand ? this.#commands : this.#messages).answered();
  }
}
