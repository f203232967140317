export type BusEvent<T = any> = {
    channel: string;
    event: string;
    timestamp: number;
    data: T;
};
export type StreamEvent<T = any> = BusEvent<T> & {
    lost: number;
};
export type Abortable = {
    signal?: AbortSignal;
};
export type Limited = Abortable & {
    timeout?: number;
};
export type RequestOptions = Limited & {
    idempotent?: boolean;
};
export type Token = string | null | undefined;
export type State = "idle" | "connecting" | "connected" | "waiting" | "closed";
export type ClientOptions = {
    /**
     * A
     * function is called for each connection, and before a token expires.
     */
    token?: Token | ((options: {
        signal: AbortSignal;
    }) => Token | Promise<Token>);
    /**
     * "message". In a subprotocol, it is known before the
     * connection is, where the server takes it there.
     */
    tokenIn?: "message" | "subprotocol";
    protocol?: "wsbus.v1" | "zigquant-v2";
    WebSocket?: new (url: string, protocols: string[]) => any;
    /**
     * Closes the client.
     */
    signal?: AbortSignal;
    /**
     * 1,000 ms,
     * 30,000 ms, Infinity, false. `first`: `connect()` waits until an attempt succeeds.
     */
    retry?: {
        base?: number;
        cap?: number;
        attempts?: number;
        first?: boolean;
    };
    /**
     * 15,000 ms, 20,000 ms.
     */
    heartbeat?: {
        interval?: number;
        timeout?: number;
    };
};
export type Ending = {
    code: number;
    reason: string;
    error: ConnectionError | null;
};
export type ClientEvents = {
    state: CustomEvent<{
        state: State;
    }>;
    connected: CustomEvent<{
        reconnected: boolean;
        connectionId?: string;
        subject?: string;
    }>;
    reconnecting: CustomEvent<{
        attempt: number;
        delay: number;
        error: ConnectionError;
    }>;
    disconnected: CustomEvent<Ending>;
    gap: CustomEvent<{
        lost: number;
        source: "server" | "reconnect" | "buffer";
        pattern?: string;
    }>;
    error: CustomEvent<any>;
};
export type ClientEventTarget = {
    addEventListener<K extends keyof ClientEvents>(type: K, listener: (event: ClientEvents[K]) => void, options?: boolean | AddEventListenerOptions): void;
    removeEventListener<K extends keyof ClientEvents>(type: K, listener: (event: ClientEvents[K]) => void, options?: boolean | EventListenerOptions): void;
    dispatchEvent(event: Event): boolean;
};
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
export declare class CommandError extends Error {
    code: string;
    name: string;
    /** @param {string} code @param {string} message */
    constructor(code: string, message: string);
}
/** `code` is a close code; 1006: none came. */
export declare class ConnectionError extends Error {
    code: number;
    reason: string;
    name: string;
    /** @param {number} code @param {string} message @param {string} [reason] */
    constructor(code: number, message: string, reason?: string);
}
export type Waiter = {
    resolve: (value?: any) => void;
    reject: (error: unknown) => void;
};
export type Call = {
    patterns: string[];
    pending: Set<string>;
    waiter: Waiter;
    signal?: AbortSignal;
    off: () => void;
};
export type Entry = {
    pattern: string;
    segments: string[];
    calls: Set<Call>;
    streams: Set<Stream>;
    isAsked: boolean;
    isConfirmed: boolean;
};
export type Request = {
    id: string;
    type: string;
    text: string;
    size: number;
    waiter: Waiter;
    isIdempotent: boolean;
    isHeld: boolean;
    isSent: boolean;
    cost: number;
};
export type Link = {
    end: AbortController;
    step: string;
    terms: Record<string, any>;
    socket?: any;
    where: string;
    isOpen?: boolean;
    hasShown?: boolean;
    refusal?: Error;
    maxBytes: number;
    maxNames: number;
    messages: Pace;
    commands: Pace;
};
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
export declare const matches: (pattern: string, channel: string) => boolean;
/**
 * Spell any text as one segment of a channel, without loss, as the server's `escape_segment` does.
 * @param {string} text
 */
export declare const escapeSegment: (text: string) => string;
/**
 * Build a channel from a name of your own and names from outside, as the server's `channel` does.
 * @param {string} head One or more segments, as they are.
 * @param {string[]} names Any text; each becomes one segment.
 * @throws {CommandError} INVALID_CHANNEL: `head` is no channel, or the result is too long.
 */
