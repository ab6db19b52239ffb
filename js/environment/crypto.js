// crypto: random values, digests, and HMAC keys (Web Cryptography API).
import * as host from "hearth:host";
import { bytesOf, joined } from "./encoding.js";

/** Bytes that HMAC's blocks have, by digest. */
const BLOCK = { "SHA-1": 64, "SHA-256": 64, "SHA-384": 128, "SHA-512": 128 };
const QUOTA = 65536;

function nameOf(algorithm) {
  return String(typeof algorithm === "object" && algorithm !== null ? algorithm.name : algorithm).toUpperCase();
}

function unsupported(name) {
  return new DOMException(`the algorithm ${name} is not supported`, "NotSupportedError");
}

/** Usages in the order that they are told in. */
const USAGES = ["sign", "verify"];

function usagesOf(given) {
  const usages = [...given];
  for (const usage of usages) {
    if (!USAGES.includes(usage)) throw new DOMException(`a key for HMAC cannot be used to ${usage}`, "SyntaxError");
  }
  if (usages.length === 0) throw new DOMException("the key would have no use", "SyntaxError");
  return USAGES.filter((usage) => usages.includes(usage));
}

function invalid(why) {
  return new DOMException(why, "DataError");
}

function digestName(algorithm) {
  const name = nameOf(algorithm);
  if (!(name in BLOCK)) throw unsupported(name);
  return name;
}

function hmac(hash, key, data) {
  const block = new Uint8Array(BLOCK[hash]);
  block.set(key.length > block.length ? new Uint8Array(host.digest(hash, key)) : key);
  const inner = host.digest(hash, joined([block.map((byte) => byte ^ 0x36), data]));
  return host.digest(hash, joined([block.map((byte) => byte ^ 0x5c), new Uint8Array(inner)]));
}

/** What JSON Web Algorithms call it: HS256 and so on. */
function jwkName(hash) {
  return `HS${hash.slice("SHA-".length)}`;
}

/** The bytes of a key as JSON Web Key. */
function secretOf(jwk, hash, extractable, usages) {
  if (jwk?.kty !== "oct" || typeof jwk.k !== "string") throw invalid("the JSON Web Key is none of a secret: kty is oct, and k its bytes");
  if (jwk.alg !== undefined && jwk.alg !== jwkName(hash)) throw invalid(`the key is for ${jwk.alg}, not for ${jwkName(hash)}`);
  if (jwk.ext === false && extractable) throw invalid("the key may not be extractable");
  if (jwk.use !== undefined && jwk.use !== "sig") throw invalid(`the key is for the use ${jwk.use}`);
  if (jwk.key_ops && !usages.every((usage) => jwk.key_ops.includes(usage))) throw invalid("the key does not have all these usages");
  try {
    return Uint8Array.fromBase64(jwk.k, { alphabet: "base64url" });
  } catch {
    throw invalid("k is no base64url");
  }
}

const SECRET = Symbol();

export class CryptoKey {
  #bytes;

  constructor(secret, hash, bytes, extractable, usages) {
    if (secret !== SECRET) throw new TypeError("Illegal constructor");
    this.#bytes = bytes;
    this.type = "secret";
    this.algorithm = { name: "HMAC", hash: { name: hash }, length: bytes.length * 8 };
    this.extractable = extractable;
    this.usages = usages;
  }

  static bytes(key, usage) {
    if (usage && !key.usages.includes(usage)) {
      throw new DOMException(`the key may not be used to ${usage}`, "InvalidAccessError");
    }
    return key.#bytes;
  }
}

const keyBytes = CryptoKey.bytes;
delete CryptoKey.bytes;

export class SubtleCrypto {
  async digest(algorithm, data) {
    return host.digest(digestName(algorithm), bytesOf(data));
  }

  async importKey(format, data, algorithm, extractable, usages) {
    if (nameOf(algorithm) !== "HMAC") throw unsupported(nameOf(algorithm));
    const hash = digestName(algorithm.hash);
    const uses = usagesOf(usages);
    let bytes;
    if (format === "raw") {
      bytes = bytesOf(data).slice();
    } else if (format === "jwk") {
      bytes = secretOf(data, hash, extractable, uses);
    } else {
      throw new DOMException(`the key format ${format} is not supported`, "NotSupportedError");
    }
    if (bytes.length === 0) throw invalid("the key is empty");
    return new CryptoKey(SECRET, hash, bytes, Boolean(extractable), uses);
  }

  async generateKey(algorithm, extractable, usages) {
    if (nameOf(algorithm) !== "HMAC") throw unsupported(nameOf(algorithm));
    const hash = digestName(algorithm.hash);
    const length = algorithm.length ? Math.ceil(algorithm.length / 8) : BLOCK[hash];
    return new CryptoKey(SECRET, hash, host.random(length), Boolean(extractable), usagesOf(usages));
  }

  async exportKey(format, key) {
    if (!key.extractable) throw new DOMException("the key may not be exported", "InvalidAccessError");
    if (format === "raw") return keyBytes(key).slice().buffer;
    if (format !== "jwk") throw new DOMException(`the key format ${format} is not supported`, "NotSupportedError");
    const k = keyBytes(key).toBase64({ alphabet: "base64url", omitPadding: true });
    return { kty: "oct", k, alg: jwkName(key.algorithm.hash.name), ext: true, key_ops: [...key.usages] };
  }

  async sign(algorithm, key, data) {
    if (nameOf(algorithm) !== "HMAC") throw unsupported(nameOf(algorithm));
    return hmac(key.algorithm.hash.name, keyBytes(key, "sign"), bytesOf(data));
  }

  async verify(algorithm, key, signature, data) {
    if (nameOf(algorithm) !== "HMAC") throw unsupported(nameOf(algorithm));
    const expected = new Uint8Array(hmac(key.algorithm.hash.name, keyBytes(key, "verify"), bytesOf(data)));
    const given = bytesOf(signature);
    // In the same time wherever they differ.
    let difference = expected.length ^ given.length;
    for (let at = 0; at < expected.length; at++) difference |= expected[at] ^ given[at];
    return difference === 0;
  }
}

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
