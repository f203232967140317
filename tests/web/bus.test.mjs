// The client with a real bus, behind the adapter that $ADAPTER names.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { Client, CommandError, ConnectionError } from "../../src/wsbus/web/wsbus.js";
import { msgpack } from "../../src/wsbus/web/wsbus-msgpack.js";
import { complaints, heard, start, take, tokenFor } from "./servers.mjs";

const adapter = process.env.ADAPTER ?? "websockets";
const codec = process.env.CODEC === "msgpack" ? msgpack : undefined;
const retry = { base: 20, cap: 200, attempts: Infinity };
const opened = [];
let server;

/** A client that is closed after the test. */
function make(url = server.url, options = {}) {
  const form = codec && !options.protocol ? { codec } : {};
  const client = new Client(url, { retry, ...form, ...options });
  opened.push(client);
  return client;
}

async function connected(url, options) {
  const client = make(url, options);
  await client.connect();
  return client;
}

const code = (expected) => (error) => {
  assert.ok(error instanceof CommandError, String(error));
  assert.equal(error.code, expected);
  return true;
};

before(async () => {
  server = await start("tests.web.server", adapter);
});
after(() => server.stop());
afterEach(() => {
  for (const client of opened.splice(0)) client.close();
});

test("what is published reaches handlers and iterators, in order", async () => {
  const client = await connected();
  const seen = [];
  client.on("grid.*.status", ({ data }) => seen.push(data));
  const events = client.events("grid.*");
  await client.subscribe("grid.*");
  assert.equal(await client.command("flood", { channel: "grid.a.status", count: 300 }), 300);

  const read = await take(events, 300);
  assert.deepEqual(read.map(({ data }) => data), [...Array(300).keys()]);
  assert.deepEqual(seen, read.map(({ data }) => data));
  assert.deepEqual(
    { ...read[0], timestamp: typeof read[0].timestamp },
    { channel: "grid.a.status", event: "message", timestamp: "number", data: 0 },
  );
});

test("handlers filter by the wildcard rule, and go when removed or aborted", async () => {
  const client = await connected();
  const seen = [];
  const controller = new AbortController();
  const off = client.on("a.*", ({ channel }) => seen.push(`a.* ${channel}`));
  client.on("a.+", ({ channel }) => seen.push(`a.+ ${channel}`), { signal: controller.signal });
  client.on("*", ({ channel }) => seen.push(`* ${channel}`));
  await client.subscribe(["a.*", "b"]);
  await client.publish("a.b.c", 1);
  await client.publish("a.b", 1);
  off();
  controller.abort();
  await client.publish("a.b", 1);
  await client.publish("b", 1);

  assert.deepEqual(seen, ["a.* a.b.c", "* a.b.c", "a.* a.b", "a.+ a.b", "* a.b", "* a.b", "* b"]);
});

test("a handler that throws, or rejects, breaks no other", async () => {
  const client = await connected();
  const told = complaints(client);
  const seen = [];
  client.on("x", () => {
    throw new Error("thrown");
  });
  client.on("x", async () => {
    throw new Error("rejected");
  });
  client.on("x", ({ data }) => seen.push(data));
  await client.subscribe("x");
  await client.publish("x", 1);
  await client.publish("x", 2);

  assert.deepEqual(seen, [1, 2]);
  assert.deepEqual(told.map(({ message }) => message).sort(), ["rejected", "rejected", "thrown", "thrown"]);
});

test("handlers and iterators share a subscription, which ends with the last", async () => {
  const client = await connected();
  const patterns = async () => (await client.status()).subscriptions;
  const one = client.events("p.*");
  const two = client.events("p.*");
  await client.subscribe("p.*");
  await client.subscribe(["p.*", "q"]);
  assert.deepEqual((await patterns()).sort(), ["p.*", "q"]);
  await client.publish("p.a", 1);
  assert.equal((await one.next()).value.data, 1);
  assert.equal((await two.next()).value.data, 1);

  await one.return();
  await client.unsubscribe(["p.*", "q", "never"]);
  await client.unsubscribe("p.*");
  await client.unsubscribe("p.*");
  assert.deepEqual(await patterns(), ["p.*"]);
  await two.return();
  assert.deepEqual(await patterns(), []);
  assert.deepEqual(await two.next(), { done: true, value: undefined });
});

