// Handlers of `on`: they get what matches, and subscribe to nothing.
import { fits } from "./text.js";
import { onAbort } from "./waiting.js";

/** @import { Abortable, BusEvent } from "./types.js" */

/**
 * @param {(error: unknown) => void} report Called with what a handler throws.
 * @param {(channel: string) => () => void} begin Called before handlers are; what it returns, afterwards.
 */
export const makeHandlers = (report, begin) => {
  /** @type {Set<{ segments: string[], handler: (event: BusEvent) => unknown }>} */
  const listeners = new Set();

  return {
    /** @type {(pattern: string, handler: (event: BusEvent) => unknown, options: Abortable) => () => void} */
    on(pattern, handler, { signal }) {
      const listener = { segments: pattern.split("."), handler };
      const off = () => {
        listeners.delete(listener);
        stay();
      };
      const stay = onAbort(signal, off);
      if (!signal?.aborted) listeners.add(listener);
      return off;
    },

    /** @param {BusEvent} event */
    deliver(event) {
      const names = event.channel.split(".");
      /** @type {(() => void) | undefined} */
      let done;
      for (const listener of [...listeners]) {
        if (!listeners.has(listener) || !fits(listener.segments, names)) continue;
        done ??= begin(event.channel);
        try {
          const outcome = /** @type {PromiseLike<unknown> | undefined} */ (listener.handler(event));
          outcome?.then?.(undefined, report);
        } catch (error) {
          report(error);
        }
      }
      done?.();
    },
  };
};
