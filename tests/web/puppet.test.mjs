// The client with a server that misbehaves on purpose, and what it does alone.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { EventEmitter, once } from "node:events";
import process from "node:process";
import { after, afterEach, before, test } from "node:test";

import { channel, Client, CommandError, ConnectionError, escapeSegment, matches } from "../../src/wsbus/web/wsbus.js";
import { complaints, heard, start } from "./servers.mjs";

const retry = { base: 20, cap: 100 };
const opened = [];
let server;

before(async () => {
  server = await start("tests.web.puppet");
});
after(() => server.stop());
afterEach(() => {
  for (const client of opened.splice(0)) client.close();
});

const plan = (...steps) => `${server.url}?plan=${encodeURIComponent(JSON.stringify(steps))}`;

function make(url, options = {}) {
  const client = new Client(url, { retry, ...options });
  opened.push(client);
  return client;
}

async function connected(url, options) {
  const client = make(url, options);
  await client.connect();
  return client;
}

test("the wildcard rule is the server's", async () => {
  const path = new URL("../core/vectors/patterns.json", import.meta.url);
  for (const { pattern, matches: yes, other } of JSON.parse(await readFile(path, "utf8"))) {
    for (const channel of yes) assert.ok(matches(pattern, channel), `${pattern} ${channel}`);
    for (const channel of other) assert.ok(!matches(pattern, channel), `${pattern} ${channel}`);
  }
});

test("names from outside are spelled as the server spells them", async () => {
  const path = new URL("../core/vectors/channels.json", import.meta.url);
  const { forbidden, segments, valid, invalid, channels } = JSON.parse(await readFile(path, "utf8"));
  const made = (...names) => {
    try {
      return channel(...names);
    } catch (error) {
      assert.ok(error instanceof CommandError && error.code === "INVALID_CHANNEL", `${error}`);
      return null;
    }
  };
  for (const { text, segment } of segments) assert.equal(escapeSegment(text), segment);
  for (const name of valid) assert.equal(made(name), name);
  for (const name of invalid) assert.equal(made(name), null, JSON.stringify(name));
  for (const { head, names, channel: expected } of channels) assert.equal(made(head, ...names), expected);
  const ranges = forbidden.map((range) => range.map((code) => Number.parseInt(code, 16)));
  for (let code = 0; code <= 0x10ffff; code++) {
    const isForbidden = ranges.some(([first, last]) => code >= first && code <= last);
    const char = String.fromCodePoint(code);
    const escaped = escapeSegment(`x${char}`);
    const isEscaped = escaped !== `x${char}`;
    if (isEscaped !== (isForbidden || "%.*".includes(char))) assert.fail(`U+${code.toString(16)}: ${escaped}`);
  }
  assert.throws(() => channel("user", 5), TypeError);
});

test("a wrong address is refused with words, at once", async () => {
  for (const url of ["ftp://example.org", "javascript:alert(1)", "http://"]) {
    assert.throws(() => new Client(url), /no wss:\/\/ or ws:\/\/ URL/);
  }
  // Which page a path belongs to is known when it connects: the module may be rendered on a server.
  for (const url of ["", "nonsense", "/path/without/page"]) {
    const client = make(url);
    await assert.rejects(client.connect(), /no wss:\/\/ or ws:\/\/ URL/);
    assert.equal(client.state, "idle");
  }
  new Client("https://example.org/ws#part");
});

test("where there is no WebSocket, a client is made, and connecting says what is missing", async () => {
  const kept = globalThis.WebSocket;
  try {
    delete globalThis.WebSocket;
    const client = make(plan());
    await assert.rejects(client.connect(), /pass the option WebSocket/);
    assert.equal(client.state, "idle");
    await connected(plan(), { WebSocket: kept });
    globalThis.WebSocket = kept;
    await client.connect();
  } finally {
    globalThis.WebSocket = kept;
  }
});

