// crypto: random values, and what SubtleCrypto does with keys (Web Cryptography API).
import * as host from "hearth:host";
import { bytesOf } from "./encoding.js";
import { SubtleCrypto } from "./subtle.js";

export { CryptoKey } from "./keys.js";
export { SubtleCrypto };

const QUOTA = 65536;

export class Crypto {
  #subtle = new SubtleCrypto();

  get subtle() {
    return this.#subtle;
  }

  getRandomValues(array) {
    if (!ArrayBuffer.isView(array) || array instanceof DataView || array instanceof Float32Array || array instanceof Float64Array) {
      throw new DOMException("an array of integers is needed", "TypeMismatchError");
    }
    if (array.byteLength > QUOTA) throw new DOMException(`at most ${QUOTA} bytes at once`, "QuotaExceededError");
    bytesOf(array).set(host.random(array.byteLength));
    return array;
  }

  randomUUID() {
    const bytes = host.random(16);
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
  }
}
