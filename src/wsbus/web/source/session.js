// The client's side of a conversation that outlives its connections. Pure: no socket, no timer, no
// clock, no chance. A port of `core/client/session.py`; `actions.js` says what goes in and comes out.
//
//     const session = makeSession(options, chance, isOffline);
//     const actions = session.handle(now, "connect");
//
// The driver performs the actions in order, with nothing in between; then it calls again, with the
// input `deadline`, when `session.deadline` has come.
import { CommandError, ConnectionError } from "./errors.js";
import { makeLiveness } from "./liveness.js";
import { makeOutbox } from "./outbox.js";
import { makePace } from "./pace.js";
import { makeRequests } from "./requests.js";
import { adviceFor, delayOf, explain, meantBy } from "./retry.js";
import { takes } from "./states.js";
import { makeSubscriptions } from "./subscriptions.js";

/** @import { Failure, Message, SessionOptions, Terms } from "./actions.js" */
/** @import { Advice } from "./retry.js" */
/** @import { SessionState } from "./states.js" */
/**
 * @template H, K
 * @typedef {ReturnType<typeof makeSession<H, K>>} Session
 */

/** The token is refreshed so long before it expires, or after half its life if that is later. */
const REFRESH = 30_000;
/** A token with less left is not refreshed again after a failure. */
const TOO_LATE = 200;
/** From one attempt to the next that the browser's events cause. */
const WAKE_GAP = 1000;

/**
 * @template H, K
 * @param {SessionOptions} options
 * @param {() => number} chance Returns a number from 0 up to 1.
 * @param {() => boolean} isOffline Whether the machine has no network.
 */