test("what no server would send is borne", async () => {
  const junk = [
    "not json", "", "null", "1", '"text"', "[]", "[[[]]]", "{}", '{"type": null}', '{"type": "__proto__"}',
    '{"type": "constructor", "id": "constructor"}', '{"type": "event"}', '{"type": "event", "channel": 5}',
    '{"type": "event", "channel": "x"}', '{"type": "event", "channel": "", "data": 1}', '{"type": "gap"}',
    '{"type": "subscribed", "id": "1001"}', '{"type": "subscribed", "id": "__proto__", "data": {}}',
    '{"type": "unsubscribed"}', '{"type": "unsubscribed", "data": {"channels": ["x", 5]}}',
    '{"type": "response", "id": "77", "success": true}', '{"type": "auth_result"}', '{"type": "connected"}',
    '{"type": "error"}', '{"type": "error", "error": null}', '{"type": "error", "error": {"code": 5}}',
    '{"__proto__": {"type": "event"}, "type": "pong"}', '{"type": "event", "channel": "__proto__", "data": {"__proto__": {"bad": 1}}}',
    '{"type": "pong"}\n{"type": "pong"}\n', "\n\n", '{"type": "ping"}{"type": "ping"}', { bytes: "binary" },
  ];
  const client = make(plan(...junk));
  const told = complaints(client);
  client.on("*", () => {});
  const events = client.events;
  await client.connect();
  const reading = events.call(client, "__proto__");
  assert.deepEqual(await client.command("echo", { a: 1 }), { a: 1 });
  await client.command("play", junk, { timeout: 100 }).catch(() => {});
  assert.deepEqual(await client.command("echo", { a: 2 }), { a: 2 });
  assert.equal((await reading.next()).value.channel, "__proto__");
  assert.equal({}.bad, undefined);
  assert.equal({}.type, undefined);
  assert.ok(told.length > 10);
  assert.equal(client.state, "connected");
});

test("an answer that comes twice is one answer", async () => {
  const client = await connected(plan());
  const twice = '{"type":"response","id":"1","success":true,"data":1}\n{"type":"response","id":"1","success":true,"data":2}';
  assert.equal(await client.command("play", [twice]), 1);
  assert.equal(await client.command("echo", 3), 3);
});

test("no event before its confirmation goes to an iterator", async () => {
  const early = '{"type":"event","channel":"a","event":"e","timestamp":1,"data":"early"}';
  const late = early.replace("early", "late");
  const client = await connected(plan(early));
  const events = client.events("a");
  await client.subscribe("a");
  client.command("play", [late]).catch(() => {});
  assert.equal((await events.next()).value.data, "late");
});

test("a gap is told, and stands where events are missing", async () => {
  const event = (data) => JSON.stringify({ type: "event", channel: "a", event: "e", timestamp: 1, data });
  const client = await connected(plan());
  const gap = heard(client, "gap");
  const events = client.events("a");
  await client.subscribe("a");
  const gaps = '{"type":"gap","timestamp":1,"data":{"lost":3}}';
  client.command("play", [`${event(1)}\n${gaps}\n${event(2)}`, event(3)]).catch(() => {});
  const read = [await events.next(), await events.next(), await events.next()];
  assert.deepEqual(read.map(({ value }) => [value.data, value.gap]), [[1, undefined], [2, { lost: 3, cause: "server" }], [3, undefined]]);
  assert.deepEqual(await gap, { lost: 3, cause: "server" });
});

test("positions, and the channels of a gap, are passed on as far as the server tells them", async () => {
  const event = (data, more) => JSON.stringify({ type: "event", channel: "a.b", event: "e", timestamp: 1, data, ...more });
  const gap = (data) => JSON.stringify({ type: "gap", timestamp: 1, data });
  const position = { epoch: "x", offset: 5 };
  const channels = [{ channel: "a.b", lost: 2, position }, { channel: "a.c" }, { channel: "z", lost: 3 }];
  const client = await connected(plan());
  const gaps = [];
  client.addEventListener("gap", ({ detail }) => gaps.push(detail));
  const [all, one, none] = [client.events("a.*"), client.events("a.b"), client.events("y")];
  await client.subscribe(["a.*", "a.b", "y"]);
  const said = [gap({ lost: null, channels }), event(1, { position }), event(2), event(3).replaceAll("a.b", "y")];
  client.command("play", said).catch(() => {});
  const [first, second] = [(await all.next()).value, (await all.next()).value];
  assert.deepEqual([first.position.epoch, first.position.offset, second.position], ["x", 5, undefined]);
  assert.deepEqual([first.gap.lost, first.gap.cause, second.gap], [null, "server", undefined]);
  assert.deepEqual([...first.gap.channels], [["a.b", { lost: 2, position }], ["a.c", { lost: null }]]);
  assert.deepEqual((await one.next()).value.gap, { lost: 2, cause: "server", channels: new Map([["a.b", { lost: 2, position }]]) });
  assert.equal((await none.next()).value.gap, undefined); // It misses nothing.
  assert.deepEqual(gaps.map(({ lost, channels }) => [lost, channels.size]), [[null, 3]]);
});

test("pings are answered, and sent; a server that falls silent is left", async () => {
  const client = await connected(plan('{"type":"ping","timestamp":1}'), { heartbeat: { interval: 50, timeout: 400 } });
  await new Promise((resolve) => setTimeout(resolve, 400)); // Several heartbeats.
  assert.equal(client.state, "connected");
  const types = (await client.command("log")).at(-1).map(({ type }) => type);
  assert.equal(types[0], "pong");
  assert.ok(types.filter((type) => type === "ping").length >= 3, `${types}`);

  const lost = heard(client, "reconnecting");
  client.command("play", [{ mute: true }]).catch(() => {});
  assert.match((await lost).error.message, /did not answer within 400 ms/);
  await client.connect();
});