test("what is begun before a request is in force before it", async () => {
  const client = await connected();
  const events = client.events("o");
  await client.publish("o", 1);
  assert.equal((await events.next()).value.data, 1);
  const leaving = events.return();
  const left = client.unsubscribe("o");
  assert.deepEqual((await client.status()).subscriptions, []);
  await Promise.all([leaving, left]);
});

test("leaving a loop unsubscribes", async () => {
  const client = await connected();
  setTimeout(() => client.publish("loop.a", "go"), 20);
  for await (const { data } of client.events("loop.*")) {
    assert.equal(data, "go");
    break;
  }
  assert.deepEqual((await client.status()).subscriptions, []);
});

test("aborting ends a loop with the reason, and unsubscribes", async () => {
  const client = await connected();
  const controller = new AbortController();
  const events = client.events("loop.*", { signal: controller.signal });
  const reading = events.next();
  await client.status();
  controller.abort(new Error("enough"));
  await assert.rejects(reading, /enough/);
  assert.deepEqual((await client.status()).subscriptions, []);
  await assert.rejects(client.events("x", { signal: controller.signal }).next(), /enough/);

  const other = new AbortController();
  const unread = client.events("loop.*", { signal: other.signal });
  await client.publish("loop.a", "never read");
  other.abort(new Error("at once"));
  await assert.rejects(unread.next(), /at once/);
  assert.deepEqual(await unread.next(), { done: true, value: undefined });
});

test("a full buffer drops the oldest, and says how many are missing", async () => {
  const client = await connected();
  const gaps = [];
  client.addEventListener("gap", ({ detail }) => gaps.push(detail));
  const events = client.events("n", { buffer: 10 });
  await client.status();
  await client.command("flood", { channel: "n", count: 50 });
  const read = await take(events, 10);
  const channels = new Map([["n", { lost: 40 }]]);

  assert.deepEqual(read.map(({ data }) => data), [...Array(10).keys()].map((n) => n + 40));
  assert.deepEqual(read.map(({ gap }) => gap), [{ lost: 40, cause: "buffer", channels }, ...Array(9).fill(undefined)]);
  assert.deepEqual(gaps, [{ lost: 40, cause: "buffer", channels, pattern: "n" }]);
});

test("what the server refuses is said with its code", async () => {
  const client = await connected();
  await assert.rejects(client.subscribe("forbidden.x"), code("FORBIDDEN"));
  await assert.rejects(client.subscribe("a..b"), code("INVALID_CHANNEL"));
  await assert.rejects(client.events("forbidden.*").next(), code("FORBIDDEN"));
  await assert.rejects(client.subscribe(["fine", "forbidden.x"]), code("FORBIDDEN"));
  await assert.rejects(client.command("no.such"), code("UNKNOWN_ACTION"));
  await assert.rejects(client.command("fail", { code: "BUSY", message: "later" }), code("BUSY"));
  await assert.rejects(client.command("flood", { channel: 1, count: 1 }), /\$\.params\.channel/);
  await assert.rejects(client.publish("a.*", 1), code("INVALID_CHANNEL"));
  await assert.rejects(client.command("echo", { big: 1n << 64n }), codec ? RangeError : TypeError);

  assert.deepEqual((await client.status()).subscriptions, []);
});

