// The catalogue: a list of channels and commands; each opens to what there is to read and to try.

import { $, make, say } from "./dom.js";
import { Link } from "./link.js";
import { ofChannel, ofCommand } from "./reading.js";
import { calling, tryingChannel } from "./trying.js";
import { define } from "./types.js";

const link = new Link();
const items = new Map();

const add = (parent, kind, name, what, read, act) => {
  const address = `#${kind}/${encodeURIComponent(name)}`;
  const summary = make(
    "summary",
    {},
    make("h3", {}, make("code", {}, name)),
    make("span", { className: "quiet" }, what.text),
  );
  const element = make("details", { className: "panel item" }, summary);
  element.addEventListener("toggle", () => {
    if (!element.open) return;
    fill(element, what, read, act, address);
    if (location.hash !== address) history.replaceState(null, "", address);
  });
  const words = [name, what.text, ...Object.keys(what.events ?? {})].join(" ").toLowerCase();
  items.set(address, { element, words });
  parent.append(element);
};

/** Make the inside of an item, when it is first opened. */
const fill = (element, what, read, act, address) => {
  if (element.childElementCount > 1) return;
  element.append(
    make(
      "div",
      { className: "inside" },
      make("div", { className: "read" }, ...read(what), make("p", {}, make("a", { href: address }, "Link to this"))),
      make("div", { className: "act" }, ...act(what, link)),
    ),
  );
};

const show = ({ title, version, takes_token: takesToken, channels, commands, definitions }) => {
  define(definitions);
  say($("#title"), title);
  say($("#version"), version);
  document.title = `${$("#title").textContent} · channels and commands`;
  link.takesToken(takesToken);
  for (const each of channels) add($("#channels"), "channel", each.template, each, ofChannel, tryingChannel);
  for (const each of commands) add($("#commands"), "command", each.action, each, ofCommand, calling);
  if (!channels.length) say($("#channels"), "This bus declares no typed channels.");
  if (!commands.length) say($("#commands"), "This bus has no commands.");
};

// --- finding ------------------------------------------------------------------------------------

const find = () => {
  const words = $("#find").value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const item of items.values()) {
    const isFound = words.every((word) => item.words.includes(word));
    item.element.hidden = !isFound;
    count += isFound;
  }
  say($("#found"), words.length ? `${count} of ${items.size}` : "");
};

$("#find").addEventListener("input", find);
addEventListener("keydown", (pressed) => {
  const isTyping = pressed.target.matches("input, select, textarea");
  if (pressed.key !== "/" || isTyping || pressed.ctrlKey || pressed.metaKey || pressed.altKey) return;
  pressed.preventDefault();
  $("#find").focus();
});

/** Open what the address names. */
const go = () => {
  const [kind, name = ""] = location.hash.split("/", 2);
  let wanted = location.hash;
  try {
    wanted = `${kind}/${encodeURIComponent(decodeURIComponent(name))}`;
  } catch {
    return; // It is no address of this page.
  }
  const element = items.get(wanted)?.element;
  if (!element) return;
  element.hidden = false;
  element.open = true;
  element.scrollIntoView();
  $("summary", element).focus({ preventScroll: true });
};

addEventListener("hashchange", go);

try {
  const answer = await fetch("contents.json");
  if (!answer.ok) throw new Error(await answer.text());
  show(await answer.json());
  go();
} catch (error) {
  $("#why").hidden = false;
  say($("#why"), `The catalogue cannot be shown: ${error.message}`);
}