export declare const channel: (head: string, ...names: string[]) => string;
/**
 * A rate limit of the server, kept with a margin: what is sent early may arrive late. A server that
 * tells no rate has none, until it refuses something; then the rate is found out.
 */
declare class Pace {
    #private;
    /** @param {number} [rate] Per second. */
    constructor(rate?: number);
    /** What one request may cost. */
    get most(): number;
    /** In ms. @param {number} cost */
    delay(cost: number): number;
    /** @param {number} cost */
    take(cost: number): void;
    refused(): void;
    answered(): void;
}
declare class Stream {
    #private;
    /** @param {number} limit @param {(dropped: number) => void} tell @param {() => void} leave */
    constructor(limit: number, tell: (dropped: number) => void, leave: () => void);
    /** @param {number} count */
    miss(count: number): void;
    /** @param {BusEvent} event */
    push(event: BusEvent): void;
    /** @param {unknown} [error] @param {boolean} [isOthers] Not by the page: what is unread stays. */
    end(error?: unknown, isOthers?: boolean): void;
    /** @returns {Promise<IteratorResult<StreamEvent, undefined>>} */
    next(): Promise<IteratorResult<StreamEvent, undefined>>;
    return(): Promise<IteratorResult<StreamEvent<any>, undefined>>;
    [Symbol.asyncIterator](): this;
}
declare const Target: new () => ClientEventTarget;
export declare class Client extends Target {
    #private;
    /** @type {Promise<Ending>} It never rejects. `connect()` after the end makes a new one. */
    closed: Promise<Ending>;
    /**
     * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
     * @param {ClientOptions} [options]
     */
    constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: ClientOptions);
    get state(): State;
    /**
     * Connect, or try again now. Rejects if this attempt fails; the client goes on trying all the same,
     * unless the reason is final. With `retry.first` it waits until connected.
     * @param {Abortable} [options]
     * @returns {Promise<void>}
     */
    connect({ signal }?: Abortable): Promise<void>;
    /**
     * All or none; resolves when confirmed. `unsubscribe` takes back one call; aborting `signal` takes
     * back this one, after the confirmation, too.
     * @param {string | Iterable<string>} patterns
     * @param {Limited} [options]
     * @returns {Promise<void>}
     */
    subscribe(patterns: string | Iterable<string>, { signal, timeout }?: Limited): Promise<void>;
    /**
     * Resolves when the server has confirmed it, or there is no connection.
     * @param {string | Iterable<string>} patterns
     * @param {Limited} [options]
     * @returns {Promise<void>}
     */
    unsubscribe(patterns: string | Iterable<string>, { signal, timeout }?: Limited): Promise<void>;
    /**
     * Handle events that match; it does not subscribe. Returns what removes the handler.
     * @template [T=any]
     * @param {string} pattern
     * @param {(event: BusEvent<T>) => unknown} handler
     * @param {Abortable} [options]
     * @returns {() => void}
     */
    on<T = any>(pattern: string, handler: (event: BusEvent<T>) => unknown, { signal }?: Abortable): () => void;
    /**
     * Subscribe at once, until the loop is left. Of more than `buffer` unread events the oldest go.
     * @template [T=any]
     * @param {string} pattern
     * @param {Abortable & { buffer?: number }} [options]
     * @returns {AsyncIterableIterator<StreamEvent<T>>}
     */
    events<T = any>(pattern: string, { signal, buffer }?: Abortable & {
        buffer?: number;
    }): AsyncIterableIterator<StreamEvent<T>>;
    /**
     * @template [T=any]
     * @param {string} action
     * @param {unknown} [params]
     * @param {RequestOptions} [options]
     * @returns {Promise<T>}
     */
    command<T = any>(action: string, params?: unknown, options?: RequestOptions): Promise<T>;
    /**
     * @param {string} channel
     * @param {unknown} data
     * @param {RequestOptions & { event?: string }} [options]
     * @returns {Promise<{ matched: number, accepted: number }>}
     */
    publish(channel: string, data?: unknown, { event, ...options }?: RequestOptions & {
        event?: string;
    }): Promise<{
        matched: number;
        accepted: number;
    }>;
    /**
     * @param {RequestOptions} [options]
     * @returns {Promise<{ connection_id: string, subject?: string, connected_at: number,
     *   subscriptions: string[], message_count: number, dropped: number }>}
     */
    status(options?: RequestOptions): Promise<{
        connection_id: string;
        subject?: string;
        connected_at: number;
        subscriptions: string[];
        message_count: number;
        dropped: number;
    }>;
    /** Close: what waits rejects, loops end, subscriptions are gone. Only `connect()` begins again. */
    close(): void;
}
export {};
