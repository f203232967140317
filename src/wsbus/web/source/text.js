// Names as texts and bytes.
import { CommandError } from "./errors.js";

/** @type {(pattern: string[], names: string[]) => boolean} */
export const fits = (pattern, names) =>
  (names.length === pattern.length || (names.length > pattern.length && pattern.at(-1) === "*")) &&
  pattern.every((segment, i) => segment === "*" || segment === "+" || segment === names[i]);

const encoder = new TextEncoder();

/** @type {(text: string) => Uint8Array} */
export const encode = (text) => encoder.encode(text);

/** @type {(text: string | Uint8Array) => number} */
export const bytesOf = (text) => (typeof text === "string" ? encode(text) : text).length;

/** Refuse a name that is too long for any server: it could cut the connection. @param {string} name */
export const checkLength = (name) => {
  if (bytesOf(name) > 255 || name.split(".").length > 16) {
    throw new CommandError("INVALID_CHANNEL", "a name may have at most 255 bytes and 16 segments");
  }
};

/** Refuse what is no rate. @param {import("./types.js").MaxRate} [most] */
export const checkRate = (most = "auto") => {
  if (most !== "auto" && !(most >= 0.01 && most <= 1000)) throw new TypeError('maxRate is 0.01 to 1000, or "auto"');
};

/** A token as a subprotocol can hold it (RFC 4648, section 5). @type {(text: string) => string} */
export const base64url = (text) =>
  btoa(String.fromCharCode(...encode(text))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
