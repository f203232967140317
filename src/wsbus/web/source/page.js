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
  globalThis.addEventListener?.("online", wake, { signal });
  globalThis.addEventListener?.("offline", check, { signal });
  page?.addEventListener("visibilitychange", () => page.hidden || wake(), { signal });
  return () => watching.abort();
};
