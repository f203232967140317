// When a client connects again: what a close code advises, and how long to wait. Pure; a port of
// `core/client/retry.py`.
import { ConnectionError } from "./errors.js";

/** @typedef {"now" | "later" | "muchLater" | "newToken" | "stop"} Advice */

/** What close codes mean, for people. @type {Record<number, string>} */
const MEANINGS = {
  1001: "the server shuts down",
  1006: "the connection broke",
  1009: "a message was too large",
  1011: "the server failed",
  1012: "the server restarts or is full",
  4401: "the token expired",
  4408: "the server heard nothing",
  4409: "this client read too slowly",
  4429: "this client sent too much",
  4500: "the token was refused",
  4510: "refused, or ended by an operator",
};

/** Close codes that advise something else than to connect again after a short delay. @type {Record<number, Advice>} */
const ADVICE = {
  1000: "stop",
  1003: "stop",
  1007: "stop",
  1011: "later",
  4401: "newToken",
  4429: "muchLater",
};

/** @type {(code: number) => Advice} */
export const adviceFor = (code) => ADVICE[code] ?? (code >= 4500 && code < 5000 ? "stop" : "now");

/**
 * The close code that was meant: servers built on the websockets library say 1011 for a 4408.
 * @type {(code: number, reason: string) => number}
 */
export const meantBy = (code, reason) => (code === 1011 && reason === "keepalive ping timeout" ? 4408 : code);

/** A close code, and what the server said with it, for people. @type {(code: number, why: string) => string} */
export const explain = (code, why) =>
  `${MEANINGS[code] ?? "the server closed the connection"}${why && `: ${why}`} (${code})`;

/** Why there is no further attempt. @type {(error: ConnectionError, failures: number) => ConnectionError} */
export const gaveUp = (error, failures) =>
  failures
    ? new ConnectionError(error.code, `gave up after ${failures} attempt${failures === 1 ? "" : "s"}: ${error.message}`, error.reason)
    : error;

/**
 * The ms before an attempt: exponential backoff with full jitter, or what the server said.
 * @param {{ base: number, cap: number }} retry
 * @param {number} attempt Its number since the last success, from 1.
 * @param {Advice} advice Of the end of the last connection.
 * @param {number} chance From 0 up to 1.
 * @param {string} [reason] Of the close frame; its end may tell the seconds to wait, at most an hour.
 */
export const delayOf = ({ base, cap }, attempt, advice, chance, reason = "") => {
  const delay =
    advice === "muchLater"
      ? (cap * (1 + chance)) / 2
      : Math.min(cap, base * 2 ** (attempt - (advice === "later" ? -1 : 1))) * chance;
  const advised = /\bretry=(\d+(\.\d+)?)$/.exec(reason);
  // Servers that all send their clients on must not be asked over and over.
  return advised ? Math.max(Math.min(+advised[1], 3600) * 1000, attempt > 1 ? delay : 0) : delay;
};