test("names that every object has are names like others", async () => {
  const client = await connected();
  const params = JSON.parse('{"__proto__": {"polluted": true}, "constructor": 1}');
  const seen = [];
  for (const name of ["__proto__", "constructor", "toString"]) {
    client.on(name, ({ channel, data }) => seen.push([channel, JSON.stringify(data)]));
    await client.subscribe(name);
    await client.publish(name, params, { event: "__proto__" });
  }
  assert.equal(JSON.stringify(await client.command("__proto__", params)), JSON.stringify(params));
  await assert.rejects(client.command("constructor"), code("UNKNOWN_ACTION"));
  assert.deepEqual(seen.map(([channel]) => channel), ["__proto__", "constructor", "toString"]);
  assert.ok(seen.every(([, data]) => data === JSON.stringify(params)));
  assert.equal({}.polluted, undefined);
});

test("a command gives up after its timeout, or when aborted", async () => {
  const client = await connected();
  await assert.rejects(client.command("slow", { milliseconds: 500 }, { timeout: 30 }), code("TIMEOUT"));
  const controller = new AbortController();
  const asked = client.command("slow", { milliseconds: 500 }, { signal: controller.signal });
  setTimeout(() => controller.abort(new Error("never mind")), 20);
  await assert.rejects(asked, /never mind/);
  await assert.rejects(client.command("echo", {}, { signal: controller.signal }), /never mind/);
  await assert.rejects(client.subscribe("x", { signal: controller.signal }), /never mind/);
  assert.deepEqual(await client.command("echo", { a: 7 }, { timeout: Infinity }), { a: 7 });
});

test("whatever the order of answers, each goes to its own command", async () => {
  const client = await connected();
  const slow = client.command("slow", { milliseconds: 100, name: "order" });
  const quick = [1, "two", null, [3]].map((value) => ({ value }));
  assert.deepEqual(await Promise.all(quick.map((params) => client.command("echo", params))), quick);
  assert.equal(await slow, 1);
});

test("after a cut it comes again, subscribed as it was, and tells of the gap", async () => {
  const client = await connected();
  const events = client.events("c.*");
  await client.subscribe("c.x");
  const lost = heard(client, "reconnecting");
  const back = heard(client, "connected");
  const gap = heard(client, "gap");
  const slow = client.command("slow", { milliseconds: 5000, name: "cut" });
  const twice = client.command("slow", { milliseconds: 400, name: "again" }, { idempotent: true });
  await client.publish("c.x", "before");
  await assert.rejects(client.command("cut"), code("CONNECTION_LOST"));
  await assert.rejects(slow, code("CONNECTION_LOST"));
  assert.equal(client.state, "waiting");
  const waits = client.command("echo", { patient: true }); // It is sent over the next connection.
  assert.equal((await lost).error.code < 1007, true);
  assert.equal((await back).reconnected, true);
  assert.deepEqual(await gap, { lost: null, cause: "reconnect" });

  assert.deepEqual((await client.status()).subscriptions.sort(), ["c.*", "c.x"]);
  await client.publish("c.x", "after");
  const [before, after] = await take(events, 2);
  assert.deepEqual([before.data, before.gap, after.data, after.gap], ["before", undefined, "after", { lost: null, cause: "reconnect" }]);
  assert.deepEqual(await waits, { patient: true });
  assert.equal(await twice, 2); // It was sent again, and only because it was marked so.
});

test("more names than one request may have are subscribed again after a cut", async () => {
  const client = await connected(server.private, { token: () => tokenFor({ subscribe: ["n.*"], command: ["cut"] }) });
  const names = [...Array(100).keys()].map((n) => `n.${n}`);
  await client.subscribe(names);
  const gap = heard(client, "gap");
  client.command("cut").catch(() => {});
  assert.deepEqual(await gap, { lost: null, cause: "reconnect" });
  assert.deepEqual((await client.status()).subscriptions.sort(), [...names].sort());
});

test("close codes say whether to come again", async () => {
  for (const [number, state] of [[4409, "waiting"], [4429, "waiting"], [4777, "closed"], [4500, "closed"]]) {
    const client = await connected();
    const next = Promise.race([heard(client, "reconnecting"), heard(client, "disconnected")]);
    client.command("leave", { code: number, reason: "so be it" }).catch(() => {});
    const { error } = await next;
    assert.equal(client.state, state, `${number}`);
    assert.equal(error.code, number);
    assert.match(error.message, /so be it/);
    if (state === "closed") {
      await assert.rejects(client.command("echo"), ConnectionError);
      await client.connect(); // The page may say that it was meant to be let in.
      assert.deepEqual(await client.command("echo", {}), {});
    }
    client.close();
  }
});

