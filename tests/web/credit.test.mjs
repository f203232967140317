// How a tab that falls behind asks for less, and for more again: a server and a page on a virtual clock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { makeCredit } from "../../src/wsbus/web/source/credit.js";
import { makeSession } from "../../src/wsbus/web/source/session.js";

const NETWORK = 2; // ms, each way.

/**
 * A server that publishes on some channels, `every` ms each, and a page that works on each event.
 * @returns what the page has handled: when, of which channel, and how old it was then.
 */
function run({ most = "auto", channels = 1, every = 1, work, until = 10_000, credit = makeCredit() }) {
  const handled = [];
  const rates = [];
  const server = new Map(); // By channel: the newest that is held, and when one may go.
  const queue = []; // On the way to the page, or waiting there.
  const orders = []; // Rates on the way to the server.
  let rate = credit.rateOf(most);
  let served = rate;
  let busyUntil = 0;
  for (let now = 0; now < until; now++) {
    while (orders.length && orders[0].at <= now) {
      served = orders.shift().rate;
      // Intervals begin anew, and what is held goes at once.
      for (const [channel, state] of server) {
        if (state.held !== undefined) queue.push({ at: now + NETWORK, channel, published: state.held });
        server.set(channel, { free: state.held === undefined ? now : now + 1000 / served });
      }
    }
    for (let i = 0; i < channels; i++) {
      const state = server.get(i) ?? { free: 0 };
      server.set(i, state);
      if (now % every === 0) state.held = now;
      if (state.held !== undefined && state.free <= now) {
        queue.push({ at: now + NETWORK, channel: i, published: state.held });
        state.held = undefined;
        state.free = now + 1000 / served;
      }
    }
    while (busyUntil <= now && queue.length && queue[0].at <= now) {
      const { channel, published } = queue.shift();
      const begun = Math.max(now, busyUntil);
      credit.began(begun, `${channel}`);
      handled.push({ at: begun, channel, age: begun - published });
      if (credit.rateOf(most) !== rate) {
        rate = credit.rateOf(most);
        rates.push({ at: begun, rate });
        orders.push({ at: begun + NETWORK, rate });
      }
      busyUntil = begun + (typeof work === "function" ? work(begun) : work);
      credit.worked(busyUntil, begun);
    }
  }
  return { handled, rates, credit, waiting: queue.length };
}

const after = (handled, ms) => handled.filter(({ at }) => at >= ms);
const oldest = (handled) => Math.max(...handled.map(({ age }) => age));

test("a tab that works 100 ms on each of 1,000 events a second is never far behind", () => {
  const { handled, rates, waiting } = run({ work: 100, until: 60_000 });
  assert.ok(oldest(handled) <= 150, `${oldest(handled)} ms`);
  assert.ok(after(handled, 2000).length > 6 * 58, "it gets what it can do");
  assert.ok(waiting <= 2);
  assert.ok(rates.length < 20, `${rates.length} requests`);
});

test("whatever the work, what it shows is young, and it goes on getting events", () => {
  for (const work of [0, 1, 5, 20, 40, 60, 80, 120]) {
    for (const most of ["auto", 5, 30]) {
      const { handled, waiting } = run({ work, most });
      const settled = after(handled, 3000);
      assert.ok(oldest(settled) <= Math.max(150, 1.5 * work), `${work} ms, ${most}: ${oldest(settled)} ms`);
      assert.ok(settled.length >= 7 * Math.min(most === "auto" ? 60 : most, 400 / work) * 0.9, `${work} ms, ${most}: ${settled.length}`);
      assert.ok(waiting < 10);
    }
  }
});

test("many channels share what it can do", () => {
  const { handled } = run({ work: 5, channels: 100, every: 10, until: 30_000 });
  const settled = after(handled, 15_000);
  // One event of each is 500 ms of work, and a change of the rate brings one of each.
  assert.ok(oldest(settled) <= 2000, `${oldest(settled)} ms`);
  assert.equal(new Set(settled.map(({ channel }) => channel)).size, 100);
});

test("a tab that has caught up gets as much as before", () => {
  const work = (now) => (now > 5000 && now < 10_000 ? 100 : 1);
  for (const [most, full] of [["auto", 60], [40, 40]]) {
    const { handled, credit } = run({ work, most, until: 20_000 });
    const count = (from) => handled.filter(({ at }) => at >= from && at < from + 1000).length;
    assert.ok(count(4000) >= full * 0.9, `${most} before: ${count(4000)}`);
    assert.ok(count(9000) <= 10, `${most} meanwhile: ${count(9000)}`);
    assert.ok(count(18_000) >= full * 0.9, `${most} afterwards: ${count(18_000)}`);
    assert.equal(credit.rateOf(most), full);
  }
});

