// CryptoKey: what is a key of which algorithm, what it may be used for, and its formats (Web Cryptography API).
import * as host from "hearth:host";
import { bytesOf, isBytes, joined } from "./encoding.js";

/** Uses in the order that they are told in. */
const USAGES = ["encrypt", "decrypt", "sign", "verify", "deriveKey", "deriveBits", "wrapKey", "unwrapKey"];
const FORMATS = ["raw", "spki", "pkcs8", "jwk"];
/** Bytes that HMAC's blocks have, by digest. */
const BLOCK = { "SHA-1": 64, "SHA-256": 64, "SHA-384": 128, "SHA-512": 128 };
/** Bytes of a coordinate, by curve. */
const COORDINATE = { "P-256": 32, "P-384": 48, "P-521": 66 };
/** What JSON Web Algorithms call ECDSA on a curve. */
const ECDSA_NAMES = { "P-256": "ES256", "P-384": "ES384", "P-521": "ES512" };

const SIGNING = { private: ["sign"], public: ["verify"], use: "sig" };
const DERIVING = { private: ["deriveKey", "deriveBits"], public: [], use: "enc" };
const ENCRYPTING = { secret: ["encrypt", "decrypt", "wrapKey", "unwrapKey"], use: "enc" };

/** Of each algorithm with keys: which kind of key that is, what each type of it may be used for, and what JWK says that it is for. */
const ALGORITHMS = {
  "AES-CBC": { kind: "AES", jwk: "CBC", ...ENCRYPTING },
  "AES-CTR": { kind: "AES", jwk: "CTR", ...ENCRYPTING },
  "AES-GCM": { kind: "AES", jwk: "GCM", ...ENCRYPTING },
  "AES-KW": { kind: "AES", jwk: "KW", secret: ["wrapKey", "unwrapKey"], use: "enc" },
  ECDH: { kind: "EC", ...DERIVING },
  ECDSA: { kind: "EC", ...SIGNING },
  Ed25519: { kind: "OKP", ...SIGNING },
  HKDF: { kind: "source", secret: DERIVING.private },
  HMAC: { kind: "HMAC", secret: ["sign", "verify"], use: "sig" },
  PBKDF2: { kind: "source", secret: DERIVING.private },
  "RSA-OAEP": { kind: "RSA", jwk: "RSA-OAEP-", private: ["decrypt", "unwrapKey"], public: ["encrypt", "wrapKey"], use: "enc" },
  "RSA-PSS": { kind: "RSA", jwk: "PS", ...SIGNING },
  "RSASSA-PKCS1-v1_5": { kind: "RSA", jwk: "RS", ...SIGNING },
  X25519: { kind: "OKP", ...DERIVING },
};

const NAMES = new Map([...Object.keys(ALGORITHMS), ...Object.keys(BLOCK)].map((name) => [name.toUpperCase(), name]));

/** The error that the standard names. */
export function refusal(name, why) {
  return new DOMException(why, name);
}

/** What an algorithm is called by the standard: it may be given in any case, alone or as the name of an object. */
export function nameOf(algorithm) {
  const given = typeof algorithm === "object" && algorithm !== null ? algorithm.name : algorithm;
  if (given === undefined) throw new TypeError("the algorithm has no name");
  const name = NAMES.get(String(given).toUpperCase());
  if (!name) throw refusal("NotSupportedError", `the algorithm ${given} is not supported`);
  return name;
}

/** The digest's name. */
export function digestName(algorithm) {
  const name = nameOf(algorithm);
  if (!(name in BLOCK)) throw refusal("NotSupportedError", `${name} is no digest`);
  return name;
}

/** The member of an algorithm that has to be there. */
export function needed(algorithm, member) {
  const value = algorithm?.[member];
  if (value === undefined) throw new TypeError(`the algorithm has no ${member}`);
  return value;
}