test("a token lets in, is asked for anew before it expires, and its grants count", async () => {
  const given = [];
  const token = ({ signal }) => {
    assert.ok(signal instanceof AbortSignal);
    given.push(tokenFor({ subscribe: given.length ? ["a.*"] : ["a.*", "b.*"] }, given.length ? 60 : 3));
    return Promise.resolve(given.at(-1));
  };
  const client = make(server.private, { token });
  const told = complaints(client);
  const welcome = heard(client, "connected");
  await client.connect();
  assert.equal((await welcome).subject, "u1");
  await client.subscribe("a.x");
  await client.subscribe("b.x");
  const events = client.events("b.*");
  await assert.rejects(client.subscribe("c.x"), code("FORBIDDEN"));
  await assert.rejects(client.command("echo"), code("FORBIDDEN"));

  await assert.rejects(events.next(), code("FORBIDDEN")); // The second token covers less.
  assert.equal(given.length, 2);
  assert.deepEqual((await client.status()).subscriptions, ["a.x"]);
  assert.deepEqual(told.map(({ code }) => code), ["FORBIDDEN"]);
});

test("a token may be shown in a subprotocol", async () => {
  const token = tokenFor({ subscribe: ["a.*"], command: ["*"] });
  const client = await connected(server.private, { token, tokenIn: "subprotocol" });
  await client.subscribe("a.*");
  await assert.rejects(client.subscribe("b"), code("FORBIDDEN"));
  const refused = make(server.private, { token: "nonsense?>", tokenIn: "subprotocol" });
  await assert.rejects(refused.connect());
});

test("a subscription that the server takes away ends with its reason, and is not made again", async () => {
  const client = await connected();
  await client.subscribe("r.2");
  const events = client.events("r.1");
  await client.publish("r.1", "before");
  assert.equal((await events.next()).value.data, "before");
  await client.command("revoke", { pattern: "r.1", reason: "banned for an hour" });

  await assert.rejects(events.next(), (error) => {
    assert.equal(error.code, "FORBIDDEN");
    return error.message.includes("r.1") && error.message.includes("banned for an hour");
  });
  const back = heard(client, "connected");
  await assert.rejects(client.command("cut"), code("CONNECTION_LOST"));
  await back;
  assert.deepEqual((await client.status()).subscriptions, ["r.2"]);
});

test("an expired token is replaced by a new one", async () => {
  let asked = 0;
  const client = make(server.private, {
    token: () => {
      asked += 1;
      if (client.state === "connected") throw new Error("the token service is away"); // So that it expires.
      return tokenFor({ command: ["*"] }, asked === 1 ? 2 : 60);
    },
  });
  await client.connect();
  const told = complaints(client);
  const back = heard(client, "connected");
  const { error } = await heard(client, "reconnecting");
  assert.equal(error.code, 4401);
  assert.match(error.message, /the token expired/);
  await back;
  assert.deepEqual(await client.command("echo", {}), {});
  // While the token was in force the client asked again, each time after half of what was left.
  assert.ok(asked > 3);
  assert.equal(told.length, asked - 2);
  assert.match(told[0].message, /the function for the token failed: Error: the token service is away/);
});

test("a refused token ends it, in plain words", async () => {
  for (const token of ["nonsense", tokenFor({}, -5)]) {
    const client = make(server.private, { token });
    await assert.rejects(client.connect(), (error) => {
      assert.ok(error instanceof ConnectionError);
      assert.equal(error.code, 4500);
      assert.match(error.message, /the token was refused: .*token/);
      return true;
    });
    assert.equal((await client.closed).error.code, 4500);
  }
  await assert.rejects(make(server.private).connect(), /the server wants a token/);
});

