// The page: shows what the client hears, and lets a person talk to the bus.
// What comes from the bus is only ever set as text, never as markup.

import { Client } from "./wsbus/wsbus.js";

const MOST_ROWS = 200;
const SPARK_SECONDS = 60;

const $ = (selector, root = document) => root.querySelector(selector);

const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
};

const clock = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  fractionalSecondDigits: 3,
});
const money = new Intl.NumberFormat("en-US", {
  minimumFractionDigits: 2,
  maximumFractionDigits: 2,
});
const milliseconds = (value) => `${value.toFixed(value < 10 ? 1 : 0)} ms`;


// --- a bounded list that follows its end, and can be held -----------------------------------

class Tail {
  #list;
  #total;
  #pause;
  #makeRow;
  #pending = [];
  #count = 0;
  #isDue = false;

  constructor(section, makeRow) {
    this.#list = $(".tail", section);
    this.#total = $("[data-total]", section);
    this.#pause = $("[data-pause]", section);
    this.#makeRow = makeRow;
    this.#pause?.addEventListener("click", () => this.#toggle());
    $("[data-clear]", section)?.addEventListener("click", () => this.#clear());
  }

  push(item) {
    this.#count += 1;
    this.#pending.push(item);
    if (this.#pending.length > MOST_ROWS) this.#pending.shift();
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#show());
  }

  get #isPaused() {
    return this.#pause?.ariaPressed === "true";
  }

  #show() {
    this.#isDue = false;
    if (this.#total) this.#total.textContent = this.#count.toLocaleString("en-US");
    if (this.#isPaused) {
      this.#pause.textContent = "Resume";
      return;
    }
    const list = this.#list;
    const follows = list.scrollTop + list.clientHeight > list.scrollHeight - 24;
    list.append(...this.#pending.splice(0).map(this.#makeRow));
    for (let extra = list.childElementCount - MOST_ROWS; extra > 0; extra -= 1) {
      list.firstElementChild.remove();
    }
    if (follows) list.scrollTop = list.scrollHeight;
  }

  #toggle() {
    this.#pause.ariaPressed = String(!this.#isPaused);
    this.#pause.textContent = this.#isPaused ? "Resume" : "Pause";
    this.#show();
  }

  #clear() {
    this.#pending = [];
    this.#count = 0;
    this.#list.replaceChildren();
    this.#show();
  }
}

const row = (...parts) => {
  const item = make("li");
  item.append(...parts);
  return item;
};

const events = new Tail($(".events"), ({ timestamp, channel, event, data }) => {
  const text = make("span", "grow", JSON.stringify(data));
  text.title = text.textContent;
  return row(
    make("span", "when", clock.format(timestamp)),
    make("span", "channel", channel),
    make("span", "what", event),
    text,
  );
});

const log = new Tail($(".log"), ({ timestamp, data }) => {
  const text = make("span", "grow");
  text.append(make("span", "source", `${data.source}: `), data.message);
  const item = row(
    make("span", "when", clock.format(timestamp).slice(0, 8)),
    make("span", "level", data.level),
    text,
  );
  item.dataset.level = data.level;
  return item;
});

const chat = new Tail($(".chat"), ({ timestamp, data }) =>
  row(
    make("span", "when", clock.format(timestamp).slice(0, 8)),
    make("span", "source", data.from),
    make("span", "grow", data.text),
  ),
);

const wire = new Tail($(".wire"), ({ sent, text }) => {
  const shown = text.length > 1000 ? `${text.slice(0, 1000)}…` : text;
  const arrow = make("span", sent ? "sent" : "got", sent ? "↑" : "↓");
  arrow.title = sent ? "sent" : "received";
  return row(arrow, make("span", "grow", shown));
});

// --- cards ------------------------------------------------------------------------------------

const cards = new Map();

const cardFor = (channel, template) => {
  if (!cards.has(channel)) {
    const card = $(template).content.firstElementChild.cloneNode(true);
    cards.set(channel, { element: card, points: [] });
    $("#prices").insertBefore(card, $(".health"));
    $("h3", card).textContent = channel;
  }
  return cards.get(channel);
};

const isCalm = matchMedia("(prefers-reduced-motion: reduce)");

