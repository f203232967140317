// Elements. What comes from the bus is only ever set as text, never as markup, and without tokens.

import { masked } from "./secrets.js";

const CLEARLY = 1.2;

export const $ = (selector, root = document) => root.querySelector(selector);

/** Characters that are not printable, or that show a text in another order than it stands in. */
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;

const escaped = (character) =>
  [...Array(character.length).keys()]
    .map((index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`)
    .join("");

/** A text as people see it: without tokens, and what is not printable is escaped. */
export const shown = (text, inLines = false) =>
  masked(String(text)).replace(UNPRINTABLE, (character) =>
    character === " " || (inLines && character === "\n") ? character : escaped(character),
  );

const shownIn = (element, text) => shown(text, element.tagName === "PRE");

export const make = (tag, className = "", text = "") => {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = shownIn(element, text);
  return element;
};

/** Set what is shown while the pointer is over an element. */
export const hint = (element, text) => {
  element.title = shown(text);
};

/** Set a text, if it is another: what is selected, or read aloud, stays as it is. */
export const say = (element, text) => {
  const wanted = shownIn(element, text);
  if (element.textContent !== wanted) element.textContent = wanted;
};

export const isPressed = (button) => button.ariaPressed === "true";

export const press = (button, isOn, label) => {
  button.ariaPressed = String(isOn);
  button.textContent = label;
};

/** Have the heads of a table sort it: a click sets `select`, which offers the orders. */
export class Heads {
  #heads = [];
  #select;

  constructor(select) {
    this.#select = select;
    select.addEventListener("change", () => this.mark());
  }

  /** A head; `orders` are those that a click goes through, with what they are in `aria-sort`. */
  make(text, className, orders = {}) {
    const head = make("th", className);
    head.scope = "col";
    const names = Object.keys(orders);
    if (!names.length) head.textContent = text;
    else {
      const button = make("button", "sort", text);
      button.type = "button";
      button.addEventListener("click", () => {
        this.#select.value = names[(names.indexOf(this.#select.value) + 1) % names.length];
        this.#select.dispatchEvent(new Event("change"));
      });
      head.append(button);
      this.#heads.push([head, orders]);
    }
    return head;
  }

  clear() {
    this.#heads = [];
  }

  mark() {
    for (const [head, orders] of this.#heads) head.ariaSort = orders[this.#select.value] ?? "none";
  }
}

/** Elements of one parent, each for a key: updated in place, so that focus and selection stay. */
export class Rows {
  #parent;
  #make;
  #update;
  #rows = new Map();

  constructor(parent, makeRow, update) {
    this.#parent = parent;
    this.#make = makeRow;
    this.#update = update;
  }

  /** The item whose row holds an element. */
  itemAt(element) {
    for (const { row, item } of this.#rows.values()) if (row.contains(element)) return item;
    return undefined;
  }

  show(items, keyOf) {
    const focused = document.activeElement;
    const before = this.#rows;
    this.#rows = new Map();
    items.forEach((item, index) => {
      const key = keyOf(item);
      const row = before.get(key)?.row ?? this.#make(item);
      this.#update(row, item, before.get(key)?.item);
      this.#rows.set(key, { row, item });
      const there = this.#parent.children[index];
      if (there !== row) this.#parent.insertBefore(row, there ?? null);
    });
    while (this.#parent.childElementCount > this.#rows.size) this.#parent.lastElementChild.remove();
    // An element that is moved loses the focus.
    if (focused !== document.activeElement && focused?.isConnected) {
      focused.focus({ preventScroll: true });
    }
  }
}

/** The order of a list that comes anew each second: places change little, and never at hand. */
export class Order {
  #body;
  #nameOf;
  #names = []; // As they were shown last.
  #by = "";
  /** Whether somebody points at the rows, or has the keyboard there: then no row moves. */
  isHeld = false;

  constructor(body, nameOf) {
    this.#body = body;
    this.#nameOf = nameOf;
  }

  /** The rows, in the order of `by`; with `valueOf`, rows swap only if its values clearly differ. */
  apply(rows, by, valueOf = null) {
    this.isHeld = by === this.#by && this.#body.matches(":hover, :focus-within");
    const places = new Map(this.#names.map((name, index) => [name, index]));
    const placeOf = (row) => places.get(this.#nameOf(row)) ?? Infinity;
    let ordered = rows;
    if (by === this.#by && (valueOf || this.isHeld)) {
      ordered = rows.toSorted((a, b) => placeOf(a) - placeOf(b) || 0);
      for (let i = 1; i < ordered.length && !this.isHeld; i += 1) {
        for (let j = i; j > 0 && valueOf(ordered[j]) > valueOf(ordered[j - 1]) * CLEARLY + 0.1; j -= 1) {
          [ordered[j - 1], ordered[j]] = [ordered[j], ordered[j - 1]];
        }
      }
    }
    this.#by = by;
    this.#names = ordered.map(this.#nameOf);
    return ordered;
  }

  /** What is said beside the number of rows. */
  get note() {
    return this.isHeld ? "; no row moves while you are at the list" : "";
  }
}

/** A bounded list that follows its end, unless somebody has scrolled up, and can be held. */
export class Tail {
  #list;
  #pause;
  #most;
  #makeRow;
  #pending = [];
  #isDue = false;
  /** Called with the number of rows that wait while it is held. */
  onHeld = () => {};

  constructor(list, pause, clear, most, makeRow) {
    this.#list = list;
    this.#pause = pause;
    this.#most = most;
    this.#makeRow = makeRow;
    pause.addEventListener("click", () => {
      press(pause, !isPressed(pause), isPressed(pause) ? "Pause" : "Resume");
      this.#show();
    });
    clear.addEventListener("click", () => this.clear());
  }

  get isHeld() {
    return isPressed(this.#pause);
  }

  push(...items) {
    this.#pending.push(...items);
    if (this.#pending.length > this.#most) this.#pending.splice(0, this.#pending.length - this.#most);
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => this.#show());
  }

  clear() {
    this.#pending = [];
    this.#list.replaceChildren();
    this.#show();
  }

  #show() {
    this.#isDue = false;
    this.onHeld(this.isHeld ? this.#pending.length : 0);
    if (this.isHeld) return;
    const list = this.#list;
    const follows = list.scrollTop + list.clientHeight > list.scrollHeight - 24;
    list.append(...this.#pending.splice(0).map(this.#makeRow));
    for (let extra = list.childElementCount - this.#most; extra > 0; extra -= 1) {
      list.firstElementChild.remove();
    }
    if (follows) list.scrollTop = list.scrollHeight;
  }
}

/** Call a function a moment after the last of several calls. */
export const settle = (run, milliseconds = 200) => {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(run, milliseconds);
  };
};
