// Sockets, timers, promises, loops and events around a session, which decides.
import { addressOf } from "./address.js";
import { makeAlarm } from "./alarm.js";
import { makeDialling } from "./dialling.js";
import { makeEffort } from "./effort.js";
import { CommandError } from "./errors.js";
import { gapOf } from "./gaps.js";
import { makeHandlers } from "./handlers.js";
import { join } from "./joining.js";
import { watchPage } from "./page.js";
import { makeReading } from "./reading.js";
import { makeSession } from "./session.js";
import { ENDED, OPEN, WAITING } from "./states.js";
import { makeStream } from "./stream.js";
import { makeTelling } from "./telling.js";
import { checkLength, checkRate } from "./text.js";
import { onAbort, wait } from "./waiting.js";

/** @import { Actions, Inputs, Message } from "./actions.js" */
/** @import { Session } from "./session.js" */
/** @import { SessionState } from "./states.js" */
/** @import { Holder } from "./stream.js" */
/** @import { Abortable, BusEvent, ClientOptions, Compact, Ending, Limited, MaxRate, Position, RequestOptions, Resumable, Socket, State, StreamPart, Token } from "./types.js" */
/** @import { Waiter } from "./waiting.js" */

/** What the states of a session are for the application; those that are missing are `connecting`. @type {Partial<Record<SessionState, State>>} */
const STATES = { [WAITING]: "waiting", [OPEN]: "connected", [ENDED]: "closed" };

/** @type {(patterns: string | Iterable<string>) => string[]} */
const listOf = (patterns) => [...new Set(typeof patterns === "string" ? [patterns] : patterns)];

/**
 * @typedef {{ end: AbortController, url?: string | URL, socket?: Socket }} Link One
 *   attempt, and the connection that it gives; `end` ends both. `url`: what the function for it has returned.
 */

/**
 * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
 * @param {ClientOptions} options
 * @param {(type: string, detail: unknown) => boolean} dispatch Tells the listeners of the application; returns
 *   whether they leave an error to the console.
 */