/** A whole number as an algorithm has it, up to `most`. */
export function wholeNumber(value, what, most = 0xffffffff) {
  const number = Math.trunc(Number(value));
  if (!(number >= 0 && number <= most)) throw new TypeError(`${what} is no whole number up to ${most}`);
  return number;
}

function digestOf(algorithm) {
  return { name: digestName(needed(algorithm, "hash")) };
}

let materialOf;
const SECRET = Symbol();

export class CryptoKey {
  #type;
  #extractable;
  #algorithm;
  #usages;
  #material;

  constructor(secret, type, extractable, algorithm, usages, material) {
    if (secret !== SECRET) throw new TypeError("Illegal constructor");
    this.#type = type;
    this.#extractable = Boolean(extractable);
    this.#algorithm = algorithm;
    this.#usages = usages;
    this.#material = material;
  }

  static {
    materialOf = (key) => key.#material;
  }

  get type() {
    return this.#type;
  }

  get extractable() {
    return this.#extractable;
  }

  get algorithm() {
    return this.#algorithm;
  }

  get usages() {
    return this.#usages;
  }
}

/** Bytes of a secret, or what the host has of a pair, for a use of the key by an algorithm. */
export function permitted(key, name, usage, type) {
  if (!(key instanceof CryptoKey)) throw new TypeError("a CryptoKey is needed");
  if (key.algorithm.name !== name) throw refusal("InvalidAccessError", `the key is for ${key.algorithm.name}, not for ${name}`);
  if (usage && !key.usages.includes(usage)) throw refusal("InvalidAccessError", `the key may not be used to ${usage}`);
  if (type && key.type !== type) throw refusal("InvalidAccessError", `a ${type} key is needed`);
  return materialOf(key);
}

/** Uses that are asked for, each once and in order, where the algorithm's keys have them. */
function usagesOf(given, allowed, name) {
  const usages = Array.from(given, String);
  for (const usage of usages) {
    if (!USAGES.includes(usage)) throw new TypeError(`${usage} is no use of keys`);
    if (!allowed.includes(usage)) throw refusal("SyntaxError", `such a key for ${name} cannot be used to ${usage}`);
  }
  return USAGES.filter((usage) => usages.includes(usage));
}

function needUse(usages) {
  if (usages.length === 0) throw refusal("SyntaxError", "the key would have no use");
}

// JSON Web Keys.

function invalid(why) {
  return refusal("DataError", why);
}

function bytesOfMember(jwk, member) {
  if (typeof jwk[member] !== "string") throw invalid(`the JSON Web Key has no ${member}`);
  try {
    return Uint8Array.fromBase64(jwk[member], { alphabet: "base64url" });
  } catch {
    throw invalid(`${member} is no base64url`);
  }
}

function written(bytes) {
  return bytes.toBase64({ alphabet: "base64url", omitPadding: true });
}

function checkType(jwk, kty) {
  if (jwk.kty !== kty) throw invalid(`the JSON Web Key has the type ${jwk.kty}, not ${kty}`);
}

/** Whether a JSON Web Key is what it is taken for; `names` are what its algorithm may be called. */
function checkJwk(jwk, kty, use, names, extractable, usages) {
  checkType(jwk, kty);
  if (names && jwk.alg !== undefined && !names.includes(jwk.alg)) throw invalid(`the key is for ${jwk.alg}, not for ${names[0]}`);
  if (jwk.ext === false && extractable) throw invalid("the key may not be extractable");
  if (jwk.use !== undefined && usages.length > 0 && jwk.use !== use) throw invalid(`the key is for the use ${jwk.use}`);
  if (jwk.key_ops === undefined) return;
  const listed = Array.from(jwk.key_ops);
  if (new Set(listed).size !== listed.length) throw invalid("key_ops has a use twice");
  if (!usages.every((usage) => listed.includes(usage))) throw invalid("the key does not have all these usages");
}

/** What JSON Web Algorithms call it: RS256 and so on. RSA-OAEP has no number with SHA-1. */
function rsaName(prefix, hash) {
  return `${prefix}${hash.slice("SHA-".length)}`.replace("RSA-OAEP-1", "RSA-OAEP");
}

