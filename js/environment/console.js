// console: lines on standard output (debug, info, log) and standard error (warn, error), and how values look in them.
import * as host from "hearth:host";
import { Blob, File, FormData } from "./blob.js";
import { AbortSignal } from "./events.js";
import { Headers, Request, Response } from "./http.js";
import { ReadableStream, WritableStream } from "./streams.js";
import { URL, URLSearchParams } from "./url.js";

const DEPTH = 3;
const ITEMS = 100;

function quoted(text) {
  return JSON.stringify(text);
}

/** What an error is called, its frames, what it has besides, and what it came of. */
function errorText(error, depth, seen) {
  const title = error.message ? `${error.name}: ${error.message}` : String(error.name);
  const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  // The stack begins with what the error was called when it was made.
  const at = stack.startsWith("    at ") ? 0 : stack.indexOf("\n    at ") + 1;
  const frames = at > 0 || stack.startsWith("    at ") ? stack.slice(at) : "";
  const named = Object.keys(error).filter((key) => !["name", "message", "stack", "cause", "errors"].includes(key));
  const own = properties(error, named, depth, seen);
  let text = frames ? `${title}\n${frames}` : title;
  if (own.length > 0) text += `\n  with ${listed("{", own, "}", 0)}`;
  if (Array.isArray(error.errors)) {
    for (const inner of error.errors.slice(0, ITEMS)) text += `\n  of ${inspect(inner, depth + 1, seen)}`;
  }
  return error.cause === undefined ? text : `${text}\n  caused by ${inspect(error.cause, depth + 1, seen)}`;
}

/** Names and values, without running anybody's code. */
function properties(value, keys, depth, seen) {
  return keys.slice(0, ITEMS).map((key) => {
    const label = typeof key === "symbol" ? `[${key.toString()}]` : /^[A-Za-z_$][\w$]*$/.test(key) ? key : quoted(key);
    const property = Object.getOwnPropertyDescriptor(value, key);
    if (property && !("value" in property)) return `${label}: [${property.get ? "getter" : "setter"}]`;
    return `${label}: ${inspect(property?.value, depth + 1, seen)}`;
  });
}

/** What is shown of objects of the environment, whose parts are no properties. */
const SHOWN = [
  [Request, ({ method, url, headers }) => ({ method, url, headers })],
  [Response, ({ status, url, headers, bodyUsed }) => ({ status, ...(url && { url }), headers, bodyUsed })],
  [Headers, (headers) => Object.fromEntries(headers)],
  [FormData, pairs],
  [URLSearchParams, pairs],
  [File, ({ name, size, type }) => ({ name, size, type })],
  [Blob, ({ size, type }) => ({ size, type })],
  [AbortSignal, ({ aborted, reason }) => (aborted ? { aborted, reason } : { aborted })],
  [ReadableStream, ({ locked }) => ({ locked })],
  [WritableStream, ({ locked }) => ({ locked })],
];

/** Several values of a name are a list. */
function pairs(source) {
  const shown = {};
  for (const [name] of source) {
    const values = source.getAll(name);
    Object.defineProperty(shown, name, { value: values.length > 1 ? values : values[0], enumerable: true, configurable: true });
  }
  return shown;
}

function listed(open, items, close, left) {
  const all = left > 0 ? [...items, `… ${left} more`] : items;
  if (all.length === 0) return open + close;
  const line = `${open} ${all.join(", ")} ${close}`;
  return line.length <= 100 ? line : `${open}\n  ${all.join(",\n").replaceAll("\n", "\n  ")}\n${close}`;
}

function inspectObject(value, depth, seen) {
  const inner = (item) => inspect(item, depth + 1, seen);
  const some = (iterable, write) => [...iterable].slice(0, ITEMS).map(write);
  if (Array.isArray(value)) return listed("[", value.slice(0, ITEMS).map(inner), "]", value.length - ITEMS);
  if (value instanceof Map) {
    const items = some(value, ([key, item]) => `${inner(key)} => ${inner(item)}`);
    return listed(`Map(${value.size}) {`, items, "}", value.size - ITEMS);
  }
  if (value instanceof Set) return listed(`Set(${value.size}) {`, some(value, inner), "}", value.size - ITEMS);
  if (ArrayBuffer.isView(value) && !(value instanceof DataView)) {
    const items = some(value.subarray(0, ITEMS), String);
    return listed(`${value.constructor.name}(${value.length}) [`, items, "]", value.length - ITEMS);
  }
  const prototype = Object.getPrototypeOf(value);
  const name = prototype?.constructor?.name;
  const open = prototype === null ? "[Object: null prototype] {" : name && name !== "Object" ? `${name} {` : "{";
  const parts = SHOWN.find(([type]) => value instanceof type)?.[1](value);
  const shown = parts ?? value;
  const keys = [...Object.keys(shown), ...Object.getOwnPropertySymbols(shown).filter((key) => Object.prototype.propertyIsEnumerable.call(shown, key))];
  return listed(open, properties(shown, keys, depth, seen), "}", keys.length - ITEMS);
}

