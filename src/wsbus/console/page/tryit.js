// A user's connection to an endpoint of the application, with all that passes over it.

import { Client } from "./wsbus.js";
import { $, make, say, shown, Tail } from "./dom.js";
import { clock, plural } from "./format.js";
import { keep, learn, masked } from "./secrets.js";

const MOST_ROWS = 500;
const LONGEST = 4000;
const FRAMES_A_SECOND = 30;
const NAMES = { subscribe: "Pattern", publish: "Channel", command: "Action" };
const TEXTS = { publish: "Data, as JSON", command: "Parameters, as JSON", raw: "Frame, as it is sent" };
const EXAMPLES = { publish: '{"hello": "world"}', command: "{}", raw: '{"type": "ping", "id": "1"}' };

export class TryIt {
  #base;
  #client = null;
  #socket = null;
  #held = new Set();
  #frames;
  #budget = FRAMES_A_SECOND; // Frames that are still shown in this second, of those received.
  #missing = 0;
  #form = $("#try-form");
  #say = $("#say");
  #texts = { ...EXAMPLES };
  #names = {};
  #what = "subscribe";

  /** `base`: what paths are relative to. */
  constructor(base) {
    this.#base = base;
    this.#frames = new Tail($("#frames"), $("#frames-pause"), $("#frames-clear"), MOST_ROWS, makeFrame);
    this.#form.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#connect();
    });
    $("#try-close").addEventListener("click", () => this.#client?.close());
    for (const choice of document.querySelectorAll('input[name="what"]')) {
      choice.addEventListener("change", () => this.#choose(choice.value));
    }
    this.#say.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#send();
    });
    this.#say.elements.text.addEventListener("keydown", (pressed) => {
      if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
        pressed.preventDefault();
        this.#say.requestSubmit();
      }
    });
    this.#choose("subscribe");
  }

  /** Where users were seen. */
  suggest(paths) {
    const list = $("#paths");
    const known = new Set([...list.options].map((option) => option.value));
    for (const path of paths) {
      // A value is shown as it is.
      if (!known.has(path) && known.size < 20 && shown(path) === path && !path.includes("?")) {
        known.add(path);
        list.append(new Option("", path));
      }
    }
  }

  #connect() {
    this.#client?.close();
    learn(this.#form.elements.path.value);
    keep(this.#form.elements.token.value);
    this.#why("");
    const { path, protocol, token } = this.#form.elements;
    const tryIt = this;
    /** Tells of all that passes. */
    class Overheard extends WebSocket {
      constructor(...args) {
        super(...args);
        tryIt.#socket = this;
        this.addEventListener("message", ({ data }) => tryIt.#overhear("got", String(data)));
        this.addEventListener("close", ({ code, reason }) => {
          tryIt.#overhear("note", `closed with ${code}${reason ? `: ${reason}` : ""}`);
        });
      }

      send(data) {
        tryIt.#overhear("sent", data);
        super.send(data);
      }
    }
    let client;
    try {
      const address = new URL(path.value, this.#base);
      client = new Client(address, {
        token: token.value || undefined,
        protocol: protocol.value,
        WebSocket: Overheard,
        retry: { attempts: 0 },
      });
    } catch (error) {
      return this.#why(error.message);
    }
    this.#client = client;
    this.#become("connecting", "Connecting…");
    this.#overhear("note", `connecting to ${path.value.split("?")[0]}`);
    client.addEventListener("connected", ({ detail }) => {
      if (client === this.#client) this.#become("open", detail.subject ?? "Connected");
    });
    client.addEventListener("disconnected", ({ detail }) => {
      if (client !== this.#client) return;
      this.#become(detail.error ? "closed" : "idle", detail.error ? "Ended" : "Not connected");
      this.#why(detail.error?.message ?? "");
    });
    client.addEventListener("error", (told) => {
      told.preventDefault(); // It is seen among the frames.
    });
    client.connect().catch(() => {}); // Told by "disconnected".
    return undefined;
  }

  #become(state, text) {
    const isOpen = state === "open";
    $("#try-state").dataset.state = state;
    say($("#try-state"), masked(text, true));
    $("#try-close").disabled = state === "idle" || state === "closed";
    $("button", this.#say).disabled = !isOpen;
    if (!isOpen) this.#held.clear();
    this.#showHeld();
  }

  #why(text) {
    $("#try-why").hidden = !text;
    say($("#try-why"), masked(text, true));
  }

  #overhear(kind, text) {
    const beats = $("#frames-beats").checked;
    if (!beats && /^\s*\{\s*"type"\s*:\s*"p[io]ng"[^\n]*$/.test(text) && !text.includes('"id"')) return;
    if (kind === "sent") learn(text);
    if (kind === "got" && !this.#affords()) return;
    this.#frames.push({ kind, text: masked(text, true), at: Date.now() });
  }

  /** Whether one more received frame is shown: to show a flood would take the whole processor. */
  #affords() {
    if (this.#budget === FRAMES_A_SECOND) {
      setTimeout(() => {
        if (this.#missing) {
          const text = `${plural(this.#missing, "frame")} not shown: more than ${FRAMES_A_SECOND} in a second`;
          this.#frames.push({ kind: "note", text, at: Date.now() });
        }
        this.#budget = FRAMES_A_SECOND;
        this.#missing = 0;
      }, 1000);
    }
    this.#budget -= 1;
    if (this.#budget >= 0) return true;
    this.#missing += 1;
    return false;
  }

  #choose(what) {
    const { name, text } = this.#say.elements;
    this.#names[this.#what] = name.value;
    if (this.#what !== "subscribe") this.#texts[this.#what] = text.value;
    this.#what = what;
    for (const label of this.#say.querySelectorAll("label[data-for]")) {
      label.hidden = !label.dataset.for.split(" ").includes(what);
    }
    $("#say-name").classList.toggle("wide", what !== "publish");
    name.required = what !== "raw";
    name.value = this.#names[what] ?? "";
    text.value = this.#texts[what] ?? "";
    say($("#say-name-label"), NAMES[what] ?? "");
    say($("#say-text-label"), TEXTS[what] ?? "");
    say($("button", this.#say), what === "subscribe" ? "Subscribe" : "Send");
    $(".hint", this.#say).hidden = what === "subscribe";
    this.#answer("");
  }

  async #send() {
    const { name, event, text } = this.#say.elements;
    const client = this.#client;
    let data;
    if (this.#what === "publish" || this.#what === "command") {
      try {
        data = JSON.parse(text.value.trim() || "{}");
      } catch (error) {
        return this.#answer("Not sent: this is not JSON", false, error.message);
      }
    }
    const began = performance.now();
    try {
      let answer;
      switch (this.#what) {
        case "subscribe":
          await client.subscribe(name.value);
          this.#held.add(name.value);
          this.#showHeld();
          break;
        case "publish":
          answer = await client.publish(name.value, data, { event: event.value || undefined });
          break;
        case "command":
          answer = await client.command(name.value, data);
          break;
        default:
          this.#socket.send(text.value);
          return this.#answer("Sent", true);
      }
      const took = `${(performance.now() - began).toFixed(1)} ms there and back`;
      this.#answer("Done", true, answer === undefined ? "" : JSON.stringify(answer, null, 2), took);
    } catch (error) {
      this.#answer(error.code ?? "Failed", false, error.message);
    }
    return undefined;
  }

  #answer(verdict, isGood = true, text = "", took = "") {
    const line = $("#said");
    line.replaceChildren();
    if (verdict) line.append(make("span", isGood ? "good" : "bad", masked(verdict, true)), make("span", "quiet", took));
    $("#answer").hidden = !text;
    say($("#answer"), masked(text, true));
  }

  #showHeld() {
    $("#held").replaceChildren(
      ...[...this.#held].map((pattern) => {
        const chip = make("li");
        const remove = make("button", "", "×");
        remove.type = "button";
        remove.ariaLabel = remove.title = shown(`Unsubscribe from ${pattern}`);
        remove.addEventListener("click", async () => {
          this.#held.delete(pattern);
          this.#showHeld();
          this.#say.elements.name.focus();
          await this.#client?.unsubscribe(pattern);
        });
        chip.append(make("code", "", masked(pattern, true)), remove);
        return chip;
      }),
    );
  }
}

const makeFrame = ({ kind, text, at }) => {
  const row = make("li", kind === "note" ? "note" : "");
  if (kind === "note") {
    row.append(make("span", "when", clock(at)), make("span", "", text));
    return row;
  }
  const wire = text.length > LONGEST ? `${text.slice(0, LONGEST)}… (${text.length} characters)` : text;
  if (/"type":"error"|"success":false/.test(text)) row.classList.add("is-bad");
  const arrow = make("span", kind, kind === "sent" ? "↑" : "↓");
  arrow.title = kind === "sent" ? "sent" : "received";
  // A <pre>: the messages of a frame stand one a line.
  row.append(make("span", "when", clock(at)), arrow, make("pre", "grow", wire));
  return row;
};
