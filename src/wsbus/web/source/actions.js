// What goes into a session, and what it wants done: types only.

/** @typedef {{ code: string | number, message: string, reason?: string }} Failure */
/** @typedef {{ data?: unknown, error?: Failure }} Outcome */
/** @typedef {{ epoch: string, offset: number, previous?: number }} WirePosition */
/** @typedef {{ channel: string, lost?: number | null, position?: WirePosition }} LostOn */
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
 * @property {Terms & { channels: string[] & LostOn[], reason?: string, expires_at?: number, lost?: number | null, cause?: string,
 *   rejected?: { channel: string, code: string, message: string }[] }} data
 */
/**
 * @template H, K
 * @typedef {{ isBatched?: boolean, isOffline?: boolean } & ({ type: "connect" } | { type: "pause" } | { type: "close", error?: Failure }
 *   | { type: "subscribe" | "unsubscribe", pattern: string, holder: H }
 *   | { type: "request", key: K, message: { type: string }, isIdempotent?: boolean }
 *   | { type: "forget", key: K }
 *   | { type: "opened" }
 *   | { type: "failed", error: Failure & { code: number } }
 *   | { type: "lost", code: number, reason: string }
 *   | { type: "token", generation: number, token: string | null | undefined }
 *   | { type: "noToken", generation: number, why: string }
 *   | { type: "heard", message: Message }
 *   | { type: "deadline" } | { type: "wake" } | { type: "check" })} Input
 */
/**
 * `fetchToken`: ask the application; answer with `token` or `noToken`. `dial`: open a connection; answer
 * with `opened` or `failed`. `say`: send this. `hangUp`: end the connection, or the attempt. `cut`: the
 * same, then say `lost`, or `failed`. `answer`: a request is answered, now and never again. `confirm`: from
 * now on the holder gets what matches. `dismiss`: it gets nothing any more. `lose`: events are missing for
 * it, right here. `tellGap`: some are missing for this client; after a reconnect it comes once everything
 * is subscribed again. `tellError`: the server refused something that nobody waits for. `stop`: it is
 * over; no error: it was closed.
 * @template H, K
 * @typedef {{ type: "fetchToken", generation: number } | { type: "dial", token: string | null }
 *   | { type: "say", text: string } | { type: "hangUp" } | { type: "cut" }
 *   | { type: "answer", key: K, outcome: Outcome }
 *   | { type: "confirm", holder: H } | { type: "dismiss", holder: H, error: Failure }
 *   | { type: "lose", holder: H, lost: number | null, cause: GapCause, channels?: LostOn[] }
 *   | { type: "tellGap", lost: number | null, cause: GapCause, channels?: LostOn[] }
 *   | { type: "tellConnected", connectionId?: string, subject?: string, isAgain: boolean }
 *   | { type: "tellReconnecting", attempt: number, delay: number, error: Failure }
 *   | { type: "tellRefreshFailed", why: string } | { type: "tellError", error: Failure }
 *   | { type: "stop", error?: Failure }} Action
 */

export {};