test("a number is asked for as it is until the tab falls behind, and is never exceeded", () => {
  const credit = makeCredit();
  assert.deepEqual([0.01, 1, 500, 1000].map(credit.rateOf), [0.01, 1, 500, 1000]);
  for (const work of [0, 100]) {
    const { rates } = run({ work, most: 20 });
    assert.ok(rates.every(({ rate }) => rate <= 20));
    assert.equal(rates.length > 0, work > 0);
  }
});

test("one long task is no sign that the tab is behind, if it rests afterwards", () => {
  const { rates } = run({ most: 20, every: 500, work: (now) => (now < 600 ? 90 : 1) });
  assert.deepEqual(rates, []);
});

// --- in a session --------------------------------------------------------------------------------

const HELLO = ["heard", { type: "connected", timestamp: 0, data: { connection_id: "c", subject: "u1" } }];

function open() {
  const session = makeSession(
    {
      token: null, isFetched: false, inHandshake: false, greets: true, interval: 15_000, timeout: 20_000, connectTimeout: 10_000,
      retry: { base: 1000, cap: 30_000, attempts: Infinity },
    },
    () => 0.5,
    () => false,
  );
  for (const input of [["connect"], ["opened"], HELLO]) session.handle(0, ...input);
  return session;
}

/** The requests for names that follow from an input, after those that waited for the end of the turn. */
function asked(session, now, ...input) {
  const actions = [...session.handle(now, ...input), ...session.handle(now, "deadline")];
  return actions.filter(([type]) => type === "say").map(([, text]) => JSON.parse(text)).filter(({ channels }) => channels);
}

const subscribed = (id, ...channels) => ["heard", { type: "subscribed", id, timestamp: 0, data: { channels } }];

test("a rate is asked for with the name, over each connection", () => {
  const session = open();
  const [first] = asked(session, 0, "subscribe", "a", "h", undefined, 5);
  assert.deepEqual([first.channels, first.max_rate], [["a"], { a: 5 }]);
  session.handle(0, ...subscribed(first.id, "a"));
  assert.ok(session.isRated());
  session.handle(1, "lost", 1006, "");
  for (const input of [["deadline"], ["opened"]]) session.handle(5000, ...input);
  const [again] = asked(session, 5000, ...HELLO);
  assert.deepEqual(again.max_rate, { a: 5 });
});

test("the holder that wants most decides, and a name without a rate stays whole", () => {
  const session = open();
  const [first] = asked(session, 0, "subscribe", "a", "slow", undefined, 1);
  session.handle(0, ...subscribed(first.id, "a"));
  const [faster] = asked(session, 0, "subscribe", "a", "fast", undefined, 9);
  assert.deepEqual([faster.channels, faster.max_rate, faster.since], [["a"], { a: 9 }, undefined]);
  const [all] = asked(session, 0, "subscribe", "a", "all");
  assert.deepEqual([all.channels, all.max_rate], [["a"], undefined]);
  assert.deepEqual(asked(session, 0, "unsubscribe", "a", "slow"), []);
  const [left] = asked(session, 0, "unsubscribe", "a", "all");
  assert.deepEqual(left.max_rate, { a: 9 });
  const [end] = asked(session, 0, "unsubscribe", "a", "fast");
  assert.equal(end.type, "unsubscribe");
  assert.ok(!session.isRated());
});

test("a request for another rate that was too many is made again, and one that is refused ends nothing", () => {
  for (const [code, again] of [["RATE_LIMITED", true], ["INVALID_MESSAGE", false]]) {
    const session = open();
    const [first] = asked(session, 0, "subscribe", "a", "h", undefined, 5);
    session.handle(0, ...subscribed(first.id, "a"));
    const [tuned] = asked(session, 0, "subscribe", "a", "fast", undefined, 9);
    const refused = { type: "error", id: tuned.id, timestamp: 0, data: {}, error: { code, message: "no" } };
    const actions = session.handle(0, "heard", refused);
    assert.ok(!actions.some(([type]) => ["dismiss", "tellError"].includes(type)));
    assert.deepEqual(asked(session, 60_000, "worked", 60_000).map(({ max_rate }) => max_rate), again ? [{ a: 9 }] : []);
  }
});

test("names that want all events are never thinned, however far behind the tab is", () => {
  const session = open();
  const [first] = asked(session, 0, "subscribe", "all", "h");
  session.handle(0, ...subscribed(first.id, "all"));
  const [auto] = asked(session, 0, "subscribe", "auto", "h", undefined, "auto");
  assert.deepEqual(auto.max_rate, { auto: 10 });
  session.handle(0, ...subscribed(auto.id, "auto"));
  session.handle(1000, "began", "auto");
  session.handle(1200, "worked", 1000);
  const [lower] = asked(session, 1200, "began", "auto");
  assert.deepEqual([lower.channels, lower.max_rate], [["auto"], { auto: 3.75 }]);
});
