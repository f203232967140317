// A client of wsbus servers. SPDX-License-Identifier: MIT

/**
 * `timestamp`: ms since 1970.
 * @template [T=any]
 * @typedef {{ channel: string, event: string, timestamp: number, data: T }} BusEvent
 */
/**
 * `lost`: events missing before this one; Infinity: a reconnect.
 * @template [T=any]
 * @typedef {BusEvent<T> & { lost: number }} StreamEvent
 */
/** @typedef {{ signal?: AbortSignal }} Abortable */
/**
 * `timeout`: ms (30,000). `idempotent`: it may wait for a connection, and be sent again after a cut.
 * @typedef {Abortable & { timeout?: number, idempotent?: boolean }} RequestOptions
 */
/** @typedef {string | null | undefined} Token */
/**
 * @typedef {object} ClientOptions
 * @property {Token | ((options: { signal: AbortSignal }) => Token | Promise<Token>)} [token] A
 *   function is asked for each connection, and before a token expires.
 * @property {"wsbus.v1" | "zigquant-v2"} [protocol]
 * @property {new (url: string, protocols: string[]) => any} [WebSocket]
 * @property {AbortSignal} [signal] Closes the client.
 * @property {{ base?: number, cap?: number, attempts?: number }} [retry] 1,000 ms, 30,000 ms, 10.
 * @property {{ interval?: number, timeout?: number }} [heartbeat] 15,000 ms, 20,000 ms.
 */
/** @typedef {{ code: number, reason: string, error: ConnectionError | null }} Ending */
/**
 * `reconnecting`: in `delay` ms. `disconnected`: for good. `gap`: fetch the state anew. `error`: of a
 * handler, or else untold; goes to the console, too, unless `preventDefault` is called.
 * @typedef {{
 *   connected: CustomEvent<{ reconnected: boolean, connectionId?: string, subject?: string }>,
 *   reconnecting: CustomEvent<{ attempt: number, delay: number, error: ConnectionError }>,
 *   disconnected: CustomEvent<Ending>,
 *   gap: CustomEvent<{ lost: number, source: "server" | "reconnect" | "buffer", pattern?: string }>,
 *   error: CustomEvent<any>,
 * }} ClientEvents
 */
/**
 * @typedef {{
 *   addEventListener<K extends keyof ClientEvents>(type: K,
 *     listener: (event: ClientEvents[K]) => void, options?: boolean | AddEventListenerOptions): void,
 *   removeEventListener<K extends keyof ClientEvents>(type: K,
 *     listener: (event: ClientEvents[K]) => void, options?: boolean | EventListenerOptions): void,
 *   dispatchEvent(event: Event): boolean,
 * }} ClientEventTarget
 */
