// structuredClone (HTML Standard).
import { Blob, File, FormData } from "./blob.js";
import { CryptoKey } from "./crypto.js";
import { Event, EventTarget } from "./events.js";
import { Headers, Request, Response } from "./http.js";
import { ReadableStream, TransformStream, WritableStream } from "./streams.js";
import { URL, URLSearchParams } from "./url.js";

function uncloneable(what) {
  return new DOMException(`${what} cannot be cloned`, "DataCloneError");
}

const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

/** What is more than its properties, and has no form elsewhere. */
const UNCLONEABLE = [
  CryptoKey,
  Event,
  EventTarget,
  FinalizationRegistry,
  FormData,
  Headers,
  Promise,
  ReadableStream,
  Request,
  Response,
  TransformStream,
  URL,
  URLSearchParams,
  WeakMap,
  WeakRef,
  WeakSet,
  WritableStream,
];
/** Iterators and generators. */
const ITERATORS = [Iterator.prototype, Object.getPrototypeOf(async function* () {}.prototype)].map((prototype) =>
  Object.prototype.isPrototypeOf.bind(prototype),
);

function copy(value, memory) {
  if (typeof value === "function") throw uncloneable(`the function ${value.name || "(anonymous)"}`);
  if (typeof value === "symbol") throw uncloneable(value.toString());
  if (typeof value !== "object" || value === null) return value;
  if (memory.has(value)) return memory.get(value);
  const keep = (made) => {
    memory.set(value, made);
    return made;
  };
  const prototype = Object.getPrototypeOf(value);
  // Most are these, and nothing else is looked for.
  if (prototype === Object.prototype) return copyProperties(value, keep({}), memory);
  if (Array.isArray(value)) return copyProperties(value, keep(new Array(value.length)), memory);
  if (value instanceof Boolean || value instanceof Number || value instanceof String || value instanceof BigInt) {
    return keep(Object(value.valueOf()));
  }
  if (value instanceof Date) return keep(new Date(value.getTime()));
  if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
  if (value instanceof ArrayBuffer) return keep(value.slice(0));
  if (ArrayBuffer.isView(value)) {
    const buffer = copy(value.buffer, memory);
    const length = value instanceof DataView ? value.byteLength : value.length;
    return keep(new value.constructor(buffer, value.byteOffset, length));
  }
  if (value instanceof File) return keep(new File([value], value.name, value));
  if (value instanceof Blob) return keep(value.slice(0, value.size, value.type));
  if (value instanceof Map) {
    const made = keep(new Map());
    for (const [key, item] of [...value]) made.set(copy(key, memory), copy(item, memory));
    return made;
  }
  if (value instanceof Set) {
    const made = keep(new Set());
    for (const item of [...value]) made.add(copy(item, memory));
    return made;
  }
  if (value instanceof DOMException) return keep(new DOMException(value.message, value.name));
  if (value instanceof Error) {
    const made = keep(new (ERRORS[value.name] ?? Error)(value.message));
    for (const key of ["stack", "cause"]) {
      const item = key === "stack" || Object.hasOwn(value, key) ? value[key] : undefined;
      if (item === undefined) continue;
      Object.defineProperty(made, key, { value: copy(item, memory), writable: true, configurable: true });
    }
    return made;
  }
  if (UNCLONEABLE.some((type) => value instanceof type) || ITERATORS.some((isOne) => isOne(value))) {
    throw uncloneable(`a ${value.constructor?.name || "generator"}`);
  }
  return copyProperties(value, keep({}), memory);
}

function copyProperties(value, made, memory) {
  for (const key of Object.keys(value)) {
    const item = copy(value[key], memory);
    if (key !== "__proto__") made[key] = item;
    // Not what sets the prototype.
    else Object.defineProperty(made, key, { value: item, writable: true, enumerable: true, configurable: true });
  }
  return made;
}

export function structuredClone(value, options) {
  const memory = new Map();
  for (const buffer of options?.transfer ?? []) {
    if (!(buffer instanceof ArrayBuffer)) throw uncloneable("what is neither copied nor an ArrayBuffer");
    memory.set(buffer, buffer.transfer());
  }
  return copy(value, memory);
}