// Kinds of keys. Each can read a key, which gives what it is and the algorithm as the key tells it; write one as JWK; and make one.

/** Secrets: bytes. `describe(bytes)` gives the algorithm, and what JSON Web Algorithms call it. */
function secretOf(asked, describe) {
  const { format, data, use, extractable, usages } = asked;
  if (format === "jwk") checkType(data, "oct");
  const bytes = format === "jwk" ? bytesOfMember(data, "k") : bytesOf(data).slice();
  const [algorithm, name] = describe(bytes);
  if (format === "jwk") checkJwk(data, "oct", use, [name], extractable, usages);
  return [bytes, algorithm];
}

const AES = {
  formats: ["raw", "jwk"],

  read(asked) {
    return secretOf(asked, ({ length }) => {
      if (![16, 24, 32].includes(length)) throw invalid(`a key of AES has 128, 192 or 256 bits, not ${8 * length}`);
      return [{ name: asked.name, length: 8 * length }, `A${8 * length}${asked.jwk}`];
    });
  },

  write(bytes, { name, length }) {
    return { kty: "oct", k: written(bytes), alg: `A${length}${ALGORITHMS[name].jwk}` };
  },

  bits(algorithm) {
    const length = wholeNumber(needed(algorithm, "length"), "the length", 0xffff);
    if (![128, 192, 256].includes(length)) throw refusal("OperationError", `a key of AES has 128, 192 or 256 bits, not ${length}`);
    return length;
  },

  make(name, algorithm) {
    const length = AES.bits(algorithm);
    return [host.random(length / 8), { name, length }];
  },
};

const HMAC = {
  formats: ["raw", "jwk"],

  read(asked) {
    const hash = digestOf(asked.algorithm);
    return secretOf(asked, (bytes) => {
      if (bytes.length === 0) throw invalid("the key is empty");
      const whole = 8 * bytes.length;
      const length = asked.algorithm.length === undefined ? whole : wholeNumber(asked.algorithm.length, "the length");
      if (length > whole || length <= whole - 8) throw invalid(`the key has ${whole} bits, not ${length}`);
      return [{ name: "HMAC", hash, length }, rsaName("HS", hash.name)];
    });
  },

  write(bytes, { hash }) {
    return { kty: "oct", k: written(bytes), alg: rsaName("HS", hash.name) };
  },

  bits(algorithm) {
    const hash = digestName(needed(algorithm, "hash"));
    return algorithm.length === undefined ? 8 * BLOCK[hash] : wholeNumber(algorithm.length, "the length");
  },

  make(name, algorithm) {
    const length = HMAC.bits(algorithm);
    if (length === 0) throw refusal("OperationError", "the key would be empty");
    return [host.random(Math.ceil(length / 8)), { name, hash: digestOf(algorithm), length }];
  },
};

/** What other secrets are derived from. */
const SOURCE = {
  formats: ["raw"],

  read({ name, data, extractable }) {
    if (extractable) throw refusal("SyntaxError", `a key for ${name} is not extractable`);
    return [bytesOf(data).slice(), { name }];
  },

  bits: () => null,
};

/** Members of a JSON Web Key that has a pair, the public ones first. */
const RSA_MEMBERS = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];
const EC_MEMBERS = ["x", "y", "d"];
const OKP_MEMBERS = ["x", "d"];

/** A pair that was given in one of its formats; `kind` and `members` are what it should be. */
function pairOf({ format, data, type }, kind, members, publicCount) {
  let pair;
  if (format === "jwk") {
    const wanted = type === "private" ? members : members.slice(0, publicCount);
    pair = host.keyOf(kind, wanted.map((member) => bytesOfMember(data, member)));
  } else if (format === "raw") {
    pair = host.keyOf(kind, [bytesOf(data)]);
  } else {
    pair = host.readKey(format, bytesOf(data));
  }
  if (!pair) throw invalid(`that is no ${type} key of ${kind}`);
  const [found] = host.keyKind(pair);
  if (found !== kind) throw invalid(`the key is of ${found}, not of ${kind}`);
  return pair;
}

