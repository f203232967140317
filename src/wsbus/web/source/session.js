// The client's side of a conversation that outlives its connections. Pure: no socket, no timer, no
// clock, no chance. A port of `core/client/session.py`.
//
//     const session = new ClientSession(options, chance);
//     const actions = session.handle(input, now);
//
// Names. An input has the name of the method of Python's `ClientSession` (`handle` is `heard`,
// `handle_deadline` is `deadline`, `handle_token` is `token`, `handle_no_token` is `noToken`), an action
// the name of its class in `core/client/actions.py`; both, and their fields, in camelCase
// (`TellConnected.is_again` is `tellConnected.isAgain`). States have the same names, in small letters.
//
// What differs in form:
// - Times are milliseconds of one monotonic clock.
// - The session begins with the input `connect`; in Python its first deadline is due at once.
// - A server's message goes in as it is on the wire, parsed: `{type: "heard", message}`. What is to be
//   sent comes out as text: `{type: "say", text}`. An `event` does not go in: `audience(channel)` says
//   who gets it.
// - Errors are plain objects: `{code, message}`. A number is a close code, a text an error code.
// - `chance` is a function that returns a number from 0 up to 1.
// - `isBatched` on `subscribe` and `unsubscribe`: say nothing yet, since more follows in this turn. The
//   deadline is then due at once.
//
// What only a page needs: `pause`, `wake` and `check` (inputs), `tellGap` and `tellError` (actions).
// `listen` is missing: handlers that ask for nothing are the driver's.
//
// The driver performs the actions in order, with nothing in between; then it calls again, with the
// input `deadline`, when `session.deadline` has come.
import { Liveness } from "./liveness.js";
import { Pace } from "./pace.js";
import { Requests } from "./requests.js";
import { adviceFor, delayOf, explain, meantBy } from "./retry.js";
import { NEXT, STATES, TABLE } from "./states.js";
import { Subscriptions } from "./subscriptions.js";

/** @typedef {import("./retry.js").Advice} Advice */
/** @typedef {import("./states.js").SessionState} SessionState */
/** @typedef {import("./actions.js").Failure} Failure */
/** @typedef {import("./actions.js").Message} Message */
/** @typedef {import("./actions.js").Terms} Terms */
/**
 * @template H, K
 * @typedef {import("./actions.js").Input<H, K>} Input
 */
/**
 * @template H, K
 * @typedef {import("./actions.js").Action<H, K>} Action
 */
/**
 * @typedef {object} SessionOptions
 * @property {string | null} [token] Shown to every server; null: none is.
 * @property {boolean} [isFetched] The application is asked for a token before every connection.
 * @property {boolean} [inHandshake] The token is shown when the connection is asked for, not in a message.
 * @property {boolean} [canRenew] After an expired token another one can be shown. By default `isFetched`.
 * @property {boolean} [greets] Whether the server speaks first, as in `wsbus.v1`. If not, a ping is sent,
 *   whose pong means that the server takes this client as it is. By default true.
 * @property {{ base?: number, cap?: number, attempts?: number, first?: boolean }} [retry]
 * @property {{ interval?: number, timeout?: number }} [heartbeat]
 * @property {number} [connectTimeout] For a connection to be opened, and again for the greeting.
 */

/** Bytes of names in one request; halved whenever a message was too large for the server. */
const MAX_ASK_BYTES = 16_384;
/** The token is refreshed so long before it expires, or after half its life if that is later. */
const REFRESH = 30_000;
/** A token with less left is not refreshed again after a failure. */
const TOO_LATE = 200;
/** From one attempt to the next that the browser's events cause. */
const WAKE_GAP = 1000;

const CLOSED = { code: "CLOSED", message: "the client is closed" };

/**
 * @template H What takes events: a subscription of the application.
 * @template K What names a request.
 */
export class ClientSession {
  /** @type {SessionState} */
  state = "waiting";
  /** When `deadline` has something to do; Infinity: never. */
  deadline = Infinity;
  /** Why it is over. @type {Failure} */
  ending = CLOSED;
  /** It has ended because the attempts are used up: `wake` revives it. */
  hasGivenUp = false;
  #options;
  #retry;
  #chance;
  #connectTimeout;
  /** @type {Action<H, K>[]} */
  #actions = [];
  #subscriptions;
  #requests;
  #liveness;
  #pace = new Pace({}, 0);
  #refs = 0;
  #pingRef = "";
  #askBytes = MAX_ASK_BYTES;
  /** Why this side gives the connection up. */
  #verdict = "";
  /** When the last attempt began. */
  #begunAt = -Infinity;
  /** @type {Terms} */
  #terms = {};

