// Errors for the application, and events for its listeners, when all that belongs together is done.
import { CommandError, ConnectionError } from "./errors.js";

/** @import { Failure } from "./actions.js" */

/** @type {(failure: Failure) => CommandError | ConnectionError} */
export const errorOf = ({ code, message, reason }) =>
  typeof code === "number" ? new ConnectionError(code, message, reason) : new CommandError(code, message);

/**
 * Listeners may call anything: so they run at the end of what tells them.
 * @param {(type: string, detail: unknown) => boolean} dispatch Returns whether they leave an error to the console.
 */
export const makeTelling = (dispatch) => {
  /** @type {[string, unknown][]} */
  let events = [];
  let depth = 0;

  const flush = () => {
    for (let event; !depth && (event = events.shift()); ) {
      const [type, detail] = event;
      if (dispatch(type, detail) && type === "error") (globalThis.reportError ?? console.error)(detail);
    }
  };

  return {
    /** @param {string} type @param {unknown} detail */
    tell(type, detail) {
      events.push([type, detail]);
      flush();
    },

    /** Only errors are still told of what has been. */
    forget() {
      events = events.filter(([type]) => type === "error");
    },

    /** Do what belongs together. @param {() => void} run */
    together(run) {
      depth++;
      run();
      depth--;
      flush();
    },
  };
};
