// Whether the connection is alive: the pings of the client, one at a time. Pure; a port of
// `core/client/liveness.py`. Times are in ms.

/** A timer that is later than this shows that the page itself stood still: it was asleep, say. */
const STALL = 1000;
/** How long a connection may take to answer when the browser gives cause to doubt it. */
const SHORT = 5000;

/** @param {number} interval From ping to ping. @param {number} timeout For the answer. */
export const makeLiveness = (interval, timeout) => {
  /** When the ping was sent that is not answered yet; -Infinity: there is none. */
  let askedAt = -Infinity;
  let isForgiven = false;

  /** @param {number} now @param {number} patience @returns {"ping"} */
  const ask = (now, patience) => {
    askedAt = now;
    isForgiven = false;
    self.patience = patience;
    self.deadline = now + patience;
    return "ping";
  };

  const self = {
    /** How long the answer to the last ping may take. */
    patience: timeout,
    /** When `judge` has something to say. */
    deadline: Infinity,

    /** There is a new connection, or an answer: the next ping is due an interval after this. @param {number} since */
    rest(since = askedAt) {
      askedAt = -Infinity;
      if (since > -Infinity) self.deadline = since + interval;
    },

    /**
     * What is due: a ping, which then counts as sent; or the connection is dead.
     *
     * A page that was late has read nothing meanwhile, so that the answer may be there already: it gets
     * one more second to be read.
     * @param {number} now
     * @returns {"ping" | "dead" | undefined}
     */
    judge(now) {
      if (now < self.deadline) return undefined;
      if (askedAt === -Infinity) return ask(now, timeout);
      if (now - self.deadline <= STALL || isForgiven) return "dead";
      isForgiven = true;
      self.deadline = now + STALL;
      return undefined;
    },

    /**
     * Find out soon, unless the answer is due soon anyway.
     * @param {number} now
     * @returns {"ping" | undefined}
     */
    check(now) {
      const patience = Math.min(SHORT, timeout);
      return askedAt > -Infinity && self.deadline <= now + patience ? undefined : ask(now, patience);
    },
  };
  return self;
};