  // Attempts.
  #failures = 0;
  /** There was a connection before. */
  #isKnown = false;
  #enteredAt = 0;
  /** Everything was subscribed over this connection. */
  #wasSettled = false;
  /** There is a gap to tell as soon as everything is subscribed again. */
  #isReturning = false;

  // The token.
  /** @type {string | null} */
  #token;
  /** Of the message that shows it and is not answered yet. */
  #tokenRef = "";
  #generation = 0;
  #refreshAt = Infinity;
  #expiresAt = Infinity;

  /** @param {SessionOptions} options @param {() => number} chance */
  constructor({ token = null, heartbeat, retry, connectTimeout = 10_000, ...options }, chance) {
    this.#options = { isFetched: false, inHandshake: false, greets: true, canRenew: options.isFetched, ...options };
    this.#retry = { base: 1000, cap: 30_000, attempts: Infinity, first: false, ...retry };
    const { interval, timeout } = { interval: 15_000, timeout: 20_000, ...heartbeat };
    this.#liveness = new Liveness(interval, timeout);
    this.#connectTimeout = connectTimeout;
    this.#token = token;
    this.#chance = chance;
    this.#subscriptions = /** @type {Subscriptions<H>} */ (new Subscriptions((action) => this.#emit(action)));
    this.#requests = /** @type {Requests<K>} */ (new Requests((action) => this.#emit(action)));
  }

  /** The server has not forgotten yet what nobody wants any more. */
  get isLeaving() {
    return this.#subscriptions.isLeaving;
  }

  /** Who gets what is published on a channel now. @param {string} channel */
  audience(channel) {
    return this.#subscriptions.audience(channel);
  }

  /** Who wants a pattern. @param {string} pattern */
  holders(pattern) {
    return this.#subscriptions.holders(pattern);
  }

  /** Whether a request was sent, so that it may have been carried out. @param {K} key */
  wasSent(key) {
    return this.#requests.wasSent(key);
  }

