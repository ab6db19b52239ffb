// crypto.subtle: what is done with keys (Web Cryptography API). It takes place at once; the promises are the standard's.
import * as host from "hearth:host";
import { bytesOf, encode } from "./encoding.js";
import { CryptoKey, exportKey, generateKey, importKey, lengthOf, permitted } from "./keys.js";
import { digestName, nameOf, needed, refusal, wholeNumber } from "./keys.js";

const EMPTY = new Uint8Array(0);
/** Bits that a tag of AES-GCM may have. */
const TAGS = [32, 64, 96, 104, 112, 120, 128];

function failed(why) {
  return refusal("OperationError", why);
}

/** What the host made, if it could. */
function done(result, why) {
  if (result === undefined) throw failed(why);
  return result;
}

function bytesNeeded(algorithm, member, length) {
  const bytes = bytesOf(needed(algorithm, member));
  if (length !== undefined && bytes.length !== length) throw failed(`${member} has ${bytes.length} bytes, not ${length}`);
  return bytes;
}

const optional = (bytes) => (bytes === undefined ? EMPTY : bytesOf(bytes));

function same(one, other) {
  // In the same time wherever they differ.
  let difference = one.length ^ other.length;
  for (let at = 0; at < one.length; at++) difference |= one[at] ^ other[at];
  return difference === 0;
}

/** The cipher of an algorithm: what is encrypted or decrypted, by `usage`, which may be that a key is wrapped. */
const CIPHERS = {
  "AES-CBC"(algorithm, key, usage, data, isEncrypting) {
    const iv = bytesNeeded(algorithm, "iv", 16);
    return host.cipher("CBC", isEncrypting, permitted(key, "AES-CBC", usage), iv, data, EMPTY, 0);
  },

  "AES-CTR"(algorithm, key, usage, data, isEncrypting) {
    const counter = bytesNeeded(algorithm, "counter", 16);
    const bits = wholeNumber(needed(algorithm, "length"), "the length of the counter", 255);
    if (bits < 1 || bits > 128) throw failed(`a counter has 1 to 128 bits, not ${bits}`);
    return host.cipher("CTR", isEncrypting, permitted(key, "AES-CTR", usage), counter, data, EMPTY, bits);
  },

  "AES-GCM"(algorithm, key, usage, data, isEncrypting) {
    const iv = bytesNeeded(algorithm, "iv");
    const more = optional(algorithm.additionalData);
    const bits = algorithm.tagLength === undefined ? 128 : wholeNumber(algorithm.tagLength, "the length of the tag", 255);
    if (!TAGS.includes(bits)) throw failed(`a tag has ${TAGS.join(", ")} bits, not ${bits}`);
    return host.cipher("GCM", isEncrypting, permitted(key, "AES-GCM", usage), iv, data, more, bits / 8);
  },

  "RSA-OAEP"(algorithm, key, usage, data, isEncrypting) {
    const label = optional(algorithm.label);
    const pair = permitted(key, "RSA-OAEP", usage, isEncrypting ? "public" : "private");
    return host.oaep(isEncrypting, key.algorithm.hash.name, pair, label, data);
  },
};

/** Only keys are wrapped with it. */
const WRAPPERS = {
  ...CIPHERS,

  "AES-KW"(algorithm, key, usage, data, isEncrypting) {
    return host.cipher("KW", isEncrypting, permitted(key, "AES-KW", usage), EMPTY, data, EMPTY, 0);
  },
};

/** `operations` of an algorithm by its name, and that. */
function chosen(operations, algorithm) {
  const name = nameOf(algorithm);
  if (!(name in operations)) throw refusal("NotSupportedError", `${name} does not do that`);
  return [operations[name], name];
}

function ciphered(ciphers, algorithm, key, usage, data, isEncrypting) {
  const [cipher] = chosen(ciphers, algorithm);
  const result = cipher(typeof algorithm === "object" ? algorithm : {}, key, usage, data, isEncrypting);
  return done(result, isEncrypting ? "that cannot be encrypted" : "that cannot be decrypted: the key or the data is another one");
}

/** What signs: bytes of salt, and the digest, where it is not the key's. */
const SIGNATURES = {
  ECDSA: (algorithm) => [0, digestName(needed(algorithm, "hash"))],
  Ed25519: () => [0],
  HMAC: () => [0],
  "RSA-PSS": (algorithm) => [wholeNumber(needed(algorithm, "saltLength"), "the length of the salt")],
  "RSASSA-PKCS1-v1_5": () => [0],
};

/** The algorithm's name, what the host has of the key, the digest and the salt. */
function signing(algorithm, key, usage, type) {
  const [parameters, name] = chosen(SIGNATURES, algorithm);
  const [salt, hash] = parameters(algorithm);
  const material = permitted(key, name, usage, name === "HMAC" ? "secret" : type);
  return [name, material, hash ?? key.algorithm.hash?.name ?? "", salt];
}

