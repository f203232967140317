// The client as applications see it.
import { makeDriver } from "./driver.js";

export { CommandError, ConnectionError } from "./errors.js";
export { channel, escapeSegment, matches } from "./names.js";

/** @import { Abortable, BusEvent, ClientEventTarget, ClientOptions, Compact, HistoryPage, Limited, Position, Receipt, RequestOptions, Resumable, Roster, StreamParts } from "./types.js" */

const Target = /** @type {new () => ClientEventTarget} */ (/** @type {unknown} */ (EventTarget));

export class Client extends Target {
  #driver;

  /**
   * @param {string | URL | (() => string | URL | Promise<string | URL>)} url
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    super();
    this.#driver = makeDriver(url, options, (type, detail) =>
      this.dispatchEvent(new CustomEvent(type, { detail, cancelable: true })),
    );
  }

  get state() {
    return this.#driver.stateOf();
  }

  /** How it ended; it never rejects. `connect()` after the end makes a new one. */
  get closed() {
    return this.#driver.closed();
  }

  /**
   * Connect, or try again now. Rejects if this attempt fails; the client goes on trying all the same,
   * unless the reason is final. With `retry.first` it waits until connected.
   * @param {Abortable} [options]
   */
  connect(options = {}) {
    return this.#driver.connect(options);
  }

  /**
   * All or none; resolves when confirmed. `unsubscribe` takes back one call; aborting `signal` takes
   * back this one, after the confirmation, too.
   * @param {string | Iterable<string>} patterns
   * @param {Limited & Resumable} [options]
   */
  subscribe(patterns, options = {}) {
    return this.#driver.subscribe(patterns, options);
  }

  /**
   * Resolves when the server has confirmed it, or there is no connection.
   * @param {string | Iterable<string>} patterns
   * @param {Limited} [options]
   */
  unsubscribe(patterns, options = {}) {
    return this.#driver.unsubscribe(patterns, options);
  }

  /**
   * Handle events that match; it does not subscribe. Returns what removes the handler.
   * @template [T=unknown]
   * @param {string} pattern
   * @param {(event: BusEvent<T>) => unknown} handler
   * @param {Abortable} [options]
   */
  on(pattern, handler, options = {}) {
    return this.#driver.on(pattern, /** @type {(event: BusEvent) => unknown} */ (handler), options);
  }

  /**
   * Subscribe at once, until the loop is left. Of more than `buffer` unread events the oldest go.
   * @template [T=unknown]
   * @param {string} pattern
   * @param {Abortable & Resumable & { buffer?: number }} [options]
   */
  events(pattern, options = {}) {
    return /** @type {AsyncIterableIterator<BusEvent<T>>} */ (this.#driver.events(pattern, options));
  }

  /**
   * Up to where the handlers of a subscription have everything: for `since`. Undefined: it is not
   * confirmed, or has no history.
   * @param {string} pattern
   * @returns {Position | undefined}
   */
  position(pattern) {
    return this.#driver.position(pattern);
  }

  /**
   * Read what is kept of a channel: the newest (50), or those right before or after a position.
   * @template [T=unknown]
   * @param {string} channel
   * @param {RequestOptions & { limit?: number, before?: Position, after?: Position }} [options]
   */
  history(channel, { limit, before, after, ...options } = {}) {
    return /** @type {Promise<HistoryPage<T>>} */ (
      this.#driver.ask({ type: "history", channel, limit, before, after }, { idempotent: true, ...options })
    );
  }

  /**
   * The connections that are subscribed to exactly this channel, if its family shows them. `watch`: tell changes,
   * as `presence`, until the connection is lost; `watchPresence` of `wsbus-presence.js` goes on.
   * @param {string} channel
   * @param {RequestOptions & { watch?: boolean }} [options]
   */
  presence(channel, { watch, ...options } = {}) {
    return /** @type {Promise<Roster>} */ (this.#driver.ask({ type: "presence", channel, watch }, { idempotent: true, ...options }));
  }

  /**
   * The parts of a stream, as they come: the first one has everything so far. The loop ends with the stream;
   * it throws STREAM_FAILED or STREAM_CANCELLED. `cancel()` asks the producer; `result` is there at the end.
   * @param {string} channel
   * @param {Abortable & { compact?: Compact }} [options] `compact`: joins
   *   deltas that are no texts.
   * @returns {StreamParts}
   */
  stream(channel, options = {}) {
    const cancel = async () => void (await this.#driver.ask({ type: "cancel", channel }, { idempotent: true }));
    return /** @type {StreamParts} */ (Object.assign(this.#driver.read(channel, options), { cancel }));
  }

  /**
   * @template [T=unknown]
   * @param {string} action
   * @param {unknown} [params]
   * @param {RequestOptions} [options]
   */
  command(action, params = {}, options) {
    return /** @type {Promise<T>} */ (this.#driver.ask({ type: "command", action, params }, options));
  }

  /**
   * A channel with history takes it once, also if the connection is lost before the answer: it knows
   * `idempotencyKey`, a random one if you give none, for two minutes.
   * @param {string} channel
   * @param {unknown} data
   * @param {RequestOptions & { event?: string, idempotencyKey?: string }} [options]
   */
  publish(channel, data = null, { event, idempotencyKey, ...options } = {}) {
    const idempotency_key = idempotencyKey ?? crypto.getRandomValues(new Uint32Array(4)).join("-");
    return /** @type {Promise<Receipt>} */ (this.#driver.ask({ type: "publish", channel, event, data, idempotency_key }, options));
  }

  /**
   * @param {RequestOptions} [options]
   * @returns {Promise<{ connection_id: string, subject?: string, connected_at: number,
   *   subscriptions: string[], message_count: number, dropped: number }>}
   */
  status(options) {
    return /** @type {ReturnType<Client["status"]>} */ (this.#driver.ask({ type: "get_status" }, { idempotent: true, ...options }));
  }

  /** Close: what waits rejects, loops end, subscriptions are gone. Only `connect()` begins again. */
  close() {
    this.#driver.close();
  }
}
