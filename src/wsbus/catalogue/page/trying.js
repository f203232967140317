// The forms that try a channel or a command out, and what comes back.

import { escapeSegment } from "./wsbus.js";
import { make, say, shown } from "./dom.js";
import { choiceField, jsonField, Params, segmentField, Unfit } from "./fields.js";
import { exampleOf } from "./types.js";

const MOST_EVENTS = 200;
const LONGEST = 4000;
const LONGEST_ANSWER = 100_000;
const TIMEOUT = 10_000;

const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${text.length} characters)` : text);

const clock = (seconds) => new Date(seconds * 1000).toTimeString().slice(0, 8);

/** A form with a title, fields, a button, and a place for what came of it. */
class Form {
  #button;
  #error = make("p", { className: "refusal", role: "alert", hidden: true });
  #said = make("p", { className: "said", role: "status" });
  #answer = make("pre", { tabIndex: 0, ariaLabel: "Answer", role: "group", hidden: true });
  #find;
  element;

  /** `name`: what is tried; `find`: the field that an error is about. */
  constructor(verb, name, fields, run, find = () => undefined) {
    this.#button = make("button", { className: "primary" }, verb);
    this.#find = find;
    this.element = make(
      "form",
      { className: "try", ariaLabel: `${verb}: ${shown(name)}` },
      make("h4", {}, verb),
      make("div", { className: "fields" }, ...fields.map((field) => field.element)),
      make("div", { className: "row" }, this.#button, this.#said),
      this.#error,
      make("div", { className: "response" }, this.#answer),
    );
    this.element.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.#run(run, fields);
    });
    this.element.addEventListener("keydown", (pressed) => {
      if (pressed.key === "Enter" && (pressed.ctrlKey || pressed.metaKey)) {
        pressed.preventDefault();
        this.element.requestSubmit();
      }
    });
  }

  set verb(text) {
    say(this.#button, text);
  }

  say(text, className = "") {
    this.#said.className = `said ${className}`;
    say(this.#said, text);
  }

  answer(value) {
    this.#answer.hidden = value === undefined;
    say(this.#answer, value === undefined ? "" : cut(JSON.stringify(value, null, 2), LONGEST_ANSWER));
  }

  async #run(run, fields) {
    if (this.element.ariaBusy === "true") return;
    this.element.ariaBusy = "true";
    fields.forEach((field) => field.explain(""));
    this.#explain("");
    this.say("");
    this.answer(undefined);
    try {
      await run(this);
    } catch (error) {
      this.say("");
      const field = error instanceof Unfit ? error.field : this.#find(error.message);
      const text = typeof error.code === "string" ? `${error.code}: ${error.message}` : error.message;
      if (field) field.explain(text);
      else this.#explain(text);
    } finally {
      this.element.ariaBusy = "false";
    }
  }

  #explain(text) {
    this.#error.hidden = !text;
    say(this.#error, text);
  }
}

/** A form that calls a command. */
export const calling = ({ action, params }, link) => {
  const wanted = new Params(params);
  const call = async (form) => {
    const values = wanted.value;
    const client = await link.client();
    const begun = performance.now();
    const answer = await client.command(action, values, { timeout: TIMEOUT });
    form.say(`Answered in ${(performance.now() - begun).toFixed(0)} ms`, "good");
    form.answer(answer ?? null);
  };
  const form = new Form("Call", action, wanted.fields, call, (message) => wanted.at(message));
  return [form.element];
};

const PARAMETER = /\{([^{}]+)\}/g;

const nameOf = (template, fields) => {
  const values = Object.fromEntries(fields.map((field) => [field.name, field]));
  return template.replace(PARAMETER, (_, name) => {
    const text = values[name].text;
    return text === "*" || text === "+" ? text : escapeSegment(text);
  });
};

/** A form that publishes. */
const publishing = ({ template, parameters, events }, link) => {
  const segments = parameters.map((name) => segmentField(name, "example"));
  const names = Object.keys(events);
  const event = names.length > 1 ? choiceField("Event", names) : { text: names[0] };
  const data = jsonField("Data", events[names[0]]);
  event.element?.addEventListener("change", () => {
    data.text = JSON.stringify(exampleOf(events[event.text]), null, 2);
  });
  const publish = async (form) => {
    const channel = nameOf(template, segments);
    const value = data.value ?? null;
    const client = await link.client();
    const { matched } = await client.publish(channel, value, { event: event.text, timeout: TIMEOUT });
    form.say(`Published on ${channel}, for ${matched} subscriber${matched === 1 ? "" : "s"}`, "good");
  };
  const fields = [...segments, ...(event.element ? [event] : []), data];
  const find = (message) => (/`\$\.data[^`]*`$/.test(message) ? data : undefined);
  return new Form("Publish", template, fields, publish, find).element;
};

/** The events of a subscription: the newest ones, as they come. */
class Events {
  #pending = [];
  #isDue = false;
  element;

  constructor(label) {
    this.element = make("ol", { className: "tail", tabIndex: 0, ariaLabel: label, hidden: true });
  }

  clear() {
    this.#pending = [];
    this.element.replaceChildren();
    this.element.hidden = false;
  }

  push(event) {
    this.#pending.push(event);
    if (this.#pending.length > MOST_EVENTS) this.#pending.shift();
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#show());
  }

  #show() {
    this.#isDue = false;
    const list = this.element;
    const follows = list.scrollTop + list.clientHeight > list.scrollHeight - 24;
    list.append(...this.#pending.splice(0).flatMap(rowsOf));
    while (list.childElementCount > MOST_EVENTS) list.firstElementChild.remove();
    if (follows) list.scrollTop = list.scrollHeight;
  }
}

const rowsOf = ({ channel, event, timestamp, data, gap }) => {
  const row = make(
    "li",
    {},
    make("span", { className: "when" }, clock(timestamp)),
    make("span", { className: "channel", title: shown(channel) }, channel),
    make("span", { className: "what" }, event),
    make("pre", { className: "grow" }, cut(JSON.stringify(data) ?? "", LONGEST)),
  );
  if (!gap) return [row];
  const lost = gap.lost === null ? "Some events are missing" : `${gap.lost} events are missing`;
  return [make("li", { className: "bad" }, lost), row];
};

/** A form that subscribes until it is sent again, with the events that come. */
const subscribing = ({ template, parameters }, link) => {
  const segments = parameters.map((name) => segmentField(name, "*"));
  const events = new Events(`Events of ${template}`);
  let held = null;
  const stop = (form, text) => {
    held?.abort();
    held = null;
    form.verb = "Subscribe";
    form.say(text);
  };
  const toggle = async (form) => {
    if (held) {
      stop(form, "Unsubscribed");
      return;
    }
    const pattern = nameOf(template, segments);
    const client = await link.client();
    const taken = new AbortController();
    const { signal } = taken;
    try {
      client.on(pattern, (event) => events.push(event), { signal });
      events.clear();
      await client.subscribe(pattern, { signal, timeout: TIMEOUT });
    } catch (error) {
      taken.abort();
      throw error;
    }
    held = taken;
    link.ending.addEventListener("abort", () => held === taken && stop(form, "The connection ended"), { signal });
    form.verb = "Unsubscribe";
    form.say(`Subscribed to ${pattern}`, "good");
  };
  return [new Form("Subscribe", template, segments, toggle).element, events.element];
};

export const tryingChannel = (channel, link) => [...subscribing(channel, link), publishing(channel, link)];
