// node:events.
class EventEmitter {
  #listeners = new Map();
  #max = EventEmitter.defaultMaxListeners;

  #add(name, listener, isFirst) {
    if (typeof listener !== "function") throw new TypeError("a listener is a function");
    if (this.#listeners.has("newListener")) this.emit("newListener", name, listener.listener ?? listener);
    const listeners = this.#listeners.get(name) ?? [];
    this.#listeners.set(name, isFirst ? [listener, ...listeners] : [...listeners, listener]);
    return this;
  }

  #wrapped(name, listener) {
    const once = (...args) => {
      this.removeListener(name, once);
      return Reflect.apply(listener, this, args);
    };
    return Object.assign(once, { listener });
  }

  on(name, listener) {
    return this.#add(name, listener, false);
  }

  prependListener(name, listener) {
    return this.#add(name, listener, true);
  }

  once(name, listener) {
    return this.#add(name, this.#wrapped(name, listener), false);
  }

  prependOnceListener(name, listener) {
    return this.#add(name, this.#wrapped(name, listener), true);
  }

  removeListener(name, listener) {
    const listeners = this.#listeners.get(name) ?? [];
    const at = listeners.findLastIndex((known) => known === listener || known.listener === listener);
    if (at < 0) return this;
    const left = listeners.toSpliced(at, 1);
    if (left.length > 0) this.#listeners.set(name, left);
    else this.#listeners.delete(name);
    if (this.#listeners.has("removeListener")) this.emit("removeListener", name, listener);
    return this;
  }

  removeAllListeners(name) {
    if (name === undefined) this.#listeners.clear();
    else this.#listeners.delete(name);
    return this;
  }

  emit(name, ...args) {
    const listeners = this.#listeners.get(name);
    if (!listeners) {
      if (name !== "error") return false;
      throw args[0] instanceof Error ? args[0] : new Error(`unhandled error: ${String(args[0])}`);
    }
    for (const listener of listeners) Reflect.apply(listener, this, args);
    return true;
  }

  listeners(name) {
    return (this.#listeners.get(name) ?? []).map((listener) => listener.listener ?? listener);
  }

  rawListeners(name) {
    return [...(this.#listeners.get(name) ?? [])];
  }

  listenerCount(name) {
    return this.#listeners.get(name)?.length ?? 0;
  }

  eventNames() {
    return [...this.#listeners.keys()];
  }

  setMaxListeners(count) {
    this.#max = count;
    return this;
  }

  getMaxListeners() {
    return this.#max;
  }
}
EventEmitter.prototype.addListener = EventEmitter.prototype.on;
EventEmitter.prototype.off = EventEmitter.prototype.removeListener;
EventEmitter.defaultMaxListeners = 10;

/** The arguments of the next event, or its error. */
function once(emitter, name, { signal } = {}) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const end = (settle) => (...args) => {
      emitter.removeListener(name, resolved);
      emitter.removeListener("error", rejected);
      settle(args);
    };
    const resolved = end(resolve);
    const rejected = end(([error]) => reject(error));
    emitter.once(name, resolved);
    if (name !== "error") emitter.once("error", rejected);
    signal?.addEventListener("abort", end(() => reject(signal.reason)), { once: true });
  });
}

const setMaxListeners = () => {};
Object.assign(EventEmitter, { EventEmitter, once, setMaxListeners });
export { EventEmitter, once, setMaxListeners };
export default EventEmitter;
