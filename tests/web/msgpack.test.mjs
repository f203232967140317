// MessagePack: what is written and read, and a client that speaks it with a real bus.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Client } from "../../src/wsbus/web/wsbus.js";
import { msgpack, pack, unpack } from "../../src/wsbus/web/wsbus-msgpack.js";
import { complaints, start, take } from "./servers.mjs";

let server;
before(async () => {
  server = await start("tests.web.server", "websockets");
});
after(() => server.stop());

const hex = (value) => Buffer.from(pack(value)).toString("hex");
const nested = (depth) => Array.from({ length: depth }).reduce((inner) => [inner], null);
const VALUES = [
  ...[0, 127, 128, 255, 256, 65535, 65536, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1],
  ...[-1, -32, -33, -128, -129, -32768, -32769, -(2 ** 31), -(2 ** 31) - 1, 1 - 2 ** 53],
  ...[1.5, 1e300, -0, 2n ** 64n - 1n, -(2n ** 63n), null, true, false],
  ...["", "é".repeat(20), "x".repeat(300), "x".repeat(70_000), "\ufeffmark"],
  ...[[], Array(20).fill(1), Array(70_000).fill(0), { a: { b: [1] } }, JSON.parse('{"__proto__":{"x":1}}')],
  ...[Object.fromEntries(Array.from({ length: 20 }, (_, i) => [`k${i}`, i]))],
  ...[new Uint8Array([1, 2, 255]), new Uint8Array(300), new Uint8Array(70_000)],
  ...[0, 1500, -1500, 8.64e15, 2 ** 34 * 1000, 2 ** 32 * 1000].map((ms) => new Date(ms)),
];

test("what is written is read as it was", () => {
  for (const value of VALUES) assert.deepStrictEqual(unpack(pack(value)), value);
});

test("what JSON leaves out is left out, and what it nulls is null", () => {
  assert.equal(hex({ a: undefined, f() {}, n: NaN, d: new Date(NaN) }), "82a16ec0a164c0");
  assert.equal(hex([undefined]), "91c0");
  assert.equal(hex({ toJSON: () => 5 }), "05");
});

test("each value has its shortest form", () => {
  for (const [value, text] of [
    [128, "cc80"],
    [-128, "d080"],
    [65536, "ce00010000"],
    [new Date(1000), "d6ff00000001"],
    [new Date(-1), "c70cff3b8b87c0ffffffffffffffff"],
    [new Uint8Array(1), "c40100"],
  ]) {
    assert.equal(hex(value), text);
  }
});

test("what cannot be written is refused", () => {
  for (const value of [2n ** 64n, -(2n ** 63n) - 1n, nested(65)]) assert.throws(() => pack(value));
  assert.deepEqual(unpack(pack(nested(64))), nested(64));
});

test("bytes that are no message are refused, at once", () => {
  const bad = ["", "c1", "a5ab", "a1ff", "ddffffffff", "dfffffffff", "dbffffffff00", "c6ffffffff00", "d405aa", "0101"];
  for (const text of [...bad, `${"91".repeat(65)}c0`, "91".repeat(100_000), "d7"]) {
    assert.throws(() => unpack(Buffer.from(text, "hex")), undefined, text.slice(0, 20));
  }
});

test("bytes, dates and large numbers are kept from client to client", async () => {
  const [packed, plain] = [new Client(server.url, { codec: msgpack }), new Client(server.url)];
  const data = { bytes: new Uint8Array([0, 255]), at: new Date(1_700_000_000_123), large: 2n ** 64n - 1n, x: 1.5 };
  const [own, other] = [packed.events("a.b"), plain.events("a.b")];
  await Promise.all([packed.connect(), plain.connect()]);
  await Promise.all([packed.subscribe("a.b"), plain.subscribe("a.b")]);
  const { matched } = await packed.publish("a.b", data);
  assert.equal(matched, 2);
  const [[mine], [theirs]] = [await take(own, 1), await take(other, 1)];
  assert.deepEqual(mine.data, data);
  assert.deepEqual(theirs.data, { bytes: "AP8=", at: "2023-11-14T22:13:20.123000Z", large: 2 ** 64, x: 1.5 });

  await packed.publish("kept.x", data);
  assert.deepEqual((await packed.history("kept.x")).events.at(-1).data, data);
  const answer = await packed.command("typed", { what: new Uint8Array([1, 2]), at: new Date(0) });
  assert.deepEqual(answer, { what: new Uint8Array([2, 1]), at: new Date(1000), large: 2n ** 64n - 1n });
  packed.close();
  plain.close();
});

test("data that are too large are refused by their true size", async () => {
  const client = new Client(server.url, { codec: msgpack });
  await client.connect();
  assert.equal((await client.publish("a", new Uint8Array(65_000))).matched, 0);
  await assert.rejects(client.publish("a", new Uint8Array(65_600)), { code: "TOO_LARGE" });
  client.close();
});

test("a message that cannot be read is told, and the connection goes on", () => {
  const sockets = [];
  class Fake extends EventTarget {
    protocol = msgpack.protocol;
    constructor() {
      super();
      sockets.push(this);
    }
    send() {}
    close() {}
  }
  const client = new Client("ws://nowhere.invalid", { codec: msgpack, WebSocket: Fake });
  const told = complaints(client);
  client.connect().catch(() => {});
  const [socket] = sockets;
  const hear = (data) => socket.dispatchEvent(Object.assign(new Event("message"), { data }));
  socket.dispatchEvent(new Event("open"));
  for (const data of [new Uint8Array([0xc1]).buffer, "{}", new ArrayBuffer(0)]) hear(data);
  assert.equal(told.length, 3);
  hear(pack({ type: "connected", timestamp: 1, data: { connection_id: "c", subject: "u" } }).buffer);
  assert.equal(client.state, "connected");
  client.close();
});