test("a token where none is wanted does no harm", async () => {
  const client = make(server.url, { token: "whatever" });
  const told = complaints(client);
  await client.connect();
  assert.deepEqual(await client.command("echo", {}), {});
  assert.equal(told.length, 1);
});

test("the server's restart is survived", async () => {
  const events = [];
  const clients = [await connected(), await connected(server.private, { token: () => tokenFor({ subscribe: ["*"], admin: true, publish: ["*"], command: ["*"] }) })];
  for (const client of clients) {
    client.addEventListener("reconnecting", () => events.push("reconnecting"));
    client.on("r.*", ({ data }) => events.push(data));
    await client.subscribe("r.*");
  }
  const gone = Promise.all(clients.map((client) => heard(client, "reconnecting", ({ attempt }) => attempt > 1)));
  const back = Promise.all(clients.map((client) => heard(client, "gap")));
  const { ports } = server;
  await server.stop();
  const failed = await gone;
  assert.match(failed[0].error.message, /cannot connect to ws:\/\/127\.0\.0\.1/);
  server = await start("tests.web.server", adapter, "--ports", ...ports.map(String));
  await back;
  await clients[0].publish("r.a", "again");
  await Promise.all(clients.map((client) => client.status()));

  assert.equal(events.filter((each) => each === "again").length, 2);
});

test("a server that is killed, and stays away, is given up in the end", async () => {
  const other = await start("tests.web.server", adapter);
  const client = await connected(other.url, { retry: { base: 5, cap: 10, attempts: 3 } });
  const events = client.events("x");
  const outcomes = Promise.all([
    assert.rejects(client.command("slow", { milliseconds: 5000 }), code("CONNECTION_LOST")),
    assert.rejects(
      client.command("slow", { milliseconds: 5000 }, { idempotent: true }),
      /gave up after 3 attempts: cannot connect/,
    ),
    assert.rejects(events.next(), ConnectionError),
  ]);
  await other.kill();
  await outcomes;
  const { error, code: number } = await client.closed;
  assert.match(error.message, /gave up after 3 attempts/);
  assert.equal(number, 1006);
  await assert.rejects(client.command("echo"), /gave up/);
  await assert.rejects(client.connect(), /cannot connect/);
});

test("closing is prompt, and lasts until connect()", async () => {
  const client = await connected();
  const events = client.events("x");
  const reading = events.next();
  const pending = client.command("slow", { milliseconds: 5000 });
  const subscribing = client.subscribe("y");
  const ended = heard(client, "disconnected");
  client.close();
  client.close();
  assert.deepEqual(await client.closed, { code: 1000, reason: "", error: null });
  assert.deepEqual(await reading, { done: true, value: undefined });
  await assert.rejects(pending, code("CLOSED"));
  await assert.rejects(subscribing, code("CLOSED"));
  await assert.rejects(client.command("echo"), code("CLOSED"));
  await assert.rejects(client.subscribe("x"), code("CLOSED"));
  await assert.rejects(client.events("x").next(), code("CLOSED"));
  await client.unsubscribe("x");
  assert.equal((await ended).error, null);
  await client.connect();
  assert.deepEqual((await client.status()).subscriptions, []);
  client.close();
  assert.equal((await client.closed).error, null);

  const controller = new AbortController();
  const other = await connected(server.url, { signal: controller.signal });
  controller.abort();
  assert.equal(other.state, "closed");
  await assert.rejects(other.connect(), code("CLOSED")); // Its signal says no for ever.
  assert.equal(make(server.url, { signal: controller.signal }).state, "closed");
});

