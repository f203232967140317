// The timer of a client: there is one.
import { clamp } from "./waiting.js";

/** @param {() => void} strike Called when the time has come. */
export const makeAlarm = (strike) => {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  /** When the timer strikes. */
  let due = Infinity;
  let isScheduled = false;

  const run = () => {
    isScheduled = false;
    due = Infinity;
    strike();
  };

  /**
   * @param {number} deadline Infinity: never.
   * @param {boolean} isBatched What one turn of the event loop has changed is said at its end.
   */
  return (deadline, isBatched) => {
    if (deadline === due) return;
    const delay = deadline - performance.now();
    clearTimeout(timer);
    due = deadline;
    if (!isBatched || delay > 0) {
      if (delay < Infinity) timer = setTimeout(run, clamp(delay));
    } else if (!isScheduled) {
      isScheduled = true;
      queueMicrotask(run);
    }
  };
};
