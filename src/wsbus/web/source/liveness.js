// Whether the connection is alive: the pings of the client, one at a time. Pure; a port of
// `core/client/liveness.py`. Times are in ms.

/** A timer that is later than this shows that the page itself stood still: it was asleep, say. */
const STALL = 1000;
/** How long a connection may take to answer when the browser gives cause to doubt it. */
const SHORT = 5000;

export class Liveness {
  #interval;
  #timeout;
  /** When the ping was sent that is not answered yet. @type {number | undefined} */
  #askedAt;
  #isForgiven = false;
  /** How long the answer to the last ping may take. */
  patience = 0;
  /** When `judge` has something to say. */
  deadline = Infinity;

  /** @param {number} interval From ping to ping. @param {number} timeout For the answer. */
  constructor(interval, timeout) {
    this.#interval = interval;
    this.#timeout = timeout;
  }

  /** Begin with a new connection. @param {number} now */
  start(now) {
    this.stop();
    this.deadline = now + this.#interval;
  }

  /** The connection is gone. */
  stop() {
    this.#askedAt = undefined;
    this.deadline = Infinity;
  }

  /**
   * What is due: a ping, which then counts as sent; or the connection is dead.
   *
   * A page that was late has read nothing meanwhile, so that the answer may be there already: it gets
   * one more second to be read.
   * @param {number} now
   * @returns {"ping" | "dead" | undefined}
   */
  judge(now) {
    if (now < this.deadline) return undefined;
    if (this.#askedAt === undefined) return this.#ask(now, this.#timeout);
    if (now - this.deadline <= STALL || this.#isForgiven) return "dead";
    this.#isForgiven = true;
    this.deadline = now + STALL;
    return undefined;
  }

  /**
   * Find out soon, unless the answer is due soon anyway.
   * @param {number} now
   * @returns {"ping" | undefined}
   */
  check(now) {
    const patience = Math.min(SHORT, this.#timeout);
    const isAsked = this.#askedAt !== undefined && this.deadline <= now + patience;
    return isAsked ? undefined : this.#ask(now, patience);
  }

  /** The ping was answered. */
  pong() {
    if (this.#askedAt === undefined) return;
    this.deadline = this.#askedAt + this.#interval;
    this.#askedAt = undefined;
  }

  /** @param {number} now @param {number} patience @returns {"ping"} */
  #ask(now, patience) {
    this.#askedAt = now;
    this.#isForgiven = false;
    this.patience = patience;
    this.deadline = now + patience;
    return "ping";
  }
}