/** Something asked for failed. */
export class CommandError extends Error {
  name = "CommandError";
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** `code` is a close code; 1006: none came. */
export class ConnectionError extends Error {
  name = "ConnectionError";
  /** @param {number} code @param {string} message @param {string} [reason] */
  constructor(code, message, reason = "") {
    super(message);
    this.code = code;
    this.reason = reason;
  }
}

/**
 * `*` is one segment, as the last one or more; `+` is one.
 * @param {string} pattern
 * @param {string} channel
 */
export const matches = (pattern, channel) => fits(pattern.split("."), channel.split("."));

/** @type {(pattern: string[], names: string[]) => boolean} */
const fits = (pattern, names) =>
  (names.length === pattern.length || (names.length > pattern.length && pattern.at(-1) === "*")) &&
  pattern.every((segment, i) => segment === "*" || segment === "+" || segment === names[i]);

// Come again within `base`; after others, later.
const SOON = [1001, 1005, 1006, 1012, 4401, 4408, 4409];

/** @type {(code: number) => boolean} */
const isFinal = (code) => [1000, 1003, 1007].includes(code) || (code >= 4500 && code < 5000);

/** @type {Record<number, string>} */
const MEANINGS = {
  1001: "the server shuts down",
  1006: "the connection broke",
  1009: "a message was too large",
  1011: "the server failed",
  1012: "the server restarts or is full",
  4401: "the token expired",
  4408: "the server heard nothing for too long",
  4409: "this client read too slowly",
  4429: "this client sent too much",
  4500: "the token was refused",
  4510: "origin or protocol refused, or ended by an operator",
};

/** @type {(ms: number) => number} */
const clamp = (ms) => Math.min(ms, 2 ** 31 - 1);

/** @type {(patterns: string | Iterable<string>) => string[]} */
const listOf = (patterns) => (typeof patterns === "string" ? [patterns] : [...patterns]);

/**
 * Settled by the waiter or the signal; `begin` returns the clean-up.
 * @template T
 * @param {AbortSignal | undefined} signal
 * @param {(waiter: any) => (() => void) | void} begin
 * @returns {Promise<T>}
 */
const wait = (signal, begin) =>
  new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    let isOver = false;
    /** @type {(() => void) | void} */
    let cleanUp;
    /** @type {(settle: (value: any) => void) => (value: any) => void} */
    const once = (settle) => (value) => {
      if (isOver) return;
      isOver = true;
      signal?.removeEventListener("abort", abort);
      cleanUp?.();
      settle(value);
    };
    const waiter = { resolve: once(resolve), reject: once(reject) };
    const abort = () => waiter.reject(signal?.reason);
    signal?.addEventListener("abort", abort);
    cleanUp = begin(waiter);
    if (isOver) cleanUp?.();
  });

/** @type {(url: string | URL) => URL} */
const addressOf = (url) => {
  try {
    const found = new URL(url, globalThis.location?.href);
    found.protocol = found.protocol.replace("http", "ws");
    found.hash = "";
    if (/^wss?:$/.test(found.protocol)) return found;
  } catch {}
  throw new TypeError(`"${url}" is no wss:// or ws:// URL, nor a path of a page`);
};

class Stream {
  /** @type {any[]} */
  #buffer = [];
  /** @type {any[]} */
  #readers = [];
  /** @type {any} */
  #end;
  #lost = 0;
  #limit;
  #tell;
  #leave;

  /** @param {number} limit @param {(dropped: number) => void} tell @param {() => void} leave */
  constructor(limit, tell, leave) {
    this.#limit = Math.max(1, limit);
    this.#tell = tell;
    this.#leave = leave;
  }

  /** @param {number} count */
  miss(count) {
    this.#lost += count;
  }