test("a server that accepts and says nothing is given up", async () => {
  const heartbeat = { interval: 50, timeout: 50 };
  const client = make(plan("silent"), { heartbeat, retry: { base: 1, attempts: 1 } });
  await assert.rejects(client.connect(), /^ConnectionError: the server did not answer within 50 ms$/);
  assert.match((await client.closed).error.message, /gave up after 1 attempt: the server did not answer/);
});

test("a host that takes no handshake is given up", async () => {
  const deaf = createServer(() => {}).listen(0, "127.0.0.1");
  await once(deaf, "listening");
  const client = make(`ws://127.0.0.1:${deaf.address().port}`, { heartbeat: { timeout: 50 }, retry: { attempts: 0 } });
  await assert.rejects(client.connect(), /did not answer within 50 ms/);
  deaf.close();
  deaf.unref();
});

test("a server that does not speak the dialect is told so", async () => {
  const client = make(server.url, { protocol: "zigquant-v2", retry: { attempts: 0 } });
  await assert.rejects(client.connect(), (error) => {
    assert.ok(error instanceof ConnectionError);
    assert.match(error.message, /does not speak zigquant-v2/);
    return true;
  });
});

test("where nothing listens it says what may be wrong, without the query", async () => {
  const client = make("ws://127.0.0.1:1/ws?token=s3cr3t", { retry: { attempts: 0 } });
  await assert.rejects(client.connect(), (error) => {
    assert.match(error.message, /cannot connect to ws:\/\/127\.0\.0\.1:1\/ws: scripts are not told why/);
    assert.doesNotMatch(error.message, /s3cr3t/);
    return true;
  });
});

test("delays grow, with chance in them, and start anew after a success", async () => {
  const delays = [];
  let attempts = 0;
  const client = make(() => (attempts++ < 6 ? "ws://127.0.0.1:1/" : plan()), { retry: { base: 8, cap: 50, first: true } });
  client.addEventListener("reconnecting", ({ detail }) => delays.push(detail));
  await client.connect(); // With `first` it waits until an attempt succeeds.
  assert.deepEqual(delays.map(({ attempt }) => attempt), [1, 2, 3, 4, 5, 6]);
  [8, 16, 32, 50, 50, 50].forEach((ceiling, i) => assert.ok(delays[i].delay <= ceiling));
  await new Promise((resolve) => setTimeout(resolve, 20)); // Longer than `base`: a success.
  const next = heard(client, "reconnecting");
  client.command("play", [{ abort: true }]).catch(() => {});
  assert.equal((await next).attempt, 1);
});

test("to be let in and thrown out at once does not count as success", async () => {
  const client = make(plan({ close: [1012, "full"] }), { retry: { base: 300, cap: 300, attempts: 2 } });
  client.connect().catch(() => {});
  const { error } = await client.closed;
  assert.match(error.message, /gave up after 2 attempts: the server restarts or is full: full \(1012\)/);
});

test("each close code has its class", async () => {
  const outcome = async (code, reason = "", meant = code) => {
    const client = await connected(plan(), { retry: { base: 1000, cap: 64_000 } });
    const next = Promise.race([heard(client, "reconnecting"), heard(client, "disconnected")]);
    client.command("play", [{ close: [code, reason] }]).catch(() => {});
    const { delay, error } = await next;
    assert.equal(error.code, meant);
    client.close();
    return delay === undefined ? "stop" : delay;
  };
  const random = Math.random;
  const found = {};
  try {
    Math.random = () => 0.5;
    for (const code of [1000, 1001, 1002, 1003, 1007, 1009, 1011, 1012, 4401, 4408, 4409, 4429, 4499, 4500, 4509, 4510, 4999]) {
      found[code] = await outcome(code);
    }
    // The server library's own ping: the page's computer slept.
    assert.equal(await outcome(1011, "keepalive ping timeout", 4408), 500);
    Math.random = () => 0;
    assert.deepEqual([await outcome(1012), await outcome(1011), await outcome(4429)], [0, 0, 32_000]);
  } finally {
    Math.random = random;
  }
  assert.deepEqual(found, {
    1000: "stop", 1001: 500, 1002: 500, 1003: "stop", 1007: "stop", 1009: 500, 1011: 2000, 1012: 500,
    4401: "stop", 4408: 500, 4409: 500, 4429: 48_000, 4499: 500, 4500: "stop", 4509: "stop", 4510: "stop", 4999: "stop",
  });
});