  /**
   * Act on what has happened.
   * @param {Input<H, K>} input
   * @param {number} now
   * @returns {Action<H, K>[]} What to do about it, in order.
   * @throws {TypeError} There is no such input; or a request cannot be written as JSON.
   */
  handle(input, now) {
    const does = TABLE[input.type]?.[STATES.indexOf(this.state)];
    if (does !== "+" && does !== "-") throw new TypeError(`no input of a session: ${input.type}`);
    this.#actions = [];
    if (does === "+") this.#act(input, now);
    if (this.state === "open" && !this.#verdict) {
      if (!("isBatched" in input) || !input.isBatched) this.#flush(now);
      this.deadline = Math.min(this.#liveness.deadline, this.#refreshAt, this.#readyAt(now));
    }
    return this.#actions;
  }

  /** @param {Input<H, K>} input @param {number} now */
  #act(input, now) {
    const isOver = this.state === "ended";
    switch (input.type) {
      case "connect":
        if (isOver) this.#move("revive");
        if (this.deadline === Infinity) this.#failures = 0;
        return this.#begin(now);
      case "pause":
        this.#leave("retreat");
        return this.#emit({ type: "hangUp" });
      case "close":
        return this.#close(input.error);
      case "subscribe":
        if (!isOver) return this.#subscriptions.add(input.pattern, input.holder);
        return this.#emit({ type: "dismiss", holder: input.holder, error: this.ending });
      case "unsubscribe":
        return this.#subscriptions.remove(input.pattern, input.holder);
      case "request":
        if (!isOver) return this.#requests.add(input.key, input.message, input.isIdempotent ?? false);
        return this.#emit({ type: "answer", key: input.key, outcome: { error: this.ending } });
      case "forget":
        return this.#requests.forget(input.key);
      case "opened":
        return this.#opened(now);
      case "failed":
        return this.#retreat(input.error, adviceFor(Number(input.error.code)), now, input.isOffline);
      case "lost":
        return this.#lost(input.code, input.reason, now, input.isOffline);
      case "token":
        if (input.generation !== this.#generation) return undefined; // It comes too late.
        this.#token = input.token ?? null;
        if (this.state === "fetching") return this.#dial(now);
        return this.#token === null ? this.#notRefreshed("there is no newer token", now) : this.#authenticate(now);
      case "noToken":
        if (input.generation !== this.#generation) return undefined;
        if (this.state === "open") return this.#notRefreshed(input.why, now);
        return this.#retreat({ code: 1006, message: input.why }, "now", now, input.isOffline);
      case "heard":
        try {
          return this.#heard(input.message, now);
        } catch (error) {
          const message = `the server sent what this client cannot read: ${error}`;
          return this.#emit({ type: "tellError", error: { code: "INVALID_MESSAGE", message } });
        }
      case "deadline":
        return now < this.deadline ? undefined : this.#due(now);
      case "wake":
        return this.#wake(now);
      case "check":
        return this.#perform(this.#liveness.check(now), now);
    }
  }

  // --- connections -------------------------------------------------------------------------------

  /** @param {number} now */
  #begin(now) {
    this.#begunAt = now;
    this.#pingRef = "";
    if (!this.#options.isFetched) return this.#dial(now);
    this.#move("fetch");
    this.deadline = Infinity;
    return this.#fetch();
  }

  /** @param {number} now */
  #dial(now) {
    this.#move("dial");
    this.deadline = now + this.#connectTimeout;
    this.#emit({ type: "dial", token: this.#options.inHandshake ? this.#token : null });
  }

  /** @param {number} now */
  #opened(now) {
    this.#move("greet");
    this.deadline = now + this.#connectTimeout;
    this.#terms = {};
    this.#pace = new Pace({}, now);
    if (this.#token !== null && !this.#options.inHandshake) this.#authenticate(now);
    else if (!this.#options.greets) this.#perform("ping", now);
  }

  /** The server knows who this is. @param {number} now */
  #enter(now) {
    const { connection_id: connectionId, subject } = this.#terms;
    const isAgain = this.#isKnown;
    this.#isKnown = true;
    this.#move("enter");
    this.#enteredAt = now;
    this.#liveness.start(now);
    this.#wasSettled = false;
    this.#isReturning = isAgain && this.#subscriptions.size > 0;
    this.#emit({ type: "tellConnected", connectionId, subject, isAgain });
  }

  /** @param {number} code @param {string} reason @param {number} now @param {boolean} [isOffline] */
  #lost(code, reason, now, isOffline) {
    const meant = meantBy(code, reason);
    const isTooBig = meant === 1009;
    const message = this.#verdict || explain(meant, reason);
    const error = { code: meant, message, reason };
    if (isTooBig) this.#askBytes /= 2; // Nothing that may be too large is said again.
    if (this.state === "dialling") return this.#retreat(error, "now", now, isOffline);
    this.#requests.cut(message, isTooBig);
    // A connection that ends at once is no success.
    if (this.#wasSettled && now - this.#enteredAt >= this.#retry.base) this.#failures = 0;
    if (!isTooBig || !this.#tokenRef || this.state === "open") {
      return this.#retreat(error, adviceFor(meant), now, isOffline);
    }
    return this.#stop({ ...error, message: `the token is too large: ${message}` });
  }

  /**
   * The connection, or the attempt, came to nothing: wait for the next one, or stop.
   * @param {Failure} error
   * @param {Advice} advice
   * @param {number} now
   * @param {boolean} [isOffline] The machine has no network: attempts are rare, and none counts.
   */
  #retreat(error, advice, now, isOffline = false) {
    const { attempts, first } = this.#retry;
    const isUseless = advice === "newToken" && !this.#options.canRenew;
    if (isUseless || advice === "stop" || !(this.#isKnown || first)) return this.#stop(error);
    if (this.#failures >= attempts && !isOffline) {
      const count = this.#failures === 1 ? "1 attempt" : `${this.#failures} attempts`;
      const message = this.#failures ? `gave up after ${count}: ${error.message}` : error.message;
      return this.#stop({ ...error, message }, true);
    }
    const attempt = this.#failures + 1;
    if (!isOffline) this.#failures = attempt;
    const delay = delayOf(this.#retry, attempt, isOffline ? "muchLater" : advice, this.#chance());
    this.#leave("retreat");
    this.deadline = now + delay;
    return this.#emit({ type: "tellReconnecting", attempt, delay, error });
  }

  /** @param {Failure} [error] */
  #close(error) {
    if (this.state !== "ended") this.#stop(error);
    if (error) return;
    this.ending = CLOSED; // Whatever comes next is new.
    this.hasGivenUp = this.#isKnown = false;
    this.#subscriptions.clear();
  }

  /** @param {Failure} [error] @param {boolean} [hasGivenUp] */
  #stop(error, hasGivenUp = false) {
    this.#leave("end");
    this.ending = error ?? CLOSED;
    this.hasGivenUp = hasGivenUp;
    this.#requests.fail(this.ending);
    this.#emit({ type: "hangUp" });
    this.#emit({ type: "stop", error });
  }

  /** @param {string} move */
  #leave(move) {
    this.#move(move);
    this.deadline = this.#refreshAt = this.#expiresAt = Infinity;
    this.#generation++;
    this.#tokenRef = this.#verdict = "";
    this.#wasSettled = false;
    this.#liveness.stop();
    this.#subscriptions.disconnected();
  }

