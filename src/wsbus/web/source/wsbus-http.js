// A connection over HTTP, for networks that let no WebSocket through: it has the interface of a
// WebSocket, as far as the driver uses it. Events come as an event stream, or by long polls where a
// proxy holds streams back; requests go out as POSTs. A file of its own, since few pages need it.
import { matches } from "./names.js";

/** @import { Position } from "./types.js" */
/** @typedef {{ type: string, id?: string, channels?: string[], since?: Record<string, Position & { strict?: boolean }>, token?: string }} Request */
/** @typedef {{ channel: string, code: string, message: string }} Rejection */
/** @typedef {Position & { channel: string, recovered?: boolean }} Start */
/** @typedef {{ type: string, id?: string, success?: boolean, error?: object, code?: number | string, reason?: string, message?: string, retry?: number, channel?: string, position?: Position, latest?: boolean,
 *   data?: { channels?: string[], rejected?: Rejection[], positions?: Start[], active_subscriptions?: number, subject?: string } }} Message */

/** @typedef {{ messages: Message[], position: string } | { code: string, message: string }} Answer */

/**
 * A stream, or a row of polls. `names`: what it brings. `ahead`: events without a position that a stream before it
 * has not brought yet. `owed`: texts of those that it is still to bring, and that have come.
 * @typedef {{ stop: AbortController, names: string[], ahead: [string, Message][], owed: string[] }} Reading
 */

/** The most messages of one answer to a poll. */
const LIMIT = 300;
/** Ms without a byte of a stream after which it is dead, or held back if it has not begun. */
const [SILENCE, PATIENCE, PROBE] = [70_000, 5_000, 600_000];
/** Ms for which a stream goes on beside the one that takes its place: what was on its way comes. */
const OVERLAP = 1_000;
/** Streams of this page are held back: do not wait for one again. */
let isBuffered = false;

/** @type {(href: string, what: string, query?: string[][]) => string} */
const addressOf = (href, what, query = []) => {
  const url = new URL(href.replace(/^ws/, "http"));
  url.pathname = url.pathname.replace(/\/?$/, `/${what}`);
  for (const [name, value] of query) url.searchParams.append(name, value);
  return url.href;
};

/** @type {(offered: string[]) => string | undefined} */
const tokenIn = (offered) => {
  const found = offered.find((name) => name.startsWith("wsbus.token."))?.slice(12);
  const bytes = found && atob(found.replace(/-/g, "+").replace(/_/g, "/"));
  return bytes && new TextDecoder().decode(Uint8Array.from(bytes, (each) => each.charCodeAt(0)));
};

/** @type {(position: Position) => string} */
const textOf = ({ epoch, offset, tag }) =>
  ["1", epoch, `${offset}`, ...(tag ? [tag] : [])].map((part) => encodeURIComponent(part).replace(/\./g, "%2E")).join(".");

/** @type {(text: string) => number} */
const offsetOf = (text) => +(text.split(".")[2] ?? Infinity);

/** @type {(status: number) => number} */
const closeCodeOf = (status) => (status === 401 ? 4401 : status === 429 ? 4429 : status === 503 ? 1012 : 1006);

/** Whether a bus answers there over HTTP. @type {(href: string, offered: string[]) => Promise<boolean>} */
export const answers = async (href, offered) => {
  const answer = await fetch(addressOf(href, "requests"), {
    method: "POST",
    headers: { "content-type": "application/json", ...(tokenIn(offered) ? { authorization: `Bearer ${tokenIn(offered)}` } : {}) },
    body: '{"type":"ping"}',
  });
  const { type } = await answer.json();
  return (answer.ok && type === "pong") || (answer.status === 401 && type === "error");
};

