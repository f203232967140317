// SPDX-License-Identifier: MIT
// A WebRTC data channel for the client, with the interface of a WebSocket, as far as the client uses it.

/** @import { Signal, DataChannelOptions } from "./wsbus-webrtc.js" */

/** A data channel closes without a code: the last message says it. */
const FAREWELL = /^close (\d{4})(?: (.*))?$/s;

/**
 * @param {Signal} client
 * @param {DataChannelOptions} [options]
 */
export const overDataChannel = (client, { command = "webrtc.offer", timeout = 15_000, ...configuration } = {}) =>
  class extends EventTarget {
    #peer = new RTCPeerConnection(configuration);
    #end = { code: 1006, reason: "" };
    #isOver = false;
    #channel;

    /** @param {string} _url @param {string[]} protocols */
    constructor(_url, [protocol = "wsbus.v1"]) {
      super();
      this.protocol = protocol;
      this.#channel = this.#peer.createDataChannel("wsbus", { protocol });
      this.#channel.binaryType = "arraybuffer";
      this.#channel.onopen = () => this.dispatchEvent(new Event("open"));
      this.#channel.onmessage = ({ data }) => this.#hear(data);
      this.#channel.onclose = () => this.#lose();
      const timer = setTimeout(() => this.#channel.readyState === "connecting" && this.#lose(), timeout);
      this.addEventListener("close", () => clearTimeout(timer));
      this.#peer.onconnectionstatechange = () => this.#peer.connectionState === "failed" && this.#lose();
      this.#offer(protocol).catch((error) => this.#lose(`${error.message ?? error}`));
    }

    /** The server uses no address of the offer, so that there is nothing to wait for. @param {string} protocol */
    async #offer(protocol) {
      await this.#peer.setLocalDescription();
      const params = { sdp: this.#peer.localDescription?.sdp, protocol };
      const sdp = /** @type {string} */ (await client.command(command, params, { timeout }));
      if (!this.#isOver) await this.#peer.setRemoteDescription({ type: "answer", sdp });
    }

    /** @param {string | ArrayBuffer} data */
    #hear(data) {
      const [, code, reason = ""] = (typeof data === "string" && FAREWELL.exec(data)) || [];
      if (code) this.#end = { code: +code, reason };
      else this.dispatchEvent(new MessageEvent("message", { data }));
    }

    /** @param {string} [why] */
    #lose(why) {
      if (this.#isOver) return;
      this.#isOver = true;
      this.#peer.close();
      if (why) this.dispatchEvent(new ErrorEvent("error", { message: why }));
      this.dispatchEvent(new CloseEvent("close", this.#end));
    }

    /** @param {string | Uint8Array<ArrayBuffer>} data */
    send(data) {
      if (this.#channel.readyState === "open") this.#channel.send(/** @type {string} */ (data));
    }

    close(code = 1000) {
      this.#end = { code, reason: "" };
      if (this.#channel.readyState !== "open") return this.#lose();
      this.#channel.send(`close ${code}`);
      this.#channel.close();
    }
  };
