// What is published, and who listens; and one pattern's events as they come.

import { $, Heads, hint, isPressed, make, Order, press, Rows, say, settle, shown, Tail } from "./dom.js";
import { bytes, count, duration, plural, steady } from "./format.js";
import { makeEvent, Past } from "./past.js";

const MOST_ROWS = 500;

const LISTS = {
  published: {
    heads: [
      ["Channel", "", { name: "ascending" }],
      ["Per second", "number", { rate: "descending" }],
      ["Receivers", "number", { subscribers: "descending" }],
      ["Total", "number spare"],
      ["Bytes", "number spare"],
      ["Newest", "number spare", { newest: "ascending" }],
    ],
    sorts: [["rate", "busiest"], ["subscribers", "most receivers"], ["newest", "newest"], ["name", "by name"]],
    name: (row) => row.channel,
    cells: (row, now) => [
      steady(row.rate),
      count(row.subscribers),
      count(row.count),
      bytes(row.size).join(" "),
      now - row.at < 2 ? "now" : `${duration(now - row.at)} ago`,
    ],
  },
  subscribed: {
    heads: [
      ["Pattern", "", { name: "ascending" }],
      ["Subscribers", "number", { subscribers: "descending" }],
    ],
    sorts: [["subscribers", "most subscribers"], ["name", "by name"]],
    name: (row) => row.pattern,
    cells: (row) => [count(row.subscribers)],
  },
};

export class Channels {
  #changed;
  #past;
  #list = "published";
  #heads = new Heads($("#channel-sort"));
  #rows = null;
  #held = null;
  #order = null;
  #tail;
  #tailed = null; // The pattern.
  #matched = 0;
  #received = 0;
  #waiting = 0;

