// What a browser says of its network, and of the page.

/**
 * Call when something has changed for the better (`wake`), or may have for the worse (`check`); returns
 * what ends that.
 * @param {() => void} wake
 * @param {() => void} check
 */
export const watchPage = (wake, check) => {
  const watching = new AbortController();
  const { signal } = watching;
  const page = globalThis.document;
  /** @type {(target: Partial<EventTarget> | undefined, type: string, run: () => void) => void} */
  const on = (target, type, run) => target?.addEventListener?.(type, run, { signal });
  on(globalThis, "online", wake);
  on(globalThis, "offline", check);
  on(page, "visibilitychange", () => page.hidden || wake());
  return () => watching.abort();
};
