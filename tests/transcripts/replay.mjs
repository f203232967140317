// Replays transcripts against the JavaScript client's session; README.md has the format.
//
// Reads a list of transcripts from standard input, and writes for each what differs, or null.

import { text } from "node:stream/consumers";
import { isDeepStrictEqual } from "node:util";
import { makeSession } from "../../src/wsbus/web/source/session.js";
import * as states from "../../src/wsbus/web/source/states.js";

const START = 1_000_000;

/** A code of the server, of this client, or of the end of the connection. */
const codeOf = ({ code }) => {
  if ([4401, 4500].includes(code)) return "UNAUTHENTICATED";
  return typeof code === "number" ? "CONNECTION_LOST" : code;
};

const endOf = (error) => {
  if (error.message.startsWith("gave up")) return "GAVE_UP";
  return codeOf(error) === "CONNECTION_LOST" ? error.code : codeOf(error);
};

const requestOf = ({ do: what, action, params = {}, channel, event = "message", data, idempotency_key }) => {
  if (what === "client.command") return { type: "command", action, params };
  if (what === "client.publish") {
    const publish = { type: "publish", channel, event, data };
    return idempotency_key ? { ...publish, idempotency_key } : publish;
  }
  return { type: "get_status" };
};

/** A frame as text: a message, several messages, or a text as it is. */
const textOf = (frame) => {
  if (typeof frame === "string") return frame;
  return (Array.isArray(frame) ? frame : [frame]).map((message) => JSON.stringify(message)).join("\n");
};

class Client {
  #session;
  #said = [];
  #told = [];
  #isConnected = false;
  #isKnown = false; // There was a connection before.
  #goesOn; // Also if the first attempt fails; `wsbus.js` always does.
  #generation = 0;
  #now = START;

  constructor({ token = null, fetches = false, in_handshake = false, ping_interval, ping_timeout, retry, chance = 0.5 }) {
    const { first = false, ...limits } = retry ?? {};
    this.#goesOn = first;
    const options = {
      token,
      isFetched: fetches,
      inHandshake: in_handshake,
      greets: true,
      retry: { base: 1000, cap: 30_000, attempts: Infinity, ...limits },
      interval: ping_interval ?? 15_000,
      timeout: ping_timeout ?? 20_000,
      connectTimeout: 10_000,
    };
    this.#session = makeSession(options, () => chance, () => false);
  }

  take(step, at) {
    const { say, tell, state, ...rest } = step;
    delete rest.at;
    if (say === "client") return this.#compare("says", this.#said, rest);
    if (tell === "client") return this.#compare("tells", this.#told, rest);
    if (state === "client" && this.#session.state !== states[step.is.toUpperCase()]) {
      throw new Error(`its state is ${this.#session.state}`);
    }
    if (step.do) this.finish(); // What is said at one moment may cross on its way.
    if (step.do || say) {
      this.#now = START + at;
      this.#happen(step);
    }
    return undefined;
  }

  finish() {
    const left = this.#said[0] ?? this.#told[0];
    if (left) throw new Error(`before this it says, or tells ${JSON.stringify(left)}`);
  }

  #compare(verb, queue, expected) {
    const found = queue.shift();
    if (!isDeepStrictEqual(found, expected)) throw new Error(`it ${verb} ${JSON.stringify(found)}`);
  }

  #happen(step) {
    const { pattern, holder, key, since } = step;
    switch (step.do ?? step.say) {
      case "client.connect":
        return this.#handle("connect");
      case "client.close":
        return this.#handle("close");
      case "client.subscribe":
        return this.#change("subscribe", pattern, holder, since);
      case "client.unsubscribe":
        return this.#change("unsubscribe", pattern, holder);
      case "client.command":
      case "client.publish":
      case "client.status":
        return this.#handle("request", key, requestOf(step), step.idempotent);
      case "client.token":
        return this.#handle("token", this.#generation, step.token);
      case "client.time":
        return this.#time();
      case "network.open":
        this.#isConnected = true;
        return this.#handle("opened");
      case "network.lost":
        return this.#lost(1006, "");
      case "server":
        return "close" in step ? this.#lost(step.close, step.reason) : this.#hear(textOf(step.frame));
    }
  }

  #time() {
    // A rounding error is no other moment.
    if (this.#session.deadline > this.#now + 1e-3) {
      throw new Error(`its time is ${this.#session.deadline - START} ms`);
    }
    this.#handle("deadline");
  }

  /** What a turn has changed is said at its end. */
  #change(type, pattern, holder, since) {
    this.#handle(type, pattern, holder, since);
    if (this.#session.deadline <= this.#now) this.#handle("deadline");
  }

  #lost(code, reason) {
    this.#isConnected = false;
    this.#handle("lost", code, reason);
  }

  #hear(frame) {
    for (const line of frame.split("\n")) {
      const message = JSON.parse(line);
      if (message.type !== "event") {
        this.#handle("heard", message);
        continue;
      }
      const { channel, event, timestamp, data, latest } = message;
      const holders = [...this.#session.receive(message).holders].sort();
      const more = latest ? { latest } : {};
      if (holders.length) this.#told.push({ what: "event", holders, channel, event, timestamp, data, ...more });
    }
  }

  #handle(...input) {
    for (const action of this.#session.handle(this.#now, ...input)) this.#perform(...action);
  }

  #perform(type, ...details) {
    const [first] = details;
    switch (type) {
      case "say":
        return this.#said.push({ frame: JSON.parse(first) });
      case "dial":
        return this.#said.push({ dial: first === null ? {} : { token: first } });
      case "hangUp":
        return this.#isConnected && this.#said.push({ close: 1000 });
      case "cut":
        return this.#said.push({ close: null });
      case "fetchToken":
        this.#generation = first;
        return this.#told.push({ what: "token" });
      case "answer": {
        const [key, error, data] = details;
        if (error) return this.#told.push({ what: "failed", key, code: codeOf(error) });
        return this.#told.push({ what: "answer", key, data });
      }
      case "confirm":
        return this.#told.push({ what: "confirmed", holder: first });
      case "dismiss":
        return this.#told.push({ what: "dismissed", holder: first, code: codeOf(details[1]) });
      case "lose": {
        const [holder, lost, cause, channels] = details;
        const named = channels?.map((each) => [each.channel, each.lost ?? null]);
        const more = named?.length ? { channels: Object.fromEntries(named) } : {};
        return this.#told.push({ what: "missed", holder, lost, cause, ...more });
      }
      case "tellConnected": {
        const [again, connection_id, subject] = details;
        this.#isKnown = true;
        return this.#told.push({ what: "connected", connection_id, subject, again });
      }
      case "tellReconnecting": {
        const [attempt, delay, error] = details;
        if (!this.#isKnown && !this.#goesOn) return this.#handle("close", error);
        return this.#told.push({ what: "reconnecting", attempt, delay: Math.round(delay) });
      }
      case "tellRefreshFailed":
        return this.#told.push({ what: "refresh_failed" });
      case "stop":
        return this.#told.push(first ? { what: "ended", code: endOf(first) } : { what: "ended" });
    }
  }
}

const replay = ({ client = {}, steps }) => {
  let at = 0;
  let number = 0;
  try {
    const player = new Client(client);
    for (const step of steps) {
      number += 1;
      at = step.at ?? at;
      player.take(step, at);
    }
    player.finish();
    return null;
  } catch (error) {
    return `step ${number}, ${JSON.stringify(steps[number - 1])}: ${error.message}`;
  }
};

process.stdout.write(JSON.stringify(JSON.parse(await text(process.stdin)).map(replay)));
