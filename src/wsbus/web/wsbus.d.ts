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
export type RequestOptions = Abortable & {
    timeout?: number;
    idempotent?: boolean;
};
export type Token = string | null | undefined;
export type ClientOptions = {
    /**
     * A
     * function is asked for each connection, and before a token expires.
     */
    token?: Token | ((options: {
        signal: AbortSignal;
    }) => Token | Promise<Token>);
    protocol?: "wsbus.v1" | "zigquant-v2";
    WebSocket?: new (url: string, protocols: string[]) => any;
    /**
     * Closes the client.
     */
    signal?: AbortSignal;
    /**
     * 1,000 ms, 30,000 ms, 10.
     */
    retry?: {
        base?: number;
        cap?: number;
        attempts?: number;
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
/**
 * `*` is one segment, as the last one or more; `+` is one.
 * @param {string} pattern
 * @param {string} channel
 */
export declare const matches: (pattern: string, channel: string) => boolean;
declare const Target: new () => ClientEventTarget;
export declare class Client extends Target {
    #private;
    /** @type {Promise<Ending>} It never rejects. */
    closed: Promise<Ending>;
    /**
     * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
     * @param {ClientOptions} [options]
     */
    constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: ClientOptions);
    get state(): "closed" | "connected" | "connecting" | "idle" | "waiting";
    /**
     * Connect, or try again now; resolves when connected, rejects when it gives up.
     * @param {Abortable} [options]
     * @returns {Promise<void>}
     */
    connect({ signal }?: Abortable): Promise<void>;
    /**
     * All or none; resolves when confirmed. `unsubscribe` takes back one call.
     * @param {string | Iterable<string>} patterns
     * @param {Abortable} [options]
     */
    subscribe(patterns: string | Iterable<string>, { signal }?: Abortable): Promise<void>;
    /**
     * @param {string | Iterable<string>} patterns
     * @param {Abortable} [options]
     * @returns {Promise<void>}
     */
    unsubscribe(patterns: string | Iterable<string>, { signal }?: Abortable): Promise<void>;
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
    /** For good: what waits rejects, loops end. */
    close(): void;
}
export {};