test("coming online or into view reconnects at once, and tests the connection", async () => {
  const page = new EventTarget();
  page.hidden = false;
  const window = new EventTarget();
  globalThis.document = page;
  globalThis.addEventListener = window.addEventListener.bind(window);
  try {
    for (const wake of [() => window.dispatchEvent(new Event("online")), () => page.dispatchEvent(new Event("visibilitychange"))]) {
      const client = await connected(plan(), { retry: { base: 1e9, cap: 1e9 } });
      const lost = heard(client, "reconnecting");
      client.command("play", [{ close: [4499, ""] }]).catch(() => {});
      await lost;
      const back = heard(client, "connected");
      wake();
      await back;
      wake();
      const types = (await client.command("log")).at(-1).map(({ type }) => type);
      assert.deepEqual(types, ["ping", "command"]);
      client.close();
    }
  } finally {
    delete globalThis.document;
    delete globalThis.addEventListener;
  }
});

test("aborting a first connecting ends it; it may begin again", async () => {
  let attempts = 0;
  const client = make(() => (attempts++ ? plan() : new Promise(() => {})));
  const controller = new AbortController();
  const connecting = client.connect({ signal: controller.signal });
  const subscribing = client.subscribe("x");
  setTimeout(() => controller.abort(new Error("too slow")), 20);
  await assert.rejects(connecting, /too slow/);
  assert.equal(client.state, "idle");
  await client.connect();
  assert.equal(client.state, "connected");
  await subscribing;
});

test("after 4401 a function for the URL is called again, since its query may hold the token", async () => {
  const client = await connected(() => plan());
  client.command("play", [{ close: [4401, ""] }]).catch(() => {});
  const next = Promise.race([heard(client, "connected"), heard(client, "disconnected")]);
  assert.equal((await next).error, undefined);
  assert.equal(client.state, "connected");
});

test("a function for the token may close the client", async () => {
  const states = [];
  const client = make(plan(), {
    token: () => {
      states.push(client.state);
      client.close();
    },
  });
  await assert.rejects(client.connect(), { code: "CLOSED" });
  assert.deepEqual([...states, client.state], ["connecting", "closed"]);
});

test("a token that cannot be had is another attempt's business", async () => {
  let attempts = 0;
  const client = make(plan(), {
    token: () => {
      if (attempts++) return "t";
      throw new Error("offline");
    },
  });
  const back = heard(client, "connected");
  await assert.rejects(client.connect(), /the function for the token failed: Error: offline/);
  assert.notEqual(client.state, "closed"); // The client goes on by itself.
  await back;
});

