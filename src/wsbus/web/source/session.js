// The client's side of a conversation that outlives its connections. Pure: no socket, no timer, no
// clock, no chance. A port of `core/client/session.py`; `actions.js` says what goes in and comes out.
//
// The driver performs the actions in order, with nothing in between; then it calls again, with the
// input `deadline`, when `session.deadline` has come.
import { makeCredit } from "./credit.js";
import { CommandError, ConnectionError } from "./errors.js";
import { makeLiveness } from "./liveness.js";
import { makeOutbox } from "./outbox.js";
import { makePace } from "./pace.js";
import { makeRequests } from "./requests.js";
import { adviceFor, delayOf, explain, gaveUp, meantBy } from "./retry.js";
import { DIALLING, ENDED, FETCHING, GREETING, OPEN, TABLE, WAITING } from "./states.js";
import { makeSubscriptions } from "./subscriptions.js";
import { makeRefresh } from "./token.js";

/** @import { Failure, Message, SessionOptions, Terms } from "./actions.js" */
/** @import { Advice } from "./retry.js" */
/** @import { SessionState } from "./states.js" */
/**
 * @template H, K
 * @typedef {ReturnType<typeof makeSession<H, K>>} Session
 */

/** From one attempt to the next that the browser's events cause. */
const WAKE_GAP = 1000;

/**
 * @template H, K
 * @param {SessionOptions} options
 * @param {() => number} chance Returns a number from 0 up to 1.
 * @param {() => boolean} isOffline Whether the machine has no network.
 */
