// The first tab: is all well, and if not, where.

import { BrokerPanel } from "./broker.js";
import { Chart } from "./chart.js";
import { $, hint, make, say, Rows } from "./dom.js";
import { bytes, clock, count, duration, exact, milliseconds, plural, rate } from "./format.js";
import { Traffic } from "./traffic.js";

const MINUTE = 60;
const LATE = 0.25;
/** What is read aloud when the verdict becomes another; its figures change each second. */
const SAID = { good: "All well.", warn: "Publications wait for slow connections.", bad: "Something is wrong: see the verdict." };

const sum = (points, of) => points.reduce((total, point) => total + of(point), 0);

// Name, explanation, value, its figure and unit, small print, least end of the scale, tone.
const CARDS = [
  {
    title: "Connections",
    of: (point) => point.connections,
    figure: (value) => [count(value), ""],
    more: (_, totals) => `${exact(totals.connections_ever)} ever`,
    floor: 5,
  },
  {
    title: "Received",
    about: "Messages from clients",
    of: (point) => point.received,
    figure: (value) => [rate(value), "/s"],
    more: (_, totals) => (totals.malformed ? `${exact(totals.malformed)} invalid` : "messages from clients"),
    floor: 5,
  },
  {
    title: "Published",
    about: "Publications of the application and of clients",
    of: (point) => point.published,
    figure: (value) => [rate(value), "/s"],
    more: (point) =>
      point.published ? `${rate(point.delivered / point.published)} receivers each` : "publications",
    floor: 5,
  },
  {
    title: "Delivered",
    about: "Publications sent, counted once per connection",
    of: (point) => point.delivered,
    figure: (value) => [rate(value), "/s"],
    more: (_, totals) => `${count(totals.sent)} in all`,
    floor: 5,
  },
  {
    title: "Dropped",
    about: "Publications dropped from full queues, or replaced by newer ones under `conflate`",
    of: (point) => point.dropped,
    figure: (value) => [rate(value), "/s"],
    more: (_, totals) => `${count(totals.dropped + totals.refused)} in all`,
    floor: 5,
    tone: (point) => (point.dropped ? "bad" : ""),
  },
  {
    title: "Waiting",
    about: "In the queues of connections that do not read fast enough",
    of: (point) => point.waitingBytes,
    figure: bytes,
    more: (point, totals) =>
      point.waiting ? `${plural(point.waiting, "message")}, ${count(totals.blocked)} blocked` : "nothing in queues",
    floor: 4096,
    isBinary: true,
    tone: (point) => (point.waiting ? "warn" : ""),
  },
  {
    title: "Event loop late",
    about: "By how much the loop was late at worst: something kept it busy so long",
    of: (point) => point.lag,
    figure: (value) => milliseconds(value).replace("< ", "<").split(" "),
    more: (_, __, worst) => `at worst ${milliseconds(worst.lag)}`,
    floor: 0.05,
    tone: (point) => (point.lag > LATE ? "bad" : point.lag > LATE / 5 ? "warn" : ""),
  },
  {
    title: "Processor",
    about: "Of one processor, used by the whole process",
    of: (point) => point.busy,
    figure: (value) => [(value * 100).toFixed(0), "%"],
    more: () => "of one core",
    floor: 0.5,
    tone: (point) => (point.busy > 0.9 ? "bad" : point.busy > 0.7 ? "warn" : ""),
  },
];

const TOTALS = {
  Traffic: [
    ["Connections ever", "connections_ever", "Handshakes that were accepted"],
    ["Patterns", "patterns", "Distinct ones, subscribed just now"],
    ["Messages received", "messages_received", "From clients"],
    ["Messages sent", "messages_sent", "Publications, replies and pings"],
    ["Publications", "publications", "Accepted"],
    ["Expected deliveries", "matched", "Publications times the members each was for"],
    ["Delivered", "sent", "Publications sent"],
  ],
  Losses: [
    ["Dropped", "dropped", "From full queues; those that newer ones replaced included"],
    ["Replaced", "conflated", "Of those dropped: a newer one took their place"],
    ["Refused", "refused", "Not taken by full queues"],
    ["Discarded", "discarded", "In the queues of connections that ended"],
  ],
  Errors: [
    ["Invalid messages", "malformed", "Of those received"],
    ["Failed writes", "failures", "Connections lost to one, or to one that took too long"],
    ["Replies not sent", "unsaid", "Replies that the protocol cannot express"],
  ],
};