test("what is asked for before connect() waits for it", async () => {
  const client = make(plan());
  const events = client.events("a");
  const asked = Promise.all([client.command("echo", 1), client.subscribe("b"), client.command("log")]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(client.state, "idle");
  await client.connect();
  const [one, , log] = await asked;
  assert.equal(one, 1);
  assert.deepEqual(log.at(-1)[0].channels, ["a", "b"]);
  client.command("play", ['{"type":"event","channel":"a","event":"e","timestamp":1,"data":7}']).catch(() => {});
  assert.equal((await events.next()).value.data, 7);
});

test("what waits for a connection has a time limit, and says that there was none", async () => {
  const client = make(plan());
  for (const asked of [client.command("x", {}, { timeout: 20 }), client.subscribe("x", { timeout: 20 }), client.status({ timeout: 20 })]) {
    await assert.rejects(asked, { code: "TIMEOUT", message: /within 20 ms: there was no connection, since connect\(\) was not called/ });
  }
  await client.connect();
  assert.deepEqual((await client.command("log")).at(-1).map(({ type }) => type), ["command"]);
  client.command("play", [{ mute: true }]).catch(() => {});
  await assert.rejects(client.subscribe("y", { timeout: 20 }), { code: "TIMEOUT", message: /not confirmed within 20 ms$/ });
  await assert.rejects(client.unsubscribe("y", { timeout: 20 }), { code: "TIMEOUT", message: /not confirmed within 20 ms$/ });
  await assert.rejects(client.command("x", {}, { timeout: 20 }), { code: "TIMEOUT", message: /may still be acted on/ });
});

test("an end of a subscription that is not confirmed counts all the same", async () => {
  const client = await connected(plan());
  await client.subscribe("a");
  await client.command("play", [{ mute: true }], { timeout: 20 }).catch(() => {});
  await assert.rejects(client.unsubscribe("a", { timeout: 20 }), { code: "TIMEOUT" });
  client.close();
  await client.connect();
  const types = (await client.command("log")).at(-1).map(({ type }) => type);
  assert.deepEqual(types, ["command"]); // Nothing is subscribed again.
});

test("close() ends the loops there are; one that begins after it rejects, and so does one after the end", async () => {
  const client = await connected(plan());
  const before = client.events("a");
  const waiting = before.next();
  client.close();
  assert.deepEqual([await waiting, await before.next()], [{ done: true, value: undefined }, { done: true, value: undefined }]);
  const late = client.events("a");
  await assert.rejects(late.next(), { name: "CommandError", code: "CLOSED" });
  assert.deepEqual(await late.next(), { done: true, value: undefined });

  const ended = await connected(plan());
  ended.command("play", [{ close: [4510, "bye"] }]).catch(() => {});
  await ended.closed;
  await assert.rejects(ended.events("a").next(), { name: "ConnectionError", code: 4510 });
});

test("readers that wait at the same time get an event each, in order, then the end", async () => {
  const client = await connected(plan());
  const events = client.events("a");
  await client.subscribe("a");
  const read = [events.next(), events.next(), events.next()];
  const event = (data) => JSON.stringify({ type: "event", channel: "a", event: "e", timestamp: 1, data });
  client.command("play", [event(1), event(2), { close: [4510, "bye"] }]).catch(() => {});
  assert.deepEqual([(await read[0]).value.data, (await read[1]).value.data], [1, 2]);
  await assert.rejects(read[2], ConnectionError);
  assert.equal((await events.next()).done, true);
});

test("subscriptions of one turn share a message, and what ends at once is never asked", async () => {
  const client = await connected(plan());
  const stream = client.events("never");
  stream.return();
  const names = ["a", "b", "c"];
  await Promise.all([...names.map((name) => client.subscribe(name)), client.subscribe("a")]);
  await client.unsubscribe(names);
  await client.unsubscribe("a");
  const said = (await client.command("log")).at(-1).filter(({ type }) => type !== "command");
  assert.deepEqual(said.map(({ type, channels }) => [type, channels]), [
    ["subscribe", ["a", "b", "c"]],
    ["unsubscribe", ["b", "c"]],
    ["unsubscribe", ["a"]],
  ]);
});

// --- within the limits of the server ------------------------------------------------------------

test("a message that is larger than the server reads is not sent", async () => {
  const client = await connected(plan({ limits: { bytes: 1000 } }));
  for (const idempotent of [false, true]) {
    await assert.rejects(client.command("echo", "ü".repeat(500), { idempotent }), {
      code: "TOO_LARGE",
      message: /^not sent: it has 10\d\d bytes, the server reads at most 1000$/,
    });
  }
  assert.equal((await client.command("echo", "ü".repeat(400))).length, 400);
  assert.equal(client.state, "connected");
});

test("a message that is too large fails at once, whatever waits its turn before it", async () => {
  const client = await connected(plan({ limits: { bytes: 1000, commands: 2 } }));
  const settled = [];
  const note = (name) => () => settled.push(name);
  const asked = [1, 2, 3].map((n) => client.command("echo", n).then(note(n)));
  await Promise.all([...asked, client.command("echo", "x".repeat(2000)).catch(note("TOO_LARGE"))]);
  assert.deepEqual(settled, ["TOO_LARGE", 1, 2, 3]);

  const away = make(plan({ limits: { bytes: 1000, commands: 2 } }));
  const waiting = [1, 2, 3].map((n) => away.command("echo", n).then(note(n)));
  waiting.push(away.command("echo", "x".repeat(2000)).catch(note("TOO_LARGE")));
  await away.connect();
  await Promise.all(waiting);
  assert.deepEqual(settled.slice(4), ["TOO_LARGE", 1, 2, 3]);
});

test("after a message was too large, what may have been the cause is not sent again", async () => {
  const client = await connected(plan({ limits: { bytes: 1000, secret: true } }));
  const connections = (await client.command("log")).length;
  await client.command("echo", "x".repeat(300)); // So the server reads that much.
  const back = heard(client, "connected");
  const large = client.command("echo", "x".repeat(2000), { idempotent: true });
  const small = client.command("echo", "x".repeat(200), { idempotent: true });
  await assert.rejects(large, { code: "CONNECTION_LOST", message: /20\d\d bytes and is not sent again: .*\(1009\)/ });
  await back;
  assert.equal((await small).length, 200);
  assert.equal((await client.command("log")).length, connections + 1);
});

test("subscriptions that are too large together are asked for in smaller requests", async () => {
  const client = await connected(plan({ limits: { bytes: 1000, secret: true } }));
  const names = [...Array(100).keys()].map((n) => `${n}.${"x".repeat(100)}`);
  await client.subscribe(names, { timeout: 10_000 });
});

test("names that are too many at once are asked for in smaller requests, told or not, also after a reconnect", async () => {
  for (const secret of [false, true]) {
    const client = await connected(plan({ limits: { names: 3, secret } }));
    const names = [...Array(20).keys()].map((n) => `n.${n}`);
    await client.subscribe(names);
    const gap = heard(client, "gap");
    client.command("play", [{ abort: true }]).catch(() => {});
    await gap; // Everything is subscribed again.
    await client.unsubscribe(names);
    const log = (await client.command("log")).at(-1);
    for (const kind of ["subscribe", "unsubscribe"]) {
      const taken = log.filter(({ type, channels }) => type === kind && channels.length <= 3);
      assert.deepEqual(taken.flatMap(({ channels }) => channels).sort(), [...names].sort());
    }
    assert.equal(log.some(({ channels }) => channels?.length > 3), secret);
  }
});

test("a name that no server takes is not sent", async () => {
  const client = await connected(plan({ limits: { bytes: 1000 } }));
  const long = "x".repeat(256);
  await assert.rejects(client.subscribe(["a", long]), { code: "INVALID_CHANNEL" });
  await assert.rejects(client.events("ü".repeat(100_000)).next(), { code: "INVALID_CHANNEL" });
  await client.unsubscribe(long);
  assert.deepEqual((await client.command("log")).at(-1).map(({ type }) => type), ["command"]);
});

test("limits that are none are borne", async () => {
  for (const value of [0, -1, "many", null, [], 0.5]) {
    const data = { connection_id: "c", subject: "u1" };
    for (const key of ["max_message_bytes", "max_names", "messages_per_second", "commands_per_second"]) data[key] = value;
    if (value === 0.5) delete data.max_message_bytes;
    const client = await connected(plan("silent", JSON.stringify({ type: "connected", data })));
    await client.subscribe("a");
    if (value !== 0.5) assert.equal(await client.command("echo", 1), 1);
    client.close();
  }
});

test("a token that is too large is not shown again", async () => {
  const client = make(plan({ limits: { bytes: 1000, secret: true } }, "silent"), { token: "x".repeat(2000) });
  await assert.rejects(client.connect(), /the token is too large/);
  assert.equal(client.state, "closed");
});

test("a burst is spread over the rates that the server tells, and nothing is refused", async () => {
  const client = await connected(plan({ limits: { messages: 100, commands: 20 } }));
  const asked = [...Array(40).keys()].map((n) => client.command("echo", n));
  const published = [...Array(100).keys()].map((n) => client.publish("a", n));
  assert.deepEqual(await Promise.all(asked), [...Array(40).keys()]);
  await Promise.all(published);
  assert.equal(await client.command("refused"), 0);
  const said = (await client.command("log")).at(-1).map(({ params, data }) => params ?? data);
  assert.deepEqual(said.slice(0, 40), [...Array(40).keys()]);
  assert.deepEqual(said.slice(40, 140), [...Array(100).keys()]);
});

test("what is refused for the rate is sent again within its time limit", async () => {
  const client = await connected(plan({ limits: { messages: 30, commands: 30, secret: true } }));
  const asked = [...Array(40).keys()].map((n) => client.command("echo", n));
  const names = [...Array(100).keys()].map((n) => `a.${n}`);
  await Promise.all([...asked, client.subscribe(names), client.unsubscribe("never")]);
  assert.ok((await client.command("refused")) > 0);

  const other = await connected(plan({ limits: { commands: 1, secret: true } }));
  const outcomes = await Promise.allSettled([1, 2, 3].map((n) => other.command("echo", n, { timeout: 300 })));
  assert.deepEqual(outcomes.map(({ reason }) => reason?.code), [undefined, "TIMEOUT", "TIMEOUT"]);
  assert.match(outcomes[2].reason.message, /not sent, since the server limits the rate, within 300 ms/);
});

test("subscriptions are split by the number of names that the server tells, after a reconnect, too", async () => {
  const client = await connected(plan({ limits: { names: 16, messages: 50 } }));
  const names = [...Array(150).keys()].map((n) => `a.${n}`);
  await client.subscribe(names);
  const gap = heard(client, "gap");
  let isBack = false;
  client.addEventListener("gap", () => (isBack = true));
  client.command("play", [{ close: [1012, ""] }]).catch(() => {});
  await heard(client, "connected");
  assert.equal(isBack, false);
  assert.deepEqual(await gap, { lost: null, cause: "reconnect" });
  const [before, after] = (await client.command("log")).slice(-2);
  for (const said of [before, after]) {
    const requests = said.filter(({ type }) => type === "subscribe").map(({ channels }) => channels);
    assert.ok(requests.every(({ length }) => length <= 16));
    assert.deepEqual(requests.flat(), names);
  }
  assert.equal(await client.command("refused"), 0);
});

// --- coming and going ---------------------------------------------------------------------------

test("every change of the state is told", async () => {
  const client = make(plan());
  const told = [];
  client.addEventListener("state", ({ detail }) => {
    assert.equal(client.state, detail.state);
    told.push(detail.state);
  });
  await client.connect();
  client.command("play", [{ close: [1012, ""] }]).catch(() => {});
  await heard(client, "reconnecting");
  await heard(client, "connected");
  client.close();
  assert.deepEqual(told, ["connecting", "connected", "waiting", "connecting", "connected", "closed"]);
});

test("a function that hangs is named", async () => {
  const heartbeat = { timeout: 30 };
  const never = () => new Promise(() => {});
  await assert.rejects(make(plan(), { token: never, heartbeat }).connect(), /the function for the token or the URL took longer than 30 ms/);
  await assert.rejects(make(never, { heartbeat }).connect(), /the function for the token or the URL took longer than 30 ms/);
});

test("what Node's libraries say of a failed handshake is passed on", async () => {
  const failing = (message, more = {}) =>
    class extends EventTarget {
      constructor() {
        super();
        setTimeout(() => this.dispatchEvent(Object.assign(new Event("error"), { message, ...more })));
      }
      close() {}
    };
  const why = (WebSocket) => make("ws://localhost/ws", { WebSocket, retry: { attempts: 0 } }).connect().catch((error) => error);
  assert.match((await why(failing("connect ECONNREFUSED ::1:80"))).message, /localhost\/ws: connect ECONNREFUSED ::1:80 \(1006\)/);
  assert.match((await why(failing("", { error: { code: "ECONNREFUSED", message: "" } }))).message, /ECONNREFUSED/);
  assert.match((await why(failing("Unexpected server response: 403"))).message, /no such path, or refused: Starlette and FastAPI answer 403 to both/);
  assert.match((await why(failing("Unexpected server response: 404"))).message, /there is no WebSocket at this path/);
  assert.equal((await why(failing("Unexpected server response: 401"))).code, 4500);
});

test("the text that a server refuses with is passed on, where the library shows it", async () => {
  // As the package ws does it: whoever listens gets the answer.
  const refusing = (statusCode, text) =>
    class extends EventTarget {
      on(type, listener) {
        assert.equal(type, "unexpected-response");
        const answer = new EventEmitter();
        setTimeout(() => {
          listener({}, Object.assign(answer, { statusCode }));
          if (text) answer.emit("data", Buffer.from(text));
          answer.emit("end");
        });
      }
      close() {}
    };
  const why = (...answer) =>
    make("ws://localhost/ws", { WebSocket: refusing(...answer), retry: { attempts: 0 } }).connect().catch(({ message }) => message);
  const said = await why(403, "this origin may not connect\n");
  assert.match(said, /response: 403 \(this origin may not connect\) \(1006\)$/);
  for (const text of ["", "Access denied", "<html><p>This is a page", '{"a sentence": "in here"}']) {
    assert.match(await why(403, text), /response: 403 \(no such path, or refused: /);
  }
  assert.match(await why(404, "Not Found"), /there is no WebSocket at this path/);
  assert.match(await why(401, "the token is not valid"), /\(the token is not valid\) \(4500\)$/);
});

test("aborting the signal of a subscription takes back that call, after the confirmation, too", async () => {
  const client = await connected(plan());
  const [one, two] = [new AbortController(), new AbortController()];
  await client.subscribe("a", { signal: one.signal });
  await client.subscribe(["a", "b"], { signal: two.signal });
  await client.subscribe("a");
  await client.unsubscribe("a"); // It takes back the call without a signal.
  two.abort();
  two.abort();
  await client.unsubscribe([]);
  assert.deepEqual((await client.command("log")).at(-1).filter(({ type }) => type === "unsubscribe").map(({ channels }) => channels), [["b"]]);
  one.abort();
  await client.unsubscribe([]);
  assert.deepEqual((await client.command("log")).at(-1).filter(({ type }) => type === "unsubscribe").map(({ channels }) => channels), [["b"], ["a"]]);
});

test("what the page itself ends is no unhandled rejection", async () => {
  const unhandled = [];
  const listener = (error) => unhandled.push(error);
  process.on("unhandledRejection", listener);
  try {
    const use = (client, isClosed) => {
      client.command("play", [{ mute: true }]);
      client.command("echo", 1);
      client.publish("a", 1, { idempotent: true });
      client.status();
      client.subscribe(["a", "b"]);
      client.subscribe("c");
      client.unsubscribe("c");
      client.unsubscribe("a");
      const loop = async () => {
        for await (const _ of client.events("a"));
      };
      if (!isClosed) loop(); // Afterwards it is the loop's own function that rejects.
      client.events("a").next();
    };
    const idle = make(plan());
    const connecting = make(plan(), { token: ({ signal }) => fetchLike(signal) });
    const hanging = make(() => new Promise(() => {}));
    const there = await connected(plan());
    const away = await connected(plan(), { retry: { base: 1e9, cap: 1e9 } });
    away.command("play", [{ close: [1012, ""] }]).catch(() => {});
    await heard(away, "reconnecting");
    connecting.connect();
    hanging.connect();
    for (const client of [idle, connecting, hanging, there, away]) {
      use(client);
      client.close();
      use(client, true);
    }
    const later = await connected(plan());
    use(later);
    const controller = new AbortController();
    later.subscribe("z", { signal: controller.signal });
    later.command("echo", 1, { signal: controller.signal });
    later.unsubscribe("z", { signal: controller.signal });
    later.events("z", { signal: controller.signal }).next();
    controller.abort();
    later.events("z", { signal: controller.signal }).next();
    await new Promise((resolve) => setTimeout(resolve, 30));
    later.close();
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.deepEqual(unhandled, []);
  } finally {
    process.off("unhandledRejection", listener);
  }
});

/** A request for a token that ends as `fetch` does. */
const fetchLike = (signal) =>
  new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));

