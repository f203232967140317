// What a socket says: that it is open, what it heard, and why it ended.

/** @import { NodeSocket, SocketEvent } from "./address.js" */
/** @import { Socket } from "./types.js" */

/**
 * Listen to a socket, until the signal is aborted.
 * @param {Socket} socket
 * @param {AbortSignal} signal
 * @param {() => void} opened
 * @param {(data: unknown) => void} received
 * @param {(code: number, reason: string) => void} lost A connection ended.
 * @param {(cause?: string, said?: string) => void} fail There will be no connection; what Node says of it,
 *   and the text that the server refused it with.
 */
export const listen = (socket, signal, opened, received, lost, fail) => {
  let isOpen = false;
  socket.binaryType = "arraybuffer";
  /** @type {(type: string, run: (event: SocketEvent) => void) => void} */
  const on = (type, run) =>
    socket.addEventListener(type, (event) => signal.aborted || run(/** @type {SocketEvent} */ (event)));
  on("open", () => {
    isOpen = true;
    opened();
  });
  on("message", ({ data }) => received(data));
  on("close", ({ code = 1006, reason = "" }) => (isOpen ? lost(code, reason) : fail()));
  on("error", ({ message, error }) => isOpen || fail(message || error?.message || error?.code));
  /** The package ws shows the answer of a server that refused. @type {NodeSocket} */ (socket).on?.(
    "unexpected-response",
    (_, answer) => {
      const refused = (said = /** @type {unknown} */ ("")) =>
        signal.aborted || fail(`Unexpected server response: ${answer.statusCode}`, `${said}`);
      answer.once("data", refused).once("end", refused);
    },
  );
};
