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
 * `timeout`: ms (30,000).
 * @typedef {Abortable & { timeout?: number }} Limited
 */
/**
 * `idempotent`: it may be sent again if the connection is lost before the answer.
 * @typedef {Limited & { idempotent?: boolean }} RequestOptions
 */
/** @typedef {string | null | undefined} Token */
/** @typedef {"idle" | "connecting" | "connected" | "waiting" | "closed"} State */
/**
 * @typedef {object} ClientOptions
 * @property {Token | ((options: { signal: AbortSignal }) => Token | Promise<Token>)} [token] A
 *   function is called for each connection, and before a token expires.
 * @property {"message" | "subprotocol"} [tokenIn] "message". In a subprotocol, it is known before the
 *   connection is, where the server takes it there.
 * @property {"wsbus.v1" | "zigquant-v2"} [protocol]
 * @property {new (url: string, protocols: string[]) => any} [WebSocket]
 * @property {AbortSignal} [signal] Closes the client.
 * @property {{ base?: number, cap?: number, attempts?: number, first?: boolean }} [retry] 1,000 ms,
 *   30,000 ms, Infinity, false. `first`: `connect()` waits until an attempt succeeds.
 * @property {{ interval?: number, timeout?: number }} [heartbeat] 15,000 ms, 20,000 ms.
 */
/** @typedef {{ code: number, reason: string, error: ConnectionError | null }} Ending */
/**
 * `state`: any change of `client.state`. `reconnecting`: in `delay` ms. `disconnected`: no further
 * attempt is made. `gap`: fetch the state anew. `error`: an error that no call waits for; it goes to
 * the console, too, unless `preventDefault` is called.
 * @typedef {{
 *   state: CustomEvent<{ state: State }>,
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
/** A request failed. */
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

/** @typedef {{ resolve: (value?: any) => void, reject: (error: unknown) => void }} Waiter */
/**
 * One call of `subscribe`; `pending`: the patterns that the server has not confirmed yet.
 * @typedef {{ patterns: string[], pending: Set<string>, waiter: Waiter, signal?: AbortSignal,
 *   off: () => void }} Call
 */
/**
 * A pattern that the page wants. `isAsked`: the server of this connection was asked for it.
 * @typedef {{ pattern: string, segments: string[], calls: Set<Call>, streams: Set<Stream>,
 *   isAsked: boolean, isConfirmed: boolean }} Entry
 */
/**
 * A message that is answered. `isHeld`: it stays when the connection is lost before it is sent.
 * @typedef {{ id: string, type: string, text: string, size: number, waiter: Waiter,
 *   isIdempotent: boolean, isHeld: boolean, isSent: boolean, cost: number }} Request
 */
/**
 * One attempt, and the connection that it gives.
 * @typedef {{ end: AbortController, step: string, terms: Record<string, any>, socket?: any,
 *   where: string, isOpen?: boolean, hasShown?: boolean, refusal?: Error, maxBytes: number,
 *   maxNames: number, messages: Pace, commands: Pace }} Link
 */

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

// What no name may hold: Cc, Cf, Cs, Co, Zs, Zl, Zp of Unicode 15, and noncharacters. Classes that
// may change are written out.
const FORBIDDEN =
  "\\p{Cc}\\p{Cs}\\p{Co}\\p{NChar} \\xA0\\xAD\\u0600-\\u0605\\u061C\\u06DD\\u070F\\u0890\\u0891\\u08E2\\u1680" +
  "\\u180E\\u2000-\\u200F\\u2028-\\u202F\\u205F-\\u2064\\u2066-\\u206F\\u3000\\uFEFF\\uFFF9-\\uFFFB\\u{110BD}" +
  "\\u{110CD}\\u{13430}-\\u{1343F}\\u{1BCA0}-\\u{1BCA3}\\u{1D173}-\\u{1D17A}\\u{E0001}\\u{E0020}-\\u{E007F}";
const UNFIT = new RegExp(`[${FORBIDDEN}%.*]`, "gu");
const INVALID = new RegExp(`[${FORBIDDEN}*]|^\\.|\\.\\.|\\.$|^$`, "u");

const MAX_BYTES = 255;
const TOO_LONG = "a name may have at most 255 bytes and 16 segments";
const encoder = new TextEncoder();

/** @type {(text: string) => number} */
const bytesOf = (text) => encoder.encode(text).length;

/** @type {(part: string) => boolean} */
const isWildcard = (part) => part === "+" || part === "#" || part === ">";

