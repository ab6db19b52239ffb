// node:util.
function quoted(text) {
  const mark = !text.includes("'") ? "'" : !text.includes('"') ? '"' : !text.includes("`") ? "`" : "'";
  return mark + text.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`).replaceAll("\n", "\\n") + mark;
}

function inspect(value, options = {}) {
  const limit = typeof options === "object" ? (options.depth === null ? Infinity : (options.depth ?? 2)) : 2;
  const written = (value, depth, seen) => {
    if (typeof value === "string") return quoted(value);
    if (typeof value === "bigint") return `${value}n`;
    if (typeof value === "function") {
      const isClass = /^class\b/.test(String(value));
      const name = value.name ? `${isClass ? " " : ": "}${value.name}` : " (anonymous)";
      return `[${isClass ? "class" : "Function"}${name}]`;
    }
    if (typeof value !== "object" || value === null) return Object.is(value, -0) ? "-0" : String(value);
    if (typeof value[inspect.custom] === "function") {
      const custom = value[inspect.custom](limit - depth, options, inspect);
      return typeof custom === "string" ? custom : written(custom, depth, seen);
    }
    if (seen.includes(value)) return "[Circular *1]";
    if (value instanceof Error) return value.stack?.startsWith(value.name) ? value.stack : `${value.name}: ${value.message}\n${value.stack ?? ""}`.trimEnd();
    if (value instanceof Date) return Number.isNaN(value.getTime()) ? "Invalid Date" : value.toISOString();
    if (value instanceof RegExp) return String(value);
    if (value instanceof Promise) return "Promise { <pending> }";
    if (depth > limit) return Array.isArray(value) ? "[Array]" : `[${value.constructor?.name ?? "Object: null prototype"}]`;
    const inner = (item) => written(item, depth + 1, [...seen, value]);
    const list = (open, items, close) => (items.length === 0 ? `${open}${close}` : `${open} ${items.join(", ")} ${close}`);
    if (Array.isArray(value)) return list("[", value.map(inner), "]");
    if (value instanceof Map) return list(`Map(${value.size}) {`, Array.from(value, ([key, item]) => `${inner(key)} => ${inner(item)}`), "}");
    if (value instanceof Set) return list(`Set(${value.size}) {`, Array.from(value, inner), "}");
    if (ArrayBuffer.isView(value)) return list(`${value.constructor.name}(${value.length ?? value.byteLength}) [`, Array.from(value, inner), "]");
    const name = Object.getPrototypeOf(value) === null ? "[Object: null prototype] " : value.constructor?.name === "Object" ? "" : `${value.constructor?.name} `;
    const keys = Reflect.ownKeys(value).filter((key) => Object.prototype.propertyIsEnumerable.call(value, key));
    const label = (key) => (typeof key === "symbol" ? `[${String(key)}]` : /^[A-Za-z_$][\w$]*$/.test(key) ? key : quoted(key));
    return list(`${name}{`, keys.map((key) => `${label(key)}: ${inner(value[key])}`), "}");
  };
  return written(value, 0, []);
}
inspect.custom = Symbol.for("nodejs.util.inspect.custom");
inspect.defaultOptions = {};

function format(first, ...rest) {
  const shown = (value) => (typeof value === "string" ? value : inspect(value));
  if (typeof first !== "string") return [first, ...rest].map(shown).join(" ");
  const text = first.replace(/%[sdifjoOc%]/g, (mark) => {
    if (mark === "%%") return rest.length > 0 || first !== mark ? "%" : mark;
    if (rest.length === 0) return mark;
    const value = rest.shift();
    switch (mark) {
      case "%s":
        return typeof value === "object" && value !== null ? inspect(value, { depth: 0 }) : typeof value === "bigint" ? `${value}n` : String(value);
      case "%d":
        return typeof value === "bigint" ? `${value}n` : String(Number(value));
      case "%i":
        return String(Number.parseInt(value, 10));
      case "%f":
        return String(Number.parseFloat(value));
      case "%j":
        return JSON.stringify(value);
      case "%c":
        return "";
      default:
        return inspect(value);
    }
  });
  return [text, ...rest.map(shown)].join(" ");
}

const custom = Symbol.for("nodejs.util.promisify.custom");
function promisify(original) {
  if (typeof original[custom] === "function") return original[custom];
  return function (...args) {
    return new Promise((resolve, reject) => {
      Reflect.apply(original, this, [...args, (error, value) => (error ? reject(error) : resolve(value))]);
    });
  };
}
promisify.custom = custom;

function callbackify(original) {
  return function (...args) {
    const callback = args.pop();
    Reflect.apply(original, this, args).then(
      (value) => queueMicrotask(() => callback(null, value)),
      (error) => queueMicrotask(() => callback(error)),
    );
  };
}

function inherits(constructor, parent) {
  Object.defineProperty(constructor, "super_", { value: parent, writable: true, configurable: true });
  Object.setPrototypeOf(constructor.prototype, parent.prototype);
}

function deprecate(original) {
  return original;
}

function isDeepStrictEqual(left, right, seen = []) {
  if (Object.is(left, right)) return true;
  if (typeof left !== "object" || typeof right !== "object" || left === null || right === null) return false;
  if (Object.getPrototypeOf(left) !== Object.getPrototypeOf(right)) return false;
  if (seen.some(([a, b]) => a === left && b === right)) return true;
  const inner = (a, b) => isDeepStrictEqual(a, b, [...seen, [left, right]]);
  if (left instanceof Date) return left.getTime() === right.getTime();
  if (left instanceof RegExp) return String(left) === String(right);
  if (left instanceof Error && (left.message !== right.message || left.name !== right.name)) return false;
  if (left instanceof Map || left instanceof Set) {
    if (left.size !== right.size) return false;
    const others = [...right];
    return [...left].every((item) => {
      const at = others.findIndex((other) => inner(item, other));
      if (at >= 0) others.splice(at, 1);
      return at >= 0;
    });
  }
  const keys = Reflect.ownKeys(left).filter((key) => Object.prototype.propertyIsEnumerable.call(left, key));
  const others = Reflect.ownKeys(right).filter((key) => Object.prototype.propertyIsEnumerable.call(right, key));
  return keys.length === others.length && keys.every((key) => others.includes(key) && inner(left[key], right[key]));
}

function stripVTControlCharacters(text) {
  return text.replace(/\u001B\[[0-?]*[ -/]*[@-~]/g, "");
}

const debuglog = () => Object.assign(() => {}, { enabled: false });
const tag = (value) => Object.prototype.toString.call(value).slice(8, -1);
const AsyncFunction = (async () => {}).constructor;
const types = {
  isAnyArrayBuffer: (value) => ["ArrayBuffer", "SharedArrayBuffer"].includes(tag(value)),
  isArrayBuffer: (value) => value instanceof ArrayBuffer,
  isArrayBufferView: ArrayBuffer.isView,
  isAsyncFunction: (value) => value instanceof AsyncFunction,
  isDataView: (value) => value instanceof DataView,
  isDate: (value) => value instanceof Date,
  isGeneratorFunction: (value) => tag(value).endsWith("GeneratorFunction"),
  isMap: (value) => value instanceof Map,
  isNativeError: (value) => value instanceof Error,
  isPromise: (value) => value instanceof Promise,
  isProxy: () => false,
  isRegExp: (value) => value instanceof RegExp,
  isSet: (value) => value instanceof Set,
  isTypedArray: (value) => ArrayBuffer.isView(value) && !(value instanceof DataView),
  isUint8Array: (value) => value instanceof Uint8Array,
  isWeakMap: (value) => value instanceof WeakMap,
  isWeakSet: (value) => value instanceof WeakSet,
};
const { TextDecoder, TextEncoder } = globalThis;
const { isArray } = Array;
const debug = debuglog;
const all = { TextDecoder, TextEncoder, callbackify, debug, debuglog, deprecate, format, inherits, inspect, isArray, isDeepStrictEqual, promisify, stripVTControlCharacters, types };
export { TextDecoder, TextEncoder, callbackify, debug, debuglog, deprecate, format, inherits, inspect, isArray, isDeepStrictEqual, promisify, stripVTControlCharacters, types };
export default all;