  /** @param {BusEvent} event */
  push(event) {
    const buffer = this.#buffer;
    buffer.push({ event, lost: this.#lost, dropped: 0 });
    this.#lost = 0;
    if (buffer.length > this.#limit) {
      const { lost, dropped } = buffer.shift();
      buffer[0].lost += lost;
      buffer[0].dropped += dropped + 1;
    }
    this.#readers.shift()?.resolve(this.next());
  }

  /** @param {unknown} [error] @param {boolean} [isKept] What is unread. */
  end(error, isKept) {
    if (this.#end) return;
    this.#end = { error };
    if (!isKept) this.#buffer = [];
    for (const reader of this.#readers) reader.resolve(this.next());
    this.#leave();
  }

  /** @returns {Promise<IteratorResult<StreamEvent, undefined>>} */
  async next() {
    const item = this.#buffer.shift();
    if (item) {
      if (item.dropped) this.#tell(item.dropped);
      return { done: false, value: { ...item.event, lost: item.lost + item.dropped } };
    }
    if (!this.#end) return new Promise((resolve, reject) => this.#readers.push({ resolve, reject }));
    const { error } = this.#end;
    this.#end = {};
    if (error) throw error;
    return { done: true, value: undefined };
  }

  async return() {
    this.end();
    this.#end = {};
    this.#buffer = [];
    return this.next();
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

const Target = /** @type {new () => ClientEventTarget} */ (/** @type {unknown} */ (EventTarget));

export class Client extends Target {
  /** @type {"idle" | "connecting" | "connected" | "waiting" | "closed"} */
  #state = "idle";
  #url;
  #token;
  #protocol;
  #WebSocket;
  #retry;
  #heartbeat;
  /** @type {(ending: Ending) => void} */
  #end = () => {};
  #life = new AbortController();
  /** @type {any} */
  #link = { end: new AbortController() };
  #where = "";
  #wasReady = false;
  #readyAt = 0;
  #attempt = 0;
  #lastId = 0;
  /** @type {Set<any>} */
  #waiters = new Set();
  /** @type {Map<string, any>} */
  #requests = new Map();
  /** @type {Map<string, any>} */
  #subscriptions = new Map();
  /** @type {any[]} */
  #listeners = [];
  /** @type {Promise<any> | null} */
  #flushing = null;
  /** @type {Promise<any> | undefined} */
  #left;
  /** @type {any} */
  #timers = {};

  /**
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    if (typeof url !== "function") addressOf(url);
    this.#url = url;
    this.#token = options.token;
    this.#protocol = options.protocol ?? "wsbus.v1";
    this.#WebSocket = options.WebSocket ?? globalThis.WebSocket;
    if (!this.#WebSocket) throw new TypeError("there is no global WebSocket: pass the option WebSocket");
    this.#retry = { base: 1000, cap: 30_000, attempts: 10, ...options.retry };
    this.#heartbeat = { interval: 15_000, timeout: 20_000, ...options.heartbeat };
    /** @type {Promise<Ending>} It never rejects. */
    this.closed = new Promise((resolve) => (this.#end = resolve));
    const { signal } = this.#life;
    const wake = () => {
      if (this.#state === "waiting") this.#open();
      if (this.#state === "connected") this.#ping(5000);
    };
    globalThis.addEventListener?.("online", wake, { signal });
    const page = globalThis.document;
    page?.addEventListener("visibilitychange", () => page.hidden || wake(), { signal });
    options.signal?.addEventListener("abort", () => this.close(), { signal });
    if (options.signal?.aborted) this.close();
  }

  get state() {
    return this.#state;
  }

  /**
   * Connect, or try again now; resolves when connected, rejects when it gives up.
   * @param {Abortable} [options]
   * @returns {Promise<void>}
   */
  connect({ signal } = {}) {
    return wait(signal, (waiter) => {
      if (this.#state === "connected") return waiter.resolve();
      if (this.#state === "closed") {
        return void this.closed.then(({ error }) => waiter.reject(error ?? this.#away()));
      }
      this.#waiters.add(waiter);
      if (this.#state !== "connecting") this.#open();
      return () => {
        this.#waiters.delete(waiter);
        if (signal?.aborted && !this.#waiters.size && !this.#wasReady && this.#isUp) {
          this.#state = "idle";
          this.#failAll(this.#away());
        }
      };
    });
  }

  /**
   * All or none; resolves when confirmed. `unsubscribe` takes back one call.
   * @param {string | Iterable<string>} patterns
   * @param {Abortable} [options]
   */
  async subscribe(patterns, { signal } = {}) {
    const list = listOf(patterns);
    const outcomes = await Promise.allSettled(list.map((pattern) => this.#confirm(pattern, signal)));
    for (const outcome of outcomes) {
      if (outcome.status === "fulfilled") continue;
      this.unsubscribe(list.filter((_, i) => outcomes[i].status === "fulfilled"));
      throw outcome.reason;
    }
  }

  /**
   * @param {string | Iterable<string>} patterns
   * @param {Abortable} [options]
   * @returns {Promise<void>}
   */
  unsubscribe(patterns, { signal } = {}) {
    for (const pattern of listOf(patterns)) {
      const entry = this.#subscriptions.get(pattern);
      if (entry?.count) entry.count--;
    }
    return wait(signal, (waiter) => void this.#changed().then(waiter.resolve));
  }

  /**
   * Handle events that match; it does not subscribe. Returns what removes the handler.
   * @template [T=any]
   * @param {string} pattern
   * @param {(event: BusEvent<T>) => unknown} handler
   * @param {Abortable} [options]
   * @returns {() => void}
   */
  on(pattern, handler, { signal } = {}) {
    const listener = { segments: pattern.split("."), handler, isOn: !signal?.aborted };
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
   * @template [T=any]
   * @param {string} pattern
   * @param {Abortable & { buffer?: number }} [options]
   * @returns {AsyncIterableIterator<StreamEvent<T>>}
   */
  events(pattern, { signal, buffer = 1000 } = {}) {
    /** @type {any} */
    let entry;
    const abort = () => stream.end(signal?.reason);
    const stream = new Stream(
      buffer,
      (lost) => this.#tell("gap", { lost, source: "buffer", pattern }),
      () => {
        signal?.removeEventListener("abort", abort);
        entry?.streams.delete(stream);
        this.#changed();
      },
    );
    if (signal?.aborted) abort();
    else if (!this.#isUp) stream.end(this.#away());
    else {
      entry = this.#entry(pattern);
      entry.streams.add(stream);
      signal?.addEventListener("abort", abort);
      this.#changed();
    }
    return stream;
  }

  /**
   * @template [T=any]
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

  /** For good: what waits rejects, loops end. */
  close() {
    this.#finish(null);
  }

  get #isUp() {
    return this.#state !== "idle" && this.#state !== "closed";
  }

  #away() {
    if (this.#state === "closed") return new CommandError("CLOSED", "the client is closed");
    const what = this.#isUp ? "no connection just now" : "call connect() first";
    return new CommandError("NOT_CONNECTED", `not sent: ${what}`);
  }

  /** @param {object} message @param {RequestOptions} [options] @returns {Promise<any>} */
  #ask(message, { signal, timeout = 30_000, idempotent = false } = {}) {
    return wait(signal, (waiter) => {
      if (this.#state !== "connected" && !(idempotent && this.#isUp)) return waiter.reject(this.#away());
      if (this.#flushing) this.#flush(); // So that they stay in order.
      const id = this.#post(message, waiter, idempotent);
      const why = new CommandError("TIMEOUT", `no answer within ${timeout} ms; it may still be acted on`);
      const timer = setTimeout(() => waiter.reject(why), clamp(timeout));
      return () => {
        clearTimeout(timer);
        this.#requests.delete(id);
      };
    });
  }

  /**
   * @param {object} message
   * @param {Record<"resolve" | "reject", (result: any) => void>} waiter
   * @param {boolean} [idempotent]
   */
  #post(message, waiter, idempotent = false) {
    const id = String(++this.#lastId);
    const text = JSON.stringify({ ...message, id });
    this.#requests.set(id, { ...waiter, text, idempotent });
    if (this.#state === "connected") this.#link.socket.send(text);
    return id;
  }

  /** @param {object} message */
  #send(message) {
    this.#link.socket.send(JSON.stringify(message));
  }

  /** @param {string} pattern */
  #entry(pattern) {
    let entry = this.#subscriptions.get(pattern);
    if (!entry) {
      // Later also `asked`: this connection's server was, and `confirmed`: it agreed.
      entry = { pattern, segments: pattern.split("."), count: 0, streams: new Set(), waiters: new Set() };
      this.#subscriptions.set(pattern, entry);
    }
    return entry;
  }

  /** @param {string} pattern @param {AbortSignal} [signal] */
  #confirm(pattern, signal) {
    return wait(signal, (waiter) => {
      if (!this.#isUp) return waiter.reject(this.#away());
      const entry = this.#entry(pattern);
      entry.count++;
      if (entry.confirmed) return waiter.resolve();
      entry.waiters.add(waiter);
      this.#changed();
      return () => {
        entry.waiters.delete(waiter);
        if (entry.confirmed) return;
        if (entry.count) entry.count--;
        this.#changed();
      };
    });
  }

  /** Batches what changes in one turn. */
  #changed() {
    this.#flushing ??= Promise.resolve().then(() => {
      this.#flushing = null;
      return this.#flush();
    });
    return this.#flushing;
  }

  #flush(isBack = false) {
    const begun = [];
    /** @type {string[]} */
    const channels = [];
    for (const [pattern, entry] of this.#subscriptions) {
      if (!entry.count && !entry.streams.size) {
        this.#subscriptions.delete(pattern);
        if (entry.asked) channels.push(pattern);
        for (const waiter of entry.waiters) waiter.reject(new CommandError("UNSUBSCRIBED", pattern));
      } else if (!entry.asked) begun.push(entry);
    }
    if (this.#state !== "connected") return;
    while (begun.length) this.#askFor(begun.splice(0, 128), isBack && !begun.length);
    if (channels.length) {
      this.#left = new Promise((resolve) =>
        this.#post({ type: "unsubscribe", channels }, { resolve, reject: resolve }),
      );
    }
    return this.#left;
  }

  /** @param {any[]} entries @param {boolean} isBack */
  #askFor(entries, isBack) {
    for (const entry of entries) entry.asked = true;
    const channels = entries.map(({ pattern }) => pattern);
    this.#post({ type: "subscribe", channels }, {
      resolve: ({ rejected = [] }) => {
        for (const entry of entries) {
          const why = rejected.find((/** @type {any} */ each) => each.channel === entry.pattern);
          entry.confirmed = !why;
          if (why) this.#fail(entry, new CommandError(why.code, `${entry.pattern}: ${why.message}`));
          else for (const waiter of entry.waiters) waiter.resolve();
        }
        if (isBack) this.#tell("gap", { lost: Infinity, source: "reconnect" });
      },
      reject: (error) => {
        if (this.#state === "connected") for (const entry of entries) this.#fail(entry, error);
      },
    });
  }

  /** @param {any} entry @param {unknown} error */
  #fail(entry, error) {
    if (this.#subscriptions.get(entry.pattern) === entry) this.#subscriptions.delete(entry.pattern);
    if (entry.count > entry.waiters.size && this.#isUp) this.#report(error);
    for (const waiter of entry.waiters) waiter.reject(error);
    for (const stream of entry.streams) stream.end(error, true);
  }

  #open() {
    this.#hangUp();
    this.#state = "connecting";
    this.#link = { end: new AbortController(), terms: {} };
    const { signal } = this.#link.end;
    this.#expect(this.#heartbeat.timeout);
    this.#dial(signal).catch((error) => signal.aborted || this.#finish(new ConnectionError(1006, `${error}`)));
  }

  /** @param {AbortSignal} signal */
  async #dial(signal) {
    let token = this.#token;
    let url = this.#url;
    try {
      if (typeof token === "function") token = await token({ signal });
      if (typeof url === "function") url = await url();
    } catch (error) {
      return signal.aborted || this.#lost(new ConnectionError(1006, `no token or no URL: ${error}`));
    }
    if (signal.aborted) return;
    const address = addressOf(url);
    this.#where = address.origin + address.pathname; // The query may hold a token.
    const socket = (this.#link.socket = new this.#WebSocket(address.href, [this.#protocol]));
    /** @type {(type: string, run: (event: any) => void) => void} */
    const on = (type, run) =>
      socket.addEventListener(type, (/** @type {any} */ event) => signal.aborted || run(event));
    on("open", () => this.#opened(token));
    on("message", ({ data }) => this.#received(data));
    on("close", ({ code, reason }) => this.#lost(this.#explain(code, reason)));
    // All that Node 20 tells of a failed handshake.
    on("error", () => this.#link.isOpen || this.#lost(this.#explain(1006, "")));
  }

  /** @param {any} token */
  #opened(token) {
    if (this.#link.socket.protocol !== this.#protocol) {
      return this.#finish(new ConnectionError(4510, `${this.#where} does not speak ${this.#protocol}`));
    }
    this.#link.isOpen = true;
    this.#link.hasShown = token != null;
    if (this.#link.hasShown) this.#send({ type: "auth", token });
    else if (this.#protocol !== "wsbus.v1") this.#ready();
  }

  #ready() {
    const reconnected = this.#wasReady;
    this.#state = "connected";
    this.#wasReady = true;
    this.#readyAt = performance.now();
    this.#heard();
    this.#timers.beat = setInterval(() => this.#ping(), clamp(this.#heartbeat.interval));
    const waiting = [...this.#requests.values()];
    this.#flush(reconnected);
    for (const { text } of waiting) this.#link.socket.send(text);
    for (const waiter of this.#waiters) waiter.resolve();
    this.#tell("connected", { reconnected, ...this.#link.terms });
  }

  /** @param {ConnectionError} error */
  #lost(error) {
    const { base, cap, attempts } = this.#retry;
    // To be thrown out at once is no success.
    if (this.#state === "connected" && performance.now() - this.#readyAt >= base) this.#attempt = 0;
    this.#state = "waiting";
    this.#hangUp();
    for (const [id, request] of this.#requests) {
      if (request.idempotent) continue;
      this.#requests.delete(id);
      request.reject(new CommandError("CONNECTION_LOST", `no answer came: ${error.message}`));
    }
    for (const entry of this.#subscriptions.values()) {
      if (entry.confirmed) for (const stream of entry.streams) stream.miss(Infinity);
      entry.asked = entry.confirmed = false;
    }
    if (isFinal(error.code)) return this.#finish(error);
    const tried = this.#attempt++;
    if (tried >= attempts && globalThis.navigator?.onLine !== false) {
      if (tried) error.message = `gave up after ${tried} attempts: ${error.message}`;
      return this.#finish(error);
    }
    const isSoon = SOON.includes(error.code);
    const ceiling = Math.min(cap, base * 2 ** (isSoon ? tried : Math.max(tried, 3)));
    const delay = ceiling * (isSoon ? Math.random() : (1 + Math.random()) / 2);
    this.#timers.next = setTimeout(() => this.#open(), delay);
    this.#tell("reconnecting", { attempt: tried + 1, delay, error });
  }

  /** @param {ConnectionError | null} error */
  #finish(error) {
    if (this.#state === "closed") return;
    this.#state = "closed";
    this.#life.abort();
    this.#failAll(error ?? this.#away(), error);
    const ending = { code: error?.code ?? 1000, reason: error?.reason ?? "", error };
    this.#tell("disconnected", ending);
    this.#end(ending);
  }

  /** @param {Error} error @param {Error | null} [cause] */
  #failAll(error, cause = error) {
    this.#hangUp();
    for (const waiter of this.#waiters) waiter.reject(error);
    for (const request of this.#requests.values()) request.reject(error);
    this.#requests.clear();
    for (const entry of this.#subscriptions.values()) {
      for (const waiter of entry.waiters) waiter.reject(error);
      for (const stream of entry.streams) stream.end(cause, !!cause);
    }
    this.#subscriptions.clear();
  }

  #hangUp() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
    this.#link.end.abort();
    try {
      this.#link.socket?.close(1000);
    } catch {}
  }

  /** @param {number} code @param {string} reason */
  #explain(code, reason) {
    const why = code === 4500 ? (this.#link.refusal?.message ?? reason) : reason;
    let what = (MEANINGS[code] ?? "the server closed the connection") + (why && `: ${why}`);
    if (code === 1006 && !this.#link.isOpen) {
      what =
        `cannot connect to ${this.#where}; scripts are not told why: wrong URL, no server, one that ` +
        `does not speak ${this.#protocol}, refuses this origin or the token in the URL, or restarts`;
    }
    return new ConnectionError(code, `${what} (${code})`, reason);
  }

  #heard() {
    clearTimeout(this.#timers.patience);
    this.#timers.patience = null;
  }

  /** @param {number} ms */
  #expect(ms) {
    this.#heard();
    this.#timers.patience = setTimeout(
      () => this.#lost(new ConnectionError(1006, `the server did not answer within ${ms} ms`)),
      clamp(ms),
    );
  }

  #ping(patience = Infinity) {
    this.#send({ type: "ping" });
    const { timeout } = this.#heartbeat;
    if (patience < timeout || !this.#timers.patience) this.#expect(Math.min(patience, timeout));
  }

  /** @param {number} life */
  #refreshAfter(life) {
    const ask = this.#token;
    if (typeof ask !== "function") return;
    const { signal } = this.#link.end;
    clearTimeout(this.#timers.refresh);
    const run = async () => {
      try {
        const token = await ask({ signal });
        if (!signal.aborted) this.#send({ type: "auth", token });
      } catch (error) {
        if (!signal.aborted) this.#report(error);
      }
    };
    this.#timers.refresh = setTimeout(run, clamp(life - Math.min(30_000, life / 5)));
  }

  /** @param {unknown} data */
  #received(data) {
    const { signal } = this.#link.end;
    if (this.#state === "connected") this.#heard();
    for (const text of this.#protocol === "wsbus.v1" ? String(data).split("\n") : [String(data)]) {
      if (signal.aborted) return;
      try {
        this.#understand(JSON.parse(text));
      } catch (cause) {
        this.#report(new Error(`the server sent what this client cannot read: ${cause}`, { cause }));
      }
    }
  }

  /** @param {any} message */
  #understand(message) {
    const { type, id, data } = message;
    const error = message.error && new CommandError(`${message.error.code}`, `${message.error.message}`);
    switch (type) {
      case "event":
        return this.#deliver(message);
      case "ping":
        return this.#send({ type: "pong" });
      case "gap":
        for (const { streams } of this.#subscriptions.values()) {
          for (const stream of streams) stream.miss(data.lost);
        }
        return this.#tell("gap", { lost: data.lost, source: "server" });
      case "connected":
        this.#link.terms = { connectionId: data.connection_id, subject: data.subject };
        if (this.#link.hasShown || this.#state === "connected") return;
        if (data.subject !== undefined) return this.#ready();
        return this.#finish(new ConnectionError(4500, "the server wants a token: pass the option token"));
      case "auth_result":
        if (message.success) {
          this.#link.terms.subject = data.subject;
          if (data.expires_at) this.#refreshAfter(data.expires_at - message.timestamp);
          if (this.#state === "connecting") this.#ready();
        } else {
          // Who is let in all the same keeps the old token, or needs none; others are closed.
          if (this.#link.terms.subject !== undefined && this.#state === "connecting") this.#ready();
          if (this.#state === "connected") this.#report(error);
          this.#link.refusal = error;
        }
        return;
      case "unsubscribed":
        if (id !== undefined) break;
        for (const pattern of data.channels) {
          const entry = this.#subscriptions.get(pattern);
          const why = new CommandError("UNSUBSCRIBED", `${pattern}: the server ended the subscription`);
          if (entry?.confirmed) this.#fail(entry, why);
        }
        return;
    }
    const request = this.#requests.get(id);
    this.#requests.delete(id);
    if (error) request ? request.reject(error) : this.#report(error);
    else request?.resolve(data);
  }

  /** @param {any} message */
  #deliver({ channel, event, timestamp, data }) {
    const names = channel.split(".");
    const seen = { channel, event, timestamp, data };
    for (const { streams, segments, confirmed } of this.#subscriptions.values()) {
      if (confirmed && streams.size && fits(segments, names)) for (const stream of streams) stream.push(seen);
    }
    for (const listener of this.#listeners) {
      if (!listener.isOn || !fits(listener.segments, names)) continue;
      try {
        listener.handler(seen)?.then?.(undefined, (/** @type {unknown} */ error) => this.#report(error));
      } catch (error) {
        this.#report(error);
      }
    }
  }

  /** @param {string} type @param {any} detail */
  #tell(type, detail) {
    return this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true }));
  }

  /** @param {unknown} error */
  #report(error) {
    if (this.#tell("error", error)) (globalThis.reportError ?? console.error)(error);
  }
}
