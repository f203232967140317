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
import { STATES, TABLE } from "./states.js";
import { Subscriptions } from "./subscriptions.js";

/** @import { Failure, Message, Terms } from "./actions.js" */
/** @import { Advice } from "./retry.js" */
/** @import { SessionState } from "./states.js" */
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
 * @property {boolean} [isFetched] The application is asked before every connection, and before a token expires.
 * @property {boolean} [inHandshake] The token is shown when the connection is asked for, not in a message.
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
  /** There was a connection before. */
  isKnown = false;

  #chance;
  #isFetched;
  #inHandshake;
  #greets;
  #retry;
  #connectTimeout;
  #liveness;
  /** @type {Subscriptions<H>} */
  #subscriptions;
  /** @type {Requests<K>} */
  #requests;
  #pace = new Pace({}, 0);

  /** @type {Action<H, K>[]} */
  #actions = [];
  #now = 0;
  /** The machine has no network. */
  #isOffline = false;
  #refs = 0;
  #pingRef = "";
  #askBytes = MAX_ASK_BYTES;
  /** Why this side gives the connection up. */
  #verdict = "";
  /** Connections and attempts that have ended since the last success. */
  #failures = 0;
  /** When the last attempt began. */
  #begunAt = 0;
  /** When the server knew who this is. */
  #enteredAt = 0;
  /** Everything was subscribed over this connection. */
  #wasSettled = false;
  /** There is a gap to tell as soon as everything is subscribed again. */
  #isReturning = false;
  /** @type {Terms} */
  #terms = {};

  /** @type {string | null} */
  #token;
  /** Of the message that shows the token and is not answered yet. */
  #tokenRef = "";
  /** Of the last question to the application: an answer to an older one is late. */
  #generation = 0;
  #refreshAt = Infinity;
  #expiresAt = Infinity;

  /** @param {SessionOptions} options @param {() => number} chance */
  constructor({ token = null, isFetched = false, inHandshake = false, greets = true, ...options }, chance) {
    const { interval, timeout } = { interval: 15_000, timeout: 20_000, ...options.heartbeat };
    this.#chance = chance;
    this.#token = token;
    this.#isFetched = isFetched;
    this.#inHandshake = inHandshake;
    this.#greets = greets;
    this.#retry = { base: 1000, cap: 30_000, attempts: Infinity, first: false, ...options.retry };
    this.#connectTimeout = options.connectTimeout ?? 10_000;
    this.#liveness = new Liveness(interval, timeout);
    this.#subscriptions = new Subscriptions((action) => this.#emit(action));
    this.#requests = new Requests((action) => this.#emit(action));
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

  /** Whether a request may have been carried out. @param {K} key */
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
    this.#now = now;
    this.#actions = [];
    if (does === "+") this.#act(input);
    if (this.state === "open" && !this.#verdict) {
      if (!("isBatched" in input && input.isBatched)) this.#flush();
      this.deadline = Math.min(this.#liveness.deadline, this.#refreshAt, this.#readyAt());
    }
    return this.#actions;
  }

  /** @param {Input<H, K>} input */
  #act(input) {
    const isOver = this.state === "ended";
    this.#isOffline = "isOffline" in input && !!input.isOffline;
    switch (input.type) {
      case "connect":
        if (this.deadline === Infinity) this.#failures = 0;
        return this.#begin();
      case "pause":
        this.#leave("waiting");
        return this.#emit({ type: "hangUp" });
      case "close":
        return this.#close(input.error);
      case "subscribe":
        if (!isOver) return this.#subscriptions.add(input.pattern, input.holder);
        return this.#emit({ type: "dismiss", holder: input.holder, error: this.ending });
      case "unsubscribe":
        return this.#subscriptions.remove(input.pattern, input.holder);
      case "request":
        if (!isOver) return this.#requests.add(input.key, input.message, !!input.isIdempotent, this.#pace);
        return this.#emit({ type: "answer", key: input.key, outcome: { error: this.ending } });
      case "forget":
        return this.#requests.forget(input.key);
      case "opened":
        return this.#opened();
      case "failed":
        return this.#retreat(input.error, adviceFor(input.error.code));
      case "lost":
        return this.#lost(input.code, input.reason);
      case "token":
      case "noToken":
        return input.generation === this.#generation ? this.#fetched(input) : undefined;
      case "heard":
        try {
          return this.#heard(input.message);
        } catch (error) {
          const message = `the server sent what this client cannot read: ${error}`;
          return this.#emit({ type: "tellError", error: { code: "INVALID_MESSAGE", message } });
        }
      case "deadline":
        return this.#now < this.deadline ? undefined : this.#due();
      case "wake":
        return this.#wake();
      case "check":
        return this.#beat(this.#liveness.check(this.#now));
    }
  }

  // --- connections -------------------------------------------------------------------------------

  #begin() {
    this.#begunAt = this.#now;
    this.hasGivenUp = false;
    if (!this.#isFetched) return this.#dial();
    this.state = "fetching";
    this.deadline = Infinity;
    return this.#fetch();
  }

  #dial() {
    this.state = "dialling";
    this.deadline = this.#now + this.#connectTimeout;
    this.#emit({ type: "dial", token: this.#inHandshake ? this.#token : null });
  }

  #opened() {
    this.state = "greeting";
    this.deadline = this.#now + this.#connectTimeout;
    this.#terms = {};
    if (this.#token !== null && !this.#inHandshake) this.#authenticate();
    else if (!this.#greets) this.#beat("ping");
  }

  /** The server knows who this is. */
  #enter() {
    const { connection_id: connectionId, subject } = this.#terms;
    this.state = "open";
    this.#enteredAt = this.#now;
    this.#liveness.start(this.#now);
    this.#emit({ type: "tellConnected", connectionId, subject, isAgain: this.isKnown });
    this.#wasSettled = !this.#subscriptions.size;
    this.#isReturning = this.#subscriptions.haveMissed;
    this.isKnown = true;
  }

  /** @param {number} code @param {string} reason */
  #lost(code, reason) {
    const meant = meantBy(code, reason);
    const isTooBig = meant === 1009;
    const error = { code: meant, message: this.#verdict || explain(meant, reason), reason };
    if (isTooBig) this.#askBytes /= 2;
    if (this.state === "dialling") return this.#retreat(error, "now");
    this.#requests.cut(error.message, isTooBig);
    // A connection that ends at once is no success.
    if (this.#wasSettled && this.#now - this.#enteredAt >= this.#retry.base) this.#failures = 0;
    if (!isTooBig || !this.#tokenRef || this.state === "open") return this.#retreat(error, adviceFor(meant));
    return this.#stop({ ...error, message: `the token is too large: ${error.message}` });
  }

  /** The connection, or the attempt, came to nothing: wait for the next one, or stop. @param {Failure} error @param {Advice} advice */
  #retreat(error, advice) {
    const { attempts, first } = this.#retry;
    const isUseless = advice === "stop" || (advice === "newToken" && !this.#isFetched);
    if (isUseless || !(this.isKnown || first)) return this.#stop(error);
    const [failures, isOffline] = [this.#failures, this.#isOffline];
    if (failures >= attempts && !isOffline) {
      const message = `gave up after ${failures} attempt${failures === 1 ? "" : "s"}: ${error.message}`;
      return this.#stop(failures ? { ...error, message } : error, true);
    }
    const attempt = failures + 1;
    if (!isOffline) this.#failures = attempt;
    const delay = delayOf(this.#retry, attempt, isOffline ? "muchLater" : advice, this.#chance());
    this.#leave("waiting");
    this.deadline = this.#now + delay;
    return this.#emit({ type: "tellReconnecting", attempt, delay, error });
  }

  /** @param {Failure} [error] None: the application wants nothing any more, and whatever comes next is new. */
  #close(error) {
    if (this.state !== "ended") this.#stop(error);
    if (error) return;
    this.ending = CLOSED;
    this.hasGivenUp = this.isKnown = false;
    this.#subscriptions.clear();
  }

  /** @param {Failure} [error] @param {boolean} [hasGivenUp] */
  #stop(error, hasGivenUp = false) {
    this.#leave("ended");
    this.ending = error ?? CLOSED;
    this.hasGivenUp = hasGivenUp;
    this.#requests.fail(this.ending);
    this.#emit({ type: "hangUp" });
    this.#emit({ type: "stop", error });
  }

  /** @param {SessionState} state */
  #leave(state) {
    this.state = state;
    this.deadline = this.#refreshAt = this.#expiresAt = Infinity;
    this.#generation++;
    this.#tokenRef = this.#pingRef = this.#verdict = "";
    this.#wasSettled = false;
    this.#pace = new Pace({}, this.#now);
    this.#liveness.stop();
    this.#subscriptions.disconnected();
  }

  // --- the token ---------------------------------------------------------------------------------

  #fetch() {
    this.#refreshAt = Infinity;
    this.#emit({ type: "fetchToken", generation: ++this.#generation });
  }

  /** @param {{ token?: string | null, why?: string }} answer */
  #fetched({ token = null, why }) {
    const isOpen = this.state === "open";
    if (why !== undefined) return isOpen ? this.#notRefreshed(why) : this.#retreat({ code: 1006, message: why }, "now");
    this.#token = token;
    if (!isOpen) return this.#dial();
    return token === null ? this.#notRefreshed("there is no newer token") : this.#authenticate();
  }

  #authenticate() {
    this.#tokenRef = this.#newRef();
    this.#say({ type: "auth", token: this.#token, id: this.#tokenRef });
  }

  /** @param {Message} message */
  #authResult({ success, error, data, timestamp }) {
    const why = `${error?.message}`;
    if (success) {
      const life = Number(data.expires_at) - timestamp;
      this.#terms = { ...this.#terms, subject: data.subject };
      this.#tokenRef = "";
      this.#refreshAt = this.#expiresAt = Infinity;
      if (life > 0) {
        this.#expiresAt = this.#now + life;
        if (this.#isFetched) this.#refreshAt = this.#now + Math.max(life / 2, life - REFRESH);
      }
      if (this.state === "greeting") this.#enter();
    } else {
      // One that is known all the same needs no token here.
      if (this.state === "greeting") {
        if (this.#terms.subject === undefined) return this.#stop({ code: 4500, message: explain(4500, why) });
        this.#enter();
      }
      this.#notRefreshed(why);
    }
    return undefined;
  }

  /** The old token is in force while it lasts: try again after half of that. @param {string} why */
  #notRefreshed(why) {
    this.#tokenRef = "";
    const left = this.#expiresAt - this.#now;
    if (this.#isFetched && left > TOO_LATE) this.#refreshAt = this.#now + left / 2;
    this.#emit({ type: "tellRefreshFailed", why });
  }

  /** The server does not know who this is. */
  #wantsToken() {
    const message = this.#token === null ? "the server wants a token: pass the option token" : "the server did not take the token";
    this.#stop({ code: 4500, message });
  }

  // --- what the server says ----------------------------------------------------------------------

  /** @param {Message} message */
  #heard(message) {
    const { type, id, data } = message;
    const isGreeting = this.state === "greeting";
    switch (type) {
      case "ping":
        return this.#say({ type: "pong", id });
      case "pong":
        if (!isGreeting) return id === undefined || id === this.#pingRef ? this.#liveness.pong() : undefined;
        return this.#greets || this.#tokenRef ? undefined : this.#enter();
      case "connected":
        this.#pace = new Pace(data, this.#now);
        this.#requests.judge(this.#pace);
        this.#terms = data;
        if (!isGreeting || this.#tokenRef) return undefined;
        return data.subject === undefined ? this.#wantsToken() : this.#enter();
      case "auth_result":
        return this.#tokenRef && [undefined, this.#tokenRef].includes(id) ? this.#authResult(message) : undefined;
      case "subscribed":
        this.#pace.answered(false);
        return id === undefined ? undefined : this.#subscriptions.answered(message);
      case "unsubscribed":
        return id === undefined ? this.#subscriptions.taken(data.channels, data.reason) : this.#subscriptions.left(id);
      case "gap": {
        const { lost, channels } = data;
        this.#subscriptions.lose(lost, channels);
        return this.#emit({ type: "tellGap", lost, cause: "server", channels });
      }
      case "response":
      case "status":
      case "error":
        return this.#answered(message);
    }
  }

  /** @param {Message} message */
  #answered(message) {
    const { id = "", data, error: said } = message;
    const error = said && { code: `${said.code}`, message: `${said.message}` };
    if (error && this.state === "greeting") {
      if (error.code === "UNAUTHENTICATED") return this.#wantsToken();
      return this.#cut(`the server does not let this client in: ${error.code}`);
    }
    if (id && id === this.#tokenRef) return this.#authResult({ ...message, success: false });
    if (this.#requests.answer(id, error ? { error } : { data }, this.#pace, this.#now)) return undefined;
    return error && this.#refused(id, error);
  }

  /** A request for names was refused as a whole. @param {string} id @param {{ code: string, message: string }} error */
  #refused(id, error) {
    const [subscriptions, pace] = [this.#subscriptions, this.#pace];
    const count = subscriptions.count(id);
    if (!count) return this.#emit({ type: "tellError", error });
    if (error.code === "RATE_LIMITED") pace.refused(this.#now, false);
    // The server takes fewer names at once.
    else if (error.code === "INVALID_MESSAGE" && count > 1) pace.maxNames = Math.min(pace.maxNames, count >> 1);
    else if (!subscriptions.isRenewal(id)) return subscriptions.refused(id, error);
    // A server that is short of something may take later what it had taken before.
    else return this.#cut(`the server did not take the subscriptions again: ${error.code}`);
    return subscriptions.postpone(id);
  }

  // --- time --------------------------------------------------------------------------------------

  #due() {
    if (this.state === "waiting") return this.#begin();
    if (this.state !== "open") return this.#late(this.#connectTimeout);
    this.#beat(this.#liveness.judge(this.#now));
    if (this.#now >= this.#refreshAt) this.#fetch();
    return undefined;
  }

  /** The page comes into view, or online. */
  #wake() {
    if (this.state === "open") return this.#beat(this.#liveness.check(this.#now));
    if (this.hasGivenUp) {
      this.state = "waiting";
      this.#failures = 0;
    } else if (this.deadline === Infinity) return undefined;
    this.hasGivenUp = false;
    this.deadline = Math.min(this.deadline, Math.max(this.#now, this.#begunAt + WAKE_GAP));
    return undefined;
  }

  /** @param {"ping" | "dead" | undefined} beat */
  #beat(beat) {
    if (beat === "dead") return this.#late(this.#liveness.patience);
    if (!beat) return undefined;
    this.#pingRef = this.#newRef();
    return this.#say({ type: "ping", id: this.#pingRef });
  }

  /** @param {number} ms */
  #late(ms) {
    this.#cut(`the server did not answer within ${ms} ms`);
  }

  /** Give the connection up; the driver says that it is lost, and nobody else why. @param {string} why */
  #cut(why) {
    this.#verdict = why;
    this.deadline = Infinity;
    this.#emit({ type: "cut" });
  }

  // --- what is to be said ------------------------------------------------------------------------

  /** Say what waits, as much as the rates of the server allow. */
  #flush() {
    const [subscriptions, pace, now] = [this.#subscriptions, this.#pace, this.#now];
    while (subscriptions.hasRequests && pace.readyAt(now, false) <= now) {
      const size = Math.min(this.#askBytes, pace.maxBytes / 2);
      const message = subscriptions.next(this.#newRef(), pace.names(), size);
      this.#say(message, message.channels.length);
    }
    this.#requests.send(() => this.#newRef(), pace, now, subscriptions.size);
    if (this.#wasSettled || !subscriptions.isSettled) return;
    this.#wasSettled = true;
    if (this.#isReturning) this.#emit({ type: "tellGap", lost: null, cause: "reconnect" });
  }

  /** When something that waits can be said; Infinity: nothing waits. */
  #readyAt() {
    const { nextIsCommand } = this.#requests;
    const kinds = this.#subscriptions.hasRequests ? [nextIsCommand, false] : [nextIsCommand];
    return Math.min(...kinds.map((isCommand) => (isCommand === undefined ? Infinity : this.#pace.readyAt(this.#now, isCommand))));
  }

  #newRef() {
    return String(++this.#refs);
  }

  /** @param {Record<string, unknown>} message @param {number} [names] */
  #say(message, names) {
    this.#pace.take(this.#now, false, names);
    this.#emit({ type: "say", text: JSON.stringify(message) });
  }

  /** @param {Action<H, K>} action */
  #emit(action) {
    this.#actions.push(action);
  }
}