const showPrice = (channel, { price, change, size }, at) => {
  const { element, points } = cardFor(channel, "#price-card");
  const before = points.at(-1)?.price;
  points.push({ at, price });
  while (points[0].at < at - SPARK_SECONDS * 1000) points.shift();
  delete element.dataset.stale;
  const amount = $(".amount", element);
  amount.textContent = money.format(price);
  const percent = $(".percent", element);
  percent.textContent = `${change < 0 ? "▼ −" : "▲ +"}${Math.abs(change).toFixed(2)} %`;
  percent.dataset.trend = change < 0 ? "down" : "up";
  $(".size", element).textContent = `× ${size.toFixed(3)}`;
  drawSpark(element, points);
  if (before !== undefined && before !== price && !isCalm.matches) {
    const tint = `var(--${price > before ? "up" : "down"})`;
    amount.animate({ color: [tint, tint, "var(--ink)"] }, 500);
  }
};

/** The prices of the last minute: now is at the right edge, the scale goes from low to high. */
const drawSpark = (card, points) => {
  const prices = points.map(({ price }) => price);
  const [low, high] = [Math.min(...prices), Math.max(...prices)];
  const xs = points.map(({ at }) => 100 - (points.at(-1).at - at) / (SPARK_SECONDS * 10));
  const line = prices
    .map((price, index) => {
      const y = 29 - ((price - low) / (high - low || 1)) * 26;
      return `${xs[index].toFixed(2)},${y.toFixed(2)}`;
    })
    .join(" ");
  const svg = $("svg", card);
  svg.dataset.trend = prices.at(-1) < prices[0] ? "down" : "up";
  $("polyline", svg).setAttribute("points", line);
  $("polygon", svg).setAttribute("points", `${xs[0].toFixed(2)},32 ${line} 100,32`);
  $(".low", card).textContent = `low ${money.format(low)}`;
  $(".high", card).textContent = `high ${money.format(high)}`;
};

const duration = (seconds) => {
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return [h, m, s].map((part) => String(part).padStart(2, "0")).join(":");
};

const ticker = $("#ticker");

const showHealth = (health) => {
  const { element } = cardFor("system.health", "#health-card");
  delete element.dataset.stale;
  const shown = { ...health, rate: `${health.rate.toFixed(1)}/s`, uptime: duration(health.uptime) };
  for (const cell of element.querySelectorAll("[data-key]")) {
    cell.textContent = shown[cell.dataset.key];
  }
  ticker.disabled = false;
  ticker.dataset.action = health.ticker === "paused" ? "ticker.resume" : "ticker.pause";
  ticker.textContent = health.ticker === "paused" ? "Resume prices" : "Pause prices";
};

cardFor("system.health", "#health-card");
for (const symbol of ["BTC-USDT", "ETH-USDT", "600519"]) {
  cardFor(`prices.${symbol}`, "#price-card");
}

ticker.addEventListener("click", () => bus.command(ticker.dataset.action).catch(() => {}));

// --- the client -------------------------------------------------------------------------------

/** A WebSocket that shows its frames. */
class Overheard extends WebSocket {
  constructor(...args) {
    super(...args);
    this.addEventListener("message", ({ data }) => wire.push({ sent: false, text: data }));
  }

  send(text) {
    wire.push({ sent: true, text });
    super.send(text);
  }
}

const bus = new Client(new URL("ws", location.href), {
  WebSocket: Overheard,
  heartbeat: { interval: 5_000, timeout: 5_000 },
  retry: { base: 500, cap: 15_000 },
});

// A handler for everything; what comes is what is subscribed, below.
bus.on("*", (event) => {
  events.push(event);
  if (event.channel.startsWith("prices.")) showPrice(event.channel, event.data, event.timestamp);
  else if (event.channel === "system.health") showHealth(event.data);
  else if (event.channel === "system.log") log.push(event);
  else if (event.channel === "chat.lobby") chat.push(event);
});

bus.addEventListener("gap", ({ detail }) => {
  // Nobody knows how many were lost while there was no connection.
  const data = { lost: Number.isFinite(detail.lost) ? detail.lost : "unknown" };
  events.push({ timestamp: Date.now(), channel: "(gap)", event: "lost", data });
});

const measure = async () => {
  const began = performance.now();
  try {
    await bus.status();
    $("#latency").textContent = milliseconds(performance.now() - began);
  } catch {
    // The connection is lost; that is shown already.
  }
};

const connect = () => bus.connect().catch(() => {}); // The event "reconnecting" says why.

// --- connection state -------------------------------------------------------------------------

const showState = (name, text, facts) => {
  $("#state").textContent = text;
  $("#state").dataset.state = name;
  // Beside the state, not in it: that one is read aloud, and nobody wants to hear seconds.
  $("#identity").textContent = facts;
  $("#reconnect").hidden = !["waiting", "closed"].includes(name);
  for (const button of document.querySelectorAll(".primary")) button.disabled = name !== "open";
  if (name === "open") return;
  $("#latency").textContent = "";
  ticker.disabled = true;
  for (const { element } of cards.values()) element.dataset.stale = "";
};