test("the dialect zigquant-v2 is spoken, too", async () => {
  const options = { protocol: "zigquant-v2", token: tokenFor({ subscribe: ["*"], command: ["*"] }) };
  for (const [url, more] of [[server.url, { token: undefined }], [server.private, {}]]) {
    const client = await connected(url, { ...options, ...more });
    const events = client.events("z.*");
    await client.subscribe("z.*");
    await client.command("flood", { channel: "z.a", count: 3 });
    assert.deepEqual((await take(events, 3)).map(({ data }) => data), [0, 1, 2]);
    await assert.rejects(client.subscribe("z.+"), code("INVALID_CHANNEL"));
    await assert.rejects(client.status(), code("UNKNOWN_TYPE"));
    await assert.rejects(client.publish("z.a", 1), code("UNKNOWN_TYPE"));
    const lost = heard(client, "reconnecting");
    client.command("cut").catch(() => {});
    await lost;
    await client.connect();
    await client.command("flood", { channel: "z.a", count: 1 });
    assert.deepEqual((await events.next()).value.gap, { lost: null, cause: "reconnect" });
  }
});

test("a thousand changes in one turn are a few messages", async () => {
  const client = await connected(server.url, {});
  const names = [...Array(128).keys()].map((n) => `m.${n}`);
  await client.subscribe(names);
  assert.equal((await client.status()).subscriptions.length, 128);
  await assert.rejects(client.subscribe("one.more"), code("TOO_MANY_SUBSCRIPTIONS"));
  await client.unsubscribe(names);
  assert.deepEqual((await client.status()).subscriptions, []);
});

test("a page's burst is done in full under default limits, and nobody is thrown out", async () => {
  const token = tokenFor({ subscribe: ["*"], publish: ["*"], command: ["*"], admin: true });
  const client = await connected(server.private, { token });
  const cuts = [];
  client.addEventListener("reconnecting", ({ detail }) => cuts.push(detail.error));
  const seen = [];
  client.on("b.*", ({ data }) => seen.push(data));
  const widgets = [...Array(20).keys()].map((n) => client.command("echo", { n }));
  const names = [...Array(100).keys()].map((n) => `b.${n}`);
  await client.subscribe(names);
  const published = [...Array(200).keys()].map((n) => client.publish(`b.${n % 100}`, n));
  assert.deepEqual((await Promise.all(widgets)).map(({ n }) => n), [...Array(20).keys()]);
  await Promise.all(published);
  assert.deepEqual(seen, [...Array(200).keys()]);

  await assert.rejects(client.publish("b.1", "x".repeat(70_000), { idempotent: true }), code("TOO_LARGE"));
  assert.deepEqual(cuts, []);
});

test("a full buffer names the channels that lost something, up to sixteen", async () => {
  const client = await connected();
  for (const count of [16, 17]) {
    const events = client.events(`wide${count}.*`, { buffer: 1 });
    await client.status();
    for (let i = 0; i <= count; i++) await client.publish(`wide${count}.${i}`, i);
    const [{ data, gap }] = await take(events, 1);

    const channels = new Map([...Array(count).keys()].map((n) => [`wide${count}.${n}`, { lost: 1 }]));
    assert.equal(data, count);
    assert.deepEqual(gap, { lost: count, cause: "buffer", ...(count === 16 && { channels }) });
  }
});

/** A client that comes again only when it is told to. */
const patient = () => connected(server.url, { retry: { base: 1e9, cap: 1e9 } });

/** Cut the client's connection, do something meanwhile, and have it come again. */
async function away(client, meanwhile) {
  const lost = heard(client, "reconnecting");
  client.command("cut").catch(() => {});
  await lost;
  await meanwhile();
  await client.connect();
}

test("what was published while the connection was lost comes in order, once, without a gap", async () => {
  const [client, other] = [await patient(), await connected()];
  const gaps = [];
  const seen = [];
  client.addEventListener("gap", ({ detail }) => gaps.push(detail));
  client.on("kept.*", ({ data }) => seen.push(data));
  const wide = client.events("kept.*");
  const narrow = client.events("kept.cut");
  await client.subscribe(["kept.*", "kept.cut"]);
  for (const n of [0, 1, 2]) {
    await other.publish("kept.cut", n);
    await away(client, () => other.command("flood", { channel: "kept.cut", count: 20 }));
  }
  await other.publish("kept.cut", "last");

  const twenty = [...Array(20).keys()];
  const expected = [0, ...twenty, 1, ...twenty, 2, ...twenty, "last"];
  for (const events of [wide, narrow]) {
    const read = await take(events, expected.length);
    assert.deepEqual(read.map(({ data }) => data), expected);
    assert.ok(read.every(({ gap, position }) => !gap && position.offset > 0));
    assert.equal(client.position("kept.cut").offset, read.at(-1).position.offset);
  }
  assert.deepEqual([seen, gaps], [expected, []]);
});