export const makeSession = ({ token, isFetched, inHandshake, greets, retry, interval, timeout, connectTimeout, codec }, chance, isOffline) => {
  /** @type {import("./actions.js").OneOf<import("./actions.js").Actions<H, K>>[]} */
  let actions = [];
  /** @type {import("./actions.js").Emit<H, K>} */
  const emit = (...action) => void actions.push(action);

  const liveness = makeLiveness(interval, timeout);
  const pace = makePace();
  const refresh = makeRefresh(isFetched);
  const credit = makeCredit();
  /** @type {import("./subscriptions.js").Subscriptions<H>} */
  const subscriptions = makeSubscriptions(emit, credit.rateOf);
  /** @type {import("./requests.js").Requests<K>} */
  const requests = makeRequests(emit, pace, codec);
  const outbox = makeOutbox(emit, subscriptions, requests, pace, codec);

  let now = 0;
  let pingRef = ""; // Of the last ping.
  let tokenRef = ""; // Of the message that shows the token and is not answered yet.
  /** Of the last question to the application: an answer to an older one is late. */
  let generation = 0;
  let verdict = ""; // Why this side gives the connection up.
  /** Connections and attempts that have ended since the last success. */
  let failures = 0;
  let begunAt = 0; // When the last attempt began.
  let enteredAt = 0; // When the server knew who this is.
  /** Everything was subscribed over this connection. */
  let wasSettled = false;
  /** There is a gap to tell as soon as everything is subscribed again. */
  let isReturning = false;
  /** @type {Terms} */
  let terms = {};

  /** @param {SessionState} state */
  const is = (state) => self.state === state;

  /** @type {import("./actions.js").TableOf<import("./actions.js").Inputs<H, K>>} */
  const inputs = {
    connect() {
      if (self.deadline === Infinity) failures = 0;
      begin();
    },

    pause() {
      leave(WAITING);
      emit("hangUp");
    },

    /** No error: the application wants nothing any more, and whatever comes next is new. */
    close(error) {
      if (!is(ENDED)) stop(error);
      if (error) return;
      self.ending = closed();
      self.hasGivenUp = self.isKnown = false;
      subscriptions.disconnected(true);
    },

    subscribe(pattern, holder, ...start) {
      if (is(ENDED)) emit("dismiss", holder, self.ending);
      else subscriptions.add(pattern, holder, ...start);
    },

    unsubscribe: subscriptions.remove,
    renew: subscriptions.renew,

    request(key, message, isIdempotent) {
      if (is(ENDED)) emit("answer", key, self.ending);
      else requests.add(key, message, isIdempotent);
    },

    forget: requests.forget,

    opened() {
      enter(GREETING);
      terms = {};
      if (token !== null && !inHandshake) authenticate();
      else if (!greets) beat("ping");
    },

    failed: (error) => retreat(error, adviceFor(error.code)),

    lost(code, reason) {
      const meant = meantBy(code, reason);
      const isTooBig = meant === 1009;
      const error = new ConnectionError(meant, verdict || explain(meant, reason), reason);
      if (is(DIALLING)) return retreat(error, "now");
      outbox.cut(error.message, isTooBig);
      // A connection that ends at once is no success.
      if (wasSettled && now - enteredAt >= retry.base) failures = 0;
      if (!isTooBig || !tokenRef || is(OPEN)) return retreat(error, adviceFor(meant));
      return stop(new ConnectionError(meant, `the token is too large: ${error.message}`, reason));
    },

    token(asked, newer = null) {
      if (asked !== generation) return;
      token = newer;
      if (!is(OPEN)) dial();
      else if (newer === null) notRefreshed("there is no newer token");
      else authenticate();
    },

    noToken(asked, why) {
      if (asked === generation) noToken(why);
    },

    heard(message) {
      try {
        heard(message);
      } catch (error) {
        emit("tellError", new CommandError("INVALID_MESSAGE", `the server sent what this client cannot read: ${error}`));
      }
    },

    deadline() {
      if (now < self.deadline) return;
      if (is(WAITING)) begin();
      else if (is(FETCHING)) noToken(`the function for the token or the URL took longer than ${connectTimeout} ms`);
      else if (!is(OPEN)) late(connectTimeout);
      else {
        beat(liveness.judge(now));
        if (now >= refresh.refreshAt) ask();
      }
    },

    /** The page comes into view, or online. */
    wake() {
      if (is(OPEN)) inputs.check();
      else if (self.hasGivenUp || self.deadline < Infinity) {
        if (self.hasGivenUp) failures = 0;
        self.hasGivenUp = false;
        self.state = WAITING;
        self.deadline = Math.min(self.deadline, Math.max(now, begunAt + WAKE_GAP));
      }
    },

    check: () => beat(liveness.check(now)),
    began: (channel) => credit.began(now, channel),
    worked: (from) => credit.worked(now, from),
  };

  // --- connections -------------------------------------------------------------------------------

  const closed = () => new CommandError("CLOSED", "the client is closed");

  /** Take the next step towards a connection, which has its time limit. @param {SessionState} state */
  const enter = (state) => {
    self.state = state;
    self.deadline = now + connectTimeout;
  };

  const begin = () => {
    begunAt = now;
    self.hasGivenUp = false;
    if (isFetched) {
      enter(FETCHING);
      ask();
    } else dial();
  };

  const dial = () => {
    enter(DIALLING);
    emit("dial", inHandshake ? token : null);
  };

  /** The server knows who this is. */
  const open = () => {
    self.state = OPEN;
    enteredAt = now;
    liveness.rest(now);
    emit("tellConnected", self.isKnown, terms.connection_id, terms.subject);
    wasSettled = !subscriptions.size();
    self.isKnown = true;
  };

  /** The connection, or the attempt, came to nothing: wait for the next one, or stop. @param {ConnectionError} error @param {Advice} advice */
  const retreat = (error, advice) => {
    if (advice === "stop" || (advice === "newToken" && !isFetched)) return stop(error);
    const offline = isOffline();
    if (failures >= retry.attempts && !offline) return stop(gaveUp(error, failures), true);
    const attempt = failures + 1;
    if (!offline) failures = attempt;
    const delay = offline ? delayOf(retry, attempt, "muchLater", chance()) : delayOf(retry, attempt, advice, chance(), error.reason);
    leave(WAITING);
    self.deadline = now + delay;
    return emit("tellReconnecting", attempt, delay, error);
  };

  /** @param {ConnectionError | null} [error] @param {boolean} [hasGivenUp] */
  const stop = (error = null, hasGivenUp = false) => {
    leave(ENDED);
    self.ending = error ?? closed();
    self.hasGivenUp = hasGivenUp;
    requests.fail(self.ending);
    emit("hangUp");
    emit("stop", error);
  };

  /** @param {SessionState} state */
  const leave = (state) => {
    self.state = state;
    self.deadline = Infinity;
    generation++;
    refresh.admitted(NaN, now);
    tokenRef = pingRef = verdict = "";
    wasSettled = isReturning = false;
    pace.learn({}, now);
    subscriptions.disconnected();
  };

  const ask = () => {
    refresh.refreshAt = Infinity;
    emit("fetchToken", ++generation);
  };

  const authenticate = () => {
    tokenRef = outbox.ask({ type: "auth", token }, now);
  };

  /** @param {Message} message @returns {unknown} */
  const authResult = ({ success, error, data, timestamp }) => {
    const why = `${error?.message}`;
    const isGreeting = is(GREETING);
    tokenRef = "";
    if (success) {
      terms = { ...terms, subject: data.subject };
      refresh.admitted(data.expires_at - timestamp, now);
    } else if (isGreeting && terms.subject === undefined) {
      // One that is known all the same needs no token here.
      return stop(new ConnectionError(4500, explain(4500, why)));
    }
    if (isGreeting) open();
    return success || notRefreshed(why);
  };

  /** The application has none. @param {string} why */
  const noToken = (why) => (is(OPEN) ? notRefreshed(why) : retreat(new ConnectionError(1006, why), "now"));

  /** @param {string} why */
  const notRefreshed = (why) => {
    refresh.keep(now);
    emit("tellRefreshFailed", why);
  };

  /** The server does not know who this is. */
  const wantsToken = () =>
    stop(new ConnectionError(4500, token === null ? "the server wants a token: pass the option token" : "the server did not take the token"));

  // --- what the server says ----------------------------------------------------------------------

  /** @param {Message} message @returns {unknown} */
  const heard = (message) => {
    const { type, id = "", data } = message;
    const isGreeting = is(GREETING);
    switch (type) {
      case "ping":
        return outbox.say({ type: "pong", id: message.id }, now);
      case "pong":
        if (isGreeting) return greets || tokenRef || open();
        return (id && id !== pingRef) || liveness.rest();
      case "connected":
        pace.learn(data, now);
        requests.judge();
        terms = data;
        return !isGreeting || tokenRef || (data.subject === undefined ? wantsToken() : open());
      case "auth_result":
        return tokenRef && (!id || id === tokenRef) && authResult(message);
      case "subscribed":
        pace.of().answered();
        if (subscriptions.isCutShort(message)) return notAgain("UNAVAILABLE");
        return id && (isReturning = subscriptions.answered(message) || isReturning);
      case "unsubscribed":
        return id ? subscriptions.left(id) : subscriptions.taken(data.channels, data.reason);
      case "gap": {
        const { lost = null, channels } = data;
        const cause = data.cause === "broker" ? "broker" : "server";
        subscriptions.lose(lost, cause, channels);
        return emit("tellGap", lost, cause, channels);
      }
      case "presence_changed":
        return emit("tellPresence", data);
      case "history":
        for (const event of data.events) event.channel = data.channel;
      // falls through
      case "presence":
      case "response": case "status":
      case "error":
        return answered(message);
      default:
        return undefined;
    }
  };

  /** @param {Message} message @returns {unknown} */
  const answered = (message) => {
    const { id = "", data, error: said } = message;
    const error = said && new CommandError(`${said.code}`, `${said.message}`);
    if (error && is(GREETING)) {
      if (error.code === "UNAUTHENTICATED") return wantsToken();
      return cut(`the server does not let this client in: ${error.code}`);
    }
    if (id && id === tokenRef) return authResult({ ...message, success: false });
    if (requests.answer(id, now, error, data) || !error) return undefined;
    if (!subscriptions.count(id)) return emit("tellError", error);
    if (outbox.asksAgain(id, error.code, now)) return undefined;
    if (subscriptions.isRenewal(id)) return notAgain(error.code);
    return subscriptions.refused(id, error);
  };

  /** @param {"ping" | "dead" | void} beat */
  const beat = (beat) => {
    if (beat === "dead") late(liveness.patience);
    else if (beat) pingRef = outbox.ask({ type: "ping" }, now);
  };

  /** A server that is short of something may take later what it had taken before. @param {string} code */
  const notAgain = (code) => cut(`the server did not take the subscriptions again: ${code}`);

  /** @param {number} ms */
  const late = (ms) => cut(`the server did not answer within ${ms} ms`);

  /** Give the connection up; the driver says that it is lost, and nobody else why. @param {string} why */
  const cut = (why) => {
    verdict = why;
    self.deadline = Infinity;
    emit("cut");
  };

  const self = {
    /** @type {SessionState} */
    state: WAITING,
    /** When `deadline` has something to do; Infinity: never. */
    deadline: Infinity,
    /** Why it is over. @type {Failure} */
    ending: closed(),
    /** It has ended because the attempts are used up: `wake` revives it. */
    hasGivenUp: false,
    /** There was a connection before. */
    isKnown: false,

    // What else a driver asks; nothing of it changes anything.
    isLeaving: subscriptions.isLeaving,
    isRated: subscriptions.isRated,
    receive: subscriptions.receive,
    position: subscriptions.position,
    holders: subscriptions.holders,
    wasSent: requests.wasSent,

    /**
     * Act on what has happened; returns what to do about it, in order.
     * @template {keyof import("./actions.js").Inputs<H, K>} T
     * @param {number} at
     * @param {T} type
     * @param {import("./actions.js").Inputs<H, K>[T]} details
     * @throws {TypeError} A request cannot be written as JSON.
     */
    handle(at, type, ...details) {
      now = at;
      actions = [];
      if (TABLE[type] & self.state) inputs[type](...details);
      if (is(OPEN) && !verdict) {
        // More of these may follow in this turn.
        if (!type.endsWith("subscribe")) {
          outbox.flush(now);
          if (!wasSettled && subscriptions.isSettled()) {
            wasSettled = true;
            if (isReturning) emit("tellGap", null, "reconnect");
          }
        }
        self.deadline = Math.min(liveness.deadline, refresh.refreshAt, outbox.readyAt(now));
      }
      return actions;
    },
  };
  return self;
};
