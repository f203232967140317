import type { Codec } from "./wsbus.js";

/** A value as MessagePack: what JSON has, Uint8Array, Date and BigInt. */
export declare const pack: (value: unknown) => Uint8Array<ArrayBuffer>;
/** Read MessagePack; whole numbers that are not safe become BigInt. */
export declare const unpack: (data: ArrayBuffer | Uint8Array) => any;
/** The codec: `new Client(url, { codec: msgpack })` speaks `wsbus.v1.msgpack`. */
export declare const msgpack: Codec;
