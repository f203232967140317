// SPDX-License-Identifier: MIT
// MessagePack for wsbus.js: `new Client(url, { codec: msgpack })` speaks `wsbus.v1.msgpack`.
// Uint8Array, Date and BigInt stay what they are. The reference is docs/reference/protocol.

const MAX_DEPTH = 64;
const texts = new TextEncoder();
const words = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const [LEAST, MOST] = [-(2n ** 63n), 2n ** 64n - 1n];

class Writer {
  #bytes = new Uint8Array(256);
  #view = new DataView(this.#bytes.buffer);
  #at = 0;

  /** @param {number} size @returns {number} Where they begin. */
  #room(size) {
    const at = this.#at;
    this.#at += size;
    if (this.#at > this.#bytes.length) {
      const more = new Uint8Array(Math.max(this.#at, this.#bytes.length * 2));
      more.set(this.#bytes);
      this.#bytes = more;
      this.#view = new DataView(more.buffer);
    }
    return at;
  }

  /** @param {number} first @param {number} size @param {number} number */
  #head(first, size, number) {
    const at = this.#room(1 + size);
    this.#view.setUint8(at, first);
    if (size === 1) this.#view.setUint8(at + 1, number);
    else if (size === 2) this.#view.setUint16(at + 1, number);
    else if (size === 4) this.#view.setUint32(at + 1, number);
  }

  /** A length in its shortest form; `first` are the first bytes for one, two and four bytes. @param {number} length @param {number[]} first */
  #length(length, [one, two, four]) {
    if (one && length < 0x100) this.#head(one, 1, length);
    else if (length < 0x10000) this.#head(two, 2, length);
    else this.#head(four, 4, length);
  }

  /** @param {Uint8Array} bytes */
  #append(bytes) {
    const at = this.#room(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** @param {string} text */
  #text(text) {
    const bytes = texts.encode(text);
    if (bytes.length < 32) this.#head(0xa0 + bytes.length, 0, 0);
    else this.#length(bytes.length, [0xd9, 0xda, 0xdb]);
    this.#append(bytes);
  }

  /** @param {number} number */
  #number(number) {
    if (!Number.isFinite(number)) return this.#head(0xc0, 0, 0); // As in JSON.
    if (Number.isSafeInteger(number) && !Object.is(number, -0)) return this.#integer(BigInt(number), number);
    const at = this.#room(9);
    this.#view.setUint8(at, 0xcb);
    this.#view.setFloat64(at + 1, number);
  }

  /** @param {bigint} big @param {number} number The same, if it is small. */
  #integer(big, number) {
    if (big < LEAST || big > MOST) throw new RangeError("a BigInt has more than 64 bits");
    if (number >= 0 ? number < 128 : number >= -32) this.#head(number & 0xff, 0, 0);
    else if (number >= 0 ? number <= 0xffffffff : number >= -0x80000000) {
      if (number >= 0) this.#length(number, [0xcc, 0xcd, 0xce]);
      else if (number >= -0x80) this.#head(0xd0, 1, number);
      else if (number >= -0x8000) this.#head(0xd1, 2, number);
      else this.#head(0xd2, 4, number);
    } else {
      const at = this.#room(9);
      this.#view.setUint8(at, big < 0n ? 0xd3 : 0xcf);
      this.#view.setBigUint64(at + 1, BigInt.asUintN(64, big));
    }
  }

  /** @param {Date} moment */
  #moment(moment) {
    const ms = moment.getTime();
    if (Number.isNaN(ms)) return this.#head(0xc0, 0, 0); // As in JSON.
    const seconds = Math.floor(ms / 1000);
    const ns = (ms - seconds * 1000) * 1_000_000;
    if (seconds >= 0 && seconds < 2 ** 34) {
      if (!ns && seconds < 2 ** 32) {
        this.#head(0xd6, 1, 0xff);
        this.#view.setUint32(this.#room(4), seconds);
      } else {
        this.#head(0xd7, 1, 0xff);
        this.#view.setBigUint64(this.#room(8), (BigInt(ns) << 34n) + BigInt(seconds));
      }
    } else {
      this.#head(0xc7, 2, 0x0cff);
      this.#view.setUint32(this.#room(4), ns);
      this.#view.setBigInt64(this.#room(8), BigInt(seconds));
    }
  }

  /** @param {any} value @param {number} room @returns {void} */
  value(value, room) {
    if (typeof value === "string") return this.#text(value);
    if (typeof value === "number") return this.#number(value);
    if (typeof value === "boolean") return this.#head(value ? 0xc3 : 0xc2, 0, 0);
    if (typeof value === "bigint") return this.#integer(value, Number(value));
    if (!isThere(value) || value === null) return this.#head(0xc0, 0, 0);
    if (value instanceof Date) return this.#moment(value);
    if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
      const bytes = ArrayBuffer.isView(value)
        ? new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
        : new Uint8Array(value);
      this.#length(bytes.length, [0xc4, 0xc5, 0xc6]);
      return this.#append(bytes);
    }
    if (typeof value.toJSON === "function") return this.value(value.toJSON(), room);
    if (!room) throw new TypeError(`nested deeper than ${MAX_DEPTH} levels`);
    if (Array.isArray(value)) {
      if (value.length < 16) this.#head(0x90 + value.length, 0, 0);
      else this.#length(value.length, [0, 0xdc, 0xdd]);
      for (const each of value) this.value(each, room - 1);
      return;
    }
    const entries = Object.entries(value).filter(([, each]) => isThere(each));
    if (entries.length < 16) this.#head(0x80 + entries.length, 0, 0);
    else this.#length(entries.length, [0, 0xde, 0xdf]);
    for (const [key, each] of entries) {
      this.#text(key);
      this.value(each, room - 1);
    }
  }

  /** @returns {Uint8Array<ArrayBuffer>} */
  written() {
    return this.#bytes.slice(0, this.#at);
  }
}