export function inspect(value, depth = 0, seen = []) {
  try {
    return inspectAny(value, depth, seen);
  } catch {
    // Proxies and what inherits a getter are the user's code.
    return "[cannot be shown: it throws]";
  }
}

function inspectAny(value, depth, seen) {
  switch (typeof value) {
    case "string":
      return depth === 0 ? value : quoted(value);
    case "bigint":
      return `${value}n`;
    case "symbol":
      return value.toString();
    case "function":
      return `[${/^class\b/.test(Function.prototype.toString.call(value)) ? "class" : "function"} ${value.name || "(anonymous)"}]`;
    case "object":
      break;
    default:
      return String(value);
  }
  if (value === null) return "null";
  if (seen.includes(value)) return "[circular]";
  const path = [...seen, value];
  if (value instanceof Error || value instanceof DOMException) return errorText(value, depth, path);
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
  if (value instanceof RegExp) return String(value);
  if (value instanceof Promise) return "Promise {}";
  if (value instanceof URL) return depth === 0 ? value.href : `URL ${quoted(value.href)}`;
  if (depth >= DEPTH) return Array.isArray(value) ? "[array]" : "[object]";
  return inspectObject(value, depth, path);
}

/** Symbols are no numbers, and what an object says may throw. */
function numberText(mark, value) {
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "symbol" || typeof value === "object") return "NaN";
  return String(mark === "%d" ? Number(value) : mark === "%i" ? Number.parseInt(value, 10) : Number.parseFloat(value));
}

function format(args) {
  const [first, ...rest] = args;
  if (typeof first !== "string" || !first.includes("%") || rest.length === 0) {
    return args.map((value) => inspect(value)).join(" ");
  }
  const text = first.replace(/%[sdifoOc%]/g, (mark) => {
    if (mark === "%%") return "%";
    if (rest.length === 0) return mark;
    const value = rest.shift();
    switch (mark) {
      case "%s":
        return typeof value === "object" ? inspect(value, 1) : String(value);
      case "%d":
      case "%i":
      case "%f":
        return numberText(mark, value);
      case "%c":
        return "";
      default:
        return inspect(value, 1);
    }
  });
  return [text, ...rest.map((value) => inspect(value))].join(" ");
}

let indent = "";
const counts = new Map();
const times = new Map();

function write(isError, prefix, args) {
  const text = prefix + format(args);
  host.log(isError, indent ? indent + text.replaceAll("\n", `\n${indent}`) : text);
}

export const console = {
  debug: (...args) => write(false, "debug: ", args),
  log: (...args) => write(false, "", args),
  info: (...args) => write(false, "", args),
  warn: (...args) => write(true, "warn: ", args),
  error: (...args) => write(true, "error: ", args),
  trace: (...args) => write(true, "trace: ", [format(args), `\n${new Error().stack.split("\n").slice(1).join("\n").trimEnd()}`]),
  clear() {},
  dirxml: (...args) => write(false, "", args),
  dir: (value) => write(false, "", [inspect(value, 1)]),
  table: (value) => write(false, "", [inspect(value, 1)]),
  assert(condition, ...args) {
    if (!condition) write(true, "error: assertion failed", args.length > 0 ? [":", ...args] : []);
  },
  group(...args) {
    if (args.length > 0) write(false, "", args);
    indent += "  ";
  },
  groupEnd() {
    indent = indent.slice(2);
  },
  count(label = "default") {
    counts.set(label, (counts.get(label) ?? 0) + 1);
    write(false, "", [`${label}: ${counts.get(label)}`]);
  },
  countReset: (label = "default") => void counts.delete(label),
  time: (label = "default") => void times.set(label, host.now()),
  timeLog(label = "default", ...args) {
    write(false, "", [`${label}: ${(host.now() - (times.get(label) ?? host.now())).toFixed(3)} ms`, ...args]);
  },
  timeEnd(label = "default") {
    console.timeLog(label);
    times.delete(label);
  },
};
console.groupCollapsed = console.group;
