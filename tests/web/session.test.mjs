// The session of the client: pure, so that every state and every order of inputs can be tried.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ConnectionError } from "../../src/wsbus/web/source/errors.js";
import { makeSession } from "../../src/wsbus/web/source/session.js";
import { DIALLING, ENDED, FETCHING, GREETING, OPEN, TABLE, WAITING } from "../../src/wsbus/web/source/states.js";

const NUMBERS = { waiting: WAITING, fetching: FETCHING, dialling: DIALLING, greeting: GREETING, open: OPEN, ended: ENDED };
const STATES = Object.keys(NUMBERS);
const stateOf = (session) => STATES.find((state) => NUMBERS[state] === session.state);
const takes = (type, state) => TABLE[type] & NUMBERS[state];

const HELLO = { type: "connected", timestamp: 0, data: { connection_id: "c", subject: "u1" } };
const heard = (message) => ["heard", { timestamp: 0, data: {}, ...message }];
const subscribed = (id, channels, more = {}) => heard({ type: "subscribed", id, data: { channels, ...more } });
const OPTIONS = {
  token: null, isFetched: false, inHandshake: false, greets: true, interval: 15_000, timeout: 20_000, connectTimeout: 10_000,
};
const RETRY = { base: 1000, cap: 30_000, attempts: Infinity };
const REFUSED = new ConnectionError(4510, "no");
const make = (options = {}, chance = () => 0.5, isOffline = () => false) =>
  makeSession({ ...OPTIONS, retry: RETRY, ...options }, chance, isOffline);

/** A session that inputs have brought to a state; `now` is 0 for all of them. */
const IN = {
  waiting: () => make(),
  fetching: () => after(make({ isFetched: true }), ["connect"]),
  dialling: () => after(make(), ["connect"]),
  greeting: () => after(IN.dialling(), ["opened"]),
  open: () => after(IN.greeting(), heard(HELLO)),
  ended: () => after(make(), ["close"]),
};

function after(session, ...inputs) {
  for (const input of inputs) session.handle(0, ...input);
  return session;
}

/** The types of the actions, with the messages that are said. */
const brief = (actions) => actions.map(([type, first]) => (type === "say" ? JSON.parse(first).type : type));

/** One of each input. */
const INPUTS = {
  connect: [],
  pause: [],
  close: [],
  subscribe: ["a", "h"],
  unsubscribe: ["a", "h"],
  request: ["k", { type: "command", action: "x" }],
  forget: ["k"],
  opened: [],
  failed: [new ConnectionError(1006, "no")],
  lost: [1006, ""],
  token: [1, "t"],
  noToken: [1, "none"],
  heard: [HELLO],
  deadline: [],
  wake: [],
  check: [],
};

