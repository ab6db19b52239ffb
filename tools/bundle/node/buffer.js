// node:buffer: bytes with the methods that programs use.
const LATIN = (text, mask) => Uint8Array.from(text, (character) => character.charCodeAt(0) & mask);
const text = (bytes) => {
  let all = "";
  for (let at = 0; at < bytes.length; at += 8192) all += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return all;
};

const CODECS = {
  utf8: [(value) => new TextEncoder().encode(value), (bytes) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes)],
  latin1: [(value) => LATIN(value, 255), text],
  ascii: [(value) => LATIN(value, 255), (bytes) => text(bytes.map((byte) => byte & 127))],
  hex: [
    (value) => Uint8Array.from(/^([0-9a-f]{2})*/i.exec(value)[0].match(/../g) ?? [], (pair) => Number.parseInt(pair, 16)),
    (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""),
  ],
  base64: [
    (value) => {
      const plain = value.replace(/[^A-Za-z0-9+/_-]/g, "").replaceAll("-", "+").replaceAll("_", "/");
      // A single last digit says nothing.
      return LATIN(atob(plain.length % 4 === 1 ? plain.slice(0, -1) : plain), 255);
    },
    (bytes) => btoa(text(bytes)),
  ],
  base64url: [
    (value) => CODECS.base64[0](value),
    (bytes) => btoa(text(bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, ""),
  ],
  utf16le: [
    (value) => new Uint8Array(Uint16Array.from(value, (character) => character.charCodeAt(0)).buffer),
    (bytes) => {
      let all = "";
      for (let at = 0; at + 1 < bytes.length; at += 2) all += String.fromCharCode(bytes[at] | (bytes[at + 1] << 8));
      return all;
    },
  ],
};
CODECS["utf-8"] = CODECS.utf8;
CODECS.binary = CODECS.latin1;
CODECS.ucs2 = CODECS["ucs-2"] = CODECS["utf-16le"] = CODECS.utf16le;

function codec(encoding = "utf8") {
  const found = CODECS[String(encoding).toLowerCase()];
  if (!found) throw new TypeError(`Unknown encoding: ${encoding}`);
  return found;
}

// Each character of UTF-16, not each code point.
CODECS.utf16le[0] = (value) => {
  const units = new Uint16Array(value.length);
  for (let at = 0; at < value.length; at++) units[at] = value.charCodeAt(at);
  return new Uint8Array(units.buffer);
};

class Buffer extends Uint8Array {
  static from(value, encoding, length) {
    if (typeof value === "string") return Buffer.#of(codec(encoding)[0](value));
    if (value instanceof ArrayBuffer) return new Buffer(value, encoding, length);
    if (ArrayBuffer.isView(value) && !(value instanceof Uint8Array)) return Buffer.#of(Uint8Array.from(value));
    if (value?.type === "Buffer" && Array.isArray(value.data)) return Buffer.#of(Uint8Array.from(value.data));
    if (value === null || typeof value !== "object") throw new TypeError("a buffer is made of text, bytes or numbers");
    return Buffer.#of(Uint8Array.from(value));
  }

