// Events for the listeners of the application, when all that belongs together is done.

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