/** The public key's members, or all. */
function membersOf(pair, type, members, publicCount) {
  const parts = host.keyParts(pair, type === "private");
  const names = type === "private" ? members : members.slice(0, publicCount);
  return Object.fromEntries(names.map((member, at) => [member, written(parts[at])]));
}

function rsaAlgorithm(pair, name, hash) {
  const [, modulusLength, exponent] = host.keyKind(pair);
  return { name, modulusLength, publicExponent: new Uint8Array(exponent), hash };
}

const RSA = {
  formats: ["spki", "pkcs8", "jwk"],

  read(asked) {
    const { format, data, use, extractable, usages, name, jwk } = asked;
    const hash = digestOf(asked.algorithm);
    if (format === "jwk") {
      checkJwk(data, "RSA", use, [rsaName(jwk, hash.name)], extractable, usages);
      if (data.oth !== undefined) throw refusal("NotSupportedError", "a key of more than two primes is not supported");
    }
    const pair = pairOf(asked, "RSA", RSA_MEMBERS, 2);
    return [pair, rsaAlgorithm(pair, name, hash)];
  },

  write(pair, { name, hash }, type) {
    return { kty: "RSA", ...membersOf(pair, type, RSA_MEMBERS, 2), alg: rsaName(ALGORITHMS[name].jwk, hash.name) };
  },

  make(name, algorithm) {
    const bits = wholeNumber(needed(algorithm, "modulusLength"), "the length of the modulus");
    const exponent = needed(algorithm, "publicExponent");
    if (!(exponent instanceof Uint8Array)) throw new TypeError("the public exponent is no Uint8Array");
    const hash = digestOf(algorithm);
    const number = exponent.reduce((all, byte) => all * 256 + byte, 0);
    const pair = number <= 0xffffffff ? host.makeKey("RSA", bits, number) : undefined;
    if (!pair) throw refusal("OperationError", `there is no key of ${bits} bits with the exponent ${number}`);
    return [pair, rsaAlgorithm(pair, name, hash)];
  },
};

function curveOf(algorithm) {
  const curve = String(needed(algorithm, "namedCurve"));
  if (!(curve in COORDINATE)) throw refusal("NotSupportedError", `the curve ${curve} is not supported`);
  return curve;
}

const EC = {
  formats: ["raw", "spki", "pkcs8", "jwk"],

  read(asked) {
    const { format, data, use, extractable, usages, name, algorithm } = asked;
    const namedCurve = curveOf(algorithm);
    if (format === "jwk") {
      checkJwk(data, "EC", use, name === "ECDSA" ? [ECDSA_NAMES[namedCurve]] : null, extractable, usages);
      if (data.crv !== namedCurve) throw invalid(`the key is of ${data.crv}, not of ${namedCurve}`);
    }
    return [pairOf(asked, namedCurve, EC_MEMBERS, 2), { name, namedCurve }];
  },

  write(pair, { namedCurve }, type) {
    return { kty: "EC", crv: namedCurve, ...membersOf(pair, type, EC_MEMBERS, 2) };
  },

  /** The uncompressed point. */
  raw: (pair) => joined([Uint8Array.of(4), ...host.keyParts(pair, false)]).buffer,

  make(name, algorithm) {
    const namedCurve = curveOf(algorithm);
    return [host.makeKey(namedCurve, 0, 0), { name, namedCurve }];
  },
};

/** Ed25519 and X25519. */
const OKP = {
  formats: ["raw", "spki", "pkcs8", "jwk"],

  read(asked) {
    const { format, data, use, extractable, usages, name } = asked;
    if (format === "jwk") {
      checkJwk(data, "OKP", use, name === "Ed25519" ? ["Ed25519", "EdDSA"] : null, extractable, usages);
      if (data.crv !== name) throw invalid(`the key is of ${data.crv}, not of ${name}`);
    }
    return [pairOf(asked, name, OKP_MEMBERS, 1), { name }];
  },

  write(pair, { name }, type) {
    return { kty: "OKP", crv: name, ...membersOf(pair, type, OKP_MEMBERS, 1) };
  },

  raw: (pair) => host.keyParts(pair, false)[0].buffer,

  make(name) {
    return [host.makeKey(name, 0, 0), { name }];
  },
};