test("what is not kept any more is told as a gap", async () => {
  const [client, other] = [await patient(), await connected()];
  const events = client.events("short.*");
  await client.subscribe("short.*");
  const told = heard(client, "gap");
  await away(client, () => other.command("flood", { channel: "short.cut", count: 3 }));
  assert.equal((await told).cause, "reconnect");
  await other.publish("short.cut", "next");
  const [{ data, gap }] = await take(events, 1);
  assert.deepEqual([data, gap], ["next", { lost: null, cause: "reconnect" }]);
});

test("a subscription since a position gets what came after it, or is refused", async () => {
  const client = await connected();
  const receipts = [];
  for (let n = 0; n < 4; n++) receipts.push(await client.publish("short.since", n));
  assert.deepEqual(receipts.map(({ repeated }) => repeated), Array(4).fill(undefined));
  const other = await connected();
  const seen = [];
  other.on("short.*", ({ data }) => seen.push(data));
  const read = await take(other.events("short.since", { since: receipts[1].position }), 2);
  assert.deepEqual(read.map(({ data, latest }) => [data, latest]), [[2, undefined], [3, undefined]]);
  await assert.rejects(other.subscribe("short.*", { since: receipts[0].position }), code("POSITION_LOST"));
  await assert.rejects(other.subscribe("short.since", { since: receipts[2].position }), code("ALREADY_SUBSCRIBED"));
  await other.subscribe("short.*", { since: receipts[3].position });
  await client.publish("short.since", 4);
  await other.status();
  assert.deepEqual(seen, [2, 3, 4]);
});

test("the latest comes first, and says so", async () => {
  const client = await connected();
  await client.publish("price.btc", 1);
  await client.publish("price.btc", 2);
  const events = client.events("price.*");
  await client.subscribe("price.*");
  await client.publish("price.btc", 3);
  const [latest, live] = await take(events, 2);
  assert.deepEqual([latest.data, latest.latest, live.data, "latest" in live], [2, true, 3, false]);
});

test("history is read page by page", async () => {
  const client = await connected();
  for (let n = 0; n < 5; n++) await client.publish("kept.pages", n, { event: "said" });
  const newest = await client.history("kept.pages", { limit: 2 });
  const [first] = newest.events;
  const older = await client.history("kept.pages", { limit: 2, before: first.position });
  const newer = await client.history("kept.pages", { after: older.events[1].position });
  const data = ({ events }) => events.map(({ data }) => data);
  assert.deepEqual([data(older), data(newest), data(newer)], [[1, 2], [3, 4], [3, 4]]);
  assert.deepEqual([older.more, newer.more, newest.channel], [true, false, "kept.pages"]);
  assert.deepEqual([first.channel, first.event, typeof first.timestamp], ["kept.pages", "said", "number"]);
  await assert.rejects(client.history("a.b"), code("NO_HISTORY"));
});

test("a client sees which connections are on a channel", async () => {
  const client = await connected();
  await client.subscribe("here.lobby");
  let roster;
  do roster = await client.presence("here.lobby"); while (!roster.count);
  const { connection_id: id, subject } = await client.status();
  assert.deepEqual([roster.count, roster.members], [1, [{ id, subject }]]);
  await assert.rejects(client.presence("a.b"), code("NO_PRESENCE"));
});

