// Elements. What comes from the application is only ever set as text, never as markup.

export const $ = (selector, root = document) => root.querySelector(selector);

/** Characters that are not printable, or that show a text in another order than it stands in. */
const UNPRINTABLE = /[\p{C}\p{Z}]/gu;

const escaped = (character) =>
  [...Array(character.length).keys()]
    .map((index) => `\\u${character.charCodeAt(index).toString(16).padStart(4, "0")}`)
    .join("");

/** A text as people see it: what is not printable is escaped. */
export const shown = (text) =>
  String(text).replace(UNPRINTABLE, (found) => (" \n".includes(found) ? found : escaped(found)));

/** Make an element: `make("p", { className: "quiet" }, "text", anElement)`. */
export const make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.map((each) => (each instanceof Node ? each : shown(each))));
  return element;
};

export const say = (element, text) => {
  const wanted = shown(text);
  if (element.textContent !== wanted) element.textContent = wanted;
};

let made = 0;

/** An id that no other element has. */
export const newId = () => `e${(made += 1)}`;