/** A page: `window` and `document` that the test moves. */
const asPage = async (run) => {
  const page = Object.assign(new EventTarget(), { hidden: false });
  const window = new EventTarget();
  globalThis.document = page;
  globalThis.addEventListener = window.addEventListener.bind(window);
  const online = () => window.dispatchEvent(new Event("online"));
  const offline = () => window.dispatchEvent(new Event("offline"));
  const visible = () => page.dispatchEvent(new Event("visibilitychange"));
  try {
    await run({ online, offline, visible });
  } finally {
    delete globalThis.document;
    delete globalThis.addEventListener;
  }
};

test("a client that has given up is revived by the browser, and by connect()", async () => {
  await asPage(async ({ online, visible }) => {
    let isUp = false;
    const client = make(() => (isUp ? plan() : "ws://127.0.0.1:1/"), { retry: { base: 1, attempts: 1 } });
    for (const revive of [online, visible, () => client.connect()]) {
      isUp = true;
      await client.connect();
      await client.subscribe("kept");
      isUp = false;
      const ended = client.closed;
      client.command("play", [{ close: [1012, ""] }]).catch(() => {});
      assert.match((await ended).error.message, /gave up after 1 attempt/);
      assert.equal(client.state, "closed");
      await assert.rejects(client.command("echo"), ConnectionError);
      isUp = true;
      const back = heard(client, "connected");
      revive();
      await back;
      assert.deepEqual((await client.command("log")).at(-1)[0].channels, ["kept"]);
    }
  });
});

