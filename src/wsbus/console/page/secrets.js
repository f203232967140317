// Tokens: what looks like one, or is known to be one, is shown as ••• in every view.

const MASK = "•••";
const SHORT = 6; // Shorter ones stand in other words, too.
const WORDS = /([^\p{L}\p{N}_-]+)/u;
const NAMES = "(?:token|secret|password|passwd|authorization|jwt|api[_-]?key|cookie)";
// Publishers choose these texts: every repetition is bounded, or ends where another begins,
// so that none takes more than about a millisecond.

/** A key of JSON, at any depth and also within a text, whose value is a token; it may be cut. */
const NAMED = new RegExp(
  String.raw`((\\{0,7})"[^"\\]{0,100}${NAMES}\2"\s{0,9}:\s{0,9})(?:\2"([^]*?)(?:(?<!\\)\2"|$)|-?\d[\d.eE+-]*)`,
  "gi",
);
/** A parameter of an address. */
const ASKED = /([?&;])([^=&?;\s"'#]{1,100})=([^&\s"'#\\]*)/g;
const ASKED_NAMES = /token|auth|jwt|key|secret|password/i;
/** What is a token by its form: a JWT, a header of HTTP, a subprotocol of wsbus, a login in a URL. */
const FORMED = [
  [/(?<![\w-])eyJ[\w-]{5,}\.[\w-]{4,}(?:\.[\w-]*)?/g, MASK],
  [/\b((?:bearer|basic)\s+)[\w.~+/-]{8,}=*/gi, `$1${MASK}`],
  [/\b(wsbus\.token\.)[\w-]+/gi, `$1${MASK}`],
  [/(:\/\/[^\s/:@"']*:)[^\s/@"']+@/g, `$1${MASK}@`],
];

const known = new Set();

const spoken = (value) => {
  try {
    return JSON.parse(`"${value}"`);
  } catch {
    return value;
  }
};

const decoded = (value) => {
  try {
    return decodeURIComponent(value.replaceAll("+", " "));
  } catch {
    return value;
  }
};

/** Take a text for a token from now on. */
export const keep = (token) => {
  if (token) known.add(token);
};

/** The same with what a frame or an address calls a token. */
export const learn = (text) => {
  for (const [, , , value] of text.matchAll(NAMED)) keep(value && spoken(value));
  for (const [, , name, value] of text.matchAll(ASKED)) {
    if (ASKED_NAMES.test(name)) keep(decoded(value));
  }
};

/** The text without tokens. `words`: also without short ones that are known, where they are words. */
export const masked = (text, words = false) => {
  let shown = text;
  for (const token of longestFirst()) {
    for (const form of formsOf(token)) {
      if (form.length >= SHORT) shown = shown.replaceAll(form, MASK);
      else if (words) shown = shown.split(WORDS).map((word) => (word === form ? MASK : word)).join("");
    }
  }
  if (shown.length < SHORT) return shown;
  shown = shown.replace(NAMED, `$1"${MASK}"`).replace(ASKED, (whole, mark, name) =>
    ASKED_NAMES.test(name) ? `${mark}${name}=${MASK}` : whole,
  );
  for (const [form, mask] of FORMED) shown = shown.replace(form, mask);
  return shown;
};

/** A token may stand in another one. */
const longestFirst = () => [...known].sort((a, b) => b.length - a.length);

const formsOf = (token) =>
  new Set([JSON.stringify(token).slice(1, -1), encodeURIComponent(token.toWellFormed()), token]);
