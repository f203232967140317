// The operator's console: one connection to the console's endpoint, and the four tabs it feeds.

import { Client } from "./wsbus.js";
import { Channels } from "./channels.js";
import { Connections, Details } from "./connections.js";
import { $, hint, say } from "./dom.js";
import { count, milliseconds } from "./format.js";
import { Overview } from "./overview.js";
import { keep } from "./secrets.js";
import { TryIt } from "./tryit.js";

const CHANNEL = "wsbus.console";

const endpoint = new URL($('meta[name="wsbus-endpoint"]').content, location.href);
endpoint.protocol = endpoint.protocol.replace("http", "ws");

let client = null;
let mayChange = false;
let tab = "overview";
let heardAt = 0;
let interval = 1;

const command = (action, params) => client.command(action, params, { timeout: 10_000 });
const details = new Details(command, () => mayChange);
const openConnection = (item) => details.open(item);
const overview = new Overview(openConnection);
const views = {
  overview,
  connections: new Connections(() => watch(), openConnection),
  channels: new Channels(() => watch(), command),
  try: new TryIt(endpoint),
};

// --- what the console wants to see --------------------------------------------------------------

/** Say what is looked at; while the page is hidden no list is. */
const watch = async () => {
  if (client?.state !== "connected") return;
  const view = document.visibilityState === "hidden" ? overview : (views[tab].wants ? views[tab] : overview);
  let refusal = null;
  try {
    const { allow_changes } = await command("console.watch", view.wants());
    mayChange = allow_changes;
    $("#mode").hidden = mayChange;
  } catch (error) {
    if (error.code === "RATE_LIMITED") setTimeout(watch, 500);
    else if (error.code !== "CONNECTION_LOST") refusal = error;
  }
  view.answered?.(refusal);
};

const received = ({ event, data }) => {
  heardAt = performance.now();
  if (event === "tail") return views.channels.hear(data);
  if (event !== "sample") return undefined;
  ({ interval } = data);
  overview.note(data);
  const view = views[tab];
  if (view.wants && view.wants().view === data.view) view.show(data);
  if (data.view === "overview" || data.view === "connections") {
    views.try.suggest(data.rows.map((row) => row.path));
  }
  say($("#connection-count"), count(data.totals.connections));
  const slowed = interval > 1.5 ? `, every ${interval.toFixed(0)} s so that it stays small` : "";
  const others = data.consoles > 1 ? `${data.consoles} consoles, ` : "";
  say($("#pulse"), `${others}a sample takes ${milliseconds(data.cost)}${slowed}`);
  return undefined;
};

// --- the connection -----------------------------------------------------------------------------

let countdown = 0;

const become = (state, text) => {
  $("#state").dataset.state = state;
  say($("#state"), text);
  document.body.classList.toggle("is-stale", state !== "open");
  if (state === "open") return;
  overview.forget();
  say($("#pulse"), "");
  $("#mode").hidden = true;
};

const notice = (text) => {
  $("#notice").hidden = !text;
  say($("#notice"), text);
};

const connect = (token) => {
  client?.close();
  keep(token);
  const here = new Client(endpoint, {
    token: token || undefined,
    retry: { base: 500, cap: 10_000, attempts: Infinity },
  });
  client = here;
  /** Listen, as long as this is the connection. */
  const on = (type, run) =>
    here.addEventListener(type, (told) => {
      if (here === client) run(told.detail, told);
    });
  become("connecting", "Connecting…");
  here.on(CHANNEL, (event) => here === client && received(event));
  on("connected", ({ subject }) => {
    const isSignedIn = !$("#sign-in").hidden;
    $("#token").value = "";
    clearInterval(countdown);
    notice("");
    become("open", "Live");
    hint($("#state"), `as ${subject}`);
    $("#sign-in").hidden = true;
    $("#tabs").hidden = false;
    $("#sign-out").hidden = !token;
    heardAt = performance.now();
    show(isSignedIn);
    watch();
  });
  on("reconnecting", ({ delay }) => {
    const at = performance.now() + delay;
    become("waiting", "Connection lost");
    clearInterval(countdown);
    const tick = () => {
      const seconds = Math.max(0, Math.ceil((at - performance.now()) / 1000));
      say($("#pulse"), `again in ${seconds} s`);
      notice(`The server is gone; trying again in ${seconds} s.`);
    };
    tick();
    countdown = setInterval(tick, 500);
  });
  on("disconnected", ({ code, error }) => {
    clearInterval(countdown);
    if (!error) return;
    if (code === 4500) signIn(token ? "The console refused this token." : "");
    else {
      become("closed", "Closed");
      notice(`${error.message}. Reload the page to connect again.`);
    }
  });
  on("error", (_, told) => told.preventDefault());
  here.connect().catch(() => {}); // Told by "disconnected".
};

const signIn = (refusal) => {
  client?.close();
  client = null;
  become("idle", "Not connected");
  notice("");
  $("#details").close();
  for (const view of document.querySelectorAll(".view")) view.hidden = true;
  $("#tabs").hidden = $("#sign-out").hidden = true;
  $("#sign-in").hidden = false;
  $("#refusal").hidden = !refusal;
  say($("#refusal"), refusal);
  $("#token").value = "";
  $("#token").focus();
};

$("#sign-in-form").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  $("#refusal").hidden = true;
  connect($("#token").value);
});
$("#sign-out").addEventListener("click", () => signIn(""));

// A connection that is there, and no samples: the server is too busy to make any, or stuck.
setInterval(() => {
  if (client?.state !== "connected" || document.visibilityState === "hidden") return;
  const silent = (performance.now() - heardAt) / 1000;
  if (silent > 3 * interval + 1) {
    become("waiting", "No samples");
    say($("#pulse"), `for ${silent.toFixed(0)} s: the server is busy, or stuck`);
  } else become("open", "Live");
}, 1000);

// --- tabs ---------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll('[role="tab"]')];

/** Show the tab of the address; `focus`: the keyboard has chosen it. */
const show = (focus) => {
  const wanted = location.hash.slice(1);
  tab = views[wanted] ? wanted : "overview";
  if ($("#tabs").hidden) return;
  for (const button of tabs) {
    const isChosen = button.id === `tab-${tab}`;
    button.ariaSelected = String(isChosen);
    button.tabIndex = isChosen ? 0 : -1;
    $(`#view-${button.id.slice(4)}`).hidden = !isChosen;
    if (isChosen && focus) button.focus();
    if (isChosen) document.title = `${button.firstChild.data.trim()} · wsbus console`;
  }
  views[tab].enter?.();
  watch();
};

const go = (button) => {
  location.hash = button.id.slice(4);
};

for (const button of tabs) button.addEventListener("click", () => go(button));
$("#tabs").addEventListener("keydown", (pressed) => {
  const here = tabs.indexOf(document.activeElement);
  const steps = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tabs.length - 1 };
  const next = steps[pressed.key];
  if (here < 0 || next === undefined) return;
  pressed.preventDefault();
  const button = tabs.at(next % tabs.length);
  button.focus();
  go(button);
});
addEventListener("hashchange", () => show(false));
document.addEventListener("visibilitychange", () => watch());

say($("#where"), endpoint.host + endpoint.pathname.replace(/ws$/, ""));
connect("");
