// The client's side of a conversation that outlives its connections. Pure: no socket, no timer, no
// clock, no chance. A port of `core/client/session.py`.
//
//     const session = makeSession(options, chance); // or new ClientSession(…)
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
import { makeLiveness } from "./liveness.js";
import { makePace } from "./pace.js";
import { makeRequests } from "./requests.js";
import { adviceFor, delayOf, explain, meantBy } from "./retry.js";
import { takes } from "./states.js";
import { makeSubscriptions } from "./subscriptions.js";

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
 * @template H, K
 * @typedef {ReturnType<typeof makeSession<H, K>>} Session
 */

/**
 * @template H What takes events: a subscription of the application.
 * @template K What names a request.
 * @param {SessionOptions} options
 * @param {() => number} chance
 */
export const makeSession = (
  { token = null, isFetched = false, inHandshake = false, greets = true, connectTimeout = 10_000, ...options },
  chance,
) => {
  const { interval, timeout } = { interval: 15_000, timeout: 20_000, ...options.heartbeat };
  const retry = { base: 1000, cap: 30_000, attempts: Infinity, first: false, ...options.retry };

  /** @type {Action<H, K>[]} */
  let actions = [];
  /** @param {Action<H, K>} action */
  const emit = (action) => void actions.push(action);

  const liveness = makeLiveness(interval, timeout);
  /** @type {import("./subscriptions.js").Subscriptions<H>} */
  const subscriptions = makeSubscriptions(emit);
  /** @type {import("./requests.js").Requests<K>} */
  const requests = makeRequests(emit);
  let pace = makePace({}, 0);

  let now = 0;
  /** The machine has no network. */
  let isOffline = false;
  let refs = 0;
  let pingRef = "";
  let askBytes = MAX_ASK_BYTES;
  /** Why this side gives the connection up. */
  let verdict = "";
  /** Connections and attempts that have ended since the last success. */
  let failures = 0;
  /** When the last attempt began. */
  let begunAt = 0;
  /** When the server knew who this is. */
  let enteredAt = 0;
  /** Everything was subscribed over this connection. */
  let wasSettled = false;
  /** There is a gap to tell as soon as everything is subscribed again. */
  let isReturning = false;
  /** @type {Terms} */
  let terms = {};

  /** Of the message that shows the token and is not answered yet. */
  let tokenRef = "";
  /** Of the last question to the application: an answer to an older one is late. */
  let generation = 0;
  let refreshAt = Infinity;
  let expiresAt = Infinity;

  /** @param {Input<H, K>} input */
  const act = (input) => {
    const isOver = self.state === "ended";
    isOffline = !!input.isOffline;
    switch (input.type) {
      case "connect":
        if (self.deadline === Infinity) failures = 0;
        return begin();
      case "pause":
        leave("waiting");
        return emit({ type: "hangUp" });
      case "close":
        return shut(input.error);
      case "subscribe":
        if (!isOver) return subscriptions.add(input.pattern, input.holder);
        return emit({ type: "dismiss", holder: input.holder, error: self.ending });
      case "unsubscribe":
        return subscriptions.remove(input.pattern, input.holder);
      case "request":
        if (!isOver) return requests.add(input.key, input.message, !!input.isIdempotent, pace);
        return emit({ type: "answer", key: input.key, outcome: { error: self.ending } });
      case "forget":
        return requests.forget(input.key);
      case "opened":
        return opened();
      case "failed":
        return retreat(input.error, adviceFor(input.error.code));
      case "lost":
        return lost(input.code, input.reason);
      case "token":
      case "noToken":
        return input.generation === generation ? fetched(input) : undefined;
      case "heard":
        try {
          return heard(input.message);
        } catch (error) {
          const message = `the server sent what this client cannot read: ${error}`;
          return emit({ type: "tellError", error: { code: "INVALID_MESSAGE", message } });
        }
      case "deadline":
        return now < self.deadline ? undefined : due();
      case "wake":
        return wake();
      case "check":
        return beat(liveness.check(now));
    }
  };

  // --- connections -------------------------------------------------------------------------------

  /** Take the next step towards a connection, which has its time limit. @param {SessionState} state */
  const enter = (state) => {
    self.state = state;
    self.deadline = now + connectTimeout;
  };

  const begin = () => {
    begunAt = now;
    self.hasGivenUp = false;
    if (!isFetched) return dial();
    enter("fetching");
    return ask();
  };

  const dial = () => {
    enter("dialling");
    emit({ type: "dial", token: inHandshake ? token : null });
  };

  const opened = () => {
    enter("greeting");
    terms = {};
    if (token !== null && !inHandshake) authenticate();
    else if (!greets) beat("ping");
  };

  /** The server knows who this is. */
  const open = () => {
    const { connection_id: connectionId, subject } = terms;
    self.state = "open";
    enteredAt = now;
    liveness.rest(now);
    emit({ type: "tellConnected", connectionId, subject, isAgain: self.isKnown });
    wasSettled = !subscriptions.size();
    isReturning = subscriptions.haveMissed();
    self.isKnown = true;
  };

  /** @param {number} code @param {string} reason */
  const lost = (code, reason) => {
    const meant = meantBy(code, reason);
    const isTooBig = meant === 1009;
    const error = { code: meant, message: verdict || explain(meant, reason), reason };
    if (isTooBig) askBytes /= 2;
    if (self.state === "dialling") return retreat(error, "now");
    requests.cut(error.message, isTooBig);
    // A connection that ends at once is no success.
    if (wasSettled && now - enteredAt >= retry.base) failures = 0;
    if (!isTooBig || !tokenRef || self.state === "open") return retreat(error, adviceFor(meant));
    return stop({ ...error, message: `the token is too large: ${error.message}` });
  };

  /** The connection, or the attempt, came to nothing: wait for the next one, or stop. @param {Failure} error @param {Advice} advice */
  const retreat = (error, advice) => {
    const { attempts, first } = retry;
    const isUseless = advice === "stop" || (advice === "newToken" && !isFetched);
    if (isUseless || !(self.isKnown || first)) return stop(error);
    if (failures >= attempts && !isOffline) {
      const message = `gave up after ${failures} attempt${failures === 1 ? "" : "s"}: ${error.message}`;
      return stop(failures ? { ...error, message } : error, true);
    }
    const attempt = failures + 1;
    if (!isOffline) failures = attempt;
    const delay = delayOf(retry, attempt, isOffline ? "muchLater" : advice, chance());
    leave("waiting");
    self.deadline = now + delay;
    return emit({ type: "tellReconnecting", attempt, delay, error });
  };

  /** @param {Failure} [error] None: the application wants nothing any more, and whatever comes next is new. */
  const shut = (error) => {
    if (self.state !== "ended") stop(error);
    if (error) return;
    self.ending = CLOSED;
    self.hasGivenUp = self.isKnown = false;
    subscriptions.disconnected(true);
  };

  /** @param {Failure} [error] @param {boolean} [hasGivenUp] */
  const stop = (error, hasGivenUp = false) => {
    leave("ended");
    self.ending = error ?? CLOSED;
    self.hasGivenUp = hasGivenUp;
    requests.fail(self.ending);
    emit({ type: "hangUp" });
    emit({ type: "stop", error });
  };

  /** @param {SessionState} state */
  const leave = (state) => {
    self.state = state;
    self.deadline = refreshAt = expiresAt = Infinity;
    generation++;
    tokenRef = pingRef = verdict = "";
    wasSettled = false;
    pace = makePace({}, now);
    subscriptions.disconnected();
  };

  // --- the token ---------------------------------------------------------------------------------

  const ask = () => {
    refreshAt = Infinity;
    emit({ type: "fetchToken", generation: ++generation });
  };

  /** @param {{ token?: string | null, why?: string }} answer */
  const fetched = ({ token: newer = null, why }) => {
    const isOpen = self.state === "open";
    if (why !== undefined) return isOpen ? notRefreshed(why) : retreat({ code: 1006, message: why }, "now");
    token = newer;
    if (!isOpen) return dial();
    return token === null ? notRefreshed("there is no newer token") : authenticate();
  };

  const authenticate = () => {
    tokenRef = newRef();
    say({ type: "auth", token: token, id: tokenRef });
  };

  /** @param {Message} message */
  const authResult = ({ success, error, data, timestamp }) => {
    const why = `${error?.message}`;
    if (success) {
      const life = Number(data.expires_at) - timestamp;
      terms = { ...terms, subject: data.subject };
      tokenRef = "";
      refreshAt = expiresAt = Infinity;
      if (life > 0) {
        expiresAt = now + life;
        if (isFetched) refreshAt = now + Math.max(life / 2, life - REFRESH);
      }
      if (self.state === "greeting") open();
    } else {
      // One that is known all the same needs no token here.
      if (self.state === "greeting") {
        if (terms.subject === undefined) return stop({ code: 4500, message: explain(4500, why) });
        open();
      }
      notRefreshed(why);
    }
    return undefined;
  };

  /** The old token is in force while it lasts: try again after half of that. @param {string} why */
  const notRefreshed = (why) => {
    tokenRef = "";
    const left = expiresAt - now;
    if (isFetched && left > TOO_LATE) refreshAt = now + left / 2;
    emit({ type: "tellRefreshFailed", why });
  };

  /** The server does not know who this is. */
  const wantsToken = () => {
    const message = token === null ? "the server wants a token: pass the option token" : "the server did not take the token";
    stop({ code: 4500, message });
  };

  // --- what the server says ----------------------------------------------------------------------

  /** @param {Message} message */
  const heard = (message) => {
    const { type, id, data } = message;
    const isGreeting = self.state === "greeting";
    switch (type) {
      case "ping":
        return say({ type: "pong", id });
      case "pong":
        if (!isGreeting) return id === undefined || id === pingRef ? liveness.rest() : undefined;
        return greets || tokenRef ? undefined : open();
      case "connected":
        pace = makePace(data, now);
        requests.judge(pace);
        terms = data;
        if (!isGreeting || tokenRef) return undefined;
        return data.subject === undefined ? wantsToken() : open();
      case "auth_result":
        return tokenRef && [undefined, tokenRef].includes(id) ? authResult(message) : undefined;
      case "subscribed":
        pace.of().answered();
        if (id === undefined) return undefined;
        // A server that is short of something may take later what it had taken before.
        if (subscriptions.isCutShort(message)) return cut("the server cannot serve the subscriptions again yet");
        return subscriptions.answered(message);
      case "unsubscribed":
        return id === undefined ? subscriptions.taken(data.channels, data.reason) : subscriptions.left(id);
      case "gap": {
        const { lost = null, channels } = data;
        const cause = data.cause === "broker" ? "broker" : "server";
        subscriptions.lose(lost, cause, channels);
        return emit({ type: "tellGap", lost, cause, channels });
      }
      case "response":
      case "status":
      case "error":
        return answered(message);
    }
  };

  /** @param {Message} message */
  const answered = (message) => {
    const { id = "", data, error: said } = message;
    const error = said && { code: `${said.code}`, message: `${said.message}` };
    if (error && self.state === "greeting") {
      if (error.code === "UNAUTHENTICATED") return wantsToken();
      return cut(`the server does not let this client in: ${error.code}`);
    }
    if (id && id === tokenRef) return authResult({ ...message, success: false });
    if (requests.answer(id, error ? { error } : { data }, pace, now)) return undefined;
    return error && refused(id, error);
  };

  /** A request for names was refused as a whole. @param {string} id @param {{ code: string, message: string }} error */
  const refused = (id, error) => {
    const count = subscriptions.count(id);
    if (!count) return emit({ type: "tellError", error });
    if (error.code === "RATE_LIMITED") pace.of().refused(now);
    // The server takes fewer names at once.
    else if (error.code === "INVALID_MESSAGE" && count > 1) pace.maxNames = Math.min(pace.maxNames, count >> 1);
    else if (!subscriptions.isRenewal(id)) return subscriptions.refused(id, error);
    // A server that is short of something may take later what it had taken before.
    else return cut(`the server did not take the subscriptions again: ${error.code}`);
    return subscriptions.postpone(id);
  };

  // --- time --------------------------------------------------------------------------------------

  const due = () => {
    if (self.state === "waiting") return begin();
    if (self.state === "fetching") {
      const message = `the function for the token or the URL took longer than ${connectTimeout} ms`;
      return retreat({ code: 1006, message }, "now");
    }
    if (self.state !== "open") return late(connectTimeout);
    beat(liveness.judge(now));
    if (now >= refreshAt) ask();
    return undefined;
  };

  /** The page comes into view, or online. */
  const wake = () => {
    if (self.state === "open") return beat(liveness.check(now));
    if (self.hasGivenUp) {
      self.state = "waiting";
      failures = 0;
    } else if (self.deadline === Infinity) return undefined;
    self.hasGivenUp = false;
    self.deadline = Math.min(self.deadline, Math.max(now, begunAt + WAKE_GAP));
    return undefined;
  };

  /** @param {"ping" | "dead" | undefined} beat */
  const beat = (beat) => {
    if (beat === "dead") return late(liveness.patience);
    if (!beat) return undefined;
    pingRef = newRef();
    return say({ type: "ping", id: pingRef });
  };

  /** @param {number} ms */
  const late = (ms) => {
    cut(`the server did not answer within ${ms} ms`);
  };

  /** Give the connection up; the driver says that it is lost, and nobody else why. @param {string} why */
  const cut = (why) => {
    verdict = why;
    self.deadline = Infinity;
    emit({ type: "cut" });
  };

  // --- what is to be said ------------------------------------------------------------------------

  /** Say what waits, as much as the rates of the server allow. */
  const flush = () => {
    while (subscriptions.hasRequests() && pace.readyAt(now) <= now) {
      const size = Math.min(askBytes, pace.maxBytes / 2);
      const message = subscriptions.next(newRef(), pace.names(now), size);
      say(message, message.channels.length);
    }
    requests.send(newRef, pace, now, subscriptions.size());
    if (wasSettled || !subscriptions.isSettled()) return;
    wasSettled = true;
    if (isReturning) emit({ type: "tellGap", lost: null, cause: "reconnect" });
  };

  const newRef = () => `${++refs}`;

  /** @param {Record<string, unknown>} message @param {number} [names] */
  const say = (message, names) => {
    pace.take(now, false, names);
    emit({ type: "say", text: JSON.stringify(message) });
  };

  const self = {
    /** @type {SessionState} */
    state: "waiting",
    /** When `deadline` has something to do; Infinity: never. */
    deadline: Infinity,
    /** Why it is over. @type {Failure} */
    ending: CLOSED,
    /** It has ended because the attempts are used up: `wake` revives it. */
    hasGivenUp: false,
    /** There was a connection before. */
    isKnown: false,

    /** The server has not forgotten yet what nobody wants any more. */
    isLeaving: subscriptions.isLeaving,
    /** Who gets what is published on a channel now. */
    audience: subscriptions.audience,
    /** Who wants a pattern. */
    holders: subscriptions.holders,
    /** Whether a request may have been carried out. */
    wasSent: requests.wasSent,

    /**
     * Act on what has happened.
     * @param {Input<H, K>} input
     * @param {number} at
     * @returns {Action<H, K>[]} What to do about it, in order.
     * @throws {TypeError} There is no such input; or a request cannot be written as JSON.
     */
    handle(input, at) {
      const isTaken = takes(input.type, self.state);
      now = at;
      actions = [];
      if (isTaken) act(input);
      if (self.state === "open" && !verdict) {
        if (!input.isBatched) flush();
        const askAt = subscriptions.hasRequests() ? pace.readyAt(now) : Infinity;
        self.deadline = Math.min(liveness.deadline, refreshAt, requests.readyAt(pace, now), askAt);
      }
      return actions;
    },
  };
  return self;
};

/** The same as a class. */
export const ClientSession = /** @type {new <H, K>(options: SessionOptions, chance: () => number) => Session<H, K>} */ (
  /** @type {unknown} */ (
    /** @param {SessionOptions} options @param {() => number} chance */
    function (options, chance) {
      return makeSession(options, chance);
    }
  )
);
