export type Position = {
    epoch: string;
    offset: number;
    tag?: string;
    previous?: number;
};
export type Gap = {
    lost: number | null;
    cause: "reconnect" | "broker" | "server" | "buffer";
    channels?: Map<string, {
        lost: number | null;
        position?: Position;
    }>;
};
export type BusEvent<T = unknown> = {
    channel: string;
    event: string;
    timestamp: number;
    data: T;
    gap?: Gap;
    position?: Position;
    latest?: true;
};
export type Receipt = {
    matched: number;
    accepted: number;
    position?: Position;
    repeated?: true;
};
export type HistoryPage<T = unknown> = {
    channel: string;
    events: (BusEvent<T> & {
        position: Position;
    })[];
    position: Position;
    more: boolean;
};
export type Roster = {
    channel: string;
    members: {
        id: string;
        subject?: string;
    }[];
    count: number;
    watching: boolean;
};
export type PresenceChange = {
    channel: string;
    count: number;
    joined?: Roster["members"];
    left?: Roster["members"];
    watching?: false;
};
export type MaxRate = number | "auto";
export type Resumable = {
    since?: Position;
    maxRate?: MaxRate;
};
export type Compact = (value: never, delta: never) => unknown;
export type StreamPart = {
    delta: string;
    text: string;
    value: unknown;
};
export type StreamParts = AsyncIterableIterator<StreamPart> & {
    cancel(): Promise<void>;
    readonly result: unknown;
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
export type Socket = {
    readonly protocol: string;
    binaryType?: string;
    send(data: string | Uint8Array<ArrayBuffer>): void;
    close(code?: number): void;
    addEventListener(type: string, listener: (event: {
        type: string;
    }) => void): void;
};
export type Codec = {
    protocol: string;
    write(message: object): Uint8Array<ArrayBuffer>;
    read(data: unknown): unknown;
    add(written: string | Uint8Array, name: string, value: string | boolean): Uint8Array<ArrayBuffer>;
};
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
    /**
     * Another form of the messages of `wsbus.v1`: `msgpack` of `wsbus-msgpack.js`.
     */
    codec?: Codec;
    /**
     * true: over HTTP, where no WebSocket gets through and `wsbus-http.js` lies
     * beside this file.
     */
    fallback?: boolean;
    WebSocket?: new (url: string, protocols: string[]) => Socket;
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
    gap: CustomEvent<Gap & {
        pattern?: string;
    }>;
    presence: CustomEvent<PresenceChange>;
    error: CustomEvent<unknown>;
};
export type ClientEventTarget = {
    addEventListener<K extends keyof ClientEvents>(type: K, listener: (event: ClientEvents[K]) => void, options?: boolean | AddEventListenerOptions): void;
    removeEventListener<K extends keyof ClientEvents>(type: K, listener: (event: ClientEvents[K]) => void, options?: boolean | EventListenerOptions): void;
    dispatchEvent(event: Event): boolean;
};
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
/**
 * Tell whether a pattern matches a channel: `*` is one segment, as the last one or more; `+` is one.
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
declare const Target: new () => ClientEventTarget;
export declare class Client extends Target {
    #private;
    /**
     * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
     * @param {ClientOptions} [options]
     */
    constructor(url: string | URL | (() => string | URL | Promise<string | URL>), options?: ClientOptions);
    get state(): State;
    /** How it ended; it never rejects. `connect()` after the end makes a new one. */
    get closed(): Promise<Ending>;
    /**
     * Connect, or try again now. Rejects if this attempt fails; the client goes on trying all the same,
     * unless the reason is final. With `retry.first` it waits until connected.
     * @param {Abortable} [options]
     */
    connect(options?: Abortable): Promise<void>;
    /**
     * All or none; resolves when confirmed. `unsubscribe` takes back one call; aborting `signal` takes
     * back this one, after the confirmation, too.
     * @param {string | Iterable<string>} patterns
     * @param {Limited & Resumable} [options]
     */
    subscribe(patterns: string | Iterable<string>, options?: Limited & Resumable): Promise<void>;
    /**
     * Resolves when the server has confirmed it, or there is no connection.
     * @param {string | Iterable<string>} patterns
     * @param {Limited} [options]
     */
    unsubscribe(patterns: string | Iterable<string>, options?: Limited): Promise<void>;
    /**
     * Handle events that match; it does not subscribe. Returns what removes the handler.
     * @template [T=unknown]
     * @param {string} pattern
     * @param {(event: BusEvent<T>) => unknown} handler
     * @param {Abortable} [options]
     */
    on<T = unknown>(pattern: string, handler: (event: BusEvent<T>) => unknown, options?: Abortable): () => void;
    /**
     * Subscribe at once, until the loop is left. Of more than `buffer` unread events the oldest go.
     * @template [T=unknown]
     * @param {string} pattern
     * @param {Abortable & Resumable & { buffer?: number }} [options]
     */
    events<T = unknown>(pattern: string, options?: Abortable & Resumable & {
        buffer?: number;
    }): AsyncIterableIterator<BusEvent<T>>;
    /**
     * Up to where the handlers of a subscription have everything: for `since`. Undefined: it is not
     * confirmed, or has no history.
     * @param {string} pattern
     * @returns {Position | undefined}
     */
    position(pattern: string): Position | undefined;
    /**
     * Read what is kept of a channel: the newest (50), or those right before or after a position.
     * @template [T=unknown]
     * @param {string} channel
     * @param {RequestOptions & { limit?: number, before?: Position, after?: Position }} [options]
     */
    history<T = unknown>(channel: string, { limit, before, after, ...options }?: RequestOptions & {
        limit?: number;
        before?: Position;
        after?: Position;
    }): Promise<HistoryPage<T>>;
    /**
     * The connections that are subscribed to exactly this channel, if its family shows them. `watch`: tell changes,
     * as `presence`, until the connection is lost; `watchPresence` of `wsbus-presence.js` goes on.
     * @param {string} channel
     * @param {RequestOptions & { watch?: boolean }} [options]
     */
    presence(channel: string, { watch, ...options }?: RequestOptions & {
        watch?: boolean;
    }): Promise<Roster>;
    /**
     * The parts of a stream, as they come: the first one has everything so far. The loop ends with the stream;
     * it throws STREAM_FAILED or STREAM_CANCELLED. `cancel()` asks the producer; `result` is there at the end.
     * @param {string} channel
     * @param {Abortable & { compact?: Compact }} [options] `compact`: joins
     *   deltas that are no texts.
     * @returns {StreamParts}
     */
    stream(channel: string, options?: Abortable & {
        compact?: Compact;
    }): StreamParts;
    /**
     * @template [T=unknown]
     * @param {string} action
     * @param {unknown} [params]
     * @param {RequestOptions} [options]
     */
    command<T = unknown>(action: string, params?: unknown, options?: RequestOptions): Promise<T>;
    /**
     * A channel with history takes it once, also if the connection is lost before the answer: it knows
     * `idempotencyKey`, a random one if you give none, for two minutes.
     * @param {string} channel
     * @param {unknown} data
     * @param {RequestOptions & { event?: string, idempotencyKey?: string }} [options]
     */
    publish(channel: string, data?: unknown, { event, idempotencyKey, ...options }?: RequestOptions & {
        event?: string;
        idempotencyKey?: string;
    }): Promise<Receipt>;
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