/** Whether JSON has it, too. @param {unknown} value */
const isThere = (value) => value !== undefined && typeof value !== "function" && typeof value !== "symbol";

class Reader {
  #at = 0;
  #bytes;
  #view;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get isAtEnd() {
    return this.#at === this.#bytes.length;
  }

  /** @param {number} size */
  #skip(size) {
    const at = this.#at;
    if (size > this.#bytes.length - at) throw new RangeError("the message is truncated");
    this.#at += size;
    return at;
  }

  /** @param {number} size 1, 2 or 4 */
  #count(size) {
    const at = this.#skip(size);
    return size === 1 ? this.#view.getUint8(at) : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  /** @param {number} size */
  #text(size) {
    const at = this.#skip(size);
    return words.decode(this.#bytes.subarray(at, at + size));
  }

  /** @param {number} size */
  #binary(size) {
    const at = this.#skip(size);
    return this.#bytes.slice(at, at + size);
  }

  /** @param {number} count @param {number} room */
  #array(count, room) {
    const values = [];
    for (let i = 0; i < count; i++) values.push(this.value(room - 1));
    return values;
  }

  /** @param {number} count @param {number} room */
  #map(count, room) {
    /** @type {[string, unknown][]} */
    const entries = [];
    for (let i = 0; i < count; i++) entries.push([`${this.value(room - 1)}`, this.value(room - 1)]);
    return Object.fromEntries(entries); // Unlike an assignment, it takes `__proto__` for a name.
  }

  /** @param {number} size */
  #extension(size) {
    const kind = this.#view.getInt8(this.#skip(1));
    const at = this.#skip(size);
    if (kind !== -1) throw new TypeError(`there is no extension type ${kind}`);
    if (size === 4) return new Date(this.#view.getUint32(at) * 1000);
    if (size === 8) {
      const both = this.#view.getBigUint64(at);
      return new Date(Number(both & 0x3ffffffffn) * 1000 + Math.floor(Number(both >> 34n) / 1e6));
    }
    if (size !== 12) throw new TypeError("a timestamp has 4, 8 or 12 bytes");
    return new Date(Number(this.#view.getBigInt64(at + 4)) * 1000 + Math.floor(this.#view.getUint32(at) / 1e6));
  }

  /** @param {bigint} big */
  #whole(big) {
    const number = Number(big);
    return Number.isSafeInteger(number) ? number : big;
  }

  /** @param {number} room @returns {any} */
  value(room) {
    if (room < 0) throw new RangeError(`nested deeper than ${MAX_DEPTH} levels`);
    const first = this.#count(1);
    if (first < 0x80) return first;
    if (first < 0x90) return this.#map(first - 0x80, room);
    if (first < 0xa0) return this.#array(first - 0x90, room);
    if (first < 0xc0) return this.#text(first - 0xa0);
    if (first >= 0xe0) return first - 0x100;
    const view = this.#view;
    switch (first) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: case 0xc5: case 0xc6: return this.#binary(this.#count(1 << (first - 0xc4)));
      case 0xc7: case 0xc8: case 0xc9: return this.#extension(this.#count(1 << (first - 0xc7)));
      case 0xca: return view.getFloat32(this.#skip(4));
      case 0xcb: return view.getFloat64(this.#skip(8));
      case 0xcc: case 0xcd: case 0xce: return this.#count(1 << (first - 0xcc));
      case 0xcf: return this.#whole(view.getBigUint64(this.#skip(8)));
      case 0xd0: return view.getInt8(this.#skip(1));
      case 0xd1: return view.getInt16(this.#skip(2));
      case 0xd2: return view.getInt32(this.#skip(4));
      case 0xd3: return this.#whole(view.getBigInt64(this.#skip(8)));
      case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return this.#extension(1 << (first - 0xd4));
      case 0xd9: case 0xda: case 0xdb: return this.#text(this.#count(1 << (first - 0xd9)));
      case 0xdc: case 0xdd: return this.#array(this.#count(2 << (first - 0xdc)), room);
      case 0xde: case 0xdf: return this.#map(this.#count(2 << (first - 0xde)), room);
      default: throw new TypeError("it is no MessagePack");
    }
  }
}

/** @param {unknown} value @returns {Uint8Array<ArrayBuffer>} */
export const pack = (value) => {
  const writer = new Writer();
  writer.value(value, MAX_DEPTH);
  return writer.written();
};

/** @param {ArrayBuffer | Uint8Array} data @returns {any} */
export const unpack = (data) => {
  const reader = new Reader(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
  const value = reader.value(MAX_DEPTH);
  if (!reader.isAtEnd) throw new RangeError("there is more than one value");
  return value;
};

/** The codec, for the option `codec` of a client. @type {import("./wsbus.js").Codec} */
export const msgpack = {
  protocol: "wsbus.v1.msgpack",
  write: pack,
  read(data) {
    if (typeof data === "string") throw new TypeError("the message is text, not binary");
    return unpack(/** @type {ArrayBuffer} */ (data));
  },
  add(written, name, value) {
    // A message has few fields: the first byte holds their number.
    const [key, what] = [pack(name), pack(value)];
    const longer = new Uint8Array(written.length + key.length + what.length);
    longer.set(/** @type {Uint8Array} */ (written));
    longer[0]++;
    longer.set(key, written.length);
    longer.set(what, written.length + key.length);
    return longer;
  },
};
