// TextEncoder and TextDecoder (Encoding Standard, UTF-8 alone).
import * as host from "hearth:host";

const EMPTY = new Uint8Array(0);

/** The bytes of a BufferSource, not copied. */
export function bytesOf(source) {
  if (source instanceof Uint8Array) return source;
  if (ArrayBuffer.isView(source)) return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
  if (source instanceof ArrayBuffer || source instanceof SharedArrayBuffer) return new Uint8Array(source);
  throw new TypeError("an ArrayBuffer or a view of one is needed");
}

/** Whether bytesOf takes it. */
export function isBytes(source) {
  return ArrayBuffer.isView(source) || source instanceof ArrayBuffer;
}

/** One array of several. */
export function joined(chunks) {
  if (chunks.length === 1) return chunks[0];
  const whole = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}

export const encode = host.encode;

export class TextEncoder {
  get encoding() {
    return "utf-8";
  }

  encode(text = "") {
    return host.encode(String(text));
  }

  encodeInto(text, into) {
    let read = 0;
    let written = 0;
    for (const character of String(text)) {
      const bytes = host.encode(character);
      if (written + bytes.length > into.length) break;
      into.set(bytes, written);
      written += bytes.length;
      read += character.length;
    }
    return { read, written };
  }
}

/** How many bytes at the end begin a character whose rest may still come. */
function unfinished(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const needed = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return needed > back ? back : 0;
  }
  return 0;
}

export class TextDecoder {
  #fatal;
  #ignoreBOM;
  #rest = EMPTY;
  #isBegun = false;

  constructor(label = "utf-8", options) {
    const { fatal = false, ignoreBOM = false } = options ?? {};
    const name = String(label).trim().toLowerCase();
    if (!["utf-8", "utf8", "unicode-1-1-utf-8"].includes(name)) {
      throw new RangeError(`the encoding ${label} is not supported; utf-8 is`);
    }
    this.#fatal = Boolean(fatal);
    this.#ignoreBOM = Boolean(ignoreBOM);
  }

  get encoding() {
    return "utf-8";
  }

  get fatal() {
    return this.#fatal;
  }

  get ignoreBOM() {
    return this.#ignoreBOM;
  }

  decode(source = EMPTY, options) {
    const stream = Boolean(options?.stream);
    let bytes = bytesOf(source);
    if (this.#rest.length > 0) bytes = joined([this.#rest, bytes]);
    const keep = stream ? unfinished(bytes) : 0;
    this.#rest = keep > 0 ? bytes.slice(bytes.length - keep) : EMPTY;
    if (keep > 0) bytes = bytes.subarray(0, bytes.length - keep);
    const text = host.decode(bytes, this.#fatal);
    const isFirst = !this.#isBegun;
    this.#isBegun = stream && (this.#isBegun || text.length > 0);
    return isFirst && !this.#ignoreBOM && text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }
}