let clocks = [];

const stopClocks = () => {
  for (const running of clocks.splice(0)) clearInterval(running);
};

bus.addEventListener("state", ({ detail: { state } }) => {
  stopClocks();
  if (state === "connecting") showState("connecting", "Connecting…", "\u00a0");
});

bus.addEventListener("connected", ({ detail: { connectionId } }) => {
  stopClocks();
  showState("open", "Connected", `guest-${connectionId.slice(0, 4)}`);
  measure();
  clocks.push(setInterval(measure, 5_000));
});

bus.addEventListener("reconnecting", ({ detail: { delay } }) => {
  const until = Date.now() + delay;
  const seconds = () => `trying again in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`;
  stopClocks();
  showState("waiting", "Connection lost", seconds());
  clocks.push(setInterval(() => ($("#identity").textContent = seconds()), 500));
});

bus.addEventListener("disconnected", ({ detail: { code, reason } }) => {
  stopClocks();
  showState("closed", `Closed by the server: ${reason || `code ${code}`}`, "\u00a0");
});

$("#reconnect").addEventListener("click", connect);

// --- subscriptions ----------------------------------------------------------------------------

/** What this page has subscribed; the client subscribes it anew after each reconnect. */
const patterns = new Set();

const showChips = () => {
  $("#subscription-count").textContent = `${patterns.size} held by this connection`;
  $("#chips").replaceChildren(
    ...[...patterns].map((pattern) => {
      const remove = make("button", "", "×");
      remove.type = "button";
      remove.ariaLabel = `Unsubscribe from ${pattern}`;
      remove.title = remove.ariaLabel;
      remove.addEventListener("click", () => unsubscribe(pattern));
      return row(make("code", "", pattern), remove);
    }),
  );
};

const showRejected = (...reasons) => $("#rejected").replaceChildren(...reasons.map((why) => row(why)));

const subscribe = async (pattern) => {
  if (patterns.has(pattern)) return;
  patterns.add(pattern);
  showChips();
  try {
    await bus.subscribe(pattern);
    showRejected();
  } catch (error) {
    patterns.delete(pattern);
    showChips();
    showRejected(error.message);
  }
};

const unsubscribe = async (pattern) => {
  patterns.delete(pattern);
  showChips();
  // The button that had the focus is gone.
  ($("#chips button") ?? $("#subscribe input")).focus();
  await bus.unsubscribe(pattern).catch(() => {});
};

$("#subscribe").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  const input = submitted.target.elements.pattern;
  subscribe(input.value.trim());
  input.value = "";
});

// --- chat -------------------------------------------------------------------------------------

$("#chat").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const { text } = submitted.target.elements;
  const said = text.value;
  text.value = "";
  try {
    await bus.command("chat.say", { text: said });
  } catch (error) {
    if (!text.value) text.value = said; // It may be said again.
    chat.push({ timestamp: Date.now(), data: { from: "not said", text: error.message } });
  }
});

// --- commands ---------------------------------------------------------------------------------

const commandForm = $("#command");
const { action, params } = commandForm.elements;

const fillParams = () => {
  params.value = action.selectedOptions[0].dataset.params;
};

const respond = (verdict, isGood, text, took = "") => {
  $("#response .verdict").replaceChildren(
    make("span", isGood ? "good" : "bad", verdict),
    make("span", "quiet", took),
  );
  $("#response pre").textContent = text;
  $("#response pre").hidden = !text;
};

const send = async () => {
  let parsed;
  try {
    parsed = JSON.parse(params.value.trim() || "{}");
  } catch (error) {
    return respond("Not sent: the parameters are not JSON", false, error.message);
  }
  const began = performance.now();
  const took = () => `${milliseconds(performance.now() - began)} there and back`;
  try {
    const data = await bus.command(action.value, parsed);
    respond("Done", true, JSON.stringify(data, null, 2), took());
  } catch (error) {
    respond(error.code, false, error.message, took());
  }
};

action.addEventListener("change", fillParams);
commandForm.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  send();
});
params.addEventListener("keydown", (pressed) => {
  if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
    pressed.preventDefault();
    commandForm.requestSubmit();
  }
});

fillParams();
for (const pattern of ["prices.*", "system.*", "chat.*"]) subscribe(pattern);
connect();