const KINDS = { AES, EC, HMAC, OKP, RSA, source: SOURCE };

function kindOf(name, operation) {
  const kind = KINDS[ALGORITHMS[name]?.kind];
  if (!kind?.[operation]) throw refusal("NotSupportedError", `${name} does not do that`);
  return kind;
}

/** Which type of key a format has. */
function typeOf(name, format, data) {
  if (ALGORITHMS[name].secret) return "secret";
  if (format === "jwk") return data.d === undefined ? "public" : "private";
  return format === "pkcs8" ? "private" : "public";
}

export function importKey(format, data, algorithm, extractable, usages) {
  if (!FORMATS.includes(format)) throw new TypeError(`${format} is no format of keys`);
  const name = nameOf(algorithm);
  const kind = kindOf(name, "read");
  const isObject = typeof data === "object" && data !== null;
  if (format === "jwk" ? !isObject || isBytes(data) : !isBytes(data)) {
    throw new TypeError(format === "jwk" ? "a JSON Web Key is an object" : "the key is neither an ArrayBuffer nor a view of one");
  }
  if (!kind.formats.includes(format)) throw refusal("NotSupportedError", `keys for ${name} have no format ${format}`);
  const type = typeOf(name, format, data);
  const uses = usagesOf(usages, ALGORITHMS[name][type], name);
  const asked = { ...ALGORITHMS[name], name, format, data, type, algorithm, extractable, usages: uses };
  const [material, described] = kind.read(asked);
  if (type !== "public") needUse(uses);
  return new CryptoKey(SECRET, type, extractable, described, uses, material);
}

export function generateKey(algorithm, extractable, usages) {
  const name = nameOf(algorithm);
  const kind = kindOf(name, "make");
  const known = ALGORITHMS[name];
  const uses = usagesOf(usages, known.secret ?? [...known.private, ...known.public], name);
  // Making a key may take long.
  const own = uses.filter((usage) => (known.secret ?? known.private).includes(usage));
  needUse(own);
  const [material, described] = kind.make(name, algorithm);
  if (known.secret) return new CryptoKey(SECRET, "secret", extractable, described, own, material);
  const shared = uses.filter((usage) => known.public.includes(usage));
  return {
    privateKey: new CryptoKey(SECRET, "private", extractable, described, own, material),
    publicKey: new CryptoKey(SECRET, "public", true, described, shared, material),
  };
}

export function exportKey(format, key) {
  if (!FORMATS.includes(format)) throw new TypeError(`${format} is no format of keys`);
  if (!(key instanceof CryptoKey)) throw new TypeError("a CryptoKey is needed");
  const { algorithm, type, usages } = key;
  const kind = kindOf(algorithm.name, "write");
  if (!key.extractable) throw refusal("InvalidAccessError", "the key may not be exported");
  if (!kind.formats.includes(format)) throw refusal("NotSupportedError", `keys for ${algorithm.name} have no format ${format}`);
  const material = materialOf(key);
  if (format === "jwk") return { ...kind.write(material, algorithm, type), ext: true, key_ops: [...usages] };
  if (type === "secret") return material.slice().buffer;
  if (type !== (format === "pkcs8" ? "private" : "public")) {
    throw refusal("InvalidAccessError", `a ${type} key has no format ${format}`);
  }
  return format === "raw" ? kind.raw(material) : host.writeKey(format, material);
}

/** How many bits a key for an algorithm is derived from; null where any number will do. */
export function lengthOf(algorithm) {
  return kindOf(nameOf(algorithm), "bits").bits(algorithm);
}
