// The connections, the slowest first; and one of them in full, with the way to end it.

import { $, Heads, hint, isPressed, make, Order, press, Rows, say, settle } from "./dom.js";
import { bytes, count, date, duration, exact, milliseconds, plural, steady } from "./format.js";

const LABELS = ["", "Waiting", "Lost", "", "Sent", "Received", "Subscriptions", "From", "Age"];
const HEADS = [
  ["Identity", "", { name: "ascending" }],
  ["Waiting", "number", { slow: "descending" }],
  ["Lost", "number", { dropped: "descending" }],
  ["Heard last", "number"],
  ["Sent", "number", { sent: "descending" }],
  ["Received", "number", { received: "descending" }],
  ["Subscriptions", ""],
  ["From", ""],
  ["Age", "number", { newest: "ascending", oldest: "descending" }],
];
const WHOLE = new Set([0, 6, 7]);
const NUMBERS = new Set([1, 2, 3, 4, 5, 8]);
const TRIP = 3;

const RATE_SAMPLES = 6;
/** What a list is sorted by, where that goes up and down. */
const NOISY = { slow: (row) => row.queued ?? 0 };

const keyOf = (row) => `${row.id} ${row.connected_at}`;

export class Connections {
  #rows;
  #held = null;
  #sample = null;
  #order = new Order($("#connection-rows"), keyOf);
  #rates = new Rates();

