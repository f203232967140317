import type { Client, ClientOptions } from "./wsbus.js";

/** What asks for a data channel: a client that is connected. */
export type Signal = Pick<Client, "command">;
/**
 * `command`: its name on the server ("webrtc.offer"). `timeout`: ms until it must be open (15,000). The rest is that of
 * `RTCPeerConnection`: `iceServers`, for clients that UDP does not lead to the server.
 */
export type DataChannelOptions = RTCConfiguration & { command?: string; timeout?: number };
/**
 * What a second client takes as its `WebSocket`, so that it speaks over a data channel that the first client asks for:
 * `new Client(url, { WebSocket: overDataChannel(first), fallback: false })`. No request goes to its URL.
 */
export declare const overDataChannel: (client: Signal, options?: DataChannelOptions) => NonNullable<ClientOptions["WebSocket"]>;
