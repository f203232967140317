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

/** Who gets an event that is new for the client. */
function receivers(session, event) {
  const { holders, isNew } = session.receive(event);
  return isNew ? holders : undefined;
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
  renew: ["a"],
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
  began: ["a"],
  worked: [0],
};

/** What each does in each state, at the time 10,000: `actions → next state`. */
const DOES = {
  //           waiting, fetching, dialling, greeting, open, ended
  connect: ["dial → dialling", "", "", "", "", "dial → dialling"],
  pause: ["hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "", ""],
  close: [...Array(5).fill("hangUp stop → ended"), " → ended"],
  subscribe: [" → waiting", " → fetching", " → dialling", " → greeting", " → open", "dismiss → ended"],
  unsubscribe: STATES.map((state) => ` → ${state}`),
  renew: ["", "", "", "", " → open", ""],
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
  began: ["", "", "", "", " → open", ""],
  worked: ["", "", "", "", " → open", ""],
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

const at = (offset, epoch = "e") => ({ epoch, offset });
const start = (channel, offset, more = {}) => ({ channel, ...at(offset), ...more });
const event = (channel, offset, more = {}) => ({ channel, event: "e", timestamp: 0, data: offset, position: { ...at(offset), previous: 0 }, ...more });
const said = (actions) => actions.filter(([type]) => type === "say").map(([, text]) => JSON.parse(text));

/** Subscribe in an open session; returns what it said. */
function asks(session, pattern, holder, since) {
  session.handle(0, "subscribe", pattern, holder, since);
  return said(session.handle(0, "deadline"))[0];
}

/** A session that lost its connection and has the next one; returns all that it said. */
function allAgain(session) {
  after(session, ["lost", 1006, ""]);
  session.handle(session.deadline, "deadline");
  session.handle(2000, "opened");
  return said(session.handle(2000, ...heard(HELLO)));
}

/** The first of that. */
const again = (session) => allAgain(session)[0];

test("a name goes on at its mark, which the confirmation sets and each event moves", () => {
  const session = IN.open();
  const first = asks(session, "chat.*", "h");
  assert.equal(first.since, undefined);
  session.handle(0, ...subscribed(first.id, ["chat.*"], { positions: [start("chat.*", 5, { tag: "t" })] }));
  assert.deepEqual(session.position("chat.*"), { ...at(5), tag: "t" });
  assert.equal(session.position("chat.a"), undefined);
  assert.deepEqual(again(session).since, { "chat.*": { ...at(5), tag: "t" } });

  const second = again(session);
  session.handle(2000, ...subscribed(second.id, ["chat.*"], { positions: [start("chat.*", 5, { recovered: true })] }));
  assert.deepEqual(receivers(session, event("chat.a", 7)), ["h"]);
  assert.equal(receivers(session, event("chat.a", 7)), undefined);
  assert.equal(receivers(session, event("chat.b", 6)), undefined);
  assert.deepEqual(receivers(session, event("chat.a", 1, { position: at(1, "new") })), ["h"]);
  assert.deepEqual(again(session).since, { "chat.*": at(1, "new") });
});

test("handlers get once what patterns that overlap bring, whichever is confirmed first", () => {
  const session = IN.open();
  const names = [...Array(10).keys()].map((number) => `chat.${number}`);
  for (const name of [...names, "chat.*"]) {
    const { id } = asks(session, name, name);
    session.handle(0, ...subscribed(id, [name], { positions: [start(name, 5)] }));
  }
  const [first, second] = allAgain(session);
  assert.deepEqual([first.channels, second.channels], [names, ["chat.*"]]);
  const back = (name) => start(name, 5, { recovered: true });
  session.handle(2000, ...subscribed(first.id, names, { positions: names.map(back) }));
  assert.deepEqual(session.receive(event("chat.0", 6)), { holders: ["chat.0"], isNew: true });
  session.handle(2000, ...subscribed(second.id, ["chat.*"], { positions: [back("chat.*")] }));
  assert.deepEqual(session.receive(event("chat.0", 6)), { holders: ["chat.*"], isNew: false });
  assert.deepEqual(session.receive(event("chat.0", 7)), { holders: ["chat.0", "chat.*"], isNew: true });
});

test("handlers get what is older than another subscription", () => {
  const session = IN.open();
  session.handle(0, ...subscribed(asks(session, "chat.*", "h").id, ["chat.*"], { positions: [start("chat.*", 5)] }));
  session.receive(event("chat.a", 6));
  const { id } = asks(session, "chat.a", "i", at(3));
  session.handle(0, ...subscribed(id, ["chat.a"], { positions: [start("chat.a", 3, { recovered: true })] }));
  assert.deepEqual([4, 5, 6, 7].map((offset) => session.receive(event("chat.a", offset)).isNew), [true, true, false, true]);
});

test("a page hears of a gap only where something may be missing", () => {
  const gaps = ["lose", "tellGap"];
  for (const [positions, expected] of [
    [[start("a", 5, { recovered: true }), start("b", 5, { recovered: true })], []],
    [[start("a", 5, { recovered: true }), start("b", 9, { recovered: false })], gaps],
    [[start("a", 5, { recovered: true })], gaps],
    [undefined, ["lose", ...gaps]],
  ]) {
    const session = IN.open();
    asks(session, "a", "h");
    asks(session, "b", "i");
    for (const [id, name] of [["1", "a"], ["2", "b"]]) session.handle(0, ...subscribed(id, [name], { positions: [start(name, 5)] }));
    const { id, since } = again(session);
    assert.deepEqual(since, { a: at(5), b: at(5) });
    assert.deepEqual(brief(session.handle(2000, ...subscribed(id, ["a", "b"], { positions }))), expected);
  }
});

test("a subscription that begins at a position is strict until it has begun", () => {
  const session = IN.open();
  const strict = { "__proto__.a": { ...at(3), strict: true } };
  assert.equal(JSON.stringify(asks(session, "__proto__.a", "h", { ...at(3), previous: 2 }).since), JSON.stringify(strict));
  const { id, since } = again(session);
  assert.equal(JSON.stringify(since), JSON.stringify(strict));
  session.handle(2000, ...subscribed(id, ["__proto__.a"], { positions: [start("__proto__.a", 3, { recovered: true })] }));
  assert.deepEqual(receivers(session, event("__proto__.a", 4)), ["h"]);
  assert.equal(JSON.stringify(again(session).since), JSON.stringify({ "__proto__.a": at(4) }));
});

test("who wants a position that is lost is dismissed; for the others the name is asked for without it", () => {
  const lost = { channels: [], rejected: [{ channel: "a", code: "POSITION_LOST", message: "gone" }] };
  const alone = IN.open();
  const ask = asks(alone, "a", "h", at(3));
  const [[type, holder, error]] = alone.handle(0, ...subscribed(ask.id, [], lost));
  assert.deepEqual([type, holder, error.code], ["dismiss", "h", "POSITION_LOST"]);
  assert.equal(asks(alone, "a", "h").since, undefined);

  const shared = IN.open();
  const { id } = asks(shared, "a", "h", at(3));
  shared.handle(0, "subscribe", "a", "i");
  assert.deepEqual(brief(shared.handle(0, "subscribe", "a", "j", at(4))), ["dismiss"]);
  const actions = shared.handle(0, ...subscribed(id, [], lost));
  assert.deepEqual(actions[0].slice(0, 2), ["dismiss", "h"]);
  const [next] = said(actions);
  assert.deepEqual([next.channels, next.since], [["a"], undefined]);
  assert.deepEqual(shared.handle(0, ...subscribed(next.id, ["a"]))[0], ["confirm", "i"]);
});

test("the latest events are for names that have just begun, and move no mark", () => {
  const session = IN.open();
  const one = asks(session, "a.*", "h");
  session.handle(0, ...subscribed(one.id, ["a.*"], { positions: [start("a.*", 5)] }));
  const two = asks(session, "a.b", "i");
  session.handle(0, ...subscribed(two.id, ["a.b"], { positions: [start("a.b", 5)] }));
  assert.deepEqual(receivers(session, event("a.b", 4, { latest: true })), ["i"]);
  assert.deepEqual(receivers(session, event("a.b", 6)), ["h", "i"]);
  assert.deepEqual(session.position("a.b"), at(6));
});

test("positions count in how many names fit into a request", () => {
  const small = heard({ ...HELLO, data: { ...HELLO.data, max_message_bytes: 300 } });
  const session = after(IN.greeting(), small);
  for (const name of ["a", "b", "c"]) {
    const { id } = asks(session, name, name);
    session.handle(0, ...subscribed(id, [name], { positions: [start(name, 5)] }));
  }
  after(session, ["lost", 1006, ""]);
  session.handle(session.deadline, "deadline");
  session.handle(2000, "opened");
  const requests = said(session.handle(2000, ...small));
  assert.deepEqual(requests.map(({ channels }) => channels), [["a", "b"], ["c"]]);
  assert.deepEqual(requests.map(({ since }) => Object.keys(since)), [["a", "b"], ["c"]]);
});

test("a publication with a key is sent again after a cut, and says so; NOT_REPEATABLE is the cut of before", () => {
  const publish = { type: "publish", channel: "a", data: 1, idempotency_key: "k" };
  const refusal = { type: "response", success: false, error: { code: "NOT_REPEATABLE", message: "no" } };
  const cases = [[false, true], [true, undefined]];
  for (const [isIdempotent, retry] of cases) {
    const session = IN.open();
    const [first] = said(session.handle(0, "request", "p", publish, isIdempotent));
    assert.deepEqual(first, { ...publish, id: first.id });
    assert.ok(session.wasSent("p"));
    const second = again(session);
    assert.deepEqual(second, { ...publish, id: second.id, ...(retry && { retry }) });
    const third = again(session);
    assert.deepEqual(third, { ...second, id: third.id });
    const [limited] = [session.handle(2000, ...heard({ ...refusal, id: third.id, error: { code: "RATE_LIMITED", message: "" } }))];
    assert.deepEqual(brief(limited), []);
    assert.ok(session.wasSent("p"));
    const [fourth] = said(session.handle(session.deadline, "deadline"));
    const [[type, key, error]] = session.handle(3000, ...heard({ ...refusal, id: fourth.id }));
    assert.deepEqual([type, key, error.code], ["answer", "p", "CONNECTION_LOST"]);
  }
  const session = IN.open();
  const [{ id }] = said(session.handle(0, "request", "p", publish));
  assert.equal(session.handle(0, ...heard({ ...refusal, id }))[0][2].code, "NOT_REPEATABLE");
});

test("at the end all requests fail in the order in which they were made", () => {
  const session = IN.open();
  for (const key of ["a", "b", "c"]) session.handle(0, "request", key, { type: "command", action: "x" });
  session.handle(0, ...heard({ type: "response", id: "1", success: false, error: { code: "RATE_LIMITED", message: "" } }));
  assert.ok(!session.wasSent("a") && session.wasSent("b"));
  const failed = session.handle(0, "close").filter(([type]) => type === "answer");
  assert.deepEqual(failed.map(([, key]) => key), ["a", "b", "c"]);
});

test("events of the past name their channel", () => {
  const session = IN.open();
  const [{ id }] = said(session.handle(0, "request", "k", { type: "history", channel: "a" }, true));
  const { channel, ...past } = event("a", 3);
  const data = { channel, events: [past], position: at(3), more: false };
  assert.deepEqual(session.handle(0, ...heard({ type: "history", id, data }))[0], ["answer", "k", undefined, { ...data, events: [{ ...past, channel }] }]);
});

/** A server that keeps what is published, behind a network that cuts: what its subscribers get is checked. */
class Keeper {
  epoch = 0;
  log = []; // All that was published in this epoch; `kept` of it can still be read.
  kept = 0;
  wire = []; // On its way to the client.
  names = []; // Of this connection.
  holders = new Map(); // What each has got: the offset up to which nothing is missing, and the epoch.
  gaps = 0;

  constructor(seed) {
    this.chance = chances(seed);
    this.session = after(IN.greeting(), heard(HELLO));
    this.now = 0;
  }

  pick = World.prototype.pick;

  position(offset = this.log.length) {
    return { epoch: `e${this.epoch}`, offset };
  }

  give(...input) {
    const actions = this.session.handle(this.now, ...input);
    for (const [type, first] of actions) {
      if (type === "say") this.hear(JSON.parse(first));
      // Nothing came yet: it has everything up to the mark.
      const seen = this.holders.get(first);
      if (type === "confirm" && !seen.since) seen.since = this.session.position(seen.pattern);
      if (type === "lose") {
        this.gaps++;
        seen.since = this.session.position(seen.pattern);
      }
      if (type === "dismiss") this.holders.delete(first);
    }
  }

  matching(pattern) {
    return this.log.filter(({ channel }) => pattern === channel || pattern === "c.*");
  }

  hear({ type, channels, since = {}, id }) {
    if (type !== "subscribe") return;
    const positions = [];
    const rejected = [];
    const replay = new Set();
    for (const name of channels) {
      const from = since[name];
      const isKept = from && from.epoch === `e${this.epoch}` && this.matching(name).every(({ data }) => data <= from.offset || data > this.kept);
      if (from?.strict && !isKept) rejected.push({ channel: name, code: "POSITION_LOST", message: "gone" });
      else {
        this.names.push(name);
        positions.push({ channel: name, ...(isKept ? from : this.position()), ...(from && { recovered: isKept }) });
        if (isKept) for (const each of this.matching(name)) if (each.data > from.offset) replay.add(each.data);
      }
    }
    this.wire.push(["answer", { type: "subscribed", id, data: { channels: positions.map(({ channel }) => channel), rejected, positions } }]);
    for (const offset of [...replay].sort((one, other) => one - other)) this.wire.push(["event", this.log[offset - 1]]);
  }

  publish() {
    const offset = this.log.length + 1;
    const channel = this.pick(["c.a", "c.b", "c.c"]);
    this.log.push({ channel, event: "e", timestamp: 0, data: offset, position: this.position(offset) });
    if (this.names.some((name) => name === channel || name === "c.*")) this.wire.push(["event", this.log[offset - 1]]);
  }

  deliver() {
    const [kind, message] = this.wire.shift() ?? [];
    if (kind === "answer") this.give(...heard(message));
    if (kind !== "event") return;
    for (const holder of this.session.receive(message).holders) {
      const seen = this.holders.get(holder);
      const { epoch, offset } = message.position;
      assert.equal(seen.since.epoch, epoch, `${holder}: of another epoch, without a gap`);
      const next = this.matching(seen.pattern).find(({ data }) => data > seen.since.offset);
      assert.equal(offset, next.data, `${holder}: not the next one`);
      seen.since = message.position;
      assert.deepEqual(this.session.position(seen.pattern), this.position(offset));
    }
  }

  cut() {
    this.wire = [];
    this.names = [];
    this.give("lost", 1006, "");
    for (let n = this.pick([0, 1, 5]); n > 0; n--) this.publish();
    if (this.chance() < 0.3) this.kept = this.log.length - this.pick([0, 1, 3]);
    if (this.chance() < 0.1) [this.epoch, this.kept, this.log] = [this.epoch + 1, 0, []];
    this.now = Math.max(this.now, this.session.deadline);
    this.give("deadline");
    this.give("opened");
    this.give(...heard(HELLO));
  }

  subscribe(number) {
    const pattern = this.pick(["c.a", "c.b", "c.*"]);
    const since = this.chance() < 0.3 ? this.position(Math.max(0, this.log.length - this.pick([0, 2, 9]))) : undefined;
    this.holders.set(number, { pattern, since });
    this.give("subscribe", pattern, number, since);
    this.give("deadline");
  }
}

test("over any cuts, who subscribes gets all that is published, once and in order, or hears of a gap", () => {
  let [events, gaps] = [0, 0];
  for (let seed = 0; seed < 300; seed++) {
    const keeper = new Keeper(seed);
    try {
      for (let step = 0; step < 150; step++) {
        const what = keeper.pick(["publish", "publish", "publish", "deliver", "deliver", "deliver", "deliver", "cut", "subscribe"]);
        if (what === "cut" && keeper.chance() < 0.5) continue;
        keeper[what](step);
      }
      while (keeper.wire.length) keeper.deliver();
      for (const [holder, { pattern, since }] of keeper.holders) {
        const missing = keeper.matching(pattern).filter(({ data }) => data > since.offset);
        assert.deepEqual(missing, [], `${holder} did not get all`);
      }
    } catch (error) {
      error.message += ` (seed ${seed})`;
      throw error;
    }
    events += keeper.log.length;
    gaps += keeper.gaps;
  }
  assert.ok(events > 1000 && gaps > 50);
});