class Card {
  element = make("article", "card");
  #value = make("p", "value");
  #number = document.createTextNode("–");
  #unit = make("span");
  #more = make("p", "more");
  #chart;
  #kind;

  constructor(kind) {
    this.#kind = kind;
    const title = make("h2", "", kind.title);
    this.element.title = kind.about ?? "";
    this.#value.append(this.#number, this.#unit);
    const text = (value) => kind.figure(value).join(" ").replace(" /", "/").trim();
    this.#chart = new Chart(kind.title, text, kind.isBinary);
    this.element.append(title, this.#value, this.#more, this.#chart.element);
  }

  show(point, totals, points) {
    const [number, unit] = this.#kind.figure(this.#kind.of(point));
    if (this.#number.data !== number) this.#number.data = number;
    say(this.#unit, unit ?? "");
    const worst = points.reduce((most, each) => (each && each.lag > most.lag ? each : most), point);
    say(this.#more, this.#kind.more(point, totals, worst));
    this.element.dataset.tone = this.#kind.tone?.(point) ?? "";
    this.#chart.draw(points, this.#kind.of, this.#kind.floor);
  }
}

export class Overview {
  #traffic = new Traffic();
  #cards = CARDS.map((kind) => new Card(kind));
  #totals = new Map();
  #broker = new BrokerPanel();
  #open;
  #slowest = new Rows($("#slowest"), () => this.#makeNamed(() => this.#slowest), showSlow);
  #losses = new Rows($("#losses"), () => this.#makeNamed(() => this.#losses), (row, item) => showLoss(row, item, this.#at));
  #ended = new Rows($("#ended"), makeEnded, (row, item) => showEnded(row, item, this.#at));
  #at = 0;

  constructor(openConnection) {
    $("#cards").append(...this.#cards.map((card) => card.element));
    for (const [group, totals] of Object.entries(TOTALS)) {
      const list = make("dl", "totals");
      list.append(...totals.map((total) => this.#makeTotal(...total)));
      $("#totals").append(make("h3", "", group), list);
    }
    this.#open = openConnection;
  }

  #makeTotal(label, name, about) {
    const pair = make("div");
    pair.title = about;
    const value = make("dd", "", "–");
    pair.append(make("dt", "", label), value);
    this.#totals.set(name, value);
    return pair;
  }

  wants() {
    return { view: "overview" };
  }

  /** Every sample, whatever tab is open: the history has no holes. */
  note(sample) {
    const point = this.#traffic.add(sample);
    if (!point) return;
    const { points } = this.#traffic;
    for (const card of this.#cards) card.show(point, sample.totals, points);
    for (const [name, element] of this.#totals) {
      say(element, exact(sample.totals[name]));
      element.classList.toggle("zero", !sample.totals[name]);
    }
    this.#judge(point, sample);
  }

  show(sample) {
    const slow = sample.rows.filter((row) => row.queued || row.is_blocked);
    this.#slowest.show(slow, keyOf);
    $("#slowest-none").hidden = slow.length > 0;
    const ended = sample.ended ?? [];
    this.#at = sample.at;
    const losses = sample.losses ?? [];
    this.#losses.show(losses, keyOf);
    $("#losses-none").hidden = losses.length > 0;
    this.#ended.show(ended, keyOf);
    this.#broker.show(sample);
    $("#ended-none").hidden = ended.length > 0;
    const { wsbus, python, pid, host, seconds, memory } = sample.process;
    const taken = memory ? ` · ${bytes(memory).join(" ")} of memory` : "";
    const node = sample.node ? ` · node ${sample.node}` : "";
    say($("#process"), `wsbus ${wsbus} · Python ${python} · process ${pid} on ${host}${node} · up ${duration(seconds)}${taken}`);
  }

  /** Nothing new is known: say from when the figures are. */
  forget() {
    const newest = this.#traffic.points.findLast(Boolean);
    const verdict = $("#verdict");
    verdict.dataset.tone = "quiet";
    say(verdict, newest ? `As of ${clock(newest.at * 1000).slice(0, 8)}` : "Waiting for the first sample…");
  }

  /** A row that begins with the name of a connection, which opens it. */
  #makeNamed(rowsOf) {
    const row = make("li");
    const who = make("button", "open");
    who.type = "button";
    who.addEventListener("click", () => this.#open(rowsOf().itemAt(who)));
    row.append(who, make("span", "figures"));
    return row;
  }

  #judge(point, { totals }) {
    const minute = this.#traffic.last(MINUTE);
    const dropped = sum(minute, (each) => each.droppedCount);
    const failed = sum(minute, (each) => each.failedCount);
    const late = Math.max(...minute.map((each) => each.lag));
    const troubles = [];
    if (dropped) {
      troubles.push(`${plural(dropped, "publication")} dropped, or replaced by newer ones, for connections that read too slowly`);
    }
    if (failed) troubles.push(`${plural(failed, "connection")} given up because nothing could be written`);
    if (late > LATE) troubles.push(`the event loop was late by ${milliseconds(late)}: something keeps it busy`);
    if (totals.broker && !totals.broker.is_up) troubles.push("there is no link to the broker");
    const waiting = point.waiting ? `${plural(point.waiting, "publication")} waiting for slow connections` : "";
    const verdict = $("#verdict");
    if (troubles.length) {
      verdict.dataset.tone = "bad";
      say(verdict, `In the last minute: ${troubles.join("; ")}.`);
    } else if (waiting) {
      verdict.dataset.tone = "warn";
      say(verdict, `${waiting}; nothing was dropped in the last minute.`);
    } else {
      const seconds = Math.min(MINUTE, Math.ceil(point.at - minute[0].at) || 1);
      verdict.dataset.tone = "good";
      say(verdict, `All well: nobody waits, and nothing was dropped in the last ${duration(seconds).replace("1 min", "minute")}.`);
    }
    say($("#verdict-said"), SAID[verdict.dataset.tone]);
    verdict.title = totals.is_running ? "" : "The bus is stopping";
  }
}

const keyOf = (row) => `${row.id} ${row.connected_at}`;

const showSlow = (row, item) => {
  const [who, figures] = row.children;
  say(who, item.subject ?? "not authenticated");
  hint(who, item.id);
  const waiting = item.queued ?? 0;
  const [size, unit] = bytes(item.queued_bytes ?? 0);
  const lost = item.dropped ?? 0;
  const text = waiting ? `${count(waiting)} waiting` : "blocked";
  figures.replaceChildren(make("strong", "", text), waiting ? `, ${size} ${unit}` : "", lost ? `, ${count(lost)} lost` : "");
};

const showLoss = (row, item, now) => {
  const [who, figures] = row.children;
  say(who, item.subject ?? "not authenticated");
  hint(who, item.id);
  const lost = plural(item.lost, "publication");
  const where = item.channels ? ` on ${item.channels.join(", ")}${item.has_more ? ", …" : ""}` : "";
  const over = item.at - item.since < 1 ? "" : ` in ${duration(item.at - item.since)}`;
  say(figures, `${lost}${over}${where}, ${now - item.at < 2 ? "now" : `${duration(now - item.at)} ago`}`);
};

const makeEnded = () => {
  const row = make("li");
  row.append(make("span", "who"), make("span", "figures"));
  return row;
};

const showEnded = (row, item, now) => {
  const [who, figures] = row.children;
  say(who, item.subject ?? "not authenticated");
  hint(who, `${item.id} ${item.path}`);
  const lost = item.dropped ? `, ${count(item.dropped)} lost` : "";
  const reason = item.reason ? ` ${item.reason}` : "";
  say(figures, `${item.code}${reason}${lost}, ${duration(now - item.ended_at)} ago, after ${duration(item.ended_at - item.connected_at)}`);
};