  static #of(bytes) {
    return new Buffer(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  static alloc(size, fill, encoding) {
    const buffer = new Buffer(size);
    return fill === undefined ? buffer : buffer.fill(fill, 0, size, encoding);
  }

  static isBuffer(value) {
    return value instanceof Buffer;
  }

  static isEncoding(encoding) {
    return String(encoding).toLowerCase() in CODECS;
  }

  static byteLength(value, encoding) {
    return typeof value === "string" ? codec(encoding)[0](value).length : value.byteLength;
  }

  static concat(list, length = list.reduce((sum, bytes) => sum + bytes.length, 0)) {
    const all = Buffer.alloc(length);
    let at = 0;
    for (const bytes of list) {
      if (at >= length) break;
      all.set(bytes.subarray(0, length - at), at);
      at += bytes.length;
    }
    return all;
  }

  static compare(left, right) {
    const shared = Math.min(left.length, right.length);
    for (let at = 0; at < shared; at++) {
      if (left[at] !== right[at]) return left[at] < right[at] ? -1 : 1;
    }
    return Math.sign(left.length - right.length);
  }

  get parent() {
    return this.buffer;
  }

  toString(encoding, start = 0, end = this.length) {
    return codec(encoding)[1](Uint8Array.prototype.subarray.call(this, start, end));
  }

  toJSON() {
    return { type: "Buffer", data: Array.from(this) };
  }

  equals(other) {
    return Buffer.compare(this, other) === 0;
  }

  compare(other, start = 0, end = other.length, from = 0, to = this.length) {
    return Buffer.compare(this.subarray(from, to), other.subarray(start, end));
  }

  // Unlike that of other arrays, it shares the bytes.
  slice(start, end) {
    return this.subarray(start, end);
  }

  copy(target, at = 0, start = 0, end = this.length) {
    const bytes = this.subarray(start, Math.min(end, start + target.length - at));
    target.set(bytes, at);
    return bytes.length;
  }

  write(value, offset, length, encoding) {
    if (typeof offset === "string") [offset, encoding] = [undefined, offset];
    if (typeof length === "string") [length, encoding] = [undefined, length];
    const from = offset ?? 0;
    const bytes = codec(encoding)[0](value).subarray(0, Math.min(length ?? Infinity, this.length - from));
    this.set(bytes, from);
    return bytes.length;
  }

  fill(value, start = 0, end = this.length, encoding = "utf8") {
    if (typeof value === "number") return super.fill(value, start, end);
    if (typeof start === "string") [start, end, encoding] = [0, this.length, start];
    const bytes = typeof value === "string" ? codec(encoding)[0](value) : value;
    for (let at = start; at < end && bytes.length > 0; at++) this[at] = bytes[(at - start) % bytes.length];
    return this;
  }

  #find(value, from, encoding, isLast) {
    const wanted = typeof value === "string" ? codec(encoding)[0](value) : typeof value === "number" ? [value & 255] : value;
    const matches = (at) => Array.prototype.every.call(wanted, (byte, index) => this[at + index] === byte);
    const last = this.length - wanted.length;
    const step = isLast ? -1 : 1;
    let at = from ?? (isLast ? last : 0);
    if (at < 0) at += this.length;
    for (at = isLast ? Math.min(at, last) : Math.max(at, 0); at >= 0 && at <= last; at += step) if (matches(at)) return at;
    return -1;
  }

  indexOf(value, from, encoding) {
    return this.#find(value, from, encoding, false);
  }

  lastIndexOf(value, from, encoding) {
    return this.#find(value, from, encoding, true);
  }

  includes(value, from, encoding) {
    return this.indexOf(value, from, encoding) >= 0;
  }

  get #view() {
    return new DataView(this.buffer, this.byteOffset, this.byteLength);
  }

  static {
    const kinds = [["Int8", 1], ["Uint8", 1], ["Int16", 2], ["Uint16", 2], ["Int32", 4], ["Uint32", 4], ["Float32", 4, "Float"], ["Float64", 8, "Double"], ["BigInt64", 8], ["BigUint64", 8, "BigUInt64"]];
    const define = (name, value) => Object.defineProperty(Buffer.prototype, name, { value, writable: true, configurable: true });
    for (const [kind, size, called = kind.replace("Uint", "UInt")] of kinds) {
      for (const isLittle of size === 1 ? [true] : [true, false]) {
        const end = size === 1 ? "" : isLittle ? "LE" : "BE";
        const read = function (offset = 0) {
          return this.#view[`get${kind}`](offset, isLittle);
        };
        const write = function (value, offset = 0) {
          this.#view[`set${kind}`](offset, value, isLittle);
          return offset + size;
        };
        for (const name of new Set([called, called.replace("UInt", "Uint")])) {
          define(`read${name}${end}`, read);
          define(`write${name}${end}`, write);
        }
      }
    }
  }
}
Buffer.allocUnsafe = Buffer.allocUnsafeSlow = (size) => Buffer.alloc(size);
Buffer.poolSize = 8192;

const { Blob, File, atob: decode, btoa: encode } = globalThis;
const constants = { MAX_LENGTH: 2 ** 31 - 1, MAX_STRING_LENGTH: 2 ** 30 - 1 };
const kMaxLength = constants.MAX_LENGTH;
export { Blob, Buffer, File, constants, decode as atob, encode as btoa, kMaxLength };
export default { Blob, Buffer, File, atob: decode, btoa: encode, constants, kMaxLength };
