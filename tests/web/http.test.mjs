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
 * ends. `cut` ends all connections. `stream` gives an event stream, once it has brought a text; it may be held,
 * and those to come are with `holdsNew`.
 */
async function proxy(options = {}) {
  const sockets = new Set();
  const seen = [];
  const { port } = new URL(server.url.replace("ws", "http"));
  const self = { seen, passes: false, holds: false, holdsNew: false, ...options };
  const streams = [];
  const carry = (answer, response) => {
    const stream = { text: "", isHeld: self.holdsNew, waiting: [], end: () => response.destroy() };
    stream.go = () => {
      stream.isHeld = false;
      for (const chunk of stream.waiting.splice(0)) response.write(chunk);
    };
    answer.on("data", (chunk) => {
      stream.text += chunk;
      stream.waiting.push(chunk);
      if (!stream.isHeld) stream.go();
      front.emit("carried");
    });
    answer.on("end", () => response.end());
    streams.push(stream);
  };
  const front = http.createServer((request, response) => {
    seen.push(`${request.method} ${new URL(request.url, "http://x").pathname}`);
    const back = http.request({ port, path: request.url, method: request.method, headers: request.headers }, (answer) => {
      const isStream = answer.headers["content-type"] === "text/event-stream";
      if (isStream && self.holds) {
        answer.on("data", () => {}).on("error", () => {});
        return;
      }
      response.writeHead(answer.statusCode, answer.headers);
      if (isStream) carry(answer, response);
      else answer.pipe(response);
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
  self.stream = async (number, text = '"subscribed"') => {
    while (!streams[number]?.text.includes(text)) await once(front, "carried");
    return streams[number];
  };
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

/** What both ways keep. Once a stream of a page was held back, the page waits for none again. */
function keeps(how, holds) {
  test(`${how} what is published comes in order, once`, async () => {
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

  test(`${how} it goes on at its position after cuts, whatever is published meanwhile`, async () => {
    const between = await proxy({ holds });
    const client = make(between.url());
    const feed = make(server.url);
    await Promise.all([client.connect(), feed.connect()]);
    const gaps = [];
    client.addEventListener("gap", ({ detail }) => gaps.push(detail));
    const events = client.events(`kept.cut${holds}.*`);
    await client.subscribe(`kept.cut${holds}.*`);
    const publish = async () => {
      for (let number = 0; number < 90; number++) {
        if (number % 30 === 15) between.cut();
        await feed.publish(`kept.cut${holds}.a`, number);
      }
    };
    const [read] = await Promise.all([take(events, 90), publish()]);

    assert.deepEqual(read.map(({ data }) => data), [...Array(90).keys()]);
    assert.deepEqual(gaps, []);
  });

  test(`${how} a quiet name takes nothing from a busy one, which has had more than is kept`, async () => {
    const between = await proxy({ holds });
    const client = make(between.url());
    const feed = make(server.url);
    await Promise.all([client.connect(), feed.connect()]);
    const gaps = [];
    client.addEventListener("gap", ({ detail }) => gaps.push(detail));
    const [busy, quiet] = [client.events(`kept.busy${holds}`), client.events(`kept.quiet${holds}`)];
    await client.subscribe([`kept.busy${holds}`, `kept.quiet${holds}`]);
    for (let turn = 0; turn < 2; turn++) {
      await Promise.all([...Array(60).keys()].map((number) => feed.publish(`kept.busy${holds}`, number)));
      await take(busy, 60);
    }
    const lost = heard(client, "reconnecting");
    between.cut();
    await lost;
    await feed.publish(`kept.quiet${holds}`, "missed");
    await feed.publish(`kept.busy${holds}`, "missed, too");
    await feed.publish(`kept.quiet${holds}`, "last");

    assert.deepEqual((await take(quiet, 2)).map(({ data }) => data), ["missed", "last"]);
    assert.equal((await take(busy, 1))[0].data, "missed, too");
    assert.deepEqual(gaps, []);
  });

  test(`${how} a name that is added begins with what is new, and the others go on`, async () => {
    const between = await proxy({ holds });
    const client = make(between.url());
    await client.connect();
    const old = client.events(`kept.first${holds}`);
    await client.subscribe(`kept.first${holds}`);
    for (const number of [1, 2, 3]) await client.publish(`kept.second${holds}`, number);
    const added = client.events(`kept.second${holds}`);
    await client.subscribe(`kept.second${holds}`);
    await client.publish(`kept.second${holds}`, 4);
    await client.publish(`kept.first${holds}`, 5);
    await client.unsubscribe(`kept.second${holds}`);
    await client.publish(`kept.first${holds}`, 6);

    assert.equal((await take(added, 1))[0].data, 4);
    assert.deepEqual((await take(old, 2)).map(({ data }) => data), [5, 6]);
  });
}

keeps("as an event stream,", false);

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

/** Two clients, the first over HTTP and subscribed to a channel without history; its events; and its first stream. */
async function onLive(channel) {
  const between = await proxy();
  const client = make(between.url());
  const feed = make(server.url);
  await Promise.all([client.connect(), feed.connect()]);
  const events = client.events(channel);
  await client.subscribe(channel);
  const publish = async (...numbers) => {
    for (const number of numbers) await feed.publish(channel, number);
  };
  return { between, client, events, publish, first: await between.stream(0) };
}

const numbersOf = async (events, count) => (await take(events, count)).map(({ data }) => data);

test("an event without a position comes once, though the old stream and the new one bring it", async () => {
  const { between, client, events, publish } = await onLive("live.once");
  between.holdsNew = true;
  const adding = client.subscribe("live.more");
  const second = await between.stream(1);
  await publish(0, 1, 2);
  assert.deepEqual(await numbersOf(events, 3), [0, 1, 2]);
  second.go();
  await adding;
  await publish(3, 4);

  assert.deepEqual(await numbersOf(events, 2), [3, 4]);
});

test("what is on its way over the old stream comes, and before what the new one brings", async () => {
  const { between, client, events, publish, first } = await onLive("live.late");
  first.isHeld = true;
  await publish(0, 1, 2);
  await client.subscribe("live.more");
  await publish(3, 4);
  await between.stream(1, '"data":4');
  first.go();
  await publish(5);

  assert.deepEqual(await numbersOf(events, 6), [0, 1, 2, 3, 4, 5]);
});

test("an old stream that is stuck, or ends, holds up the new one no longer than a moment", async () => {
  const { between, client, events, publish, first } = await onLive("live.stuck");
  first.isHeld = true;
  await client.subscribe("live.more");
  await publish(1, 2);
  assert.deepEqual(await numbersOf(events, 2), [1, 2]);
  const second = await between.stream(1);
  second.isHeld = true;
  await client.subscribe("live.again");
  await publish(3);
  second.end();

  assert.deepEqual(await numbersOf(events, 1), [3]);
  assert.equal(between.seen.filter((each) => each === "upgrade").length, 2); // It has not come again.
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

keeps("by long polls, where streams are held back,", true);