  /** @param {string} move */
  #move(move) {
    const next = NEXT[`${this.state} ${move}`];
    if (!next) throw new Error(`${this.state} has no ${move}`);
    this.state = next;
  }

  // --- the token ---------------------------------------------------------------------------------

  #fetch() {
    this.#refreshAt = Infinity;
    this.#emit({ type: "fetchToken", generation: ++this.#generation });
  }

  /** @param {number} now */
  #authenticate(now) {
    this.#pace.take(now);
    this.#tokenRef = this.#newRef();
    this.#say({ type: "auth", token: this.#token, id: this.#tokenRef });
  }

  /** @param {Message} message @param {number} now */
  #authResult({ success, error, data, timestamp }, now) {
    if (success) {
      this.#terms = { ...this.#terms, subject: data.subject };
      const life = (data.expires_at ?? Infinity) - timestamp;
      this.#expiresAt = life > 0 ? now + life : Infinity;
      this.#refreshAt = this.#options.isFetched && life > 0 ? now + Math.max(life / 2, life - REFRESH) : Infinity;
    } else if (this.state === "open") return this.#notRefreshed(`${error?.message}`, now);
    else if (this.#terms.subject === undefined) {
      return this.#stop({ code: 4500, message: explain(4500, `${error?.message}`) });
    }
    this.#tokenRef = "";
    if (this.state === "greeting") this.#enter(now);
    // The server takes everybody, and no tokens.
    if (!success) this.#emit({ type: "tellRefreshFailed", why: `${error?.message}` });
  }

  /** The old token is in force while it lasts: try again after half of that. @param {string} why @param {number} now */
  #notRefreshed(why, now) {
    this.#tokenRef = "";
    const left = this.#expiresAt - now;
    if (this.#options.isFetched && left > TOO_LATE) this.#refreshAt = now + left / 2;
    this.#emit({ type: "tellRefreshFailed", why });
  }

  /** The server does not know who this is. */
  #wantsToken() {
    const isShown = this.#token !== null;
    const message = isShown ? "the server did not take the token" : "the server wants a token: pass the option token";
    this.#stop({ code: 4500, message });
  }

  // --- what the server says ----------------------------------------------------------------------

  /** @param {Message} message @param {number} now */
  #heard(message, now) {
    const { type, id, data } = message;
    const isGreeting = this.state === "greeting";
    switch (type) {
      case "ping":
        this.#pace.take(now);
        return this.#say({ type: "pong", id });
      case "pong":
        if (isGreeting) return this.#tokenRef || this.#options.greets ? undefined : this.#enter(now);
        return id === undefined || id === this.#pingRef ? this.#liveness.pong() : undefined;
      case "connected":
        this.#pace = new Pace(data, now);
        this.#terms = data;
        if (!isGreeting || this.#tokenRef) return undefined;
        return data.subject === undefined ? this.#wantsToken() : this.#enter(now);
      case "auth_result":
        if (this.#tokenRef && [undefined, this.#tokenRef].includes(id)) this.#authResult(message, now);
        return undefined;
      case "subscribed":
        this.#pace.answered(false);
        return this.#subscriptions.answered(message);
      case "unsubscribed":
        if (id === undefined) return this.#subscriptions.taken(data.channels, data.reason);
        return this.#subscriptions.left(id);
      case "gap": {
        const { lost, channels } = data;
        this.#subscriptions.lose(lost, channels);
        return this.#emit({ type: "tellGap", lost, cause: "server", channels });
      }
      case "response":
      case "status":
      case "error":
        return this.#answered(message, now);
    }
  }

  /** @param {Message} message @param {number} now */
  #answered(message, now) {
    const { id, data, error: said } = message;
    const error = said && { code: `${said.code}`, message: `${said.message}` };
    if (error && this.state === "greeting") {
      if (error.code === "UNAUTHENTICATED") return this.#wantsToken();
      return this.#cut(`the server does not let this client in: ${error.code}`);
    }
    if (id !== undefined && id === this.#tokenRef) return this.#authResult({ ...message, success: false }, now);
    if (id !== undefined && this.#requests.answer(id, error ? { error } : { data }, this.#pace, now)) return undefined;
    return error && this.#refused(id ?? "", error, now);
  }

  /** @param {string} id @param {{ code: string, message: string }} error @param {number} now */
  #refused(id, error, now) {
    const count = this.#subscriptions.count(id);
    if (!count) return this.#emit({ type: "tellError", error });
    if (error.code === "RATE_LIMITED") this.#pace.refused(now, false);
    else if (error.code === "INVALID_MESSAGE" && count > 1) {
      // The server takes fewer names at once.
      this.#pace.maxNames = Math.min(this.#pace.maxNames, count >> 1);
    } else {
      this.#subscriptions.left(id);
      // A server that is short of something may take later what it had taken before.
      if (!this.#subscriptions.isRenewal(id)) return this.#subscriptions.refused(id, error);
      return this.#cut(`the server did not take the subscriptions again: ${error.code}`);
    }
    return this.#subscriptions.postpone(id);
  }

  // --- time --------------------------------------------------------------------------------------

  /** @param {number} now */
  #due(now) {
    if (this.state === "waiting") return this.#begin(now);
    if (this.state !== "open") return this.#cut(`the server did not answer within ${this.#connectTimeout} ms`);
    this.#perform(this.#liveness.judge(now), now);
    if (now >= this.#refreshAt) this.#fetch();
    return undefined;
  }

  /** The page comes into view, or online. @param {number} now */
  #wake(now) {
    if (this.state === "open") return this.#perform(this.#liveness.check(now), now);
    const soon = Math.max(now, this.#begunAt + WAKE_GAP);
    if (this.state === "ended") {
      if (!this.hasGivenUp) return undefined;
      this.#move("revive");
      this.#failures = 0;
      this.deadline = soon;
    } else if (this.deadline < Infinity) this.deadline = Math.min(this.deadline, soon);
    return undefined;
  }

  /** @param {"ping" | "dead" | undefined} beat @param {number} now */
  #perform(beat, now) {
    if (beat === "dead") return this.#cut(`the server did not answer within ${this.#liveness.patience} ms`);
    if (!beat) return undefined;
    this.#pace.take(now);
    this.#pingRef = this.#newRef();
    return this.#say({ type: "ping", id: this.#pingRef });
  }

  /** Give the connection up; the driver says that it is lost, and nobody else why. @param {string} why */
  #cut(why) {
    this.#verdict = why;
    this.#liveness.stop();
    this.deadline = Infinity;
    this.#emit({ type: "cut" });
  }

  // --- what is to be said ------------------------------------------------------------------------

  /** Say what waits, as much as the rates of the server allow. @param {number} now */
  #flush(now) {
    const [subscriptions, pace] = [this.#subscriptions, this.#pace];
    const newRef = () => this.#newRef();
    while (subscriptions.hasRequests && pace.readyAt(now, false) <= now) {
      const size = Math.min(this.#askBytes, pace.maxBytes / 2);
      const message = subscriptions.next(newRef(), pace.names(), size);
      pace.take(now, false, message.channels.length);
      this.#say(message);
    }
    this.#requests.send(newRef, pace, now, subscriptions.size);
    if (this.#wasSettled || !subscriptions.isSettled) return;
    this.#wasSettled = true;
    if (this.#isReturning) this.#emit({ type: "tellGap", lost: null, cause: "reconnect" });
    this.#isReturning = false;
  }

  /** When something that waits can be said; Infinity: nothing waits. @param {number} now */
  #readyAt(now) {
    const isCommand = this.#requests.nextIsCommand;
    return Math.min(
      isCommand === undefined ? Infinity : this.#pace.readyAt(now, isCommand),
      this.#subscriptions.hasRequests ? this.#pace.readyAt(now, false) : Infinity,
    );
  }

  #newRef() {
    return String(++this.#refs);
  }

  /** @param {Record<string, unknown>} message */
  #say(message) {
    this.#emit({ type: "say", text: JSON.stringify(message) });
  }

  /** @param {Action<H, K>} action */
  #emit(action) {
    this.#actions.push(action);
  }
}