test("what the page closed, or the server ended, stays closed until connect()", async () => {
  await asPage(async ({ online, visible }) => {
    const closed = await connected(plan());
    closed.close();
    const ended = await connected(plan());
    ended.command("play", [{ close: [4510, ""] }]).catch(() => {});
    await ended.closed;
    for (const client of [closed, ended]) {
      online();
      visible();
      assert.equal(client.state, "closed");
      await client.connect();
      assert.equal(client.state, "connected");
    }
  });
});

test("a browser that goes offline makes the client look, with little patience", async () => {
  await asPage(async ({ offline }) => {
    const client = await connected(plan());
    await client.command("play", [{ mute: true }], { timeout: 20 }).catch(() => {});
    const lost = heard(client, "reconnecting");
    offline();
    const began = performance.now();
    assert.match((await lost).error.message, /did not answer within 5000 ms/);
    assert.ok(performance.now() - began >= 4900);
  });
});

test("events of the browser that repeat neither put off what is due, nor ask the server anew", async () => {
  await asPage(async ({ online, offline, visible }) => {
    const client = await connected(plan(), { heartbeat: { timeout: 300 } });
    const first = (await client.command("log")).length;
    const flap = () => [offline, online, visible].forEach((tell) => tell());
    const lost = heard(client, "reconnecting");
    client.command("play", [{ mute: true }], { timeout: 20 }).catch(() => {});
    const flapping = setInterval(flap, 20); // Much more often than the patience ends.
    try {
      assert.match((await lost).error.message, /did not answer within 300 ms/);
    } finally {
      clearInterval(flapping);
    }
    await client.connect();
    const pings = (await client.command("log"))[first - 1].filter(({ type }) => type === "ping");
    assert.equal(pings.length, 1);
  });
});

test("events of the browser that repeat cause no more than an attempt a second", async () => {
  await asPage(async ({ online, visible }) => {
    let isUp = true;
    let attempts = 0;
    const url = () => (isUp ? plan() : (attempts++, "ws://127.0.0.1:1/"));
    const client = await connected(url, { retry: { base: 1e6, cap: 1e6 } });
    const failed = heard(client, "reconnecting", ({ attempt }) => attempt > 2);
    isUp = false;
    client.command("play", [{ abort: true }]).catch(() => {});
    const began = performance.now();
    const flapping = setInterval(() => (online(), visible()), 5);
    try {
      await failed;
    } finally {
      clearInterval(flapping);
    }
    assert.equal(attempts, 2);
    assert.ok(performance.now() - began >= 1000);
  });
});
