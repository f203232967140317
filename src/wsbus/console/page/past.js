// One channel: the connections on it, and its history, a page at a time.

import { $, hint, make, say } from "./dom.js";
import { bytes, clock, count, plural } from "./format.js";

const MOST_EVENTS = 500;
const LONG = 300;

export class Past {
  #command;
  #before = null; // Where the page before those that are shown ends.
  #reading = 0; // Counts what is asked: only the last answer counts.
  /** The channel that is shown; empty: none is. */
  channel = "";

  constructor(command) {
    this.#command = command;
    $("#past-again").addEventListener("click", () => this.#read());
    $("#past-earlier").addEventListener("click", () => this.#read(this.#before));
  }

  /** Show a channel; a pattern with wildcards is none, and hides it. */
  open(channel) {
    const isOne = !/(^|\.)[*+](\.|$)/.test(channel);
    this.channel = isOne ? channel : "";
    this.#reading += 1;
    $("#past").hidden = true;
    if (isOne) this.#read();
  }

  async #read(before = null) {
    this.#reading += 1;
    const { channel } = this;
    const reading = this.#reading;
    let past = null;
    let refusal = "";
    try {
      past = await this.#command("console.channel", before ? { channel, before } : { channel });
    } catch (error) {
      refusal = `Not read: ${error.message}.`;
    }
    if (reading !== this.#reading) return;
    $("#past").hidden = false;
    say($("#past-title"), channel);
    say($("#past-state"), refusal);
    $("#past-state").hidden = !refusal;
    if (past) this.#show(past, before !== null);
    else if (!before) this.#show({ keeps: false, shows: false }, false, true);
  }

  #show({ keeps, shows, events = [], before = null, occupants = [], count: there = 0 }, isEarlier, isUnknown = false) {
    const here = $("#past-here");
    here.replaceChildren(...occupants.map(makeOccupant));
    const more = there > occupants.length ? `The first ${count(occupants.length)} of ` : "";
    const none = "This channel shows no presence.";
    say($("#past-here-state"), isUnknown ? "Unknown." : shows ? `${more}${plural(there, "connection")}.` : none);

    const kept = $("#past-kept");
    const rows = events.map(makeEvent);
    if (isEarlier) {
      const height = kept.scrollHeight;
      kept.prepend(...rows);
      kept.scrollTop += kept.scrollHeight - height; // What was looked at stays where it is.
    } else {
      kept.replaceChildren(...rows);
      kept.scrollTop = kept.scrollHeight;
    }
    const isFull = kept.childElementCount >= MOST_EVENTS;
    this.#before = isFull ? null : before;
    const earlier = $("#past-earlier");
    if (!this.#before && document.activeElement === earlier) kept.focus();
    earlier.hidden = !this.#before;
    const shown = plural(kept.childElementCount, "event");
    const rest = before ? "; earlier ones are kept, too" : "";
    const nothing = isUnknown ? "Unknown." : "This channel keeps no history.";
    say($("#past-kept-state"), keeps ? `The last ${shown}${rest}.` : nothing);
    kept.hidden = !kept.childElementCount;
  }
}

/** A connection, as presence gives it: its id, and the subject of its identity. */
const makeOccupant = ([id, subject]) => {
  const row = make("li", "", subject ?? id);
  hint(row, id);
  return row;
};

/** A row of an event, or of events that are missing. */
export const makeEvent = ({ missing, channel, event, at, text, size }) => {
  const row = make("li");
  if (missing) {
    row.className = "missing";
    row.textContent = `… ${count(missing)} not shown …`;
    return row;
  }
  const isCut = size > new Blob([text]).size;
  const json = isCut ? `${text}… (${bytes(size).join(" ")})` : text;
  row.append(
    make("span", "when", clock(at * 1000)),
    make("span", "channel", channel),
    make("span", "what", event),
    text.length > LONG ? makeLong(json, text) : make("span", "grow", json),
  );
  hint(row.children[1], channel);
  return row;
};

/** A few lines of it; all of it, laid out, once it is opened. */
const makeLong = (json, text) => {
  const details = make("details", "grow");
  details.append(make("summary", "", json));
  details.addEventListener(
    "toggle",
    () => {
      let whole = json;
      try {
        whole = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // It was cut.
      }
      details.append(make("pre", "", whole));
    },
    { once: true },
  );
  return details;
};
