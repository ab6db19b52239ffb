// node:crypto, as far as the Web's cryptography goes. Digests there are asynchronous, so createHash is not here: use
// crypto.subtle.digest.
import { Buffer } from "node:buffer";

export const webcrypto = globalThis.crypto;
export const { subtle } = webcrypto;
export const getRandomValues = (array) => webcrypto.getRandomValues(array);
export const randomUUID = () => webcrypto.randomUUID();

export function randomBytes(size, callback) {
  const bytes = Buffer.alloc(size);
  for (let at = 0; at < size; at += 65536) webcrypto.getRandomValues(bytes.subarray(at, at + 65536));
  return callback ? queueMicrotask(() => callback(null, bytes)) : bytes;
}

export function randomFillSync(bytes) {
  bytes.set(randomBytes(bytes.length));
  return bytes;
}

export function randomInt(low, high) {
  const [from, to] = high === undefined ? [0, low] : [low, high];
  const range = to - from;
  if (!(range > 0 && range < 2 ** 48)) throw new RangeError("the range is empty or too large");
  // Numbers past the last whole range would make some of them likelier.
  const bound = 2 ** 48 - (2 ** 48 % range);
  for (;;) {
    const number = randomBytes(6).reduce((all, byte) => all * 256 + byte, 0);
    if (number < bound) return from + (number % range);
  }
}

export function timingSafeEqual(left, right) {
  if (left.byteLength !== right.byteLength) throw new RangeError("Input buffers must have the same byte length");
  let difference = 0;
  for (let at = 0; at < left.byteLength; at++) difference |= left[at] ^ right[at];
  return difference === 0;
}

function absent(name) {
  return () => {
    throw new Error(`node:crypto has no ${name} here; crypto.subtle has digests, HMAC, ciphers and signatures`);
  };
}
export const createHash = absent("createHash");
export const createHmac = absent("createHmac");
export default { createHash, createHmac, getRandomValues, randomBytes, randomFillSync, randomInt, randomUUID, subtle, timingSafeEqual, webcrypto };