  constructor(changed, command) {
    this.#changed = changed;
    this.#past = new Past(command);
    for (const choice of document.querySelectorAll('input[name="list"]')) {
      choice.addEventListener("change", () => this.#choose(choice.value));
    }
    $("#channel-find").addEventListener("input", settle(changed));
    $("#channel-sort").addEventListener("change", changed);
    const hold = $("#channel-hold");
    hold.addEventListener("click", () => {
      press(hold, !isPressed(hold), isPressed(hold) ? "Freeze" : "Resume");
      if (!isPressed(hold) && this.#held) this.show(this.#held);
    });
    this.#setUp("published");

    this.#tail = new Tail($("#tail"), $("#tail-pause"), $("#tail-clear"), MOST_ROWS, makeEvent);
    this.#tail.onHeld = (waiting) => {
      this.#waiting = waiting;
      this.#tell();
    };
    $("#tail-form").addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#begin($("#tail-pattern").value.trim());
    });
    $("#tail-text").addEventListener("input", settle(() => this.#tailed && this.#begin(this.#tailed), 300));
    $("#tail-stop").addEventListener("click", () => this.#stop());
    $("#tail-clear").addEventListener("click", () => {
      this.#received = this.#matched = 0;
      this.#base = null;
      this.#tell();
    });
  }

  #base = 0; // What had matched before the list was cleared; null: to be learnt.

  wants() {
    const wanted = {
      view: this.#list,
      sort: $("#channel-sort").value,
      find: $("#channel-find").value,
    };
    if (this.#tailed) Object.assign(wanted, { tail: this.#tailed, text: $("#tail-text").value });
    return wanted;
  }

  /** The server has taken what is wanted, or not. */
  answered(error) {
    if (!error || !this.#tailed) return;
    this.#stop();
    say($("#tail-state"), `Not tailed: ${error.message}.`);
  }

  show(sample) {
    if (sample.view !== this.#list) return; // Of before the list was changed.
    if (isPressed($("#channel-hold"))) {
      this.#held = sample;
      return;
    }
    const kind = LISTS[this.#list];
    this.#rows.now = sample.at;
    const { rows, sort, found, total, others } = sample;
    const isNoisy = sort === "rate";
    this.#rows.show(this.#order.apply(rows, sort, isNoisy ? (row) => row.rate : null), kind.name);
    const what = this.#list === "published" ? "channel" : "pattern";
    const first = rows.length < found ? `The first ${count(rows.length)} of ` : "";
    const matching = sample.find ? `${plural(found, "match", "matches")} among ` : "";
    const since = this.#list === "published" ? ` in the last ${duration(sample.listening ?? 0)}` : "";
    const beyond = others ? `, and ${plural(others, "publication")} on more of them` : "";
    say($("#channel-shown"), `${first}${matching}${plural(total, what)}${since}${beyond}${this.#order.note}`);
    const none = $("#channel-none");
    none.hidden = rows.length > 0;
    const nothing = this.#list === "published" ? "Nothing was published since this list was opened." : "Nobody has subscribed.";
    say(none, sample.find ? "No name contains that." : nothing);
  }

  /** A batch of the tail. */
  hear({ tail, matched, events }) {
    if (tail !== this.#tailed) return;
    // The count starts anew with the connection, and with what is looked for.
    if (this.#base === null || matched < this.#base) this.#base = Math.max(0, matched - events.length);
    const before = this.#matched;
    this.#matched = matched - this.#base;
    const missing = this.#matched - before - events.length;
    this.#received += events.length;
    this.#tail.push(...(missing > 0 && before ? [{ missing }] : []), ...events);
    this.#tell();
  }

  #choose(list) {
    this.#list = list;
    this.#held = null;
    this.#setUp(list);
    this.#changed();
  }

  #setUp(list) {
    const kind = LISTS[list];
    this.#heads.clear();
    $("#channel-head").replaceChildren(
      ...kind.heads.map((head) => this.#heads.make(...head)),
    );
    $("#channel-sort").replaceChildren(...kind.sorts.map(([value, text]) => new Option(text, value)));
    this.#heads.mark();
    $("#channel-rows").replaceChildren();
    press($("#channel-hold"), false, "Freeze");
    this.#order = new Order($("#channel-rows"), kind.name);
    this.#rows = new Rows(
      $("#channel-rows"),
      () => this.#makeRow(kind),
      (row, item) => {
        const name = kind.name(item);
        say(row.cells[0].firstChild, name);
        row.cells[0].firstChild.ariaLabel = shown(`Tail ${name}`);
        hint(row.cells[0].firstChild, `Tail ${name}`);
        kind.cells(item, this.#rows.now).forEach((text, index) => say(row.cells[index + 1], text));
      },
    );
  }

  #makeRow(kind) {
    const row = make("tr");
    row.append(...kind.heads.map(([, className = ""]) => make("td", className)));
    const name = make("button", "open");
    name.type = "button";
    name.addEventListener("click", () => {
      const pattern = kind.name(this.#rows.itemAt(name));
      $("#tail-pattern").value = shown(pattern) === pattern ? pattern : ""; // It is shown as it is.
      this.#begin(pattern);
      $("#tail").scrollIntoView({ block: "nearest" }); // On a phone it is below.
    });
    row.cells[0].append(name);
    return row;
  }

  #begin(pattern) {
    if (!pattern) return;
    if (pattern !== this.#tailed) this.#tail.clear();
    if (pattern !== this.#past.channel) this.#past.open(pattern);
    this.#tailed = pattern;
    this.#base = this.#matched = this.#received = 0;
    $("#tail-stop").hidden = false;
    this.#tell();
    this.#changed();
  }

  #stop() {
    this.#tailed = null;
    $("#tail-stop").hidden = true;
    say($("#tail-state"), `Stopped. ${this.#counts}`);
    this.#changed();
  }

  get #counts() {
    const missed = Math.max(0, this.#matched - this.#received);
    const shown = plural(this.#received, "event");
    return missed ? `${shown}; ${count(missed)} more were too many to show.` : `${shown}.`;
  }

  #tell() {
    if (!this.#tailed) return;
    const held = this.#waiting ? ` Paused: ${plural(this.#waiting, "row")} waiting.` : "";
    say($("#tail-state"), `Tailing ${this.#tailed}: ${this.#counts}${held}`);
  }
}
