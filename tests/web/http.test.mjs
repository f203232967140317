// The client behind proxies that let no WebSocket through, with a real bus.
import assert from "node:assert/strict";
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import { after, afterEach, before, test } from "node:test";

import { Client, CommandError } from "../../src/wsbus/web/wsbus.js";
import { heard, start, take, tokenFor } from "./servers.mjs";

const retry = { base: 20, cap: 200, attempts: Infinity };
const opened = [];
let server;

/**
 * A proxy that refuses upgrades, unless `passes` is set; with `holds` it keeps a stream back until it
 * ends. `cut` ends all connections.
 */
async function proxy(options = {}) {
  const sockets = new Set();
  const seen = [];
  const { port } = new URL(server.url.replace("ws", "http"));
  const self = { seen, passes: false, holds: false, ...options };
  const front = http.createServer((request, response) => {
    seen.push(`${request.method} ${new URL(request.url, "http://x").pathname}`);
    const back = http.request({ port, path: request.url, method: request.method, headers: request.headers }, (answer) => {
      const isStream = answer.headers["content-type"] === "text/event-stream";
      if (isStream && self.holds) {
        answer.on("data", () => {}).on("error", () => {});
        return;
      }
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      answer.on("error", () => response.destroy());
    });
    back.on("error", () => response.destroy());
    response.on("close", () => back.destroy());
    request.pipe(back);
  });
  front.on("upgrade", (request, socket, head) => {
    seen.push("upgrade");
    if (!self.passes) return socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
    const back = net.connect(port);
    back.write(`${request.method} ${request.url} HTTP/1.1\r\n`);
    for (let at = 0; at < request.rawHeaders.length; at += 2) back.write(`${request.rawHeaders[at]}: ${request.rawHeaders[at + 1]}\r\n`);
    back.write("\r\n");
    back.write(head);
    for (const each of [socket, back]) each.on("error", () => {});
    return back.pipe(socket).pipe(back);
  });
  front.on("connection", (socket) => sockets.add(socket));
  front.listen(0, "127.0.0.1");
  await once(front, "listening");
  opened.push({ close: () => (front.close(), self.cut()) });
  self.cut = () => sockets.forEach((socket) => socket.destroy());
  self.url = (path = "/ws") => `ws://127.0.0.1:${front.address().port}${path}`;
  return self;
}

function make(url, options = {}) {
  const client = new Client(url, { retry, ...options });
  opened.push(client);
  return client;
}

before(async () => {
  server = await start("tests.web.server", "asgi");
});
after(() => server.stop());
afterEach(() => {
  for (const each of opened.splice(0)) each.close();
});

for (const holds of [false, true]) {
  const how = holds ? "by long polls, where streams are held back," : "as an event stream";
  test(`what is published comes ${how} in order, once`, async () => {
    const between = await proxy({ holds });
    const client = make(between.url());
    await client.connect();
    const channel = `kept.${holds}`;
    const events = client.events(channel);
    await client.subscribe([channel, `kept.other.${holds}`]);
    for (let number = 0; number < 40; number++) await client.publish(channel, number);

    assert.deepEqual((await take(events, 40)).map(({ data }) => data), [...Array(40).keys()]);
    assert.equal(between.seen.filter((each) => each === "upgrade").length, 2);
    assert.ok(between.seen.includes("GET /ws/events") && between.seen.includes("POST /ws/requests"));
    if (holds) assert.ok(between.seen.includes("GET /ws/poll"));
  });
}

test("it goes on at its position after cuts, whatever is published meanwhile", async () => {
  const between = await proxy();
  const client = make(between.url());
  const feed = make(server.url);
  await Promise.all([client.connect(), feed.connect()]);
  const gaps = [];
  client.addEventListener("gap", ({ detail }) => gaps.push(detail));
  const events = client.events("kept.cut.*");
  await client.subscribe("kept.cut.*");
  const publish = async () => {
    for (let number = 0; number < 90; number++) {
      if (number % 30 === 15) between.cut();
      await feed.publish("kept.cut.a", number);
    }
  };
  const [read] = await Promise.all([take(events, 90), publish()]);

  assert.deepEqual(read.map(({ data }) => data), [...Array(90).keys()]);
  assert.deepEqual(gaps, []);
});

