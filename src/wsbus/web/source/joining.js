// One call of `subscribe`: all of its patterns are confirmed, or none stays.
import { CommandError } from "./errors.js";
import { onAbort } from "./waiting.js";

/** @import { Holder } from "./stream.js" */
/** @import { MaxRate, Position } from "./types.js" */
/** @import { Waiter } from "./waiting.js" */

/**
 * Subscribe; returns what is called when the waiter is settled, with whether the call has failed.
 * @param {Waiter<void>} waiter
 * @param {string[]} list Its patterns.
 * @param {import("./types.js").Limited & import("./types.js").Resumable} options The signal takes the call back, after the confirmation, too.
 * @param {(type: "subscribe" | "unsubscribe", pattern: string, holder: Holder, since?: Position, most?: MaxRate) => void} change
 * @param {(error: unknown) => void} report Called with what ends it after the call has returned.
 */
export const join = (waiter, list, { signal, since, maxRate }, change, report) => {
  /** @type {Set<Holder>} Patterns that the server has not confirmed. */
  const pending = new Set();
  /** @type {Map<Holder, string>} Patterns that the call still wants. */
  const parts = new Map();
  const off = () => parts.forEach((_, part) => part.leave?.());
  const check = () => {
    if (!pending.size) waiter.resolve();
  };
  let stay = () => {};
  for (const pattern of list) {
    /** @type {Holder & { leave(): void }} */
    const part = {
      signal,
      confirm() {
        pending.delete(part);
        check();
      },
      dismiss(error) {
        if (pending.has(part)) waiter.reject(error);
        else report(error); // The call has returned long ago.
        part.leave();
      },
      leave() {
        parts.delete(part);
        if (!parts.size) stay();
        change("unsubscribe", pattern, part);
        if (pending.delete(part)) waiter.reject(new CommandError("UNSUBSCRIBED", pattern));
      },
    };
    pending.add(part);
    parts.set(part, pattern);
  }
  parts.forEach((pattern, part) => change("subscribe", pattern, part, since, maxRate));
  check();
  /** @param {boolean} hasFailed */
  return (hasFailed) => {
    if (hasFailed) off();
    else stay = onAbort(signal, off);
  };
};
