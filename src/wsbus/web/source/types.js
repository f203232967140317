// The types that users see.

/** @import { ConnectionError } from "./errors.js" */

/**
 * A place among all that is kept: everything up to here. `previous`: the offset of the channel's publication before.
 * @typedef {{ epoch: string, offset: number, tag?: string, previous?: number }} Position
 */
/**
 * What is missing. `lost`: how many events; null: nobody knows. `cause`: there was no connection for a
 * while (`reconnect`); the link between servers was lost (`broker`); the queue of the `server` was full; the
 * `buffer` of the loop was full. Of several causes the first one of these counts. `channels`:
 * how many of each channel (null: unknown), and the position of the newest one of them; absent: not known, or too many.
 * @typedef {{ lost: number | null, cause: "reconnect" | "broker" | "server" | "buffer",
 *   channels?: Map<string, { lost: number | null, position?: Position }> }} Gap
 */
/**
 * `timestamp`: ms since 1970. `gap`: what is missing right before this event, in a loop; absent: nothing
 * that is known. `position`: absent if the channel has no history. `latest`: it is older than the subscription.
 * @template [T=unknown]
 * @typedef {{ channel: string, event: string, timestamp: number, data: T, gap?: Gap, position?: Position, latest?: true }} BusEvent
 */
/** `repeated`: the server has got it before, with this key. @typedef {{ matched: number, accepted: number, position?: Position, repeated?: true }} Receipt */
/**
 * `events`: the oldest first. `position`: of all that is kept. `more`: there are more before these, or after them if `after` was given.
 * @template [T=unknown]
 * @typedef {{ channel: string, events: (BusEvent<T> & { position: Position })[], position: Position, more: boolean }} HistoryPage
 */
/**
 * The connections on a channel. `members`: those that were there longest, up to the bound of the family.
 * @typedef {{ channel: string, members: { id: string, subject?: string }[], count: number, watching: boolean }} Roster
 */
/**
 * Connections have joined a channel that the client watches, or left it. Neither is named: there are too many. `watching`:
 * the grants do not cover it any more.
 * @typedef {{ channel: string, count: number, joined?: Roster["members"], left?: Roster["members"], watching?: false }} PresenceChange
 */
/** Events of one key a second, 0.01 to 1,000; "auto": as many as the tab can handle, 60 at most. @typedef {number | "auto"} MaxRate */
/**
 * `since`: everything after it comes first; if a part of that is gone, the error has the code `POSITION_LOST`.
 * `maxRate`: at most so many events of each key, fewer while the tab falls behind; the newest wins, and the last one always comes. Absent: all events.
 * @typedef {{ since?: Position, maxRate?: MaxRate }} Resumable
 */
/** Joins deltas that are no texts; at first `value` is undefined. @typedef {(value: never, delta: never) => unknown} Compact */
/** `delta`: what is new; `text`: all so far; `value`: the same, if `compact` makes no text. @typedef {{ delta: string, text: string, value: unknown }} StreamPart */
/** @typedef {AsyncIterableIterator<StreamPart> & { cancel(): Promise<void>, readonly result: unknown }} StreamParts */
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
 * What the client uses of a WebSocket.
 * @typedef {{
 *   readonly protocol: string, binaryType?: string, send(data: string | Uint8Array<ArrayBuffer>): void, close(code?: number): void,
 *   addEventListener(type: string, listener: (event: { type: string }) => void): void,
 * }} Socket
 */
/**
 * A form of messages. `add`: what was written, with one more field.
 * @typedef {{ protocol: string, write(message: object): Uint8Array<ArrayBuffer>, read(data: unknown): unknown,
 *   add(written: string | Uint8Array, name: string, value: string | boolean): Uint8Array<ArrayBuffer> }} Codec
 */
/**
 * @typedef {object} ClientOptions
 * @property {Token | ((options: { signal: AbortSignal }) => Token | Promise<Token>)} [token] A
 *   function is called for each connection, and before a token expires.
 * @property {"message" | "subprotocol"} [tokenIn] "message". In a subprotocol, it is known before the
 *   connection is, where the server takes it there.
 * @property {"wsbus.v1" | "zigquant-v2"} [protocol]
 * @property {Codec} [codec] Another form of the messages of `wsbus.v1`: `msgpack` of `wsbus-msgpack.js`.
 * @property {boolean} [fallback] true: over HTTP, where no WebSocket gets through and `wsbus-http.js` lies
 *   beside this file.
 * @property {new (url: string, protocols: string[]) => Socket} [WebSocket]
 * @property {AbortSignal} [signal] Closes the client.
 * @property {{ base?: number, cap?: number, attempts?: number, first?: boolean }} [retry] 1,000 ms,
 *   30,000 ms, Infinity, false. `first`: `connect()` waits until an attempt succeeds.
 * @property {{ interval?: number, timeout?: number }} [heartbeat] 15,000 ms, 20,000 ms.
 */
/** @typedef {{ code: number, reason: string, error: ConnectionError | null }} Ending */
/**
 * `state`: `client.state` has changed. `reconnecting`: in `delay` ms. `disconnected`: no further
 * attempt is made. `gap`: fetch the state anew. `presence`: of a watched channel. `error`: an error that no call waits for; it goes to
 * the console, too, unless `preventDefault` is called.
 * @typedef {{
 *   state: CustomEvent<{ state: State }>,
 *   connected: CustomEvent<{ reconnected: boolean, connectionId?: string, subject?: string }>,
 *   reconnecting: CustomEvent<{ attempt: number, delay: number, error: ConnectionError }>,
 *   disconnected: CustomEvent<Ending>,
 *   gap: CustomEvent<Gap & { pattern?: string }>,
 *   presence: CustomEvent<PresenceChange>,
 *   error: CustomEvent<unknown>,
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

export {};