test("a quiet name takes nothing from a busy one, which has had more than is kept", async () => {
  const between = await proxy();
  const client = make(between.url());
  const feed = make(server.url);
  await Promise.all([client.connect(), feed.connect()]);
  const gaps = [];
  client.addEventListener("gap", ({ detail }) => gaps.push(detail));
  const [busy, quiet] = [client.events("kept.busy"), client.events("kept.quiet")];
  await client.subscribe(["kept.busy", "kept.quiet"]);
  for (let turn = 0; turn < 2; turn++) {
    await Promise.all([...Array(60).keys()].map((number) => feed.publish("kept.busy", number)));
    await take(busy, 60);
  }
  const lost = heard(client, "reconnecting");
  between.cut();
  await lost;
  await feed.publish("kept.quiet", "missed");
  await feed.publish("kept.busy", "missed, too");
  await feed.publish("kept.quiet", "last");

  assert.deepEqual((await take(quiet, 2)).map(({ data }) => data), ["missed", "last"]);
  assert.equal((await take(busy, 1))[0].data, "missed, too");
  assert.deepEqual(gaps, []);
});

test("a WebSocket is tried again after a cut, and goes on where the stream was", async () => {
  const between = await proxy();
  const client = make(between.url());
  await client.connect();
  const events = client.events("kept.again");
  await client.subscribe("kept.again");
  await client.publish("kept.again", 1);
  await take(events, 1);
  const again = heard(client, "connected");
  between.passes = true;
  between.cut();
  await again;
  await client.publish("kept.again", 2);

  assert.equal((await take(events, 1))[0].data, 2);
  assert.match((await client.status()).connection_id, /./); // There is no such request over HTTP.
});

test("publications that do not wait for each other keep their order", async () => {
  const between = await proxy();
  const client = make(between.url());
  await client.connect();
  const events = client.events("kept.order");
  await client.subscribe("kept.order");
  for (let number = 0; number < 30; number++) client.publish("kept.order", number);

  assert.deepEqual((await take(events, 30)).map(({ data }) => data), [...Array(30).keys()]);
});

test("a name that is added begins with what is new, and the others go on", async () => {
  const between = await proxy();
  const client = make(between.url());
  await client.connect();
  const old = client.events("kept.first");
  await client.subscribe("kept.first");
  for (const number of [1, 2, 3]) await client.publish("kept.second", number);
  const added = client.events("kept.second");
  await client.subscribe("kept.second");
  await client.publish("kept.second", 4);
  await client.publish("kept.first", 5);
  await client.unsubscribe("kept.second");
  await client.publish("kept.first", 6);

  assert.equal((await take(added, 1))[0].data, 4);
  assert.deepEqual((await take(old, 2)).map(({ data }) => data), [5, 6]);
});

test("requests are answered, and refusals are those of a WebSocket", async () => {
  const between = await proxy();
  const client = make(between.url());
  await client.connect();

  assert.deepEqual(await client.command("echo", { a: 1 }), { a: 1 });
  await assert.rejects(client.command("fail", { code: "NO", message: "never" }), { code: "NO" });
  await assert.rejects(client.subscribe("forbidden.a"), (error) => error instanceof CommandError && error.code === "FORBIDDEN");
  await client.publish("kept.read", 7);
  assert.equal((await client.history("kept.read")).events.at(-1).data, 7);
});

for (const tokenIn of ["message", "subprotocol"]) {
  test(`a token in a ${tokenIn} is sent in a header`, async () => {
    const between = await proxy();
    const claims = { subscribe: ["a"], publish: ["a"] };
    const client = make(between.url("/private"), { token: tokenFor(claims), tokenIn });
    await client.connect();
    const events = client.events("a");
    await client.subscribe("a");
    await client.publish("a", 1);
    assert.equal((await take(events, 1))[0].data, 1);
  });
}

test("a wrong token ends it", async () => {
  const between = await proxy();
  await assert.rejects(make(between.url("/private"), { token: "wrong" }).connect(), { code: 4500 });
  await assert.rejects(make(between.url("/private")).connect(), { code: 4500 });
});

test("one option turns it off", async () => {
  const between = await proxy();
  await assert.rejects(make(between.url(), { fallback: false }).connect(), { code: 1006 });
  assert.deepEqual(between.seen, ["upgrade"]);
});
