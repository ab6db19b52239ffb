// node:async_hooks, as far as programs use it: values that follow a call through its promises, timers and callbacks.
import * as host from "hearth:host";

/** Calls `callback` in a context, and returns to the one before. */
function inContext(context, callback, self, args) {
  const before = host.context();
  host.setContext(context);
  try {
    return Reflect.apply(callback, self, args);
  } finally {
    host.setContext(before);
  }
}

/** A function that runs in the context of now, whenever it is called. */
function bound(callback) {
  const context = host.context();
  return function (...args) {
    return inContext(context, callback, this, args);
  };
}

/** A context is a map from storages to their values, and never changed. */
export class AsyncLocalStorage {
  #with(value) {
    return new Map(host.context()).set(this, value);
  }

  getStore() {
    return host.context()?.get(this);
  }

  run(value, callback, ...args) {
    return inContext(this.#with(value), callback, undefined, args);
  }

  exit(callback, ...args) {
    return this.run(undefined, callback, ...args);
  }

  enterWith(value) {
    host.setContext(this.#with(value));
  }

  disable() {
    this.enterWith(undefined);
  }

  static bind(callback) {
    return bound(callback);
  }

  static snapshot() {
    return bound((callback, ...args) => callback(...args));
  }
}

/** The context in which it was made. */
export class AsyncResource {
  #context = host.context();

  constructor(type) {
    if (typeof type !== "string") throw new TypeError("the type of a resource is a string");
    this.type = type;
  }

  runInAsyncScope(callback, self, ...args) {
    return inContext(this.#context, callback, self, args);
  }

  bind(callback) {
    return (...args) => this.runInAsyncScope(callback, undefined, ...args);
  }

  emitDestroy() {
    return this;
  }

  static bind(callback) {
    return bound(callback);
  }
}

export default { AsyncLocalStorage, AsyncResource };
