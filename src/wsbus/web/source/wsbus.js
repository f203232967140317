// The client: sockets, timers, promises, loops and events around a session, which decides.
import { addressOf, explainFailure } from "./address.js";
import { CommandError, ConnectionError } from "./errors.js";
import { ClientSession } from "./session.js";
import { gapOf, makeStream } from "./stream.js";
import { base64url, checkLength, fits } from "./text.js";
import { clamp, wait } from "./waiting.js";

export { CommandError, ConnectionError } from "./errors.js";
export { channel, escapeSegment, matches } from "./names.js";

/** @import { Action, Failure, Input, Message } from "./actions.js" */
/** @import { Holder, Stream } from "./stream.js" */
/** @import { NodeSocket, SocketEvent } from "./address.js" */
/** @import { Abortable, BusEvent, ClientEventTarget, ClientOptions, Ending, Limited, RequestOptions, Socket, State, Token } from "./types.js" */
/** @import { Waiter } from "./waiting.js" */

/** @type {Record<ClientSession<never, never>["state"], State>} */
const PUBLIC_STATES = {
  waiting: "waiting",
  fetching: "connecting",
  dialling: "connecting",
  greeting: "connecting",
  open: "connected",
  ended: "closed",
};

/** @type {(failure: Failure) => CommandError | ConnectionError} */
const errorOf = ({ code, message, reason }) =>
  typeof code === "number" ? new ConnectionError(code, message, reason) : new CommandError(code, message);

/** @type {(patterns: string | Iterable<string>) => Set<string>} */
const setOf = (patterns) => new Set(typeof patterns === "string" ? [patterns] : patterns);

/** The browser says that there is no network. */
const isOffline = () => globalThis.navigator?.onLine === false;

const Target = /** @type {new () => ClientEventTarget} */ (/** @type {unknown} */ (EventTarget));

/** One attempt, and the connection that it gives: `end` ends both. */
class Link {
  end = new AbortController();
  /** The address without its query, which may hold a token. */
  where = "";
  isOpen = false;
  /** What the function for the URL has returned. @type {string | URL | undefined} */
  url;
  /** @type {Socket | undefined} */
  socket;
}

export class Client extends Target {
  #url;
  #token;
  #protocol;
  #WebSocket;
  #signal;
  #first;
  #timeout;
  /** @type {ClientSession<Holder, Waiter<unknown>>} */
  #session;
  #link = new Link();
  /** The state that was told last. @type {State} */
  #told = "idle";
  /** @type {(ending: Ending) => void} */
  #end = () => {};
  /** Removes the listeners of the window and of the page. @type {AbortController | null} */
  #life = null;
  /** @type {Set<Waiter<void>>} Of `connect`. */
  #connecting = new Set();
  /** @type {Set<Waiter<void>>} Of `subscribe`, until the server has answered. */
  #joining = new Set();
  /** @type {Set<Waiter<void>>} Of `unsubscribe`. */
  #leaving = new Set();
  /** @type {Set<Stream>} */
  #streams = new Set();
  /** @type {{ segments: string[], handler: (event: BusEvent) => unknown, isOn: boolean }[]} */
  #listeners = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  /** When the timer strikes. */
  #due = Infinity;
  #isScheduled = false;
  /** Events to be told when all that belongs together is done. @type {[string, unknown][]} */
  #events = [];
  #depth = 0;

