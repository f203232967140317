// The link to the broker, and the processes that it joins: a part of the overview.

import { $, hint, make, Rows, say } from "./dom.js";
import { duration, exact, milliseconds, plural } from "./format.js";

// Label, what it shows, explanation.
const FIGURES = [
  ["Round trip", (link) => (link.round_trip === null ? "–" : milliseconds(link.round_trip)), "Of the last beacon, to the broker and back"],
  ["Lag", (link) => milliseconds(link.lag), "From another node to here, of what came last; clocks may differ"],
  ["Links lost", (link) => exact(link.losses), "Since the bus was started"],
  ["Gaps", (link) => exact(link.gaps), "How often subscribers were told that something may be missing"],
  ["Not confirmed", (link) => exact(link.unconfirmed), "Items that the broker did not confirm"],
  ["Calls", (link) => exact(link.turns), "What the broker has taken, each with the items of a turn"],
  ["Items sent", (link) => exact(link.sent), "In these calls"],
  ["Items received", (link) => exact(link.received), "Of other nodes, copies included"],
  ["Copies", (link) => exact(link.copies), "Received twice, and dropped"],
  ["Not readable", (link) => exact(link.unreadable), "Not from wsbus, or from another version"],
];

const COLUMNS = [
  ["Host", ""],
  ["Process", "number"],
  ["Connections", "number"],
  ["Up", ""],
  ["Seen", ""],
  ["Id", "quiet"],
];

const makeNode = () => {
  const row = make("tr");
  for (const [label, kind] of COLUMNS) {
    const cell = make("td", kind);
    cell.dataset.label = label;
    row.append(cell);
  }
  return row;
};

const showNode = (row, { node, at }) => {
  const texts = [
    node.is_self ? `${node.host} (this one)` : node.host,
    String(node.pid),
    exact(node.connections),
    duration(at - node.started_at),
    node.seen < 1 ? "now" : `${duration(node.seen)} ago`,
    node.id,
  ];
  texts.forEach((text, index) => say(row.children[index], text));
};

export class BrokerPanel {
  #figures = FIGURES.map(([label, of, about]) => {
    const pair = make("div");
    hint(pair, about);
    const value = make("dd", "", "–");
    pair.append(make("dt", "", label), value);
    $("#broker-totals").append(pair);
    return [value, of];
  });
  #nodes = new Rows($("#nodes"), makeNode, showNode);
  #feeds = new Rows($("#feeds"), () => make("li"), (row, name) => say(row, name));

  show({ at, totals, nodes = [], feeds = [] }) {
    const link = totals.broker;
    $("#broker").hidden = !link;
    if (!link) return;
    const state = $("#broker-state");
    state.dataset.tone = link.is_up ? "good" : "bad";
    say(
      state,
      link.is_up
        ? `Linked for ${duration(link.seconds)}: ${link.address}`
        : `No link for ${duration(link.seconds)}: ${link.address}, ${link.failure ?? "which is dialled"}`,
    );
    for (const [value, of] of this.#figures) say(value, of(link));
    this.#nodes.show(nodes.map((node) => ({ node, at })), ({ node }) => node.id);
    this.#feeds.show(feeds, (name) => name);
    const others = Math.max(0, link.feeds - 1 - feeds.length);
    const none = link.is_up ? "Nothing: no subscription here wants what other nodes publish." : "Nothing.";
    say($("#feeds-more"), feeds.length ? (others ? `and ${plural(others, "other")}` : "") : none);
  }
}
