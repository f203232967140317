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

/** @typedef {ReturnType<typeof makePace>} Pace */

/** A limit that the server tells, if it is one. @type {(value: unknown, otherwise?: number) => number} */
const limitOf = (value, otherwise = Infinity) => (typeof value === "number" && value > 0 ? value : otherwise);

/** One token bucket. @param {unknown} told The rate that the server tells, if it does. @param {number} last Now. */
const makeBucket = (told, last) => {
  const most = limitOf(told) * RATE_SHARE;
  let rate = most;
  let burst = Math.max(1, limitOf(told) * BURST_SHARE);
  let tokens = burst;
  let quietUntil = -Infinity;

  /** @param {number} now */
  const refill = (now) => {
    if (tokens < burst) tokens = Math.min(burst, tokens + ((now - last) / 1000) * rate);
    last = now;
    return tokens;
  };

  return {
    refill,
    /** When there is a token: `now`, or later. @param {number} now */
    readyAt(now) {
      const missing = 1 - refill(now);
      return missing <= ROUNDING ? now : now + (missing / rate) * 1000;
    },
    /** What cannot wait is sent without a token, and delays what follows. @param {number} now @param {number} count */
    take(now, count) {
      // Refilled first: what comes in afterwards, up to the burst, would hide it.
      tokens = Math.max(-burst, refill(now) - count);
    },
    /** Slow down after a refusal. The refusals of one burst count once. @param {number} now */
    refused(now) {
      if (now < quietUntil) return;
      rate = rate < Infinity ? Math.max(SLOWEST, rate / 2) : FIRST_GUESS;
      burst = Math.min(burst, Math.max(1, rate));
      tokens = 0;
      last = now;
      quietUntil = now + 1000 / rate;
    },
    /** Speed up a little after an answer. */
    answered() {
      if (rate >= most) return;
      rate = Math.min(most, rate + SPEED_UP);
      if (rate > FASTEST_GUESS) rate = burst = tokens = Infinity;
    },
  };
};

/** The limits of the present connection, and what is left of them. */
export const makePace = () => {
  /** @type {ReturnType<typeof makeBucket>} */
  let messages;
  /** @type {ReturnType<typeof makeBucket>} */
  let commands;

  const self = {
    /** The largest message that the server reads. */
    maxBytes: 0,
    /** The most names in one request. */
    maxNames: 0,

    /** @param {import("./actions.js").Terms} terms What the server tells of its limits. @param {number} now */
    learn(terms, now) {
      messages = makeBucket(terms.messages_per_second, now);
      commands = makeBucket(terms.commands_per_second, now);
      self.maxBytes = limitOf(terms.max_message_bytes);
      self.maxNames = Math.max(1, limitOf(terms.max_names, UNTOLD_NAMES));
    },

    /** When one more message may be sent: `now`, or later. @param {number} now @param {boolean} [isCommand] */
    readyAt: (now, isCommand) => Math.max(messages.readyAt(now), isCommand ? commands.readyAt(now) : now),

    /** How many names one request may hold now. @param {number} now */
    names(now) {
      return Math.min(self.maxNames, NAMES_PER_MESSAGE * Math.max(1, Math.floor(messages.refill(now) + ROUNDING)));
    },

    /** A message is sent. @param {number} now @param {number} [names] @param {boolean} [isCommand] */
    take(now, names = 1, isCommand) {
      messages.take(now, Math.max(1, Math.ceil(names / NAMES_PER_MESSAGE)));
      if (isCommand) commands.take(now, 1);
    },

    /** Whose limit it was. @param {boolean} [isCommand] */
    of: (isCommand) => (isCommand ? commands : messages),
  };
  self.learn({}, 0);
  return self;
};
