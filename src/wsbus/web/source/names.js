// Channels and patterns, by the rules of the server.
import { CommandError } from "./errors.js";
import { checkLength, encode, fits } from "./text.js";

/**
 * Tell whether a pattern matches a channel: `*` is one segment, as the last one or more; `+` is one.
 * @param {string} pattern
 * @param {string} channel
 */
export const matches = (pattern, channel) => fits(pattern.split("."), channel.split("."));

// What no name may hold: Cc, Cf, Cs, Co, Zs, Zl, Zp of Unicode 15, and noncharacters. The class that
// may change, Cf, is written out.
const FORBIDDEN =
  /\p{Cc}\p{Cs}\p{Co}\p{NChar}\p{Z}\xAD\u0600-\u0605\u061C\u06DD\u070F\u0890\u0891\u08E2\u180E\u200B-\u200F\u202A-\u202E\u2060-\u2064\u2066-\u206F\uFEFF\uFFF9-\uFFFB\u{110BD}\u{110CD}\u{13430}-\u{1343F}\u{1BCA0}-\u{1BCA3}\u{1D173}-\u{1D17A}\u{E0001}\u{E0020}-\u{E007F}/u
    .source;
const UNFIT = new RegExp(`[${FORBIDDEN}%.*]`, "gu");
const INVALID = new RegExp(`[${FORBIDDEN}*]|(^|\\.)(\\.|$)|(^|[./])[+#>]([./]|$)`, "u");

const WILDCARD = /^[+#>]$/;

/** @type {(char: string) => string} */
const percent = (char) => {
  const code = char.charCodeAt(0);
  const isLone = code >> 11 === 27 && char.length === 1; // Half of a pair.
  const bytes = isLone
    ? [224 | (code >> 12), 128 | ((code >> 6) & 63), 128 | (code & 63)]
    : [...encode(char)];
  return bytes.map((byte) => `%${byte.toString(16).toUpperCase().padStart(2, "0")}`).join("");
};

/**
 * Spell any text as one segment of a channel, without loss, as the server's `escape_segment` does.
 * @param {string} text
 */
export const escapeSegment = (text) => {
  if (typeof text !== "string") throw new TypeError("a name must be a string");
  const parts = text.replace(UNFIT, percent).split("/");
  return parts.map((part) => (WILDCARD.test(part) ? percent(part) : part)).join("/") || "%";
};

/**
 * Build a channel from a name of your own and names from outside, as the server's `channel` does.
 * @param {string} head One or more segments, as they are.
 * @param {string[]} names Any text; each becomes one segment.
 * @throws {CommandError} INVALID_CHANNEL: `head` is no channel, or the result is too long.
 */
export const channel = (head, ...names) => {
  const found = [head, ...names.map(escapeSegment)].join(".");
  if (INVALID.test(found)) {
    throw new CommandError("INVALID_CHANNEL", `"${head}" is not the name of a channel`);
  }
  checkLength(found);
  return found;
};
