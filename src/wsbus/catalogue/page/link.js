// The page's connection: an ordinary client of the application, made when a form first needs it.

import { Client } from "./wsbus.js";
import { $, say } from "./dom.js";

const STATES = {
  idle: ["idle", "Not connected"],
  connecting: ["connecting", "Connecting…"],
  connected: ["open", "Connected"],
  waiting: ["waiting", "Connection lost; trying again"],
  closed: ["idle", "Not connected"],
};

export class Link {
  #client = null;
  #form = $("#connection");
  #ends = new AbortController();

  constructor() {
    this.#form.elements.url.value = new URL($('meta[name="wsbus-endpoint"]').content, location.href).href.replace(/^http/, "ws");
    this.#form.addEventListener("submit", (submitted) => {
      submitted.preventDefault();
      this.close();
      this.client().catch(() => {}); // It is shown.
    });
    $("#disconnect").addEventListener("click", () => this.close());
  }

  takesToken(isTaken) {
    $("#token-field").hidden = !isTaken;
  }

  /** Aborted when the present connection ends for good. */
  get ending() {
    return this.#ends.signal;
  }

  /** The client, once it is connected. */
  async client() {
    if (!this.#client) this.#open();
    const here = this.#client;
    try {
      await here.connect();
    } catch (error) {
      if (here === this.#client && here.state !== "connected") {
        this.close();
        this.#explain(`${error.message}. Check the endpoint${$("#token-field").hidden ? "" : " and the token"}.`);
      }
      throw error;
    }
    return here;
  }

  close() {
    const here = this.#client;
    this.#client = null;
    this.#ends.abort();
    this.#ends = new AbortController();
    here?.close();
    this.#become("idle");
  }

  #open() {
    const { url, token } = this.#form.elements;
    this.#explain("");
    const here = new Client(url.value, { token: token.value || undefined });
    this.#client = here;
    const on = (type, run) =>
      here.addEventListener(type, (happened) => here === this.#client && run(happened.detail, happened));
    on("state", ({ state }) => this.#become(state));
    on("connected", ({ subject }) => subject && say($("#state"), `Connected as ${subject}`));
    on("disconnected", ({ error }) => {
      this.close();
      if (error) this.#explain(error.message);
    });
    here.addEventListener("error", (happened) => happened.preventDefault());
  }

  #become(state) {
    const [shape, text] = STATES[state];
    $("#state").dataset.state = shape;
    say($("#state"), text);
    $("#disconnect").disabled = shape === "idle";
  }

  #explain(text) {
    $("#why").hidden = !text;
    say($("#why"), text);
  }
}