export const makeDriver = (
  url,
  {
    token,
    tokenIn,
    codec,
    protocol = /** @type {"wsbus.v1"} */ (codec?.protocol ?? "wsbus.v1"),
    fallback,
    WebSocket,
    signal: until,
    retry: { base = 1000, cap = 30_000, attempts = Infinity, first: waits } = {},
    heartbeat: { interval = 15_000, timeout = 20_000 } = {},
  },
  dispatch,
) => {
  const tokenOf = typeof token === "function" ? token : undefined;
  const urlOf = typeof url === "function" ? url : undefined;
  const dial = makeDialling(protocol, { fallback, WebSocket });
  /** @type {Session<Holder, Waiter<unknown>>} */
  const session = makeSession(
    {
      token: tokenOf ? null : /** @type {string | null} */ (token ?? null),
      isFetched: !!(tokenOf || urlOf),
      inHandshake: tokenIn === "subprotocol",
      greets: protocol !== "zigquant-v2",
      codec,
      retry: { base, cap, attempts },
      interval,
      timeout,
      connectTimeout: timeout,
    },
    Math.random,
    () => globalThis.navigator?.onLine === false,
  );
  /** @type {Link} */
  let link;
  /** The state that was told last. @type {State} */
  let told = "idle";
  /** @type {(ending: Ending) => void} */
  let end;
  /** @type {Promise<Ending>} */
  let closed;
  /** Removes the listeners of the window and of the page. @type {(() => void) | undefined} */
  let watching;
  /** @type {Set<Waiter<void>>} Of `connect`. */
  const connecting = new Set();
  /** @type {Set<Waiter<void>>} Of `subscribe`, until the server has answered. */
  const joining = new Set();
  /** @type {Set<Waiter<void>>} Of `unsubscribe`. */
  const leaving = new Set();
  /** @type {Set<{ end(error?: unknown, isOthers?: boolean): void }>} */
  const streams = new Set();

  /** @returns {State} */
  const stateOf = () => (session.state === WAITING && session.deadline === Infinity ? "idle" : (STATES[session.state] ?? "connecting"));

  const isConnected = () => session.state === OPEN;

  const renew = () => {
    link = { end: new AbortController() };
  };

  const begin = () => {
    closed = new Promise((resolve) => (end = resolve));
  };

  // --- telling the application -------------------------------------------------------------------

  const { tell, forget, together } = makeTelling(dispatch);

  /** @param {unknown} error */
  const report = (error) => tell("error", error);

  const effort = makeEffort(session.isRated, (type, detail) => give(type, /** @type {never} */ (detail)));

  const handlers = makeHandlers(report, effort);

  const settle = () => {
    if (!session.isLeaving()) for (const waiter of leaving) waiter.resolve();
  };

  // --- around the session ------------------------------------------------------------------------

  /** @type {import("./actions.js").TableOf<Actions<Holder, Waiter<unknown>>>} */
  const performers = {
    /** Ask the page for a token, and for the URL; the latter only for a new connection. */
    async fetchToken(generation) {
      const mine = link;
      const isRefresh = isConnected();
      let step = "token";
      try {
        const answer = tokenOf ? await tokenOf({ signal: mine.end.signal }) : /** @type {Token} */ (token);
        step = "URL";
        if (urlOf && !isRefresh) mine.url = await urlOf();
        give("token", generation, answer);
      } catch (error) {
        give("noToken", generation, `the function for the ${step} failed: ${error}`);
      }
    },

    dial: (shown) =>
      dial(link, link.url ?? /** @type {string} */ (url), shown, {
        opened: () => give("opened"),
        received,
        lost: lose,
        failed(error) {
          performers.hangUp();
          give("failed", error);
        },
        close: (error) => give("close", error),
      }),

    say: (text) => link.socket?.send(text),

    hangUp() {
      const { end, socket } = link;
      end.abort();
      renew();
      try {
        socket?.close(1000);
      } catch {} // It was not open yet.
    },

    cut: () => lose(1006, ""),

    answer(key, error, data) {
      if (error) key.reject(error);
      else key.resolve(data);
    },

    confirm: (holder) => holder.confirm?.(),

    dismiss: (holder, error) => holder.dismiss(error),

    lose: (holder, ...gap) => holder.lose?.(gapOf(...gap)),

    tellGap: (...gap) => tell("gap", gapOf(...gap)),

    tellPresence: (change) => tell("presence", change),

    tellConnected(reconnected, connectionId, subject) {
      for (const waiter of connecting) waiter.resolve();
      tell("connected", { reconnected, connectionId, subject });
    },

    tellReconnecting(attempt, delay, error) {
      performers.hangUp();
      if (!waits) for (const waiter of connecting) waiter.reject(error);
      tell("reconnecting", { attempt, delay, error });
    },

    tellRefreshFailed: (why) => report(new CommandError("UNAUTHENTICATED", why)),

    tellError: report,

    stop(error) {
      const { code = 1000, reason = "" } = error ?? {};
      const ending = { code, reason, error };
      if (!session.hasGivenUp) unwatch();
      for (const waiter of [...connecting, ...joining]) waiter.reject(session.ending);
      for (const stream of streams) stream.end(error, !!error);
      end(ending);
      tell("disconnected", ending);
    },
  };

  /**
   * Tell the session what has happened, and do what it wants.
   * @template {keyof Inputs<Holder, Waiter<unknown>>} T
   * @param {T} type
   * @param {Inputs<Holder, Waiter<unknown>>[T]} details
   */
  const give = (type, ...details) => {
    const actions = session.handle(performance.now(), type, ...details);
    together(() => {
      const state = stateOf();
      if (state !== told) {
        if (told === "closed") begin();
        // Listeners do not get what one of them has made untrue.
        if (state === "closed") forget();
        told = state;
        tell("state", { state });
      }
      for (const [type, ...details] of actions) /** @type {(...details: unknown[]) => void} */ (performers[type])(...details);
      alarm(session.deadline, isConnected());
      settle();
    });
  };

  const alarm = makeAlarm(() => give("deadline"));

  // --- connections -------------------------------------------------------------------------------

  const unwatch = () => {
    watching?.();
    watching = undefined;
  };

  /** @param {number} code @param {string} reason */
  const lose = (code, reason) => {
    performers.hangUp();
    give("lost", code, reason);
  };

  /** @param {unknown} data */
  const received = (data) => {
    const { signal } = link.end;
    for (const part of protocol === "wsbus.v1" ? `${data}`.split("\n") : [data]) {
      if (signal.aborted) return;
      try {
        const message = /** @type {Message} */ (codec ? codec.read(part) : JSON.parse(`${part}`));
        if (message.type === "event") deliver(/** @type {BusEvent} */ (/** @type {unknown} */ (message)));
        else give("heard", message);
      } catch (cause) {
        report(new Error(`the server sent what this client cannot read: ${cause}`, { cause }));
      }
    }
  };

  /** @param {BusEvent} message */
  const deliver = ({ channel, event, timestamp, data, position, latest }) => {
    const seen = { channel, event, timestamp, data, ...(position && { position }), ...(latest && { latest }) };
    const { holders, isNew } = session.receive(seen);
    for (const holder of holders) holder.push?.(seen);
    if (isNew) handlers.deliver(seen);
  };

  // --- what the application calls ----------------------------------------------------------------

  /** @type {(type: "subscribe" | "unsubscribe", pattern: string, holder: Holder, since?: Position, most?: MaxRate) => void} */
  const change = (type, pattern, ...more) => give(type, pattern, ...more);

  /** @param {string} what @param {number} ms */
  const late = (what, ms) => {
    const why = stateOf() === "idle" ? ", since connect() was not called" : "";
    return new CommandError("TIMEOUT", `${what} within ${ms} ms${isConnected() ? "" : `: there was no connection${why}`}`);
  };

  const close = () => {
    give("close");
    unwatch();
  };

  renew();
  begin();
  // Where there is no page, on a server that renders one, a path is judged when it is used.
  if (!urlOf) addressOf(/** @type {string} */ (url), globalThis.location?.href ?? "ws://page.invalid");
  if (until?.aborted) close();
  onAbort(until, close);

  return {
    close,
    stateOf,
    closed: () => closed,

    /** @type {(options: Abortable) => Promise<void>} */
    connect: (options) =>
      wait(options, (waiter) => {
        if (isConnected()) return waiter.resolve();
        if (until?.aborted) return waiter.reject(session.ending);
        if (!WebSocket && !globalThis.WebSocket) throw new TypeError("no global WebSocket: pass the option WebSocket");
        if (!urlOf) addressOf(/** @type {string} */ (url));
        connecting.add(waiter);
        watching ??= watchPage(() => give("wake"), () => give("check"));
        give("connect");
        return () => {
          connecting.delete(waiter);
          if (options.signal?.aborted && !connecting.size && !session.isKnown) give("pause");
        };
      }),

    /** @type {(patterns: string | Iterable<string>, options: Limited & Resumable) => Promise<void>} */
    subscribe: (patterns, options) =>
      wait(
        options,
        (waiter) => {
          const list = listOf(patterns);
          list.forEach(checkLength);
          checkRate(options.maxRate);
          joining.add(waiter);
          const after = join(waiter, list, options, change, report);
          return (hasFailed) => {
            joining.delete(waiter);
            after(hasFailed);
          };
        },
        (ms) => late("the subscription was not confirmed", ms),
      ),

    /** @type {(patterns: string | Iterable<string>, options: Limited) => Promise<void>} */
    unsubscribe(patterns, options) {
      for (const pattern of listOf(patterns)) {
        const calls = [...session.holders(pattern)].filter(({ leave }) => leave);
        // A call with a signal has its own way to end.
        (calls.find((call) => !call.signal) ?? calls[0])?.leave?.();
      }
      return wait(
        options,
        (waiter) => {
          leaving.add(waiter);
          settle();
          return () => void leaving.delete(waiter);
        },
        (ms) => late("the end of the subscription was not confirmed", ms),
      );
    },

    on: handlers.on,
    position: session.position,

    /** @type {(pattern: string, options: Abortable & Resumable & { buffer?: number }) => AsyncIterableIterator<BusEvent>} */
    events(pattern, { signal, since, maxRate, buffer = 1000 }) {
      let stay = () => {};
      const abort = () => stream.end(signal?.reason);
      const stream = makeStream(
        buffer,
        (gap) => tell("gap", { ...gap, pattern }),
        () => {
          stay();
          streams.delete(stream);
          change("unsubscribe", pattern, stream);
        },
        effort,
      );
      try {
        checkLength(pattern);
        checkRate(maxRate);
        streams.add(stream);
        stay = onAbort(signal, abort);
        if (signal?.aborted) abort();
        else change("subscribe", pattern, stream, since, maxRate);
      } catch (error) {
        stream.end(error, true);
      }
      return stream.events;
    },

    /** @type {(channel: string, options: Abortable & { compact?: Compact }) => AsyncGenerator<StreamPart, undefined>} */
    read(channel, { signal, compact }) {
      let stay = () => {};
      const isHeld = [...session.holders(channel)].length > 0;
      const renew = () => give("renew", channel);
      const abort = () => reading.end(signal?.reason);
      const reading = makeReading(
        renew,
        () => {
          stay();
          streams.delete(reading);
          change("unsubscribe", channel, reading);
        },
        compact,
      );
      try {
        checkLength(channel);
        streams.add(reading);
        stay = onAbort(signal, abort);
        if (signal?.aborted) abort();
        else change("subscribe", channel, reading);
        if (isHeld) renew(); // Else the server gives the whole to a new subscription.
      } catch (error) {
        reading.end(error);
      }
      return reading.parts;
    },

    /** @type {(message: { type: string, [key: string]: unknown }, options?: RequestOptions) => Promise<unknown>} */
    ask: (message, options = {}) =>
      wait(
        options,
        (waiter) => {
          give("request", waiter, message, options.idempotent);
          return (hasFailed) => hasFailed && give("forget", waiter);
        },
        (ms, waiter) => {
          if (session.wasSent(waiter)) return new CommandError("TIMEOUT", `no answer within ${ms} ms; it may still be acted on`);
          return late(isConnected() ? "not sent, since the server limits the rate," : "not sent", ms);
        },
      ),
  };
};