/** @type {(char: string) => string} */
const percent = (char) => {
  const code = char.charCodeAt(0);
  const isLone = char.length === 1 && code >= 0xd800 && code <= 0xdfff; // Half of a pair.
  const bytes = isLone
    ? [224 | (code >> 12), 128 | ((code >> 6) & 63), 128 | (code & 63)]
    : [...encoder.encode(char)];
  return bytes.map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`).join("");
};

/**
 * Spell any text as one segment of a channel, without loss, as the server's `escape_segment` does.
 * @param {string} text
 */
export const escapeSegment = (text) => {
  if (typeof text !== "string") throw new TypeError("a name must be a string");
  const parts = text.replace(UNFIT, percent).split("/");
  return parts.map((part) => (isWildcard(part) ? percent(part) : part)).join("/") || "%";
};

/**
 * Build a channel from a name of your own and names from outside, as the server's `channel` does.
 * @param {string} head One or more segments, as they are.
 * @param {string[]} names Any text; each becomes one segment.
 * @throws {CommandError} INVALID_CHANNEL: `head` is no channel, or the result is too long.
 */
export const channel = (head, ...names) => {
  const found = [head, ...names.map(escapeSegment)].join(".");
  if (INVALID.test(found) || found.split(/[./]/).some(isWildcard)) {
    throw new CommandError("INVALID_CHANNEL", `"${head}" is not the name of a channel`);
  }
  if (bytesOf(found) > MAX_BYTES || found.split(".").length > 16) {
    throw new CommandError("INVALID_CHANNEL", TOO_LONG);
  }
  return found;
};

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

// What an HTTP status means, where a script can see it.
/** @type {Record<number, [number, string]>} */
const REFUSALS = {
  401: [4500, "the token was refused"],
  403: [1006, "no such path, or refused: Starlette and FastAPI answer 403 to both"],
  404: [1006, "there is no WebSocket at this path"],
  429: [4429, "too many connections"],
};

/** @type {(error: any) => boolean} */
const isRateLimit = (error) => error?.code === "RATE_LIMITED";

// The reason of a 1011 that is like 4408.
const ASLEEP = "keepalive ping timeout";

const MAX_NAMES = 128;

// ms between attempts that the browser's events cause.
const WAKE_GAP = 1000;

/** A limit, if it is one. @type {(value: unknown) => number | undefined} */
const limitOf = (value) => (typeof value === "number" && value > 0 ? value : undefined);

/** @type {(ms: number) => number} */
const clamp = (ms) => Math.min(ms, 2 ** 31 - 1);

/** A token as a subprotocol can hold it (RFC 4648, section 5). @type {(text: string) => string} */
const base64url = (text) =>
  btoa(String.fromCharCode(...encoder.encode(text))).replace(/[+/=]/g, (c) => (c === "=" ? "" : c === "+" ? "-" : "_"));

/** @type {(patterns: string | Iterable<string>) => string[]} */
const listOf = (patterns) => (typeof patterns === "string" ? [patterns] : [...patterns]);

/**
 * Settled by the waiter, the time limit (`late` says why) or the signal; `begin` returns the clean-up,
 * which learns whether it failed.
 * @template T
 * @param {Limited} options
 * @param {(waiter: Waiter) => ((hasFailed: boolean) => void) | void} begin
 * @param {(timeout: number) => Error} [late]
 * @returns {Promise<T>}
 */
const wait = ({ signal, timeout = 30_000 }, begin, late) => {
  /** @type {any} */
  let settle;
  const promise = new Promise((resolve, reject) => (settle = [resolve, reject]));
  /** @type {0 | 1 | undefined} 1: it has failed. */
  let outcome;
  /** @type {((hasFailed: boolean) => void) | void} */
  let cleanUp = undefined;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** @type {(which: 0 | 1) => (value?: any) => void} */
  const once = (which) => (value) => {
    if (outcome !== undefined) return;
    outcome = which;
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
    if (which && (signal?.aborted || OURS.includes(value?.code))) promise.catch(() => {});
    settle[which](value);
    cleanUp?.(!!which);
  };
  const waiter = { resolve: once(0), reject: once(1) };
  const abort = () => waiter.reject(signal?.reason);
  if (signal?.aborted) abort();
  else {
    signal?.addEventListener("abort", abort);
    if (late) timer = setTimeout(() => waiter.reject(late(timeout)), clamp(timeout));
    try {
      cleanUp = begin(waiter);
    } catch (error) {
      waiter.reject(error);
    }
    if (outcome !== undefined) cleanUp?.(!!outcome);
  }
  return promise;
};

// A rejection with one of these codes follows from what the page itself did; none is unhandled.
const OURS = ["CLOSED", "UNSUBSCRIBED"];

/** @type {(url: string | URL, base?: string) => URL} */
const addressOf = (url, base = globalThis.location?.href) => {
  try {
    const found = new URL(url, base);
    found.protocol = found.protocol.replace("http", "ws");
    found.hash = "";
    if (/^wss?:$/.test(found.protocol)) return found;
  } catch {}
  throw new TypeError(`"${url}" is no wss:// or ws:// URL, nor a path of a page`);
};

/**
 * A rate limit of the server, kept with a margin: what is sent early may arrive late. A server that
 * tells no rate has none, until it refuses something; then the rate is found out.
 */
class Pace {
  #most;
  #rate;
  #burst;
  #tokens;
  #at = performance.now();
  #pausedUntil = 0;

  /** @param {number} [rate] Per second. */
  constructor(rate = Infinity) {
    this.#rate = this.#most = rate * 0.97;
    this.#tokens = this.#burst = Math.max(1, rate * 0.8);
  }