  constructor(changed, openConnection) {
    this.#rows = new Rows(
      $("#connection-rows"),
      () => makeRow((button) => openConnection(this.#rows.itemAt(button))),
      (row, item, before) => showRow(row, item, before, this.#sample.at, this.#rates.of(keyOf(item))),
    );
    const heads = new Heads($("#connection-sort"));
    $("#connection-head").replaceChildren(...HEADS.map((head) => heads.make(...head)));
    heads.mark();
    $("#connection-find").addEventListener("input", settle(changed));
    $("#connection-sort").addEventListener("change", changed);
    const hold = $("#connection-hold");
    hold.addEventListener("click", () => {
      press(hold, !isPressed(hold), isPressed(hold) ? "Freeze" : "Resume");
      if (!isPressed(hold) && this.#held) this.show(this.#held);
    });
  }

  wants() {
    return {
      view: "connections",
      sort: $("#connection-sort").value,
      find: $("#connection-find").value,
    };
  }

  show(sample) {
    if (isPressed($("#connection-hold"))) {
      this.#held = sample;
      return;
    }
    this.#sample = sample;
    this.#rates.note(sample);
    this.#rows.show(this.#order.apply(sample.rows, sample.sort, NOISY[sample.sort]), keyOf);
    const { rows, found, total } = sample;
    say($("#connection-head").cells[TRIP], rows.some((row) => row.rtt !== undefined) ? "Round trip" : "Heard last");
    const isCut = rows.length < found;
    const first = isCut ? `The first ${count(rows.length)} of ` : "";
    const matching = sample.find ? `${plural(found, "match", "matches")} among ` : "";
    say($("#connection-shown"), `${first}${matching}${plural(total, "connection")}${this.#order.note}`);
    const none = $("#connection-none");
    none.hidden = rows.length > 0;
    say(none, sample.find ? "No connection matches the filter." : "Nobody is connected.");
  }
}

/** Messages a second of each connection that is shown, over the last few samples. */
class Rates {
  #node = "";
  #marks = new Map();

  note({ node, clock, rows }) {
    const before = node === this.#node ? this.#marks : new Map();
    this.#node = node;
    this.#marks = new Map();
    for (const row of rows) {
      const mark = { clock, sent: row.sent ?? 0, received: row.received ?? 0 };
      this.#marks.set(keyOf(row), [...(before.get(keyOf(row)) ?? []), mark].slice(-RATE_SAMPLES));
    }
  }

  /** Texts; empty until there are two samples to go by. */
  of(key) {
    const marks = this.#marks.get(key);
    const [first, last] = [marks.at(0), marks.at(-1)];
    const elapsed = last.clock - first.clock;
    const rate = (name) => (elapsed ? `${steady((last[name] - first[name]) / elapsed)}/s` : "");
    return { sent: rate("sent"), received: rate("received") };
  }
}

const makeRow = (open) => {
  const row = make("tr");
  LABELS.forEach((label, index) => {
    const cell = make("td");
    cell.classList.toggle("number", NUMBERS.has(index));
    cell.classList.toggle("whole", WHOLE.has(index));
    cell.dataset.label = label;
    row.append(cell);
  });
  const who = make("button", "open");
  who.type = "button";
  who.addEventListener("click", () => open(who));
  row.cells[0].append(who, make("small", "mono"));
  for (const index of [1, 2, 3, 4, 5, 6, 7]) row.cells[index].append(make("span"), make("small"));
  return row;
};

const tone = (element, name) => {
  if (name) element.dataset.tone = name;
  else delete element.dataset.tone;
};

const showRow = (row, item, before, now, rates) => {
  const [who, waiting, lost, trip, sent, received, patterns, from, age] = row.cells;
  say(who.firstChild, item.subject ?? "not authenticated");
  say(who.lastChild, item.id);
  hint(who, item.id);

  const queued = item.queued ?? 0;
  say(waiting.firstChild, queued || !item.is_blocked ? count(queued) : "blocked");
  say(waiting.lastChild, queued ? bytes(item.queued_bytes).join(" ") : "");
  tone(waiting.firstChild, queued || item.is_blocked ? "warn" : "");
  waiting.classList.toggle("zero", !queued && !item.is_blocked);

  const dropped = item.dropped ?? 0;
  const more = before ? dropped - (before.dropped ?? 0) : 0;
  say(lost.firstChild, count(dropped));
  say(lost.lastChild, more > 0 ? `+${count(more)}` : "");
  tone(lost.firstChild, more > 0 ? "bad" : dropped ? "warn" : "");
  lost.classList.toggle("zero", !dropped);

  const silent = `${duration(now - item.last_seen)} ago`;
  const isTimed = item.rtt !== undefined;
  say(trip.firstChild, isTimed ? milliseconds(item.rtt) : silent);
  say(trip.lastChild, isTimed ? `heard ${silent}` : "");
  trip.dataset.label = isTimed ? "Round trip" : "Heard last";
  trip.classList.toggle("zero", !isTimed);

  say(sent.firstChild, count(item.sent ?? 0));
  say(sent.lastChild, rates.sent);
  say(received.firstChild, count(item.received ?? 0));
  say(received.lastChild, rates.received);
  const held = item.patterns ?? 0;
  say(patterns.firstChild, plural(held, "pattern"));
  patterns.classList.toggle("zero", !held);
  const some = (item.some_patterns ?? []).join("  ");
  say(patterns.lastChild, held > 4 ? `${some} …` : some);
  hint(patterns, some);
  say(from.firstChild, item.client ?? "");
  say(from.lastChild, `${item.path} · ${item.protocol}`);
  hint(from, `${item.client ?? ""} ${item.path}`);
  say(age, duration(now - item.connected_at));
  age.title = date(item.connected_at * 1000);
};

/** One connection in full. */
export class Details {
  #dialog = $("#details");
  #command;
  #item = null;
  #mayChange = false;
  #timer = 0;

  /** `command` gives a command of the console's; `mayChange` tells what the console allows. */
  constructor(command, mayChange) {
    this.#command = command;
    this.mayChange = mayChange;
    $("#details-close").addEventListener("click", () => this.#dialog.close());
    this.#dialog.addEventListener("close", () => clearInterval(this.#timer));
    this.#dialog.addEventListener("click", (clicked) => {
      if (clicked.target === this.#dialog) this.#dialog.close(); // Beside it.
    });
    $("#disconnect").addEventListener("click", () => this.#ask(true));
    $("#confirm-no").addEventListener("click", () => this.#ask(false));
    $("#confirm").addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#disconnect();
    });
  }

  open(item) {
    if (!item) return;
    this.#item = item;
    this.#mayChange = this.mayChange();
    say($("#details-title"), item.subject ?? "not authenticated");
    $("#details-facts").replaceChildren();
    $("#details-patterns").replaceChildren();
    $("#details-note").hidden = true;
    $("#read-only").hidden = this.#mayChange;
    this.#ask(false);
    this.#dialog.showModal();
    this.#load();
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#load(), 2000);
  }

  get #which() {
    return { connection_id: this.#item.id, connected_at: this.#item.connected_at };
  }

  async #load() {
    const item = this.#item;
    try {
      const info = await this.#command("console.show", this.#which);
      if (item === this.#item) this.#show(info);
    } catch (error) {
      this.#note(error);
      if (error.code === "GONE") this.#gone();
    }
  }

  #show(info) {
    const ago = (at) => `${duration(Date.now() / 1000 - at)} ago`;
    const facts = [
      ["Id", info.connection_id],
      ["Address", info.client ? info.client.join(":") : "not known"],
      ["Path", info.path],
      ["Protocol", info.protocol],
      ["Connected", date(info.connected_at * 1000)],
      ["Heard last", ago(info.last_pong)],
      ["Pinged last", info.last_ping === null ? "never" : ago(info.last_ping)],
      ["Waiting", `${exact(info.queue_messages)} (${bytes(info.queue_bytes).join(" ")})`],
      ["Lost for want of room", exact(info.dropped)],
      ["Publications sent", exact(info.message_count)],
      ["Messages received", exact(info.messages_received)],
    ];
    $("#details-facts").replaceChildren(
      ...facts.map(([name, value]) => {
        const pair = make("div");
        pair.append(make("dt", "", name), make("dd", "", value));
        return pair;
      }),
    );
    const list = $("#details-patterns");
    const patterns = [
      ...info.subscriptions.map((pattern) => make("li", "", pattern)),
      ...info.assigned.map((pattern) => make("li", "", `${pattern} (by the server)`)),
    ];
    say($("#details-patterns-title"), plural(patterns.length, "subscription"));
    list.hidden = !patterns.length;
    if (list.childElementCount !== patterns.length) list.replaceChildren(...patterns);
    if (!info.is_alive) this.#gone();
  }

  #gone() {
    clearInterval(this.#timer);
    $("#confirm").hidden = true;
    $("#details-end").hidden = true;
    $("#read-only").hidden = true;
  }

  #note(error) {
    $("#details-note").hidden = false;
    say($("#details-note"), error.code === "GONE" ? "This connection has ended." : error.message);
  }

  #ask(isAsking) {
    $("#details-end").hidden = isAsking || !this.#mayChange;
    $("#confirm").hidden = !isAsking;
    if (isAsking) {
      say($("#confirm-text"), `Disconnect ${this.#item.subject ?? "this client"}? What it is owed is sent first.`);
      $("#confirm-no").focus();
    }
  }

  async #disconnect() {
    const come_again = $("#confirm").elements.again.value === "yes";
    try {
      await this.#command("console.disconnect", { ...this.#which, come_again });
      this.#dialog.close();
    } catch (error) {
      this.#ask(false);
      this.#note(error);
    }
  }
}
