// One attempt to reach the server: over a WebSocket, or over HTTP where the network lets none through.
import { addressOf, explainFailure } from "./address.js";
import { ConnectionError } from "./errors.js";
import { listen } from "./socket.js";
import { base64url } from "./text.js";

/** @import { Link } from "./driver.js" */
/** @import { ClientOptions, Socket } from "./types.js" */

/**
 * @typedef {object} Outcomes
 * @property {() => void} opened
 * @property {(data: unknown) => void} received
 * @property {(code: number, reason: string) => void} lost
 * @property {(error: ConnectionError) => void} failed
 * @property {(error: ConnectionError) => void} close It is of no use to try again.
 */

/**
 * @param {string} protocol
 * @param {ClientOptions} options
 * @returns {(mine: Link, url: string | URL, shown: string | null, outcomes: Outcomes) => void}
 */
export const makeDialling = (protocol, { fallback = true, WebSocket }) => {
  let hasOpened = false;
  return (mine, url, shown, { opened, received, lost, failed, close }) => {
    const offered = shown === null ? [protocol] : [protocol, `wsbus.token.${base64url(shown)}`];
    try {
      const { href, origin, pathname } = addressOf(url);
      const where = origin + pathname; // The query may hold a token.
      const make = () => new (WebSocket ?? globalThis.WebSocket)(href, offered);
      /** @type {(cause?: string, said?: string) => void} */
      const fail = (cause = "", said) => failed(explainFailure(where, protocol, cause, said));
      /** @type {(socket: Socket, failed: (cause?: string, said?: string) => void, isHttp?: boolean) => void} */
      const use = (socket, failed, isHttp) => {
        mine.socket = socket;
        listen(
          socket,
          mine.end.signal,
          () => {
            hasOpened ||= !isHttp;
            if (socket.protocol === protocol) opened();
            else close(new ConnectionError(4510, `${where} does not speak ${protocol}`));
          },
          received,
          lost,
          failed,
        );
      };
      /** Twice no WebSocket gets through, while the bus answers over HTTP: the network lets none through. */
      const attempt = (/** @type {boolean} */ isSecond) => {
        let hasFailed = false;
        use(make(), async (cause, said) => {
          if (hasFailed) return; // A socket says so twice, with its error and its end.
          hasFailed = true;
          try {
            if (hasOpened || !fallback || protocol !== "wsbus.v1" || / 4[02][139]/.test(`${cause}`)) throw 0;
            const http = await import("./wsbus-http.js");
            if (!isSecond && !(await http.answers(href, offered))) throw 0;
            if (mine.end.signal.aborted) return;
            if (isSecond) use(new http.HttpSocket(href, offered, make), fail, true);
            else attempt(true);
          } catch {
            if (!mine.end.signal.aborted) fail(cause, said);
          }
        });
      };
      attempt(false);
    } catch (error) {
      close(new ConnectionError(1006, `${error}`));
    }
  };
};