export const makeSession = ({ token, isFetched, inHandshake, greets, retry, interval, timeout, connectTimeout }, chance, isOffline) => {
  /** @type {import("./actions.js").OneOf<import("./actions.js").Actions<H, K>>[]} */
  let actions = [];
  /** @type {import("./actions.js").Emit<H, K>} */
  const emit = (...action) => void actions.push(action);

  const liveness = makeLiveness(interval, timeout);
  const pace = makePace();
  /** @type {import("./subscriptions.js").Subscriptions<H>} */
  const subscriptions = makeSubscriptions(emit);
  /** @type {import("./requests.js").Requests<K>} */
  const requests = makeRequests(emit, pace);
  const outbox = makeOutbox(subscriptions, requests, pace);

  let now = 0;
  let refs = 0;
  let pingRef = "";
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

  /** @param {SessionState} state */
  const is = (state) => self.state === state;

  /** @type {import("./actions.js").TableOf<import("./actions.js").Inputs<H, K>>} */
  const inputs = {
    connect() {
      if (self.deadline === Infinity) failures = 0;
      begin();
    },

    pause() {
      leave("waiting");
      emit("hangUp");
    },

    /** No error: the application wants nothing any more, and whatever comes next is new. */
    close(error) {
      if (!is("ended")) stop(error);
      if (error) return;
      self.ending = closed();
      self.hasGivenUp = self.isKnown = false;
      subscriptions.disconnected(true);
    },

    subscribe(pattern, holder) {
      if (is("ended")) emit("dismiss", holder, self.ending);
      else subscriptions.add(pattern, holder);
    },

    unsubscribe: subscriptions.remove,

    request(key, message, isIdempotent) {
      if (is("ended")) emit("answer", key, self.ending);
      else requests.add(key, message, isIdempotent);
    },

    forget: requests.forget,

    opened() {
      enter("greeting");
      terms = {};
      if (token !== null && !inHandshake) authenticate();
      else if (!greets) beat("ping");
    },

    failed: (error) => retreat(error, adviceFor(error.code)),

    lost(code, reason) {
      const meant = meantBy(code, reason);
      const isTooBig = meant === 1009;
      const error = new ConnectionError(meant, verdict || explain(meant, reason), reason);
      if (is("dialling")) return retreat(error, "now");
      outbox.cut(error.message, isTooBig);
      // A connection that ends at once is no success.
      if (wasSettled && now - enteredAt >= retry.base) failures = 0;
      if (!isTooBig || !tokenRef || is("open")) return retreat(error, adviceFor(meant));
      return stop(new ConnectionError(meant, `the token is too large: ${error.message}`, reason));
    },

    token(asked, newer = null) {
      if (asked !== generation) return;
      token = newer;
      if (!is("open")) dial();
      else if (token === null) notRefreshed("there is no newer token");
      else authenticate();
    },

    noToken(asked, why) {
      if (asked !== generation) return;
      if (is("open")) notRefreshed(why);
      else retreat(new ConnectionError(1006, why), "now");
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
      if (is("waiting")) begin();
      else if (is("fetching")) {
        const why = `the function for the token or the URL took longer than ${connectTimeout} ms`;
        retreat(new ConnectionError(1006, why), "now");
      } else if (!is("open")) late(connectTimeout);
      else {
        beat(liveness.judge(now));
        if (now >= refreshAt) ask();
      }
    },

    /** The page comes into view, or online. */
    wake() {
      if (is("open")) return inputs.check();
      if (self.hasGivenUp) {
        self.state = "waiting";
        failures = 0;
      } else if (self.deadline === Infinity) return undefined;
      self.hasGivenUp = false;
      self.deadline = Math.min(self.deadline, Math.max(now, begunAt + WAKE_GAP));
      return undefined;
    },

    check: () => beat(liveness.check(now)),
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
    if (!isFetched) return dial();
    enter("fetching");
    return ask();
  };

  const dial = () => {
    enter("dialling");
    emit("dial", inHandshake ? token : null);
  };

  /** The server knows who this is. */
  const open = () => {
    self.state = "open";
    enteredAt = now;
    liveness.rest(now);
    emit("tellConnected", self.isKnown, terms.connection_id, terms.subject);
    wasSettled = !subscriptions.size();
    isReturning = subscriptions.haveMissed();
    self.isKnown = true;
  };

  /** The connection, or the attempt, came to nothing: wait for the next one, or stop. @param {ConnectionError} error @param {Advice} advice */
  const retreat = (error, advice) => {
    if (advice === "stop" || (advice === "newToken" && !isFetched)) return stop(error);
    const offline = isOffline();
    if (failures >= retry.attempts && !offline) {
      const why = `gave up after ${failures} attempt${failures === 1 ? "" : "s"}: ${error.message}`;
      return stop(failures ? new ConnectionError(error.code, why, error.reason) : error, true);
    }
    const attempt = failures + 1;
    if (!offline) failures = attempt;
    const delay = delayOf(retry, attempt, offline ? "muchLater" : advice, chance());
    leave("waiting");
    self.deadline = now + delay;
    return emit("tellReconnecting", attempt, delay, error);
  };

  /** @param {ConnectionError} [error] @param {boolean} [hasGivenUp] */
  const stop = (error, hasGivenUp = false) => {
    leave("ended");
    self.ending = error ?? closed();
    self.hasGivenUp = hasGivenUp;
    requests.fail(self.ending);
    emit("hangUp");
    emit("stop", error);
  };

  /** @param {SessionState} state */
  const leave = (state) => {
    self.state = state;
    self.deadline = refreshAt = expiresAt = Infinity;
    generation++;
    tokenRef = pingRef = verdict = "";
    wasSettled = false;
    pace.learn({}, now);
    subscriptions.disconnected();
  };

  // --- the token ---------------------------------------------------------------------------------

  const ask = () => {
    refreshAt = Infinity;
    emit("fetchToken", ++generation);
  };

  const authenticate = () => {
    tokenRef = newRef();
    say({ type: "auth", token, id: tokenRef });
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
      if (is("greeting")) open();
    } else {
      // One that is known all the same needs no token here.
      if (is("greeting")) {
        if (terms.subject === undefined) return stop(new ConnectionError(4500, explain(4500, why)));
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
    emit("tellRefreshFailed", why);
  };

  /** The server does not know who this is. */
  const wantsToken = () =>
    stop(new ConnectionError(4500, token === null ? "the server wants a token: pass the option token" : "the server did not take the token"));

  // --- what the server says ----------------------------------------------------------------------

  /** @param {Message} message */
  const heard = (message) => {
    const { type, id, data } = message;
    const isGreeting = is("greeting");
    switch (type) {
      case "ping":
        return say({ type: "pong", id });
      case "pong":
        if (!isGreeting) return id === undefined || id === pingRef ? liveness.rest() : undefined;
        return greets || tokenRef ? undefined : open();
      case "connected":
        pace.learn(data, now);
        requests.judge();
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
        return emit("tellGap", lost, cause, channels);
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
    const error = said && new CommandError(`${said.code}`, `${said.message}`);
    if (error && is("greeting")) {
      if (error.code === "UNAUTHENTICATED") return wantsToken();
      return cut(`the server does not let this client in: ${error.code}`);
    }
    if (id && id === tokenRef) return authResult({ ...message, success: false });
    if (requests.answer(id, now, error, data) || !error) return undefined;
    if (!subscriptions.count(id)) return emit("tellError", error);
    if (outbox.asksAgain(id, error.code, now)) return undefined;
    // A server that is short of something may take later what it had taken before.
    if (subscriptions.isRenewal(id)) return cut(`the server did not take the subscriptions again: ${error.code}`);
    return subscriptions.refused(id, error);
  };

  // --- time --------------------------------------------------------------------------------------

  /** @param {"ping" | "dead" | undefined} beat */
  const beat = (beat) => {
    if (beat === "dead") return late(liveness.patience);
    if (!beat) return undefined;
    pingRef = newRef();
    return say({ type: "ping", id: pingRef });
  };

  /** @param {number} ms */
  const late = (ms) => cut(`the server did not answer within ${ms} ms`);

  /** Give the connection up; the driver says that it is lost, and nobody else why. @param {string} why */
  const cut = (why) => {
    verdict = why;
    self.deadline = Infinity;
    emit("cut");
  };

  // --- what is to be said ------------------------------------------------------------------------

  const newRef = () => `${++refs}`;

  /** @param {Record<string, unknown>} message @param {number} [names] */
  const say = (message, names) => {
    pace.take(now, false, names);
    emit("say", JSON.stringify(message));
  };

  const self = {
    /** @type {SessionState} */
    state: "waiting",
    /** When `deadline` has something to do; Infinity: never. */
    deadline: Infinity,
    /** Why it is over. @type {Failure} */
    ending: closed(),
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
      if (takes(type, self.state)) inputs[type](...details);
      if (is("open") && !verdict) {
        // More of these may follow in this turn.
        if (!type.endsWith("subscribe")) {
          outbox.flush(newRef, say, now);
          if (!wasSettled && subscriptions.isSettled()) {
            wasSettled = true;
            if (isReturning) emit("tellGap", null, "reconnect");
          }
        }
        self.deadline = Math.min(liveness.deadline, refreshAt, outbox.readyAt(now));
      }
      return actions;
    },
  };
  return self;
};