  /**
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
   * @param {ClientOptions} [options]
   */
  constructor(url, { token, tokenIn, protocol = "wsbus.v1", WebSocket, signal, retry, heartbeat } = {}) {
    super();
    // Where there is no page, on a server that renders one, a path is judged when it is used.
    if (typeof url !== "function") addressOf(url, globalThis.location?.href ?? "ws://page.invalid");
    this.#url = url;
    this.#token = token;
    this.#protocol = protocol;
    this.#WebSocket = WebSocket;
    this.#signal = signal;
    this.#first = retry?.first;
    this.#timeout = heartbeat?.timeout ?? 20_000;
    const options = {
      token: typeof token === "function" ? null : token,
      isFetched: typeof token === "function" || typeof url === "function",
      inHandshake: tokenIn === "subprotocol",
      greets: protocol === "wsbus.v1",
      retry: { ...retry, first: true }, // The client goes on, whatever `connect()` does.
      heartbeat,
      connectTimeout: this.#timeout,
    };
    this.#session = new ClientSession(options, Math.random);
    /** @type {Promise<Ending>} It never rejects. `connect()` after the end makes a new one. */
    this.closed = new Promise((resolve) => (this.#end = resolve));
    if (signal?.aborted) this.close();
    signal?.addEventListener("abort", () => this.close(), { once: true });
  }

  get state() {
    const { state, deadline } = this.#session;
    return state === "waiting" && deadline === Infinity ? "idle" : PUBLIC_STATES[state];
  }

  /**
   * Connect, or try again now. Rejects if this attempt fails; the client goes on trying all the same,
   * unless the reason is final. With `retry.first` it waits until connected.
   * @param {Abortable} [options]
   * @returns {Promise<void>}
   */
  connect({ signal } = {}) {
    return wait({ signal }, (waiter) => {
      if (this.state === "connected") return waiter.resolve();
      if (this.#signal?.aborted) return waiter.reject(errorOf(this.#session.ending));
      if (!this.#WebSocket && !globalThis.WebSocket) {
        throw new TypeError("there is no global WebSocket: pass the option WebSocket");
      }
      if (typeof this.#url !== "function") addressOf(this.#url);
      this.#connecting.add(waiter);
      if (!this.#life) this.#watch((this.#life = new AbortController()).signal);
      this.#give({ type: "connect" });
      return () => {
        this.#connecting.delete(waiter);
        if (signal?.aborted && !this.#connecting.size && !this.#session.isKnown) this.#give({ type: "pause" });
      };
    });
  }

  /**
   * All or none; resolves when confirmed. `unsubscribe` takes back one call; aborting `signal` takes
   * back this one, after the confirmation, too.
   * @param {string | Iterable<string>} patterns
   * @param {Limited} [options]
   * @returns {Promise<void>}
   */
  subscribe(patterns, { signal, timeout } = {}) {
    return wait(
      { signal, timeout },
      (waiter) => {
        const list = [...setOf(patterns)];
        list.forEach(checkLength);
        /** @type {Set<Holder>} */
        const pending = new Set();
        const parts = new Set(list.map((pattern) => {
          /** @type {Holder & { pattern: string, leave(): void }} */
          const part = {
            pattern,
            signal,
            confirm() {
              pending.delete(part);
              if (!pending.size) waiter.resolve();
            },
            dismiss: (error) => {
              if (pending.has(part)) waiter.reject(error);
              else this.#report(error); // The call has returned long ago.
              part.leave();
            },
            leave: () => {
              parts.delete(part);
              if (!parts.size) signal?.removeEventListener("abort", off);
              this.#give({ type: "unsubscribe", pattern, holder: part, isBatched: true });
              if (pending.delete(part)) waiter.reject(new CommandError("UNSUBSCRIBED", pattern));
            },
            lose() {},
            push() {},
          };
          pending.add(part);
          return part;
        }));
        const off = () => parts.forEach((part) => part.leave());
        this.#joining.add(waiter);
        for (const part of parts) this.#give({ type: "subscribe", pattern: part.pattern, holder: part, isBatched: true });
        if (!pending.size) waiter.resolve();
        return (hasFailed) => {
          this.#joining.delete(waiter);
          if (hasFailed) off();
          else signal?.addEventListener("abort", off);
        };
      },
      (ms) => this.#late("the subscription was not confirmed", ms),
    );
  }

  /**
   * Resolves when the server has confirmed it, or there is no connection.
   * @param {string | Iterable<string>} patterns
   * @param {Limited} [options]
   * @returns {Promise<void>}
   */
  unsubscribe(patterns, { signal, timeout } = {}) {
    for (const pattern of setOf(patterns)) {
      const calls = [...this.#session.holders(pattern)].filter(({ leave }) => leave);
      // A call with a signal has its own way to end.
      (calls.find(({ signal }) => !signal) ?? calls[0])?.leave?.();
    }
    return wait(
      { signal, timeout },
      (waiter) => {
        this.#leaving.add(waiter);
        this.#settle();
        return () => void this.#leaving.delete(waiter);
      },
      (ms) => this.#late("the end of the subscription was not confirmed", ms),
    );
  }

  /**
   * Handle events that match; it does not subscribe. Returns what removes the handler.
   * @template [T=unknown]
   * @param {string} pattern
   * @param {(event: BusEvent<T>) => unknown} handler
   * @param {Abortable} [options]
   * @returns {() => void}
   */
  on(pattern, handler, { signal } = {}) {
    const segments = pattern.split(".");
    const listener = { segments, handler: /** @type {(event: BusEvent) => unknown} */ (handler), isOn: !signal?.aborted };
    const off = () => {
      listener.isOn = false;
      this.#listeners = this.#listeners.filter(({ isOn }) => isOn);
      signal?.removeEventListener("abort", off);
    };
    if (listener.isOn) this.#listeners = [...this.#listeners, listener];
    signal?.addEventListener("abort", off);
    return off;
  }

  /**
   * Subscribe at once, until the loop is left. Of more than `buffer` unread events the oldest go.
   * @template [T=unknown]
   * @param {string} pattern
   * @param {Abortable & { buffer?: number }} [options]
   * @returns {AsyncIterableIterator<BusEvent<T>>}
   */
  events(pattern, { signal, buffer = 1000 } = {}) {
    const abort = () => stream.end(signal?.reason);
    const stream = makeStream(
      buffer,
      (gap) => this.#tell("gap", { ...gap, pattern }),
      () => {
        signal?.removeEventListener("abort", abort);
        this.#streams.delete(stream);
        this.#give({ type: "unsubscribe", pattern, holder: stream, isBatched: true });
      },
    );
    if (signal?.aborted) abort();
    else {
      try {
        checkLength(pattern);
        this.#streams.add(stream);
        signal?.addEventListener("abort", abort);
        this.#give({ type: "subscribe", pattern, holder: stream, isBatched: true });
      } catch (error) {
        stream.end(error, true);
      }
    }
    return /** @type {AsyncIterableIterator<BusEvent<T>>} */ (stream.events);
  }

  /**
   * @template [T=unknown]
   * @param {string} action
   * @param {unknown} [params]
   * @param {RequestOptions} [options]
   * @returns {Promise<T>}
   */
  command(action, params = {}, options) {
    return this.#ask({ type: "command", action, params }, options);
  }

  /**
   * @param {string} channel
   * @param {unknown} data
   * @param {RequestOptions & { event?: string }} [options]
   * @returns {Promise<{ matched: number, accepted: number }>}
   */
  publish(channel, data = null, { event, ...options } = {}) {
    return this.#ask({ type: "publish", channel, event, data }, options);
  }

  /**
   * @param {RequestOptions} [options]
   * @returns {Promise<{ connection_id: string, subject?: string, connected_at: number,
   *   subscriptions: string[], message_count: number, dropped: number }>}
   */
  status(options) {
    return this.#ask({ type: "get_status" }, { idempotent: true, ...options });
  }

  /** Close: what waits rejects, loops end, subscriptions are gone. Only `connect()` begins again. */
  close() {
    this.#give({ type: "close" });
    this.#unwatch();
  }

  /**
   * @template T
   * @param {{ type: string, [key: string]: unknown }} message
   * @param {RequestOptions} [options]
   * @returns {Promise<T>}
   */
  #ask(message, { signal, timeout, idempotent } = {}) {
    /** @type {Waiter<unknown> | undefined} */
    let key;
    return wait(
      { signal, timeout },
      (waiter) => {
        key = /** @type {Waiter<unknown>} */ (waiter);
        this.#give({ type: "request", key, message, isIdempotent: idempotent });
        return (hasFailed) => hasFailed && key && this.#give({ type: "forget", key });
      },
      (ms) =>
        key && this.#session.wasSent(key)
          ? new CommandError("TIMEOUT", `no answer within ${ms} ms; it may still be acted on`)
          : this.#late(this.state === "connected" ? "not sent, since the server limits the rate," : "not sent", ms),
    );
  }

  /** @param {string} what @param {number} ms */
  #late(what, ms) {
    let why = "";
    if (this.state === "idle") why = ": there was no connection, since connect() was not called";
    else if (this.state !== "connected") why = ": there was no connection";
    return new CommandError("TIMEOUT", `${what} within ${ms} ms${why}`);
  }

  // --- around the session ------------------------------------------------------------------------

  /** Tell the session what has happened, and do what it wants. @param {Input<Holder, Waiter<unknown>>} input */
  #give(input) {
    const actions = this.#session.handle(input, performance.now());
    this.#depth++;
    const { state } = this;
    if (state !== this.#told) {
      if (this.#told === "closed") this.closed = new Promise((resolve) => (this.#end = resolve));
      // What a listener has made untrue is not told.
      if (state === "closed") this.#events = this.#events.filter(([type]) => type === "error");
      this.#told = state;
      this.#events.push(["state", { state }]);
    }
    for (const action of actions) this.#perform(action);
    this.#schedule();
    this.#settle();
    this.#depth--;
    this.#dispatch();
  }

  /** @param {Action<Holder, Waiter<unknown>>} action */
  #perform(action) {
    switch (action.type) {
      case "fetchToken":
        return this.#fetch(action.generation);
      case "dial":
        return this.#dial(action.token);
      case "say":
        return this.#link.socket?.send(action.text);
      case "hangUp":
        return this.#hangUp();
      case "cut":
        return this.#lose(1006, "");
      case "answer": {
        const { data, error } = action.outcome;
        return error ? action.key.reject(errorOf(error)) : action.key.resolve(data);
      }
      case "confirm":
        return action.holder.confirm();
      case "dismiss":
        return action.holder.dismiss(errorOf(action.error));
      case "lose":
        return action.holder.lose(gapOf(action));
      case "tellGap":
        return this.#tell("gap", gapOf(action));
      case "tellConnected": {
        for (const waiter of this.#connecting) waiter.resolve();
        const { isAgain: reconnected, connectionId, subject } = action;
        return this.#tell("connected", { reconnected, connectionId, subject });
      }
      case "tellReconnecting": {
        const { attempt, delay } = action;
        const error = errorOf(action.error);
        this.#hangUp();
        if (!this.#first) for (const waiter of this.#connecting) waiter.reject(error);
        return this.#tell("reconnecting", { attempt, delay, error });
      }
      case "tellRefreshFailed":
        return this.#report(new CommandError("UNAUTHENTICATED", action.why));
      case "tellError":
        return this.#report(errorOf(action.error));
      case "stop":
        return this.#stop(action.error && /** @type {ConnectionError} */ (errorOf(action.error)));
    }
  }

  /** Call again when the session has something to do. */
  #schedule() {
    const { deadline } = this.#session;
    const delay = deadline - performance.now();
    if (deadline === this.#due) return;
    clearTimeout(this.#timer);
    this.#due = deadline;
    const run = () => {
      this.#isScheduled = false;
      this.#due = Infinity;
      this.#give({ type: "deadline" });
    };
    if (delay > 0) this.#timer = deadline < Infinity ? setTimeout(run, clamp(delay)) : undefined;
    else if (!this.#isScheduled) {
      this.#isScheduled = true;
      queueMicrotask(run);
    }
  }

  #settle() {
    if (!this.#session.isLeaving) for (const waiter of this.#leaving) waiter.resolve();
  }

  /** @param {ConnectionError} [error] None: the page closed it. */
  #stop(error) {
    if (!this.#session.hasGivenUp) this.#unwatch();
    const why = errorOf(this.#session.ending);
    for (const waiter of [...this.#connecting, ...this.#joining]) waiter.reject(error ?? why);
    for (const stream of this.#streams) stream.end(error, !!error);
    const ending = { code: error?.code ?? 1000, reason: error?.reason ?? "", error: error ?? null };
    this.#end(ending);
    this.#tell("disconnected", ending);
  }

  /** @param {string} type @param {unknown} detail */
  #tell(type, detail) {
    this.#events.push([type, detail]);
    this.#dispatch();
  }

  /** @param {unknown} error */
  #report(error) {
    this.#tell("error", error);
  }

  /** Listeners may call anything: so they run when all that belongs together is done. */
  #dispatch() {
    for (let event; !this.#depth && (event = this.#events.shift()); ) {
      const [type, detail] = event;
      const isUnhandled = this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
      if (type === "error" && isUnhandled) (globalThis.reportError ?? console.error)(detail);
    }
  }

  // --- connections -------------------------------------------------------------------------------

  /** Look when the browser says that something has changed. @param {AbortSignal} signal */
  #watch(signal) {
    const page = globalThis.document;
    const wake = () => this.#give({ type: "wake" });
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.addEventListener?.("offline", () => this.#give({ type: "check" }), { signal });
    page?.addEventListener("visibilitychange", () => page.hidden || wake(), { signal });
  }

  #unwatch() {
    this.#life?.abort();
    this.#life = null;
  }

  /** The link of the attempt, or of the connection, that there is; else a new one. */
  #current() {
    if (this.#link.end.signal.aborted) this.#link = new Link();
    return this.#link;
  }

  #hangUp() {
    this.#link.end.abort();
    try {
      this.#link.socket?.close(1000);
    } catch {} // It was not open yet.
  }

  /** @param {number} code @param {string} reason */
  #lose(code, reason) {
    this.#hangUp();
    this.#give({ type: "lost", code, reason, isOffline: isOffline() });
  }

  /** @param {Failure & { code: number }} error */
  #fail(error) {
    this.#hangUp();
    this.#give({ type: "failed", error, isOffline: isOffline() });
  }

  /** Ask the page for a token, and for the URL; the latter only for a new connection. @param {number} generation */
  #fetch(generation) {
    const link = this.#current();
    const { signal } = link.end;
    let step = "the function for the token";
    const run = async () => {
      const token = typeof this.#token === "function" ? await this.#token({ signal }) : this.#token;
      step = "the function for the URL";
      if (typeof this.#url === "function" && !link.isOpen) link.url = await this.#url();
      return token;
    };
    /** @type {Promise<Token>} */
    const fetched = wait(
      { signal, timeout: this.#timeout },
      (waiter) => void run().then(waiter.resolve, (error) => waiter.reject(new Error(`${step} failed: ${error}`))),
      (ms) => new Error(`${step} took longer than ${ms} ms`),
    );
    fetched.then(
      (token) => this.#give({ type: "token", generation, token }),
      ({ message }) => this.#give({ type: "noToken", generation, why: message, isOffline: isOffline() }),
    );
  }

  /** @param {string | null} token */
  #dial(token) {
    const link = this.#current();
    /** @type {string[]} */
    const offered = [this.#protocol];
    if (token !== null) offered.push(`wsbus.token.${base64url(token)}`);
    try {
      const address = addressOf(link.url ?? /** @type {string} */ (this.#url));
      link.where = address.origin + address.pathname;
      this.#listen(link, new (this.#WebSocket ?? globalThis.WebSocket)(address.href, offered));
    } catch (error) {
      this.#give({ type: "close", error: { code: 1006, message: `${error}` } });
    }
  }

  /** @param {Link} link @param {Socket} socket */
  #listen(link, socket) {
    link.socket = socket;
    /** @type {(cause?: string, said?: string, reason?: string) => void} */
    const fail = (cause = "", said, reason) =>
      this.#fail({ ...explainFailure(link.where, this.#protocol, cause, said), reason });
    /** @type {(type: string, run: (event: SocketEvent) => void) => void} */
    const on = (type, run) =>
      socket.addEventListener(type, (event) => link.end.signal.aborted || run(/** @type {SocketEvent} */ (event)));
    on("open", () => {
      link.isOpen = true;
      if (socket.protocol === this.#protocol) return this.#give({ type: "opened" });
      const message = `${link.where} does not speak ${this.#protocol}`;
      return this.#give({ type: "close", error: { code: 4510, message } });
    });
    on("message", ({ data }) => this.#received(data));
    on("close", ({ code = 1006, reason = "" }) => (link.isOpen || code !== 1006 ? this.#lose(code, reason) : fail("", "", reason)));
    on("error", ({ message, error }) => link.isOpen || fail(message || error?.message || error?.code));
    /** The package ws shows the answer of a server that refused. @type {NodeSocket} */ (socket).on?.(
      "unexpected-response",
      (_, answer) => {
        /** @param {unknown} [said] */
        const end = (said = "") => link.end.signal.aborted || fail(`Unexpected server response: ${answer.statusCode}`, `${said}`);
        answer.once("data", end).once("end", end);
      },
    );
  }

  /** @param {unknown} data */
  #received(data) {
    const { signal } = this.#link.end;
    for (const text of this.#protocol === "wsbus.v1" ? String(data).split("\n") : [String(data)]) {
      if (signal.aborted) return;
      try {
        /** @type {Message} */
        const message = JSON.parse(text);
        if (message.type === "event") this.#deliver(/** @type {BusEvent} */ (/** @type {unknown} */ (message)));
        else this.#give({ type: "heard", message });
      } catch (cause) {
        this.#report(new Error(`the server sent what this client cannot read: ${cause}`, { cause }));
      }
    }
  }

  /** @param {BusEvent} message */
  #deliver({ channel, event, timestamp, data, position }) {
    /** @type {BusEvent} */
    const seen = { channel, event, timestamp, data };
    if (position) seen.position = { epoch: position.epoch, offset: position.offset };
    for (const holder of this.#session.audience(channel)) holder.push(seen);
    const names = channel.split(".");
    for (const { isOn, segments, handler } of this.#listeners) {
      if (!isOn || !fits(segments, names)) continue;
      try {
        const outcome = /** @type {PromiseLike<unknown> | undefined} */ (handler(seen));
        outcome?.then?.(undefined, (error) => this.#report(error));
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