export class HttpSocket {
  #href;
  #end = new AbortController();
  /** @type {[string, (event: { type: string }) => void][]} */
  #listeners = [];
  /** @type {string | undefined} */
  #token;
  /** The names that are subscribed to, each with the offset up to which the stream brings it nothing. @type {Map<string, number>} */
  #names = new Map();
  /** Up to where everything has come. */
  #position = "";
  /** Changes of the names, one after another. @type {Promise<unknown>} */
  #changes = Promise.resolve();
  /** The publications before the next one. @type {Promise<unknown>} */
  #published = Promise.resolve();
  /** What is read, oldest first; the last one alone moves the position. @type {Reading[]} */
  #readings = [];
  /** What a new stream brings before the request for it is answered; none: no request is. @type {Message[] | undefined} */
  #waiting;
  #heardAt = 0;

  /**
   * @param {string} href
   * @param {string[]} offered
   * @param {() => { close(): void, addEventListener(type: string, listener: () => void): void }} dial Opens a WebSocket, to see whether one gets through by now.
   */
  constructor(href, offered, dial) {
    this.#href = href;
    this.#token = tokenIn(offered);
    this.protocol = offered[0];
    this.#begin();
    const probe = setInterval(() => {
      const socket = dial();
      socket.addEventListener("error", () => {});
      socket.addEventListener("open", () => {
        socket.close();
        this.#lose(1012, "a WebSocket gets through; retry=0");
      });
    }, PROBE);
    /** Node goes on without it. @type {{ unref?(): void }} */ (/** @type {unknown} */ (probe)).unref?.();
    this.#end.signal.addEventListener("abort", () => clearInterval(probe));
  }

  /** @type {(type: string, listener: (event: { type: string }) => void) => void} */
  addEventListener(type, listener) {
    this.#listeners.push([type, listener]);
  }

  close() {
    this.#end.abort();
    for (const { stop } of this.#readings) stop.abort();
  }

  /** @param {string} text */
  send(text) {
    /** @type {Request} */
    const request = JSON.parse(text);
    const { type, id } = request;
    if (type === "subscribe" || type === "unsubscribe")
      this.#changes = this.#changes.then(() => this.#change(request)).catch((error) => this.#lose(1006, `${error}`));
    else if (type === "auth") this.#authenticate(request);
    else if (type === "ping" && this.#names.size && Date.now() - this.#heardAt > SILENCE) this.#lose(1006, "the stream is silent");
    else if (type !== "pong") {
      const ask = () => this.#post(text, id).then((message) => this.#hear(message)).catch((error) => this.#lose(1006, `${error}`));
      // Publications keep their order; what may take long holds up no other request.
      if (type === "publish") this.#published = this.#published.then(ask);
      else ask();
    }
  }

  // --- telling the driver ------------------------------------------------------------------------

  /** @param {string} type @param {object} [event] */
  #tell(type, event) {
    if (!this.#end.signal.aborted) for (const [of, listener] of this.#listeners) if (of === type) listener({ type, ...event });
  }

  /** @param {Message} message */
  #hear(message) {
    this.#tell("message", { data: JSON.stringify({ timestamp: Date.now(), ...message }) });
  }

  /** @param {number} code @param {string} reason */
  #lose(code, reason) {
    this.#tell("close", { code, reason });
    this.close();
  }

  // --- requests ----------------------------------------------------------------------------------