/** Secrets that are derived: their bits are a multiple of eight, but for those that two keys agree on. */
const DERIVATIONS = {
  ECDH: agreed,

  HKDF(algorithm, key, usage, bits) {
    const hash = digestName(needed(algorithm, "hash"));
    const [salt, info] = [bytesNeeded(algorithm, "salt"), bytesNeeded(algorithm, "info")];
    const secret = permitted(key, "HKDF", usage);
    return done(host.hkdf(hash, secret, salt, info, wholeBytes(bits)), "HKDF gives no more than 255 digests");
  },

  PBKDF2(algorithm, key, usage, bits) {
    const hash = digestName(needed(algorithm, "hash"));
    const salt = bytesNeeded(algorithm, "salt");
    const iterations = wholeNumber(needed(algorithm, "iterations"), "the number of iterations");
    const secret = permitted(key, "PBKDF2", usage);
    const length = wholeBytes(bits);
    if (iterations === 0) throw failed("there is no iteration");
    return done(host.pbkdf2(hash, secret, salt, iterations, length), "that cannot be derived");
  },

  X25519: agreed,
};

function wholeBytes(bits) {
  if (bits === null || bits % 8 !== 0) throw failed("the length is a multiple of 8 bits");
  return bits / 8;
}

function agreed(algorithm, key, usage, bits) {
  const { name } = key.algorithm;
  const other = needed(algorithm, "public");
  if (!(other instanceof CryptoKey)) throw new TypeError("public is no CryptoKey");
  const pair = permitted(key, nameOf(algorithm), usage, "private");
  const theirs = permitted(other, name, null, "public");
  if (other.algorithm.namedCurve !== key.algorithm.namedCurve) throw refusal("InvalidAccessError", "the keys are of two curves");
  const secret = done(host.agree(pair, theirs), "the keys agree on nothing");
  if (bits === null) return secret;
  if (bits > 8 * secret.byteLength) throw failed(`the keys agree on ${8 * secret.byteLength} bits, which is less than ${bits}`);
  const part = new Uint8Array(secret.slice(0, Math.ceil(bits / 8)));
  if (bits % 8) part[part.length - 1] &= 0xff << (8 - (bits % 8));
  return part.buffer;
}

function derived(algorithm, key, usage, bits) {
  const [derive] = chosen(DERIVATIONS, algorithm);
  if (!(key instanceof CryptoKey)) throw new TypeError("a CryptoKey is needed");
  return derive(algorithm, key, usage, bits);
}

export class SubtleCrypto {
  async digest(algorithm, data) {
    return host.digest(digestName(algorithm), bytesOf(data));
  }

  async importKey(format, data, algorithm, extractable, usages) {
    return importKey(format, data, algorithm, extractable, usages);
  }

  async generateKey(algorithm, extractable, usages) {
    return generateKey(algorithm, extractable, usages);
  }

  async exportKey(format, key) {
    return exportKey(format, key);
  }

  async encrypt(algorithm, key, data) {
    return ciphered(CIPHERS, algorithm, key, "encrypt", bytesOf(data), true);
  }

  async decrypt(algorithm, key, data) {
    return ciphered(CIPHERS, algorithm, key, "decrypt", bytesOf(data), false);
  }

  async sign(algorithm, key, data) {
    const bytes = bytesOf(data);
    const [name, material, hash, salt] = signing(algorithm, key, "sign", "private");
    if (name === "HMAC") return host.hmac(hash, material, bytes);
    return done(host.sign(name, hash, salt, material, bytes), "the key is too short for such a signature");
  }

  async verify(algorithm, key, signature, data) {
    const [given, bytes] = [bytesOf(signature), bytesOf(data)];
    const [name, material, hash, salt] = signing(algorithm, key, "verify", "public");
    if (name === "HMAC") return same(new Uint8Array(host.hmac(hash, material, bytes)), given);
    return host.verify(name, hash, salt, material, given, bytes);
  }

  async deriveBits(algorithm, baseKey, length = null) {
    return derived(algorithm, baseKey, "deriveBits", length === null ? null : wholeNumber(length, "the length"));
  }

  async deriveKey(algorithm, baseKey, derivedKeyType, extractable, usages) {
    const secret = derived(algorithm, baseKey, "deriveKey", lengthOf(derivedKeyType));
    return importKey("raw", secret, derivedKeyType, extractable, usages);
  }

  async wrapKey(format, key, wrappingKey, algorithm) {
    chosen(WRAPPERS, algorithm);
    const exported = exportKey(format, key);
    const bytes = format === "jwk" ? encode(JSON.stringify(exported)) : new Uint8Array(exported);
    return ciphered(WRAPPERS, algorithm, wrappingKey, "wrapKey", bytes, true);
  }

  async unwrapKey(format, wrappedKey, unwrappingKey, algorithm, unwrappedKeyAlgorithm, extractable, usages) {
    const bytes = ciphered(WRAPPERS, algorithm, unwrappingKey, "unwrapKey", bytesOf(wrappedKey), false);
    return importKey(format, format === "jwk" ? jwkOf(bytes) : bytes, unwrappedKeyAlgorithm, extractable, usages);
  }
}

function jwkOf(bytes) {
  try {
    return JSON.parse(host.decode(new Uint8Array(bytes), true));
  } catch {
    throw refusal("DataError", "what was wrapped is no JSON Web Key");
  }
}
