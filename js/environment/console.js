// console: lines on standard output (debug, info, log) and standard error (warn, error), and how values look in them.
import * as host from "hearth:host";

const DEPTH = 3;
const ITEMS = 100;

function quoted(text) {
  return JSON.stringify(text);
}

function errorText(error, depth, seen) {
  const title = error.message ? `${error.name}: ${error.message}` : String(error.name);
  const stack = typeof error.stack === "string" ? error.stack.trimEnd() : "";
  const cause = error.cause === undefined ? "" : `\n  caused by ${inspect(error.cause, depth + 1, seen)}`;
  return `${title}${stack ? `\n${stack}` : ""}${cause}`;
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
  const keys = Object.keys(value);
  const items = keys.slice(0, ITEMS).map((key) => {
    const label = /^[A-Za-z_$][\w$]*$/.test(key) ? key : quoted(key);
    return `${label}: ${inner(value[key])}`;
  });
  return listed(open, items, "}", keys.length - ITEMS);
}

export function inspect(value, depth = 0, seen = []) {
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
  if (depth >= DEPTH) return Array.isArray(value) ? "[array]" : "[object]";
  return inspectObject(value, depth, path);
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
        return String(mark === "%i" ? Number.parseInt(value, 10) : Number(value));
      case "%f":
        return String(Number.parseFloat(value));
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
  trace: (...args) => write(true, "trace: ", [format(args), `\n${new Error().stack.trimEnd()}`]),
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