  /** @param {string} what @param {RequestInit} [options] @param {string[][]} [query] */
  #fetch(what, options = {}, query = []) {
    const headers = { ...options.headers, ...(this.#token && { authorization: `Bearer ${this.#token}` }) };
    return fetch(addressOf(this.#href, what, query), { signal: this.#end.signal, cache: "no-store", ...options, headers });
  }

  /** @type {(text: string, id?: string) => Promise<Message>} */
  async #post(text, id) {
    const answer = await this.#fetch("requests", { method: "POST", headers: { "content-type": "application/json" }, body: text });
    const reply = await answer.json();
    if (answer.ok || reply.error) return reply;
    return { type: "error", ...(id && { id }), error: { code: reply.code, message: reply.message } };
  }

  async #begin() {
    try {
      const { error } = await this.#post('{"type":"ping"}');
      this.#tell("open");
      this.#hear({ type: "connected", data: error ? {} : { subject: "" } });
    } catch (error) {
      this.#tell("error", { message: `${error}` });
      this.#tell("close", {});
    }
  }

  /** @param {Request} request */
  async #authenticate({ id, token }) {
    const before = this.#token;
    this.#token = token;
    try {
      const { error } = await this.#post('{"type":"ping"}');
      if (error) this.#token = before;
      this.#hear({ type: "auth_result", id, success: !error, ...(error ? { error } : { data: { subject: "" } }) });
      // The stream would end with the old token.
      if (!error && this.#names.size) this.#changes = this.#changes.then(() => this.#read()).catch((error) => this.#lose(1006, `${error}`));
    } catch (error) {
      this.#lose(1006, `${error}`);
    }
  }

  // --- subscriptions -----------------------------------------------------------------------------

  /** @param {Request} request */
  async #change({ type, id, channels = [], since = {} }) {
    if (type === "unsubscribe") {
      for (const name of channels) this.#names.delete(name);
      if (this.#names.size) await this.#read();
      else for (const { stop } of this.#readings.splice(0)) stop.abort();
      return this.#hear({ type: "unsubscribed", id, data: { channels, active_subscriptions: this.#names.size } });
    }
    const [rejected, positions] = [/** @type {Rejection[]} */ ([]), /** @type {Start[]} */ ([])];
    /** @type {Message[]} */
    const later = [];
    // Where all that come now begin: the stream has one position, and reads them and the old names from there.
    const start = await this.#ask(channels, "", false);
    if (!("messages" in start)) rejected.push(...channels.map((channel) => ({ channel, ...start })));
    else {
      /** @type {Start[]} */
      const heads = [];
      for (const message of start.messages) {
        if (message.type === "subscribed") {
          rejected.push(...(message.data?.rejected ?? []));
          heads.push(...(message.data?.positions ?? []));
        } else if (channels.some((name) => !since[name] && matches(name, message.channel ?? ""))) later.push(message);
      }
      /** @type {(name: string, from: string) => void} */
      const add = (name, from) => {
        const offset = offsetOf(from);
        this.#names.set(name, offset < Infinity ? offset : -1);
      };
      const join = async (/** @type {string} */ name) => {
        const head = heads.filter(({ channel }) => channel === name);
        if (!since[name]) {
          positions.push(...head);
          return add(name, start.position);
        }
        // What it has missed may be more than the stream would replay for the old names.
        const found = await this.#catchUp(name, since[name]);
        if (!("messages" in found)) return rejected.push({ channel: name, ...found });
        later.push(...found.messages.filter(({ type }) => type !== "gap"));
        if (found.messages.some(({ type }) => type === "gap")) positions.push(...head.map((each) => ({ ...each, recovered: false })));
        else positions.push({ ...since[name], channel: name, recovered: true });
        return add(name, offsetOf(found.position) > offsetOf(start.position) ? found.position : start.position);
      };
      const isRejected = (/** @type {string} */ name) => rejected.some(({ channel }) => channel === name);
      await Promise.all(channels.filter((name) => !isRejected(name)).map(join));
      this.#goBack(start.position);
    }
    this.#waiting = [];
    if (this.#names.size) await this.#read();
    const held = channels.filter((name) => this.#names.has(name));
    const data = { channels: held, active_subscriptions: this.#names.size, rejected, positions };
    this.#hear({ type: "subscribed", ...(id && { id }), data });
    const place = (/** @type {Message} */ { position, latest }) => (latest ? -1 : (position?.offset ?? -1));
    later.sort((one, other) => place(one) - place(other));
    // Names that overlap were asked one by one.
    for (const message of later.filter((each, i) => place(each) < 0 || place(each) !== place(later[i - 1] ?? {}))) this.#hear(message);
    const waiting = this.#waiting;
    this.#waiting = undefined;
    for (const message of waiting) this.#hear(message);
    return undefined;
  }

  /** All that a name has missed. @type {(name: string, since: Position & { strict?: boolean }) => Promise<Answer>} */
  async #catchUp(name, since) {
    /** @type {Message[]} */
    const messages = [];
    for (let position = textOf(since); ; ) {
      const answer = await this.#ask([name], position, !!since.strict);
      if (!("messages" in answer)) return answer;
      messages.push(...answer.messages);
      if (answer.messages.length < LIMIT) return { messages, position: answer.position };
      position = answer.position;
    }
  }

  /** What comes after an older position comes, too; the session drops what it has. @param {string} position */
  #goBack(position) {
    if (!this.#position || offsetOf(position) < offsetOf(this.#position)) this.#position = position;
  }

  /** @type {(names: string[], since: string, isStrict: boolean) => Promise<Answer>} */
  async #ask(names, since, isStrict) {
    const more = since ? [["since", since], ["strict", isStrict ? "1" : "0"], ["limit", `${LIMIT}`]] : [];
    const answer = await this.#fetch("poll", {}, [...names.map((name) => ["channel", name]), ["wait", "0"], ...more]);
    const { messages, position, code, message } = await answer.json();
    if (!answer.ok && (answer.status === 401 || answer.status >= 429)) throw new Error(message);
    return answer.ok ? { messages, position } : { code, message };
  }

  /** @returns {Reading} */
  #newReading() {
    const reading = { stop: new AbortController(), names: [...this.#names.keys()], ahead: [], owed: [] };
    this.#readings.push(reading);
    return reading;
  }

  /** Read on from the position with the names as they are now. */
  async #read() {
    // Browsers open few connections: no third stream.
    this.#supersede(this.#readings.at(-1));
    const reading = this.#newReading();
    await (isBuffered ? this.#poll(reading) : this.#stream(reading));
    if (isBuffered || this.#readings.length < 2) return this.#supersede(this.#readings.at(-1));
    const end = setTimeout(() => {
      this.#supersede(reading);
      reading.owed = [];
    }, OVERLAP);
    return this.#end.signal.addEventListener("abort", () => clearTimeout(end));
  }

  /** A stream takes the place of those before it. @param {Reading} [reading] */
  #supersede(reading) {
    if (!reading || !this.#readings.includes(reading)) return;
    for (const { stop } of this.#readings.splice(0, this.#readings.indexOf(reading))) stop.abort();
    for (const [text, message] of reading.ahead.splice(0)) this.#takeOnce(message, text, reading);
  }

  /** A reading has ended; one that has a successor is no loss. @param {Reading} reading @param {number} code @param {string} reason */
  #ended(reading, code, reason) {
    const at = this.#readings.indexOf(reading);
    if (at === this.#readings.length - 1) return this.#lose(code, reason);
    reading.stop.abort();
    return this.#supersede(this.#readings[at + 1]);
  }

  /** @returns {string[][]} */
  #query() {
    return [...[...this.#names.keys()].map((name) => ["channel", name]), ...(this.#position ? [["since", this.#position]] : [])];
  }

  /** @param {Reading} reading @returns {Promise<void>} */
  #stream(reading) {
    const { signal } = reading.stop;
    return new Promise((resolve, reject) => {
      let hasBegun = false;
      const end = () => reading.stop.abort();
      const impatience = setTimeout(async () => {
        // Something on the way holds the stream back until it ends.
        isBuffered = true;
        end();
        this.#poll(this.#newReading()).then(resolve, reject);
      }, PATIENCE);
      const run = async () => {
        const answer = await this.#fetch("events", { signal, headers: { accept: "text/event-stream" } }, this.#query());
        if (!answer.ok) {
          const { message } = await answer.json();
          return this.#lose(closeCodeOf(answer.status), `${message}`);
        }
        const reader = /** @type {ReadableStream<Uint8Array>} */ (answer.body).getReader();
        const decoder = new TextDecoder();
        let text = "";
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return this.#ended(reading, 1006, "the stream was cut");
          this.#heardAt = Date.now();
          const parts = (text + decoder.decode(value, { stream: true })).split("\n\n");
          text = /** @type {string} */ (parts.pop());
          for (const part of parts) {
            const fields = part.split("\n");
            const data = fields.find((line) => line.startsWith("data: "));
            const message = /** @type {Message} */ (data && JSON.parse(data.slice(6)));
            if (message) this.#take(message, reading, data);
            const id = fields.find((line) => line.startsWith("id: "));
            if (id && reading === this.#readings.at(-1)) this.#position = id.slice(4);
            if (message?.type !== "subscribed") continue;
            hasBegun = true;
            clearTimeout(impatience);
            resolve();
          }
        }
      };
      this.#end.signal.addEventListener("abort", end);
      run()
        .catch((error) => signal.aborted || this.#ended(reading, 1006, `${error}`))
        .finally(() => {
          this.#end.signal.removeEventListener("abort", end);
          clearTimeout(impatience);
          if (!hasBegun && !signal.aborted) reject(new Error("the stream has not begun"));
        });
    });
  }

  /** @param {Reading} reading */
  async #poll(reading) {
    const { signal } = reading.stop;
    const once = async () => {
      const answer = await this.#fetch("poll", { signal }, [...this.#query(), ["wait", "25"]]);
      const { messages, position, message } = await answer.json();
      if (!answer.ok) throw Object.assign(new Error(message), { status: answer.status });
      this.#heardAt = Date.now();
      for (const each of /** @type {Message[]} */ (messages)) this.#take(each, reading);
      if (reading === this.#readings.at(-1)) this.#position = position;
    };
    const go = async () => {
      try {
        while (!signal.aborted) await once();
      } catch (error) {
        const { status = 0 } = /** @type {{ status?: number }} */ (error);
        if (!signal.aborted) this.#lose(closeCodeOf(status), `${error}`);
      }
    };
    if (!this.#position) await once();
    this.#heardAt = Date.now();
    go();
  }

  /** @param {Message} message @param {Reading} reading @param {string} [text] */
  #take(message, reading, text) {
    const { type, channel = "", position, data } = message;
    if (reading.stop.signal.aborted) return undefined;
    if (type === "close") {
      const { code, reason = "", retry } = message;
      return this.#ended(reading, +(code ?? 1006), retry === undefined || /retry=/.test(reason) ? reason : `${reason}; retry=${retry}`);
    }
    if (type === "subscribed" || type === "connected") return undefined;
    if (type === "unsubscribed") for (const name of data?.channels ?? []) this.#names.delete(name);
    // New names began later than the stream, which goes on for the old ones.
    const isOld = position && [...this.#names].every(([name, from]) => !matches(name, channel) || position.offset <= from);
    if (type === "event" && isOld) return undefined;
    if (type === "event" && !position && text) return this.#takeOnce(message, text, reading);
    return this.#pass(message, reading);
  }

  /**
   * Take an event that has no position from the first stream that brings its channel; each stream brings it
   * with the same text.
   * @param {Message} message @param {string} text @param {Reading} reading
   */
  #takeOnce(message, text, reading) {
    /** @type {(each: Reading) => boolean} */
    const brings = ({ names }) => names.some((name) => matches(name, message.channel ?? ""));
    const at = this.#readings.indexOf(reading);
    if (reading.owed.includes(text)) {
      reading.owed.splice(reading.owed.indexOf(text), 1);
      return this.#supersede(reading);
    }
    if (this.#readings.slice(0, at).some(brings)) return reading.ahead.push([text, message]);
    this.#pass(message, reading);
    for (const later of this.#readings.slice(at + 1).filter(brings)) {
      const found = later.ahead.findIndex(([each]) => each === text);
      if (found < 0) later.owed.push(text);
      else {
        later.ahead.splice(found, 1);
        this.#supersede(later);
      }
    }
    return undefined;
  }

  /** @param {Message} message @param {Reading} reading */
  #pass(message, reading) {
    // The session takes nothing for names that are not confirmed yet.
    if (this.#waiting && reading === this.#readings.at(-1)) this.#waiting.push(message);
    else this.#hear(message);
  }
}