  /** What one request may cost. */
  get most() {
    return Math.floor(this.#burst);
  }

  /** In ms. @param {number} cost */
  delay(cost) {
    const now = performance.now();
    if (this.#tokens < this.#burst) {
      this.#tokens = Math.min(this.#burst, this.#tokens + ((now - this.#at) / 1000) * this.#rate);
    }
    this.#at = now;
    const missing = Math.min(cost, this.#burst) - this.#tokens - 1e-6;
    return Math.max(missing > 0 ? (missing / this.#rate) * 1000 : 0, this.#pausedUntil - now);
  }

  /** @param {number} cost */
  take(cost) {
    this.delay(0); // Before: what comes in afterwards, up to the burst, would hide it.
    this.#tokens = Math.max(-this.#burst, this.#tokens - Math.min(cost, this.#burst));
  }

  refused() {
    const now = performance.now();
    if (now < this.#pausedUntil) return; // One burst has many refusals.
    this.#pausedUntil = now + 1050; // Excesses that are a second apart are no abuse.
    if (this.#most < Infinity) return;
    this.#rate = this.#rate < Infinity ? Math.max(1, this.#rate / 2) : 5;
    this.#tokens = this.#burst = this.#rate;
  }

  answered() {
    if (this.#rate < this.#most) this.#burst = this.#rate += 0.5;
  }
}

class Stream {
  /** @type {any[]} */
  #buffer = [];
  /** @type {(Waiter & { promise: Promise<any> })[]} */
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
    this.#serve();
  }

  /** @param {unknown} [error] @param {boolean} [isOthers] Not by the page: what is unread stays. */
  end(error, isOthers) {
    if (this.#end) return;
    this.#end = { error, isOthers };
    if (!isOthers) this.#buffer = [];
    this.#serve();
    this.#leave();
  }

  /** @returns {Promise<IteratorResult<StreamEvent, undefined>>} */
  next() {
    /** @type {any} */
    let waiter;
    const promise = new Promise((resolve, reject) => (waiter = { resolve, reject }));
    this.#readers.push({ ...waiter, promise });
    this.#serve();
    return promise;
  }

  #serve() {
    while (this.#readers.length && (this.#buffer.length || this.#end)) {
      const { promise, resolve, reject } = /** @type {any} */ (this.#readers.shift());
      const item = this.#buffer.shift();
      if (item) {
        if (item.dropped) this.#tell(item.dropped);
        resolve({ done: false, value: { ...item.event, lost: item.lost + item.dropped } });
        continue;
      }
      const { error, isOthers } = this.#end;
      this.#end = {};
      if (!isOthers) promise.catch(() => {});
      if (error) reject(error);
      else resolve({ done: true, value: undefined });
    }
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
  /** @type {State} */
  #state = "idle";
  #url;
  #token;
  #isInSubprotocol;
  #protocol;
  #WebSocket;
  #signal;
  #retry;
  #heartbeat;
  /** @type {(ending: Ending) => void} */
  #end = () => {};
  /** @type {Ending | null} */
  #ending = null;
  /** @type {AbortController | null} Removes the listeners of the window and of the page. */
  #life = null;
  /** @type {Link} */
  #link = this.#newLink();
  #wasReady = false;
  #readyAt = 0;
  #openedAt = -Infinity;
  /** Of the next attempt, while its timer runs. */
  #due = Infinity;
  /** The server must have said something by then. */
  #patientUntil = Infinity;
  #attempt = 0;
  #lastId = 0;
  /** @type {Set<Waiter>} Of `connect`. */
  #connecting = new Set();
  /** @type {Set<Waiter>} Of `unsubscribe`. */
  #leaving = new Set();
  /** @type {Map<string, Request>} In the order in which they were made, until they are answered. */
  #requests = new Map();
  /** @type {Set<Request>} Those to be sent: first those that were refused, then the others. */
  #again = new Set();
  /** @type {Set<Request>} */
  #unsent = new Set();
  /** @type {Map<string, Entry>} */
  #subscriptions = new Map();
  /** @type {Set<string>} Patterns that the server is to forget. */
  #unwanted = new Set();
  /** @type {any[]} */
  #listeners = [];
  #isScheduled = false;
  #isReturning = false;
  /** The largest message that was answered. */
  #known = 0;
  /** The most bytes of names in one request. */
  #room = 16_384;
  /** @type {Record<string, any>} */
  #timers = {};

  /**
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    // Where there is no page, on a server that renders one, a path is judged when it is used.
    if (typeof url !== "function") addressOf(url, globalThis.location?.href ?? "ws://page.invalid");
    this.#url = url;
    this.#token = options.token;
    this.#isInSubprotocol = options.tokenIn === "subprotocol";
    this.#protocol = options.protocol ?? "wsbus.v1";
    this.#WebSocket = options.WebSocket;
    this.#signal = options.signal;
    this.#retry = { base: 1000, cap: 30_000, attempts: Infinity, first: false, ...options.retry };
    this.#heartbeat = { interval: 15_000, timeout: 20_000, ...options.heartbeat };
    /** @type {Promise<Ending>} It never rejects. `connect()` after the end makes a new one. */
    this.closed = new Promise((resolve) => (this.#end = resolve));
    if (this.#signal?.aborted) this.close();
    this.#signal?.addEventListener("abort", () => this.close(), { once: true });
  }

  get state() {
    return this.#state;
  }

  /**
   * Connect, or try again now. Rejects if this attempt fails; the client goes on trying all the same,
   * unless the reason is final. With `retry.first` it waits until connected.
   * @param {Abortable} [options]
   * @returns {Promise<void>}
   */
  connect({ signal } = {}) {
    return wait({ signal }, (waiter) => {
      if (this.#state === "connected") return waiter.resolve();
      if (this.#signal?.aborted) return waiter.reject(this.#whyNot());
      if (!this.#WebSocket && !globalThis.WebSocket) {
        throw new TypeError("there is no global WebSocket: pass the option WebSocket");
      }
      if (typeof this.#url !== "function") addressOf(this.#url);
      this.#connecting.add(waiter);
      if (this.#state !== "connecting") this.#begin();
      return () => {
        this.#connecting.delete(waiter);
        if (!signal?.aborted || this.#connecting.size || this.#wasReady || !this.#isUp) return;
        this.#hangUp();
        this.#become("idle");
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
    const list = [...new Set(listOf(patterns))];
    return wait(
      { signal, timeout },
      (waiter) => {
        if (this.#state === "closed") return waiter.reject(this.#whyNot());
        const off = () => this.#leave(list, call);
        /** @type {Call} */
        const call = { patterns: list, pending: new Set(), waiter, signal, off };
        for (const entry of list.map((pattern) => this.#entry(pattern))) {
          entry.calls.add(call);
          if (!entry.isConfirmed) call.pending.add(entry.pattern);
        }
        if (call.pending.size) this.#changed();
        else waiter.resolve();
        return (hasFailed) => (hasFailed ? off() : signal?.addEventListener("abort", off));
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
    for (const pattern of new Set(listOf(patterns))) {
      const calls = [...(this.#subscriptions.get(pattern)?.calls ?? [])];
      // A call with a signal has its own way to end.
      const call = calls.find(({ signal }) => !signal) ?? calls[0];
      if (!call) continue;
      if (call.pending.has(pattern)) call.waiter.reject(new CommandError("UNSUBSCRIBED", pattern));
      this.#leave([pattern], call);
    }
    return wait(
      { signal, timeout },
      (waiter) => {
        this.#leaving.add(waiter);
        this.#changed();
        return () => void this.#leaving.delete(waiter);
      },
      (ms) => this.#late("the end of the subscription was not confirmed", ms),
    );
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
    /** @type {Entry | undefined} */
    let entry;
    const abort = () => stream.end(signal?.reason);
    const stream = new Stream(
      buffer,
      (lost) => this.#tell("gap", { lost, source: "buffer", pattern }),
      () => {
        signal?.removeEventListener("abort", abort);
        if (entry?.streams.delete(stream)) this.#release(entry);
      },
    );
    if (signal?.aborted) abort();
    else if (this.#state === "closed") stream.end(this.#whyNot(), !!this.#ending?.error);
    else {
      try {
        entry = this.#entry(pattern);
        entry.streams.add(stream);
        signal?.addEventListener("abort", abort);
        this.#changed();
      } catch (error) {
        stream.end(error, true);
      }
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

  /** Close: what waits rejects, loops end, subscriptions are gone. Only `connect()` begins again. */
  close() {
    this.#finish(null);
  }

  get #isUp() {
    return this.#state !== "idle" && this.#state !== "closed";
  }

  #whyNot() {
    return this.#ending?.error ?? new CommandError("CLOSED", "the client is closed");
  }

  /** @param {string} what @param {number} ms */
  #late(what, ms) {
    let why = "";
    if (this.#state === "idle") why = ": there was no connection, since connect() was not called";
    else if (this.#state !== "connected") why = ": there was no connection";
    return new CommandError("TIMEOUT", `${what} within ${ms} ms${why}`);
  }

  /** @param {Record<string, unknown>} message @param {RequestOptions} [options] @returns {Promise<any>} */
  #ask(message, { signal, timeout, idempotent = false } = {}) {
    /** @type {Request | undefined} */
    let request;
    return wait(
      { signal, timeout },
      (waiter) => {
        if (this.#state === "closed") return waiter.reject(this.#whyNot());
        request = this.#make(message, waiter, { isIdempotent: idempotent, isHeld: true });
        this.#unsent.add(request);
        if (this.#state === "connected") this.#judge(request);
        this.#pump();
        return () => this.#forget(request);
      },
      (ms) =>
        request?.isSent
          ? new CommandError("TIMEOUT", `no answer within ${ms} ms; it may still be acted on`)
          : this.#late(this.#state === "connected" ? "not sent, since the server limits the rate," : "not sent", ms),
    );
  }

  /**
   * @param {Record<string, unknown>} message
   * @param {Waiter} waiter
   * @param {Partial<Request>} more
   * @returns {Request}
   */
  #make(message, waiter, more = {}) {
    const id = String(++this.#lastId);
    const type = `${message.type}`;
    const text = JSON.stringify({ ...message, id });
    const flags = { isIdempotent: false, isHeld: false, isSent: false, cost: 1 };
    const request = { id, type, text, size: bytesOf(text), waiter, ...flags, ...more };
    this.#requests.set(id, request);
    return request;
  }

  /** @param {Request | undefined} request */
  #forget(request) {
    if (!request) return;
    this.#requests.delete(request.id);
    this.#again.delete(request);
    this.#unsent.delete(request);
  }

  /** @param {string} pattern */
  #entry(pattern) {
    let entry = this.#subscriptions.get(pattern);
    if (!entry) {
      // No server takes it, and a very long one would cut the connection.
      if (bytesOf(pattern) > MAX_BYTES) throw new CommandError("INVALID_CHANNEL", TOO_LONG);
      const flags = { isAsked: false, isConfirmed: false };
      entry = { pattern, segments: pattern.split("."), calls: new Set(), streams: new Set(), ...flags };
      this.#subscriptions.set(pattern, entry);
      this.#unwanted.delete(pattern);
    }
    return entry;
  }

  /** @param {string[]} patterns @param {Call} call */
  #leave(patterns, call) {
    call.patterns = call.patterns.filter((each) => !patterns.includes(each));
    if (!call.patterns.length) call.signal?.removeEventListener("abort", call.off);
    for (const pattern of patterns) {
      const entry = this.#subscriptions.get(pattern);
      if (entry?.calls.delete(call)) this.#release(entry);
    }
  }

  /** @param {Entry} entry */
  #release(entry) {
    if (!entry.calls.size && !entry.streams.size) this.#changed();
  }

  #changed() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    queueMicrotask(() => this.#pump());
  }

  #pump() {
    this.#isScheduled = false;
    clearTimeout(this.#timers.pump);
    for (const [pattern, entry] of this.#subscriptions) {
      if (entry.calls.size || entry.streams.size) continue;
      this.#subscriptions.delete(pattern);
      if (entry.isAsked) this.#unwanted.add(pattern);
    }
    if (this.#state === "connected") {
      const delay = this.#pumpNames("unsubscribe") || this.#pumpNames("subscribe") || this.#pumpRequests();
      if (delay) this.#timers.pump = setTimeout(() => this.#pump(), Math.ceil(delay));
    } else this.#unwanted.clear();
    this.#settleLeaving();
  }

  /** @param {"subscribe" | "unsubscribe"} type Returns the ms until more may be sent; 0: all is sent. */
  #pumpNames(type) {
    const isLeaving = type === "unsubscribe";
    const names = isLeaving
      ? [...this.#unwanted]
      : [...this.#subscriptions.values()].filter(({ isAsked }) => !isAsked).map(({ pattern }) => pattern);
    const { maxBytes, maxNames, messages } = this.#link;
    const room = Math.min(this.#room, maxBytes - 100); // The rest of the message.
    const most = Math.min(maxNames, 8 * messages.most);
    while (names.length) {
      let [count, size] = [0, 0];
      while (count < Math.min(names.length, most)) {
        size += bytesOf(JSON.stringify(names[count])) + 1;
        if (count && size > room) break;
        count++;
      }
      const cost = Math.ceil(count / 8);
      const delay = messages.delay(cost);
      if (delay > 0) return delay;
      const channels = names.splice(0, count);
      const waiter = isLeaving ? this.#dropped(channels) : this.#asked(channels);
      this.#transmit(this.#make({ type, channels }, waiter, { cost }));
    }
    return 0;
  }

  /** @param {Request} request */
  #judge(request) {
    const { maxBytes } = this.#link;
    if (request.size <= maxBytes) return;
    const text = `not sent: it has ${request.size} bytes, the server reads at most ${maxBytes}`;
    this.#forget(request);
    request.waiter.reject(new CommandError("TOO_LARGE", text));
  }

  #pumpRequests() {
    const { messages, commands } = this.#link;
    for (const queue of [this.#again, this.#unsent]) {
      for (const request of queue) {
        const { type } = request;
        if (type === "get_status") request.cost = Math.ceil(Math.max(1, this.#subscriptions.size) / 8);
        const delay = Math.max(messages.delay(request.cost), type === "command" ? commands.delay(1) : 0);
        if (delay > 0) return delay;
        queue.delete(request);
        this.#transmit(request);
      }
    }
    return 0;
  }

  /** @param {Request} request */
  #transmit(request) {
    const { messages, commands, socket } = this.#link;
    request.isSent = true;
    messages.take(request.cost);
    if (request.type === "command") commands.take(1);
    socket.send(request.text);
  }

  /** @param {object} message One that has no answer to wait for: it is sent at once. */
  #send(message) {
    this.#link.messages.take(1);
    this.#link.socket.send(JSON.stringify(message));
  }

  /** @param {string[]} channels @returns {Waiter} */
  #asked(channels) {
    const entries = channels.map((pattern) => this.#entry(pattern));
    for (const entry of entries) entry.isAsked = true;
    return {
      resolve: ({ rejected = [] }) => {
        for (const entry of entries) {
          const why = rejected.find((/** @type {any} */ each) => each.channel === entry.pattern);
          if (why) this.#fail(entry, new CommandError(why.code, `${entry.pattern}: ${why.message}`));
          else this.#confirm(entry);
        }
        const isDone = [...this.#subscriptions.values()].every(({ isConfirmed }) => isConfirmed);
        if (!this.#isReturning || !isDone) return;
        this.#isReturning = false;
        this.#tell("gap", { lost: Infinity, source: "reconnect" });
      },
      reject: (error) => {
        const isAgain = this.#asksAgain(error, channels);
        for (const entry of entries) {
          if (isAgain) entry.isAsked = false;
          else this.#fail(entry, error);
        }
      },
    };
  }

  /** @param {string[]} channels @returns {Waiter} */
  #dropped(channels) {
    for (const pattern of channels) this.#unwanted.delete(pattern);
    const done = () => this.#settleLeaving();
    return {
      resolve: done,
      reject: (error) => {
        const isAgain = this.#asksAgain(error, channels);
        for (const pattern of channels) {
          // What is wanted again by now stays.
          if (isAgain && !this.#subscriptions.has(pattern)) this.#unwanted.add(pattern);
        }
        done();
      },
    };
  }

  /** Tell whether the server may take the same names later, or fewer. @param {any} error @param {string[]} names */
  #asksAgain(error, { length }) {
    if (error?.code !== "INVALID_MESSAGE" || length < 2) return isRateLimit(error);
    this.#link.maxNames = Math.min(this.#link.maxNames, length >> 1);
    this.#changed();
    return true;
  }

  #settleLeaving() {
    if (!this.#leaving.size || this.#unwanted.size) return;
    for (const { type } of this.#requests.values()) if (type === "unsubscribe") return;
    for (const waiter of this.#leaving) waiter.resolve();
  }

  /** @param {Entry} entry */
  #confirm(entry) {
    entry.isConfirmed = true;
    for (const call of entry.calls) {
      call.pending.delete(entry.pattern);
      if (!call.pending.size) call.waiter.resolve();
    }
  }

  /** @param {Entry} entry @param {unknown} error */
  #fail(entry, error) {
    const { pattern, calls, streams } = entry;
    if (this.#subscriptions.get(pattern) === entry) this.#subscriptions.delete(pattern);
    let isTold = true;
    for (const call of [...calls]) {
      calls.delete(call);
      // Confirmed before: its promise is settled.
      if (call.pending.has(pattern)) call.waiter.reject(error);
      else isTold = false;
      this.#leave([pattern], call);
    }
    if (!isTold && this.#isUp) this.#report(error);
    for (const stream of streams) stream.end(error, true);
  }

  /** @returns {Link} */
  #newLink() {
    const [messages, commands] = [new Pace(), new Pace()];
    const limits = { maxBytes: Infinity, maxNames: MAX_NAMES, messages, commands };
    return { end: new AbortController(), step: "", terms: {}, where: "", ...limits };
  }

  #begin() {
    if (this.#state === "closed") {
      this.closed = new Promise((resolve) => (this.#end = resolve));
      this.#ending = null;
    }
    if (!this.#isUp) this.#attempt = 0;
    if (!this.#life) this.#watch((this.#life = new AbortController()).signal);
    this.#open();
  }

  /** @param {AbortSignal} signal */
  #watch(signal) {
    const wake = () => {
      if (this.#state === "connected") this.#check();
      else if (this.#state !== "connecting") this.#next(this.#openedAt + WAKE_GAP - performance.now());
    };
    const page = globalThis.document;
    globalThis.addEventListener?.("online", wake, { signal });
    globalThis.addEventListener?.("offline", () => this.#check(), { signal });
    page?.addEventListener("visibilitychange", () => page.hidden || wake(), { signal });
  }

  /** Try in so many ms, or earlier if that is due already. @param {number} delay */
  #next(delay) {
    const now = performance.now();
    this.#due = Math.min(this.#timers.next ? this.#due : Infinity, now + delay);
    clearTimeout(this.#timers.next);
    this.#timers.next = setTimeout(() => this.#begin(), clamp(this.#due - now));
  }

  #open() {
    this.#openedAt = performance.now();
    this.#hangUp();
    this.#link = this.#newLink();
    const { signal } = this.#link.end;
    this.#expect(this.#heartbeat.timeout);
    this.#become("connecting");
    if (signal.aborted) return; // A listener closed it.
    this.#dial(signal).catch((error) => signal.aborted || this.#finish(new ConnectionError(1006, `${error}`)));
  }

  /** @param {AbortSignal} signal */
  async #dial(signal) {
    const link = this.#link;
    let token = this.#token;
    let url = this.#url;
    try {
      link.step = "the function for the token";
      if (typeof token === "function") token = await token({ signal });
      link.step = "the function for the URL";
      if (typeof url === "function") url = await url();
    } catch (error) {
      return signal.aborted || this.#lost(new ConnectionError(1006, `${link.step} failed: ${error}`));
    }
    if (signal.aborted) return;
    link.step = "";
    const address = addressOf(url);
    link.where = address.origin + address.pathname; // The query may hold a token.
    /** @type {string[]} */
    const offered = [this.#protocol];
    if (token != null && this.#isInSubprotocol) offered.push(`wsbus.token.${base64url(token)}`);
    const socket = (link.socket = new (this.#WebSocket ?? globalThis.WebSocket)(address.href, offered));
    /** @type {(type: string, run: (event: any) => void) => void} */
    const on = (type, run) =>
      socket.addEventListener(type, (/** @type {any} */ event) => signal.aborted || run(event));
    on("open", () => this.#opened(token));
    on("message", ({ data }) => this.#received(data));
    on("close", ({ code, reason }) => this.#lost(this.#explain(code, reason)));
    on("error", ({ message, error }) => {
      const cause = message || error?.message || error?.code;
      if (!link.isOpen) this.#lost(this.#explain(1006, "", cause));
    });
    /** The package ws shows the answer of a server that refused. @type {(_: any, answer: any) => void} */
    const refused = (_, answer) => {
      const cause = `Unexpected server response: ${answer.statusCode}`;
      const end = (said = "") => signal.aborted || this.#lost(this.#explain(1006, "", cause, `${said}`));
      answer.once("data", end).once("end", end);
    };
    socket.on?.("unexpected-response", refused);
  }

  /** @param {any} token */
  #opened(token) {
    const link = this.#link;
    if (link.socket.protocol !== this.#protocol) {
      return this.#finish(new ConnectionError(4510, `${link.where} does not speak ${this.#protocol}`));
    }
    link.isOpen = true;
    link.hasShown = token != null && !this.#isInSubprotocol;
    if (link.hasShown) this.#send({ type: "auth", token });
    else if (this.#protocol !== "wsbus.v1") this.#ready();
  }

  #ready() {
    const reconnected = this.#wasReady;
    const { terms } = this.#link;
    this.#state = "connected";
    this.#wasReady = true;
    this.#readyAt = performance.now();
    this.#heard();
    this.#timers.beat = setInterval(() => this.#ping(this.#heartbeat.timeout), clamp(this.#heartbeat.interval));
    this.#isReturning = reconnected && this.#subscriptions.size > 0;
    this.#unsent = new Set(this.#requests.values());
    this.#again.clear();
    for (const request of this.#unsent) this.#judge(request);
    this.#pump();
    for (const waiter of this.#connecting) waiter.resolve();
    this.#become("connected");
    if (this.#state !== "connected") return; // A listener closed it.
    this.#tell("connected", { reconnected, connectionId: terms.connection_id, subject: terms.subject });
  }

  /** @param {ConnectionError} error */
  #lost(error) {
    const { base, cap, attempts, first } = this.#retry;
    const { code } = error;
    // A connection that ends at once is no success.
    if (this.#state === "connected" && performance.now() - this.#readyAt >= base) this.#attempt = 0;
    const isTokenTooLarge = code === 1009 && this.#link.hasShown && this.#state === "connecting";
    if (isTokenTooLarge) error.message = `the token is too large: ${error.message}`;
    this.#state = "waiting";
    this.#hangUp();
    this.#abandon(error);
    // The query of a URL may hold a token, too.
    const isFixed = typeof this.#token !== "function" && typeof this.#url !== "function";
    if (isFinal(code) || (code === 4401 && isFixed) || isTokenTooLarge) return this.#finish(error);
    if (!first) for (const waiter of this.#connecting) waiter.reject(error);
    const tried = this.#attempt++;
    const isOffline = globalThis.navigator?.onLine === false;
    if (tried >= attempts && !isOffline) {
      if (tried) error.message = `gave up after ${tried} attempts: ${error.message}`;
      return this.#finish(error, true);
    }
    const steps = tried + (code === 1011 && error.reason !== ASLEEP ? 2 : 0);
    const ceiling = Math.min(cap, base * 2 ** steps);
    const isLong = code === 4429 || isOffline; // "online" ends it.
    const delay = isLong ? (cap * (1 + Math.random())) / 2 : ceiling * Math.random();
    this.#next(delay);
    this.#become("waiting");
    if (this.#state === "waiting") this.#tell("reconnecting", { attempt: tried + 1, delay, error });
  }

  /** @param {ConnectionError} error */
  #abandon(error) {
    for (const request of [...this.#requests.values()]) {
      const { isHeld, isSent, isIdempotent, type, size } = request;
      // Whatever is larger than all that was ever answered may be why.
      const isSuspect = error.code === 1009 && isSent && size > this.#known;
      if (isSuspect && type === "subscribe") this.#room = Math.max(1, Math.min(this.#room, size) / 2);
      if (isHeld && !isSuspect && (isIdempotent || !isSent)) {
        request.isSent = false;
        continue;
      }
      this.#forget(request);
      const what = isSuspect ? `it had ${size} bytes and is not sent again` : "no answer came";
      if (isHeld) request.waiter.reject(new CommandError("CONNECTION_LOST", `${what}: ${error.message}`));
    }
    for (const entry of this.#subscriptions.values()) {
      if (entry.isConfirmed) for (const stream of entry.streams) stream.miss(Infinity);
      entry.isAsked = entry.isConfirmed = false;
    }
    this.#unwanted.clear();
    this.#settleLeaving();
  }

  /**
   * @param {ConnectionError | null} error null: the page closed it.
   * @param {boolean} [hasGivenUp] What the browser says may revive it.
   */
  #finish(error, hasGivenUp = false) {
    if (this.#state === "closed" && (error || this.#ending?.error === null)) return;
    const isNew = this.#state !== "closed";
    this.#state = "closed";
    const end = this.#end;
    const ending = (this.#ending = { code: error?.code ?? 1000, reason: error?.reason ?? "", error });
    if (!error) this.#wasReady = false; // Whatever comes next is new.
    if (!hasGivenUp) {
      this.#life?.abort();
      this.#life = null;
    }
    this.#hangUp();
    const why = this.#whyNot();
    for (const waiter of this.#connecting) waiter.reject(why);
    const requests = [...this.#requests.values()];
    this.#requests.clear();
    this.#again.clear();
    this.#unsent.clear();
    for (const { waiter, isHeld } of requests) if (isHeld) waiter.reject(why);
    for (const entry of [...this.#subscriptions.values()]) {
      for (const stream of [...entry.streams]) stream.end(error, !!error);
      for (const call of [...entry.calls]) {
        if (call.pending.has(entry.pattern)) call.waiter.reject(why);
        if (!error) this.#leave(call.patterns, call);
      }
      entry.isAsked = entry.isConfirmed = false;
    }
    this.#pump();
    if (!isNew) return;
    end(ending);
    this.#become("closed");
    this.#tell("disconnected", ending);
  }

  #hangUp() {
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#timers = {};
    this.#link.end.abort();
    try {
      this.#link.socket?.close(1000);
    } catch {}
  }

  /**
   * @param {number} code
   * @param {string} reason
   * @param {string} [cause] What Node says of it.
   * @param {string} [said] The text that the server refused it with.
   */
  #explain(code, reason, cause = "", said = "") {
    const { isOpen, refusal, where } = this.#link;
    if (code === 1006 && !isOpen) {
      const [like, meaning] = REFUSALS[Number(/response: (\d+)/.exec(cause)?.[1])] ?? [1006, ""];
      const why = /^[^<{\n ]+( [^\n ]+){2,}/.exec(said)?.[0] ?? meaning; // A sentence, no page.
      const what =
        cause && !cause.includes("non-101") // That is all the built-in WebSocket of Node says.
          ? cause + (why && ` (${why})`)
          : "scripts are not told why: wrong URL, no server, one that does not speak " +
            `${this.#protocol}, refuses this origin or the token in the URL, or restarts`;
      return new ConnectionError(like, `cannot connect to ${where}: ${what} (${like})`, reason);
    }
    const why = code === 4500 ? (refusal?.message ?? reason) : reason;
    const what = (MEANINGS[reason === ASLEEP ? 4408 : code] ?? "the server closed the connection") + (why && `: ${why}`);
    return new ConnectionError(code, `${what} (${code})`, reason);
  }

  #heard() {
    clearTimeout(this.#timers.patience);
    this.#patientUntil = Infinity;
  }

  /** @param {number} ms */
  #expect(ms) {
    this.#heard();
    this.#patientUntil = performance.now() + ms;
    const run = () => {
      const { step } = this.#link;
      const what = step ? `${step} took longer than` : "the server did not answer within";
      this.#lost(new ConnectionError(1006, `${what} ${ms} ms`));
    };
    this.#timers.patience = setTimeout(run, clamp(ms));
  }

  /** @param {number} patience */
  #ping(patience) {
    this.#send({ type: "ping" });
    if (performance.now() + patience < this.#patientUntil) this.#expect(patience);
  }

  /** Find out soon whether the connection is alive; one question at a time. */
  #check() {
    const patience = Math.min(5000, this.#heartbeat.timeout);
    const isAsked = this.#patientUntil <= performance.now() + patience;
    if (this.#state === "connected" && !isAsked) this.#ping(patience);
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
    const link = this.#link;
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
        if (data.connection_id !== link.terms.connection_id) {
          link.messages = new Pace(limitOf(data.messages_per_second));
          link.commands = new Pace(limitOf(data.commands_per_second));
        }
        link.terms = data;
        link.maxBytes = limitOf(data.max_message_bytes) ?? Infinity;
        link.maxNames = limitOf(data.max_names) ?? MAX_NAMES;
        if (link.hasShown || this.#state === "connected") return;
        if (data.subject !== undefined) return this.#ready();
        return this.#finish(new ConnectionError(4500, "the server wants a token: pass the option token"));
      case "auth_result":
        if (message.success) {
          link.terms.subject = data.subject;
          if (data.expires_at) this.#refreshAfter(data.expires_at - message.timestamp);
          if (this.#state === "connecting") this.#ready();
        } else {
          // A client that is let in all the same keeps the old token, or needs none; others are closed.
          if (link.terms.subject !== undefined && this.#state === "connecting") this.#ready();
          if (this.#state === "connected") this.#report(error);
          link.refusal = error;
        }
        return;
      case "unsubscribed":
        if (id !== undefined) break;
        for (const pattern of data.channels) {
          const entry = this.#subscriptions.get(pattern);
          const reason = data.reason === undefined ? "" : `: ${data.reason}`;
          const why = new CommandError("UNSUBSCRIBED", `${pattern}: the server ended the subscription${reason}`);
          if (entry?.isConfirmed) this.#fail(entry, why);
        }
        return;
    }
    const request = this.#requests.get(id);
    if (request) this.#answered(request, error, data);
    else if (error) this.#report(error);
  }

  /** @param {Request} request @param {CommandError | undefined} error @param {any} data */
  #answered(request, error, data) {
    const { isHeld, type, size, waiter } = request;
    const pace = type === "command" ? this.#link.commands : this.#link.messages;
    this.#known = Math.max(this.#known, size);
    if (!error || !isRateLimit(error)) {
      this.#forget(request);
      pace.answered();
      return error ? waiter.reject(error) : waiter.resolve(data);
    }
    pace.refused();
    if (isHeld) {
      request.isSent = false;
      this.#again.add(request);
    } else {
      this.#forget(request);
      waiter.reject(error);
    }
    this.#changed();
  }

  /** @param {any} message */
  #deliver({ channel, event, timestamp, data }) {
    const names = channel.split(".");
    const seen = { channel, event, timestamp, data };
    for (const { streams, segments, isConfirmed } of this.#subscriptions.values()) {
      if (isConfirmed && streams.size && fits(segments, names)) for (const stream of streams) stream.push(seen);
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

  /** @param {State} state */
  #become(state) {
    this.#state = state;
    this.#tell("state", { state });
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
