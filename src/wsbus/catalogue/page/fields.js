// The fields of a form, made from schemas, and what is said about them at their place.

import { make, newId, say } from "./dom.js";
import { exampleOf, fieldsOf, resolved, typesOf, valuesOf } from "./types.js";

const LEFT_OUT = "";

/** What is wrong with the text of a field. */
export class Unfit extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

const isOf = (schema, ...types) => {
  const found = typesOf(schema);
  return found.length > 0 && found.every((each) => types.includes(each));
};

/** A label, a control, and a place for what is wrong with it. */
export class Field {
  #error = make("p", { className: "refusal", id: newId(), hidden: true });
  #control;
  #hint;
  #read;
  element;

  /** `read`: from the control's text to a value; undefined: it is left out. */
  constructor(name, control, { hint = "", read = (text) => text, className = "" } = {}) {
    this.name = name;
    this.#control = control;
    this.#read = read;
    control.id = newId();
    const label = make("label", { htmlFor: control.id }, name);
    const about = make("span", { className: "quiet", id: newId() }, hint);
    this.#hint = hint ? about.id : "";
    control.addEventListener("input", () => this.explain(""));
    this.element = make("div", { className: `field ${className}` }, label, " ", about, control, this.#error);
    this.explain("");
  }

  get value() {
    return this.#read(this.#control.value, this);
  }

  get text() {
    return this.#control.value;
  }

  set text(text) {
    this.#control.value = text;
  }

  /** Show what is wrong at the field, and go there; an empty text: nothing is. */
  explain(text) {
    this.#error.hidden = !text;
    say(this.#error, text);
    this.#control.ariaInvalid = text ? "true" : null;
    const about = [this.#hint, text && this.#error.id].filter(Boolean).join(" ");
    if (about) this.#control.setAttribute("aria-describedby", about);
    else this.#control.removeAttribute("aria-describedby");
    if (text) this.#control.focus();
  }
}

const input = (properties = {}) =>
  make("input", { autocomplete: "off", autocapitalize: "none", spellcheck: false, ...properties });

const asJson = (text, field) => {
  if (!text.trim()) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Unfit(field, `This is not JSON: ${error.message}`);
  }
};

/** A text that is no number goes as it is: the server says what is wrong with it. */
const asNumber = (text) => {
  const wanted = text.trim();
  if (!wanted) return undefined;
  const number = Number(wanted);
  return Number.isFinite(number) ? number : wanted;
};

const areaOf = (schema) => {
  const area = make("textarea", { rows: 5, spellcheck: false, autocapitalize: "none" });
  area.value = JSON.stringify(exampleOf(schema), null, 2);
  return area;
};

/** A field for JSON of a type. */
export const jsonField = (name, schema) =>
  new Field(name, areaOf(schema), { hint: "as JSON", read: asJson, className: "wide" });

/** A field for one segment of a channel's name. */
export const segmentField = (name, value) =>
  new Field(name, input({ value, required: true, maxLength: 255 }), {});

export const choiceField = (name, texts) =>
  new Field(name, make("select", {}, ...texts.map((text) => make("option", { value: text }, text))), {});

/** A field for one parameter of a command. */
const parameterField = ({ name, schema, kind, isRequired }) => {
  const hint = isRequired ? kind : `${kind}, optional`;
  const values = valuesOf(schema);
  if (values.length) return selectField(name, values, isRequired, hint);
  if (isOf(schema, "integer", "number", "null")) {
    return new Field(name, input({ inputMode: "decimal" }), { hint, read: asNumber });
  }
  if (isOf(schema, "string", "null")) {
    const isNullable = typesOf(schema).includes("null");
    const none = isRequired ? (isNullable ? null : "") : undefined;
    return new Field(name, input(), { hint, read: (text) => text || none });
  }
  const field = new Field(name, areaOf(schema), { hint, read: asJson, className: "wide" });
  if (!isRequired) field.text = "";
  return field;
};

const selectField = (name, values, isRequired, hint) => {
  const options = values.map((value) => make("option", { value: JSON.stringify(value) }, String(value)));
  if (!isRequired) options.unshift(make("option", { value: LEFT_OUT }, "left out"));
  const read = (text) => (text === LEFT_OUT ? undefined : JSON.parse(text));
  return new Field(name, make("select", {}, ...options), { hint, read });
};

/** The fields of a command's `params`, and how they are read. */
export class Params {
  #whole = null;
  fields;

  constructor(schema) {
    const found = resolved(schema);
    const isOpen = found.type !== "object" || (!found.properties && found.additionalProperties);
    if (isOpen) this.#whole = jsonField("params", schema);
    this.fields = this.#whole ? [this.#whole] : fieldsOf(schema).map(parameterField);
  }

  /** The value; what is left out is not in it. */
  get value() {
    if (this.#whole) return this.#whole.value;
    const values = this.fields.map((field) => [field.name, field.value]);
    return Object.fromEntries(values.filter(([, value]) => value !== undefined));
  }

  /** The field that an error of the server is about. */
  at(message) {
    if (this.#whole) return message.includes("$.params") ? this.#whole : undefined;
    const name =
      /`\$\.params\.([^`.[]+)[^`]*`$/.exec(message)?.[1] ?? /missing required field `([^`]+)`/.exec(message)?.[1];
    return this.fields.find((field) => field.name === name);
  }
}
