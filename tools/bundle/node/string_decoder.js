// node:string_decoder.
import { Buffer } from "node:buffer";

export class StringDecoder {
  #utf8;
  #rest = Buffer.alloc(0);
  #size;

  constructor(encoding = "utf8") {
    this.encoding = encoding.toLowerCase().replace("utf-8", "utf8");
    if (!Buffer.isEncoding(this.encoding)) throw new TypeError(`Unknown encoding: ${encoding}`);
    // Bytes that make whole characters.
    this.#size = { base64: 3, base64url: 3, utf16le: 2, ucs2: 2 }[this.encoding] ?? 1;
    if (this.encoding === "utf8") this.#utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  }

  write(bytes) {
    if (typeof bytes === "string") return bytes;
    if (this.#utf8) return this.#utf8.decode(bytes, { stream: true });
    const all = Buffer.concat([this.#rest, bytes]);
    const whole = all.length - (all.length % this.#size);
    this.#rest = all.subarray(whole);
    return all.toString(this.encoding, 0, whole);
  }

  end(bytes) {
    const text = bytes ? this.write(bytes) : "";
    if (this.#utf8) return text + this.#utf8.decode();
    const rest = this.#rest;
    this.#rest = Buffer.alloc(0);
    return text + rest.toString(this.encoding);
  }
}
export default { StringDecoder };
