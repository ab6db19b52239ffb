// structuredClone (HTML Standard).

function uncloneable(what) {
  return new DOMException(`${what} cannot be cloned`, "DataCloneError");
}

const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };

function copy(value, memory) {
  if (typeof value === "function") throw uncloneable(`the function ${value.name || "(anonymous)"}`);
  if (typeof value === "symbol") throw uncloneable(value.toString());
  if (typeof value !== "object" || value === null) return value;
  if (memory.has(value)) return memory.get(value);
  const keep = (made) => {
    memory.set(value, made);
    return made;
  };
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
      if (!Object.hasOwn(value, key)) continue;
      const item = { value: copy(value[key], memory), writable: true, configurable: true };
      Object.defineProperty(made, key, item);
    }
    return made;
  }
  if (value instanceof Promise || value instanceof WeakMap || value instanceof WeakSet || value instanceof WeakRef) {
    throw uncloneable(`a ${value.constructor.name}`);
  }
  const made = keep(Array.isArray(value) ? new Array(value.length) : {});
  for (const key of Object.keys(value)) made[key] = copy(value[key], memory);
  return made;
}

export function structuredClone(value, { transfer = [] } = {}) {
  const memory = new Map();
  for (const buffer of transfer) {
    if (!(buffer instanceof ArrayBuffer)) throw uncloneable("what is neither copied nor an ArrayBuffer");
    memory.set(buffer, buffer.transfer());
  }
  return copy(value, memory);
}