test("a publication is repeated by its key, and by itself after a cut", async () => {
  const client = await connected();
  const first = await client.publish("kept.once", 1, { idempotencyKey: "k" });
  const second = await client.publish("kept.once", 1, { idempotencyKey: "k" });
  assert.deepEqual([second.repeated, second.position], [true, first.position]);

  /** Drops what comes: the server takes what is sent, and its answers are lost. */
  let isDeaf = false;
  class Deaf extends WebSocket {
    addEventListener(type, listener) {
      super.addEventListener(type, (event) => (isDeaf && type === "message") || listener(event));
    }
  }
  const lossy = await connected(server.url, { WebSocket: Deaf });
  for (const [channel, outcome] of [["kept.once", true], ["live", "CONNECTION_LOST"]]) {
    const events = client.events(channel);
    await client.subscribe(channel);
    isDeaf = true;
    const receipt = lossy.publish(channel, 2).then(({ repeated }) => repeated, ({ code }) => code);
    assert.equal((await take(events, 1))[0].data, 2);
    const lost = heard(lossy, "reconnecting");
    lossy.command("cut").catch(() => {});
    await lost;
    isDeaf = false;
    assert.equal(await receipt, outcome);
    await client.publish(channel, 3);
    assert.equal((await take(events, 1))[0].data, 3);
  }
});

const readAll = async (parts) => {
  let text = "";
  let count = 0;
  for await (const part of parts) {
    assert.equal(part.text, text + part.delta);
    ({ text } = part);
    count += 1;
  }
  return { text, count, result: parts.result };
};

test("a stream is read as it is written, and late readers begin with all of it", async () => {
  const client = await connected();
  const early = readAll(client.stream("answers.one"));
  const writing = client.command("answer", { channel: "answers.one", words: 40, milliseconds: 2 });
  for await (const { text } of client.stream("answers.one")) if (text.length > 60) break;
  const other = await connected();
  const late = readAll(other.stream("answers.one"));
  const text = await writing;

  for (const read of [await early, await late]) {
    assert.equal(read.text, text);
    assert.deepEqual(read.result, { words: 40 });
  }
  assert.deepEqual(await readAll(other.stream("answers.one")), { text, count: 1, result: { words: 40 } });
});

test("a stream outlives connections, and a subscription of the same channel", async () => {
  const client = await connected();
  const seen = [];
  client.on("answers.two", ({ event }) => seen.push(event));
  await client.subscribe("answers.two");
  const writing = (await connected()).command("answer", { channel: "answers.two", words: 100, milliseconds: 3 });
  for await (const { event } of client.events("answers.two")) if (event === "append") break;
  const reading = readAll(client.stream("answers.two")); // It comes late to a name that is held.
  for (const _ of "123") {
    const again = heard(client, "connected");
    client.command("cut").catch(() => {});
    await again;
  }

  assert.equal((await reading).text, await writing);
  assert.ok(seen.includes("append"));
});

test("a stream that fails, or is cancelled, says so", async () => {
  const client = await connected();
  const failed = readAll(client.stream("answers.bad"));
  await client.command("answer", { channel: "answers.bad", words: 2, end: "no" });
  await assert.rejects(failed, code("STREAM_FAILED"));
  await assert.rejects(client.stream("answers.none").cancel(), code("NO_STREAM"));

  const parts = client.stream("answers.long");
  const long = client.command("answer", { channel: "answers.long", words: 5000, milliseconds: 2 }).catch(() => {});
  const ended = assert.rejects(
    (async () => {
      for await (const { text } of parts) if (text.length < 20) await parts.cancel();
    })(),
    code("STREAM_CANCELLED"),
  );
  await ended;
  await long;
});

test("other deltas than texts are joined by a function", async () => {
  const client = await connected();
  const parts = client.stream("sums.a", { compact: (value, delta) => (value ?? 0) + delta });
  await client.command("answer", { channel: "sums.a", words: 7 });
  let last;
  for await (const { value } of parts) last = value;
  assert.equal(last, 7);
  await client.command("answer", { channel: "sums.b", words: 7 });
});
