// Where the server is, and what a failed handshake means.
import { ConnectionError } from "./errors.js";

/**
 * What an event of a socket may have: each kind has some.
 * @typedef {{ type: string, data?: unknown, code?: number, reason?: string, message?: string,
 *   error?: { message?: string, code?: string } }} SocketEvent
 */
/** @typedef {{ statusCode: number, once(type: string, listener: (data?: unknown) => void): Answer }} Answer */
/** @typedef {{ on?(type: string, listener: (request: unknown, answer: Answer) => void): unknown }} NodeSocket */

/** @type {(url: string | URL, base?: string) => URL} */
export const addressOf = (url, base = globalThis.location?.href) => {
  try {
    const found = new URL(url, base);
    found.protocol = found.protocol.replace("http", "ws");
    found.hash = "";
    if (/^wss?:$/.test(found.protocol)) return found;
  } catch {}
  throw new TypeError(`"${url}" is no wss:// or ws:// URL`);
};

/** What an HTTP status means, where a script can see it: like which close code, in words. @type {Record<string, [number, string]>} */
const REFUSALS = {
  401: [4500, "the token was refused"],
  403: [1006, "no such path, or refused: Starlette and FastAPI answer 403 to both"],
  404: [1006, "there is no WebSocket at this path"],
  429: [4429, "too many connections"],
};

/**
 * Why no connection could be opened.
 * @param {string} where
 * @param {string} protocol
 * @param {string} cause What Node says of it; browsers say nothing.
 * @param {string} [said] The text that the server refused it with.
 */
export const explainFailure = (where, protocol, cause, said = "") => {
  const [code, meaning] = REFUSALS[cause.split("response: ")[1]] ?? [1006, ""];
  const why = /^[^<{\n ]+( [^\n ]+){2,}/.exec(said)?.[0] ?? meaning; // A sentence, not a page.
  const isKnown = cause && !cause.includes("non-101"); // All that the WebSocket of Node itself says.
  const what = isKnown
    ? cause + (why && ` (${why})`)
    : "scripts are not told why: wrong URL, no server, or one that does not speak " +
      `${protocol}, restarts, or refuses this origin or the token`;
  return new ConnectionError(code, `cannot connect to ${where}: ${what} (${code})`);
};
