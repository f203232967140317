// Watches of presence: with a real bus, and with a client whose answers the test gives.
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";

import { Client, CommandError } from "../../src/wsbus/web/wsbus.js";
import { watchPresence } from "../../src/wsbus/web/wsbus-presence.js";
import { heard, start } from "./servers.mjs";

const retry = { base: 20, cap: 200, attempts: Infinity };
const opened = [];
let server;

/** A client that is closed after the test. */
async function connected() {
  const client = new Client(server.url, { retry });
  opened.push(client);
  await client.connect();
  return client;
}

const code = (expected) => (error) => error instanceof CommandError && error.code === expected;

/** Read until just these connections are there; every step must fit the ones before. */
async function until(watch, ids, known = new Map()) {
  for await (const change of { [Symbol.asyncIterator]: () => ({ next: () => watch.next() }) }) {
    for (const { id } of change.left) assert.ok(known.delete(id));
    for (const each of change.joined) assert.ok(!known.has(each.id) && known.set(each.id, each));
    assert.deepEqual(change.members, [...known.values()]);
    if (JSON.stringify([...known.keys()].sort()) === JSON.stringify([...ids].sort())) return change;
  }
}

before(async () => {
  server = await start("tests.web.server", "websockets");
});
after(() => server.stop());
afterEach(() => {
  for (const client of opened.splice(0)) client.close();
});

const idOf = async (client) => (await client.status()).connection_id;

test("first all that are there, then who comes and goes, also after a cut", async () => {
  const client = await connected();
  const other = await connected();
  const watch = watchPresence(client, "here.hall");
  const first = (await watch.next()).value;
  assert.deepEqual(first, { channel: "here.hall", members: [], count: 0, joined: [], left: [] });
  const id = await idOf(other);
  await other.subscribe("here.hall");
  const known = new Map();
  const came = await until(watch, [id], known);
  assert.deepEqual([came.count, came.joined, came.left], [1, [{ id, subject: "anonymous" }], []]);

  const back = heard(client, "connected");
  client.command("cut").catch(() => {});
  await back;
  const third = await connected();
  await third.subscribe("here.hall");
  const grown = await until(watch, [id, await idOf(third)], known);
  assert.deepEqual([grown.count, grown.left], [2, []]); // No false leave.
  await other.unsubscribe("here.hall");
  await until(watch, [await idOf(third)], known);
  await watch.return();
  assert.deepEqual(await watch.next(), { done: true, value: undefined });
});

test("what cannot be watched is thrown; a loop ends with the client, or with its signal", async () => {
  const client = await connected();
  await assert.rejects(watchPresence(client, "a.b").next(), code("NO_PRESENCE"));
  await assert.rejects(watchPresence(client, "here.*").next(), CommandError);
  const leaving = new AbortController();
  const left = watchPresence(client, "here.x", { signal: leaving.signal });
  const watch = watchPresence(client, "here.x");
  await Promise.all([left.next(), watch.next()]);
  leaving.abort();
  await assert.rejects(left.next(), { name: "AbortError" });
  client.close();
  assert.equal((await watch.next()).done, true);
  await assert.rejects(watchPresence(client, "here.x").next(), code("CLOSED"));
});

/** A client without a server; `asked` holds the questions, with what answers them. */
class Puppet extends EventTarget {
  state = "connected";
  asked = [];

  presence(channel, { watch }) {
    return new Promise((resolve, reject) => this.asked.push({ channel, watch, resolve, reject }));
  }

  tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  answer(names, more = {}) {
    const { watch, resolve } = this.asked.shift();
    resolve({ members: [...names].map((id) => ({ id })), count: names.length, watching: watch, ...more });
  }
}

const turn = () => new Promise((resolve) => setTimeout(resolve));
const names = ({ value }) => value.members.map(({ id }) => id).join("");

test("the server is asked once for all that watch, and not at all for who leaves in the same turn", async () => {
  const client = new Puppet();
  const first = watchPresence(client, "c");
  await first.return();
  const watches = [watchPresence(client, "c"), watchPresence(client, "c")];
  await turn();
  assert.deepEqual(client.asked.map(({ watch }) => watch), [true]);
  client.answer("ab");
  assert.deepEqual((await Promise.all(watches.map((watch) => watch.next()))).map(names), ["ab", "ab"]);
  await watches[0].return();
  await turn();
  assert.equal(client.asked.length, 0);
  await watches[1].return();
  const next = watchPresence(client, "c");
  await turn();
  assert.equal(client.asked.length, 0); // One took over.
  assert.equal(names(await next.next()), "ab");
  await next.return();
  await turn();
  const again = watchPresence(client, "c"); // While the end is on its way.
  await turn();
  assert.deepEqual(client.asked.map(({ watch }) => watch), [false]);
  client.answer("ab");
  await turn();
  assert.deepEqual(client.asked.map(({ watch }) => watch), [true]);
  client.answer("abc");
  await turn();
  assert.equal(names(await again.next()), "abc");
});

test("a change right after the answer counts, one before it does not", async () => {
  const client = new Puppet();
  const watch = watchPresence(client, "c");
  await turn();
  client.tell("presence", { channel: "c", count: 2, joined: [{ id: "a" }] });
  client.answer("b");
  client.tell("presence", { channel: "c", count: 2, joined: [{ id: "c" }] });
  client.tell("presence", { channel: "d", count: 9, joined: [{ id: "d" }] });
  await turn();
  assert.equal(names(await watch.next()), "bc");
  client.tell("presence", { channel: "c", count: 1, left: [{ id: "b" }] });
  assert.deepEqual((await watch.next()).value, { channel: "c", members: [{ id: "c" }], count: 1, joined: [], left: [{ id: "b" }] });
});

test("too many have only a number; what does not fit it is asked for anew", async () => {
  const client = new Puppet();
  const watch = watchPresence(client, "c");
  await turn();
  client.answer("ab");
  await watch.next();
  client.tell("presence", { channel: "c", count: 9 });
  assert.equal((await watch.next()).value.count, 9);
  assert.equal(client.asked.length, 0);
  client.tell("presence", { channel: "c", count: 3, joined: [{ id: "c" }] });
  await turn();
  client.answer("abc");
  assert.deepEqual((await watch.next()).value.joined, [{ id: "c" }]);
});

test("it knows what it knew while there is no connection, and ends as the server or the client does", async () => {
  const client = new Puppet();
  const watch = watchPresence(client, "c");
  await turn();
  client.answer("ab");
  await watch.next();
  const step = watch.next();
  client.state = "waiting";
  client.tell("connected", {});
  client.tell("connected", {});
  await turn();
  assert.deepEqual(client.asked.map(({ watch }) => watch), [true]);
  client.answer("bc");
  const { joined, left } = (await step).value;
  assert.deepEqual([joined, left], [[{ id: "c" }], [{ id: "a" }]]);
  client.tell("presence", { channel: "c", count: 0, watching: false });
  await assert.rejects(watch.next(), code("FORBIDDEN"));

  const other = watchPresence(client, "c");
  await turn();
  client.answer("a", { watching: false });
  await assert.rejects(other.next(), code("NO_PRESENCE"));
  const third = watchPresence(client, "c");
  await turn();
  client.tell("disconnected", { error: new Error("no more") });
  await assert.rejects(third.next(), /no more/);
});
