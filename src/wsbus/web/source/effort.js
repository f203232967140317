// How long the page works on events, while a subscription has a rate.

/**
 * @param {() => boolean} isRated Whether one has.
 * @param {(type: "began" | "worked", detail: string | number) => void} give
 */
export const makeEffort = (isRated, give) => {
  let isProbing = false;

  /** Have a task of its own say how late the event loop is. @param {number} from */
  const probe = (from) => {
    if (isProbing || !globalThis.MessageChannel) return;
    isProbing = true;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      isProbing = false;
      give("worked", from);
    };
    port2.postMessage(0);
  };

  /** An event is about to be handled; returns what to call afterwards. @param {string} channel */
  return (channel) => {
    if (!isRated()) return () => {};
    give("began", channel);
    const from = performance.now();
    probe(from);
    return () => give("worked", from);
  };
};