/** What each does in each state, at the time 10,000: `actions → next state`. */
const DOES = {
  //           waiting, fetching, dialling, greeting, open, ended
  connect: ["dial → dialling", "", "", "", "", "dial → dialling"],
  pause: ["hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "", ""],
  close: [...Array(5).fill("hangUp stop → ended"), " → ended"],
  subscribe: [" → waiting", " → fetching", " → dialling", " → greeting", " → open", "dismiss → ended"],
  unsubscribe: STATES.map((state) => ` → ${state}`),
  request: [" → waiting", " → fetching", " → dialling", " → greeting", "command → open", "answer → ended"],
  forget: STATES.map((state) => ` → ${state}`),
  opened: ["", "", " → greeting", "", "", ""],
  failed: ["", "", "tellReconnecting → waiting", "", "", ""],
  lost: ["", "", ...Array(3).fill("tellReconnecting → waiting"), ""],
  token: ["", "dial → dialling", "", "", " → open", ""],
  noToken: ["", "tellReconnecting → waiting", "", "", " → open", ""],
  heard: ["", "", "", "tellConnected → open", " → open", ""],
  deadline: [" → waiting", "tellReconnecting → waiting", "cut → dialling", "cut → greeting", " → open", ""],
  wake: [" → waiting", "", "", "", "ping → open", " → ended"],
  check: ["", "", "", "", "ping → open", ""],
};

test("every input does in every state what the table says, and nothing where it is ignored", () => {
  assert.deepEqual(Object.keys(TABLE).sort(), Object.keys(INPUTS).sort());
  for (const type of Object.keys(TABLE)) {
    for (const [column, state] of STATES.entries()) {
      const session = IN[state]();
      assert.equal(stateOf(session), state);
      const before = session.deadline;
      const actions = session.handle(10_000, type, ...INPUTS[type]);
      const told = `${type} in ${state}`;
      if (!takes(type, state)) {
        assert.equal(DOES[type][column], "", told);
        assert.deepEqual([actions, stateOf(session)], [[], state], told);
        if (state !== "open") assert.equal(session.deadline, before, told);
      } else assert.equal(`${brief(actions).join(" ")} → ${stateOf(session)}`, DOES[type][column], told);
    }
  }
});

test("an input that is none changes nothing", () => {
  for (const state of STATES) {
    const session = IN[state]();
    for (const type of ["", "open", "constructor", "__proto__"]) {
      assert.deepEqual(session.handle(0, type), []);
    }
    assert.equal(stateOf(session), state);
  }
});

/** Where each state leads, as in `core/client/states.py`; and what only a page does: to begin anew, and to stop trying. */
const NEXT = {
  waiting: ["fetching", "dialling", "ended", "waiting"],
  fetching: ["dialling", "waiting", "ended"],
  dialling: ["greeting", "waiting", "ended"],
  greeting: ["open", "waiting", "ended"],
  open: ["waiting", "ended"],
  ended: ["fetching", "dialling", "waiting"],
};

/** A generator of numbers from 0 up to 1 that gives the same each time (mulberry32). */
const chances = (seed) => () => {
  seed = (seed + 0x6d2b79f5) | 0;
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
};

/** A client, a network and a server that do anything in any order; they check the laws at each step. */
class World {
  now = 1000;
  socket = "none"; // none, dialling, open
  said = [];
  pending = new Map(); // Requests without an answer: how many answers each has got.
  wanted = new Map(); // Holders, by name: the pattern.
  keys = 0;
  generation = 0;

  constructor(seed) {
    this.chance = chances(seed);
    const options = {
      ...OPTIONS,
      isFetched: this.chance() < 0.3,
      token: this.chance() < 0.5 ? "t" : null,
      greets: this.chance() < 0.8,
      retry: { ...RETRY, attempts: this.pick([0, 1, 3, Infinity]) },
    };
    this.session = makeSession(options, this.chance, () => this.chance() < 0.1);
  }

  pick(list) {
    return list[Math.floor(this.chance() * list.length)];
  }

  give(...input) {
    const { session } = this;
    const [type] = input;
    const before = stateOf(session);
    const isDue = type === "deadline" && session.deadline <= this.now;
    const actions = session.handle(this.now, ...input);
    const after = stateOf(session);
    assert.ok(after === before || NEXT[before].includes(after), `${before} → ${after}`);
    assert.ok(!Number.isNaN(session.deadline));
    for (const action of actions) this.perform(...action);
    if (isDue) assert.ok(session.deadline > this.now, `${type} in ${before} leaves a timer in the past`);
    if (after === "ended") {
      assert.equal(session.deadline, Infinity);
      assert.equal(this.pending.size, 0, "a request without an answer");
      assert.equal(this.socket, "none");
    }
  }

  perform(type, first) {
    switch (type) {
      case "dial":
        assert.equal(this.socket, "none", "two sockets");
        this.socket = "dialling";
        break;
      case "say":
        assert.equal(this.socket, "open");
        this.said.push(JSON.parse(first));
        break;
      case "hangUp":
        this.socket = "none";
        break;
      case "cut":
        assert.notEqual(this.socket, "none");
        this.socket = "none";
        this.give("lost", 1006, "");
        break;
      case "fetchToken":
        this.generation = first;
        break;
      case "answer":
        assert.ok(this.pending.delete(first), "answered twice, or never asked");
        break;
      case "confirm":
      case "lose":
        assert.ok(this.wanted.has(first), "confirmed to one that wants nothing");
        break;
      case "dismiss":
        assert.ok(this.wanted.delete(first), "dismissed twice");
        break;
    }
  }

  /** The server answers one of the messages, or says something of its own. */
  answer() {
    const index = Math.floor(this.chance() * this.said.length);
    const [message] = this.said.splice(index, 1);
    const id = message?.id;
    const code = this.pick(["RATE_LIMITED", "INVALID_MESSAGE", "FORBIDDEN", "UNAUTHENTICATED"]);
    const error = { type: "error", id, error: { code, message: "no" } };
    const kinds = {
      auth: { type: "auth_result", id, success: this.chance() < 0.9, data: { subject: "u", expires_at: 60_000 }, error: error.error },
      subscribe: {
        type: "subscribed",
        id,
        data: { channels: (message?.channels ?? []).filter(() => this.chance() < 0.8), rejected: undefined },
      },
      unsubscribe: { type: "unsubscribed", id, data: { channels: message?.channels } },
      command: { type: "response", id, success: true, data: 1 },
      ping: { type: "pong", id },
    };
    const own = [
      HELLO, { type: "ping" }, { type: "gap", data: { lost: 2 } }, { type: "unsubscribed", data: { channels: ["a", "b"] } },
      { type: "connected", data: { connection_id: "c", messages_per_second: 5, max_names: 2, max_message_bytes: 300 } },
      { type: "gap", data: { lost: 3, channels: [{ channel: "a", lost: 3 }] } }, { type: "response", id: "77" },
      { type: "subscribed", data: {} }, { type: "nonsense" }, { type: "gap" }, { type: "connected" },
    ];
    const said = this.chance() < 0.2 ? error : (kinds[message?.type] ?? this.pick(own));
    this.give(...heard(said));
  }

  step() {
    this.now += this.pick([0, 0, 0, 1, 50, 1000, 20_000]);
    const pattern = this.pick(["a", "b", "a.*", "+"]);
    const [holder] = this.wanted.keys();
    switch (this.pick(["socket", "socket", "answer", "answer", "answer", "time", "time", "page", "page", "page", "rare"])) {
      case "socket":
        if (this.socket === "dialling" && this.chance() < 0.7) {
          this.socket = "open";
          this.said = [];
          this.give("opened");
        } else if (this.socket === "dialling") {
          this.socket = "none";
          this.give("failed", new ConnectionError(this.pick([1006, 4429, 4500]), "no"));
        } else if (this.socket === "open" && this.chance() < 0.2) {
          this.socket = "none";
          this.give("lost", this.pick([1000, 1001, 1006, 1009, 1011, 4401, 4429]), "");
        }
        break;
      case "answer":
        if (this.socket === "open") this.answer();
        break;
      case "time":
        if (this.session.deadline < Infinity) this.now = Math.max(this.now, this.session.deadline);
        this.give("deadline");
        break;
      case "page":
        if (this.chance() < 0.4) {
          const key = `k${this.keys++}`;
          this.pending.set(key, 0);
          const message = { type: this.pick(["command", "publish", "get_status"]), text: "x".repeat(this.pick([1, 400])) };
          this.give("request", key, message, this.chance() < 0.5);
        } else if (holder && this.chance() < 0.4) {
          const wanted = this.wanted.get(holder);
          this.wanted.delete(holder);
          this.give("unsubscribe", wanted, holder);
        } else {
          const name = `h${this.keys++}`;
          this.wanted.set(name, pattern);
          this.give("subscribe", pattern, name);
        }
        break;
      case "rare": {
        const [key] = this.pending.keys();
        const generation = this.generation - this.pick([0, 0, 1]);
        const [type, ...details] = this.pick([
          ["connect"], ["wake"], ["check"], ["token", generation, "n"], ["noToken", generation, "none"],
          ["forget", key], ["pause"], ["close"], ["close", REFUSED],
        ]);
        if (type === "close" && this.chance() < 0.7) break;
        if (type === "close" && !details.length) this.wanted.clear();
        if (type === "forget" && !this.pending.delete(key)) break;
        this.give(type, ...details);
        break;
      }
    }
  }
}

test("in any order of things there is one socket at most, no timer in the past, and one answer to each request", () => {
  const seen = new Set();
  for (let seed = 0; seed < 300; seed++) {
    const world = new World(seed);
    world.give("connect");
    try {
      for (let step = 0; step < 200; step++) {
        world.step();
        seen.add(stateOf(world.session));
      }
      world.wanted.clear();
      world.give("close");
    } catch (error) {
      error.message += ` (seed ${seed})`;
      throw error;
    }
    assert.equal(world.pending.size, 0);
  }
  assert.equal(seen.size, STATES.length);
});
