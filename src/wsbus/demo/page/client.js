// A small client for the protocol `wsbus.v1`: enough for a page, short enough to read.
//
//   const bus = new BusClient(url);
//   bus.addEventListener("event", ({ detail }) => console.log(detail.channel, detail.data));
//   bus.connect();
//   await bus.subscribe(["prices.*"]);
//   const { data } = await bus.command("add", { a: 2, b: 3 });

const ANSWER_TIMEOUT = 30_000;
const PING_EVERY = 5_000;
const FIRST_DELAY = 500;
const LONGEST_DELAY = 15_000;

/** Whether a client that saw this close code should come again (4500-4999: do not). */
const mayReconnect = (code) =>
  ![1000, 1003, 1007].includes(code) && !(code >= 4500 && code <= 4999);

/**
 * Events: `state` ({name, ...}), `event` (a publication), `gap`, `frame` ({sent, text}),
 * `latency` (milliseconds).
 */
export class BusClient extends EventTarget {
  /** What is subscribed, or will be once there is a connection. */
  patterns = new Set();
  state = { name: "idle" };

  #url;
  #socket = null;
  #waiting = new Map();
  #nextId = 1;
  #attempt = 0;
  #retry = 0;
  #pinging = 0;

  constructor(url) {
    super();
    this.#url = url;
  }

  connect() {
    clearTimeout(this.#retry);
    if (this.#socket) return;
    this.#become({ name: "connecting" });
    const socket = new WebSocket(this.#url, ["wsbus.v1"]);
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#received(data);
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
  }

  /** Resolves with what the server accepted and what it rejected. */
  async subscribe(patterns) {
    for (const pattern of patterns) this.patterns.add(pattern);
    const { data } = await this.#ask({ type: "subscribe", channels: patterns });
    for (const { channel } of data.rejected ?? []) this.patterns.delete(channel);
    return { rejected: [], ...data };
  }

  async unsubscribe(patterns) {
    for (const pattern of patterns) this.patterns.delete(pattern);
    if (this.#isOpen) await this.#ask({ type: "unsubscribe", channels: patterns });
  }

  /** Resolves with the response, whether it succeeded or not; rejects if there is none. */
  command(action, params = {}) {
    return this.#ask({ type: "command", action, params });
  }

  get #isOpen() {
    return this.state.name === "open";
  }

  #ask(message) {
    if (!this.#isOpen) return Promise.reject(new Error("not connected"));
    const id = `m${this.#nextId++}`;
    const asked = performance.now();
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(id);
        reject(new Error("no answer within 30 s"));
      }, ANSWER_TIMEOUT);
      this.#waiting.set(id, (answer, error) => {
        clearTimeout(timer);
        if (error) reject(error);
        else resolve({ ...answer, milliseconds: performance.now() - asked });
      });
      this.#send({ ...message, id });
    });
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const text = JSON.stringify(message);
    this.#socket.send(text);
    this.#tell("frame", { sent: true, text });
  }

  #received(text) {
    this.#tell("frame", { sent: false, text });
    // One frame may hold several messages, one a line.
    for (const line of text.split("\n")) {
      if (line) this.#understand(JSON.parse(line));
    }
  }

  #understand(message) {
    switch (message.type) {
      case "event":
        return this.#tell("event", message);
      case "gap":
        return this.#tell("gap", message.data);
      case "ping":
        return this.#send({ type: "pong", id: message.id });
      case "connected":
        return this.#opened(message.data);
    }
    const answer = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.type === "error") answer?.(null, new Error(message.error.message));
    else answer?.(message);
  }

  #opened(terms) {
    this.#attempt = 0;
    this.#become({ name: "open", id: terms.connection_id });
    if (this.patterns.size) this.subscribe([...this.patterns]).catch(() => {});
    this.#ping();
    this.#pinging = setInterval(() => this.#ping(), PING_EVERY);
  }

  /** Measures the way there and back; a server that does not answer is given up. */
  async #ping() {
    const socket = this.#socket;
    const patience = setTimeout(() => socket === this.#socket && this.#lose(), 2 * PING_EVERY);
    try {
      this.#tell("latency", (await this.#ask({ type: "ping" })).milliseconds);
    } catch {
      // Closed meanwhile, which says it all.
    } finally {
      clearTimeout(patience);
    }
  }

  /** A dead network never completes a closing handshake, so do not wait for one. */
  #lose() {
    const socket = this.#socket;
    socket.onmessage = socket.onclose = null;
    socket.close();
    this.#closed(1006, "the server does not answer");
  }

  #closed(code, reason) {
    this.#socket = null;
    clearInterval(this.#pinging);
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const answer of waiting) answer(null, new Error("the connection was lost"));
    if (!mayReconnect(code)) return this.#become({ name: "closed", code, reason });
    // Full jitter on the upper half, so that a thousand pages do not come back at once.
    const ceiling = Math.min(FIRST_DELAY * 2 ** this.#attempt++, LONGEST_DELAY);
    const delay = ceiling * (0.5 + Math.random() / 2);
    this.#become({ name: "waiting", code, reason, until: Date.now() + delay });
    this.#retry = setTimeout(() => this.connect(), delay);
  }

  #become(state) {
    this.state = state;
    this.#tell("state", state);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
