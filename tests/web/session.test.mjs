// The session of the client: pure, so that every state and every order of inputs can be tried.
import assert from "node:assert/strict";
import { test } from "node:test";

import { ClientSession } from "../../src/wsbus/web/source/session.js";
import { NEXT, STATES, TABLE } from "../../src/wsbus/web/source/states.js";

const HELLO = { type: "connected", timestamp: 0, data: { connection_id: "c", subject: "u1" } };
const heard = (message) => ({ type: "heard", message: { timestamp: 0, data: {}, ...message } });
const subscribed = (id, channels, more = {}) => heard({ type: "subscribed", id, data: { channels, ...more } });
const make = (options = {}, chance = () => 0.5) => new ClientSession({ retry: { first: true }, ...options }, chance);

/** A session that inputs have brought to a state; `now` is 0 for all of them. */
const IN = {
  waiting: () => make(),
  fetching: () => after(make({ isFetched: true }), { type: "connect" }),
  dialling: () => after(make(), { type: "connect" }),
  greeting: () => after(IN.dialling(), { type: "opened" }),
  open: () => after(IN.greeting(), heard(HELLO)),
  ended: () => after(make(), { type: "close" }),
};

function after(session, ...inputs) {
  for (const input of inputs) session.handle(input, 0);
  return session;
}

/** The types of the actions, with the messages that are said. */
const brief = (actions) => actions.map((action) => (action.type === "say" ? JSON.parse(action.text).type : action.type));

/** One of each input. */
const INPUTS = {
  connect: {},
  pause: {},
  close: {},
  subscribe: { pattern: "a", holder: "h" },
  unsubscribe: { pattern: "a", holder: "h" },
  request: { key: "k", message: { type: "command", action: "x" } },
  forget: { key: "k" },
  opened: {},
  failed: { error: { code: 1006, message: "no" } },
  lost: { code: 1006, reason: "" },
  token: { generation: 1, token: "t" },
  noToken: { generation: 1, why: "none" },
  heard: { message: { ...HELLO } },
  deadline: {},
  wake: {},
  check: {},
};

/** What each does in each state, at the time 10,000: `actions → next state`. */
const DOES = {
  //           waiting, fetching, dialling, greeting, open, ended
  connect: ["dial → dialling", "", "", "", "", "dial → dialling"],
  pause: ["hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "hangUp → waiting", "", ""],
  close: [...Array(5).fill("hangUp stop → ended"), " → ended"],
  subscribe: [" → waiting", " → fetching", " → dialling", " → greeting", "subscribe → open", "dismiss → ended"],
  unsubscribe: STATES.map((state) => ` → ${state}`),
  request: [" → waiting", " → fetching", " → dialling", " → greeting", "command → open", "answer → ended"],
  forget: STATES.map((state) => ` → ${state}`),
  opened: ["", "", " → greeting", "", "", ""],
  failed: ["", "", "tellReconnecting → waiting", "", "", ""],
  lost: ["", "", ...Array(3).fill("tellReconnecting → waiting"), ""],
  token: ["", "dial → dialling", "", "", " → open", ""],
  noToken: ["", "tellReconnecting → waiting", "", "", " → open", ""],
  heard: ["", "", "", "tellConnected → open", " → open", ""],
  deadline: [" → waiting", "", "cut → dialling", "cut → greeting", " → open", ""],
  wake: [" → waiting", "", "", "", "ping → open", " → ended"],
  check: ["", "", "", "", "ping → open", ""],
};

test("every input does in every state what the table says, and nothing where it is ignored", () => {
  assert.deepEqual(Object.keys(TABLE).sort(), Object.keys(INPUTS).sort());
  for (const [type, row] of Object.entries(TABLE)) {
    assert.equal(row.length, STATES.length);
    for (const [column, state] of STATES.entries()) {
      const session = IN[state]();
      assert.equal(session.state, state);
      const before = session.deadline;
      const actions = session.handle({ type, ...INPUTS[type] }, 10_000);
      const told = `${type} in ${state}`;
      if (row[column] === "-") {
        assert.equal(DOES[type][column], "", told);
        assert.deepEqual([actions, session.state], [[], state], told);
        if (state !== "open") assert.equal(session.deadline, before, told);
      } else assert.equal(`${brief(actions).join(" ")} → ${session.state}`, DOES[type][column], told);
    }
  }
});

test("an input that is none throws, and changes nothing", () => {
  for (const state of STATES) {
    const session = IN[state]();
    for (const type of ["", "open", "constructor", "__proto__", undefined, null, 5]) {
      assert.throws(() => session.handle({ type }, 0), TypeError);
    }
    assert.equal(session.state, state);
  }
});

test("every move is in the table, each to a state", () => {
  for (const [pair, next] of Object.entries(NEXT)) {
    assert.ok(STATES.includes(pair.split(" ")[0]) && STATES.includes(next), pair);
  }
});
