// What goes into a session, and what it wants done: types only.
//
// An input has the name of the method of Python's `ClientSession` (`handle` is `heard`,
// `handle_deadline` is `deadline`, `handle_token` is `token`, `handle_no_token` is `noToken`), an action
// the name of its class in `core/client/actions.py`, in camelCase. What they hold follows in the order
// that is written here.
//
// What differs in form:
// - Times are milliseconds of one monotonic clock.
// - The session begins with the input `connect`; in Python its first deadline is due at once.
// - A server's message goes in as it is on the wire, parsed; what is to be sent comes out as text. An
//   `event` does not go in: `receive(event)` says who gets it.
// - `subscribe` and `unsubscribe` say nothing yet, since more may follow in this turn: the deadline is
//   then due at once.
//
// What only a page needs: `pause`, `wake`, `check`, `began` and `worked` (inputs; an event is about to be
// handled, and it was, since a moment), `tellGap` and `tellError` (actions).
// `listen` is missing: handlers that ask for nothing are the driver's.

/** @import { CommandError, ConnectionError } from "./errors.js" */
/** @import { BusEvent, MaxRate, Position, PresenceChange } from "./types.js" */

/** @typedef {CommandError | ConnectionError} Failure */
/** @typedef {{ channel: string, lost?: number | null, position?: Position }} LostOn */
/** @typedef {"reconnect" | "broker" | "server" | "buffer"} GapCause */
/**
 * What a server says of itself and of its limits.
 * @typedef {object} Terms
 * @property {string} [connection_id]
 * @property {string} [subject]
 * @property {unknown} [max_message_bytes]
 * @property {unknown} [max_names]
 * @property {unknown} [messages_per_second]
 * @property {unknown} [commands_per_second]
 */
/**
 * A message of a server. What it must hold is as if it were there: the driver catches what is thrown if
 * it is not.
 * @typedef {object} Message
 * @property {string} type
 * @property {string} [id]
 * @property {number} timestamp
 * @property {boolean} [success]
 * @property {{ code: string, message: string }} [error]
 * @property {Terms & PresenceChange & { channels: string[] & LostOn[], reason?: string, expires_at: number, lost?: number | null, cause?: string,
 *   rejected?: { channel: string, code: string, message: string }[],
 *   positions?: (Position & { channel: string, recovered?: boolean })[], events: BusEvent[] }} data
 */
/**
 * @template H What takes events: a subscription of the application.
 * @template K What names a request.
 * @typedef {{
 *   connect: [], pause: [], close: [error?: ConnectionError],
 *   subscribe: [pattern: string, holder: H, since?: Position, most?: MaxRate], unsubscribe: [pattern: string, holder: H], renew: [pattern: string],
 *   request: [key: K, message: { type: string }, isIdempotent?: boolean], forget: [key: K],
 *   opened: [], failed: [error: ConnectionError], lost: [code: number, reason: string],
 *   token: [generation: number, token: string | null | undefined], noToken: [generation: number, why: string],
 *   heard: [message: Message], deadline: [], wake: [], check: [],
 *   began: [channel: string], worked: [from: number],
 * }} Inputs
 */
/**
 * `fetchToken`: ask the application; answer with `token` or `noToken`. `dial`: open a connection; answer
 * with `opened` or `failed`. `say`: send this. `hangUp`: end the connection, or the attempt. `cut`: the
 * same, then say `lost`, or `failed`. `answer`: a request is answered, now and never again. `confirm`: from
 * now on the holder gets what matches. `dismiss`: it gets nothing any more. `lose`: events are missing for
 * it, right here. `tellGap`: some are missing for this client; after a reconnect it comes once everything
 * is subscribed again. `tellPresence`: connections have joined a watched channel, or left it. `tellError`: the server refused something that nobody waits for. `stop`: it is
 * over; no error: it was closed.
 * @template H, K
 * @typedef {{
 *   fetchToken: [generation: number], dial: [token: string | null], say: [text: import("./json.js").Written], hangUp: [], cut: [],
 *   answer: [key: K, error?: Failure, data?: unknown],
 *   confirm: [holder: H], dismiss: [holder: H, error: Failure],
 *   lose: [holder: H, lost: number | null, cause: GapCause, channels?: LostOn[]],
 *   tellGap: [lost: number | null, cause: GapCause, channels?: LostOn[]], tellPresence: [change: PresenceChange],
 *   tellConnected: [isAgain: boolean, connectionId?: string, subject?: string],
 *   tellReconnecting: [attempt: number, delay: number, error: ConnectionError],
 *   tellRefreshFailed: [why: string], tellError: [error: Failure], stop: [error: ConnectionError | null],
 * }} Actions
 */
/**
 * @template {Record<string, unknown[]>} A
 * @typedef {{ [T in keyof A]: [type: T, ...details: A[T]] }[keyof A]} OneOf
 */
/**
 * A function for each.
 * @template {Record<string, unknown[]>} A
 * @typedef {{ [T in keyof A]: (...details: A[T]) => void }} TableOf
 */
/**
 * Wants something done.
 * @template H, K
 * @typedef {(...action: OneOf<Actions<H, K>>) => void} Emit
 */
/**
 * @typedef {object} SessionOptions
 * @property {string | null} token Shown to every server; null: none is.
 * @property {boolean} isFetched The application is asked before every connection, and before a token expires.
 * @property {boolean} inHandshake The token is shown when the connection is asked for, not in a message.
 * @property {boolean} greets Whether the server speaks first, as in `wsbus.v1`. If not, a ping is sent,
 *   whose pong means that the server takes this client as it is.
 * @property {{ base: number, cap: number, attempts: number }} retry
 * @property {number} interval From ping to ping.
 * @property {number} timeout For the answer.
 * @property {import("./json.js").Codec} [codec] How messages are written; JSON if there is none.
 * @property {number} connectTimeout For a connection to be opened, and again for the greeting.
 */

export {};
