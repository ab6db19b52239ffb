// Event, EventTarget, AbortController and AbortSignal (DOM Standard, without a tree).
import * as host from "hearth:host";

export class Event {
  #type;
  #init;
  #isStopped = false;
  target = null;
  currentTarget = null;
  defaultPrevented = false;
  timeStamp = host.now();

  constructor(type, init) {
    this.#type = String(type);
    this.#init = init ?? {};
  }

  /** Begins and ends its way to the one target; whether somebody stopped it there. */
  static begin(event, target) {
    if (event.currentTarget) throw new DOMException("the event is dispatched already", "InvalidStateError");
    event.target = event.currentTarget = target;
    event.#isStopped = false;
  }

  static end(event) {
    event.currentTarget = null;
    event.#isStopped = false;
  }

  static isStopped(event) {
    return event.#isStopped;
  }

  get type() {
    return this.#type;
  }

  get bubbles() {
    return Boolean(this.#init.bubbles);
  }

  get cancelable() {
    return Boolean(this.#init.cancelable);
  }

  get composed() {
    return Boolean(this.#init.composed);
  }

  /** At its target, while it is dispatched. */
  get eventPhase() {
    return this.currentTarget ? Event.AT_TARGET : Event.NONE;
  }

  get returnValue() {
    return !this.defaultPrevented;
  }

  get isTrusted() {
    return false;
  }

  composedPath() {
    return this.currentTarget ? [this.currentTarget] : [];
  }

  preventDefault() {
    if (this.cancelable) this.defaultPrevented = true;
  }

  stopPropagation() {}

  stopImmediatePropagation() {
    this.#isStopped = true;
  }
}

for (const [value, name] of ["NONE", "CAPTURING_PHASE", "AT_TARGET", "BUBBLING_PHASE"].entries()) {
  for (const holder of [Event, Event.prototype]) Object.defineProperty(holder, name, { value, enumerable: true });
}

const { begin, end, isStopped } = Event;
for (const name of ["begin", "end", "isStopped"]) delete Event[name];

export class CustomEvent extends Event {
  constructor(type, init) {
    super(type, init);
    this.detail = init?.detail ?? null;
  }
}

export class ErrorEvent extends Event {
  constructor(type, init) {
    super(type, init);
    init ??= {};
    this.message = String(init.message ?? "");
    this.filename = String(init.filename ?? "");
    this.lineno = Number(init.lineno ?? 0);
    this.colno = Number(init.colno ?? 0);
    this.error = init.error;
  }
}

export class MessageEvent extends Event {
  constructor(type, init) {
    super(type, init);
    init ??= {};
    this.data = init.data ?? null;
    this.origin = String(init.origin ?? "");
    this.lastEventId = String(init.lastEventId ?? "");
    this.source = init.source ?? null;
    this.ports = Object.freeze([...(init.ports ?? [])]);
  }
}

export class PromiseRejectionEvent extends Event {
  constructor(type, init) {
    if (!(init?.promise instanceof Promise)) throw new TypeError("a rejection has a promise");
    super(type, init);
    this.promise = init.promise;
    this.reason = init.reason;
  }
}

export class EventTarget {
  #listeners = new Map();

  addEventListener(type, callback, options) {
    if (callback == null) return;
    const { once = false, signal } = typeof options === "object" && options !== null ? options : {};
    if (signal?.aborted) return;
    const list = this.#listeners.get(type) ?? [];
    if (list.some((known) => known.callback === callback)) return;
    list.push({ callback, once, isRemoved: false });
    this.#listeners.set(type, list);
    signal?.addEventListener("abort", () => this.removeEventListener(type, callback));
  }

  removeEventListener(type, callback) {
    const list = this.#listeners.get(type);
    const at = list ? list.findIndex((known) => known.callback === callback) : -1;
    if (at < 0) return;
    // It may be on its way to it.
    list[at].isRemoved = true;
    list.splice(at, 1);
  }

  dispatchEvent(event) {
    begin(event, this);
    const attribute = this[`on${event.type}`];
    const own = typeof attribute === "function" ? [{ callback: attribute, isRemoved: false }] : [];
    for (const listener of [...own, ...(this.#listeners.get(event.type) ?? [])]) {
      const { callback, once } = listener;
      if (listener.isRemoved) continue;
      if (once) this.removeEventListener(event.type, callback);
      try {
        if (typeof callback === "function") callback.call(this, event);
        else callback.handleEvent(event);
      } catch (error) {
        reportError(error);
      }
      if (isStopped(event)) break;
    }
    end(event);
    return !event.defaultPrevented;
  }
}

// Only AbortController and the static functions make signals.
const SECRET = Symbol();

export class AbortSignal extends EventTarget {
  #reason;
  #aborted = false;
  onabort = null;

  constructor(secret) {
    if (secret !== SECRET) throw new TypeError("Illegal constructor");
    super();
  }

  get aborted() {
    return this.#aborted;
  }

  get reason() {
    return this.#reason;
  }

  throwIfAborted() {
    if (this.#aborted) throw this.#reason;
  }

  static abortSignal(signal, reason) {
    if (signal.#aborted) return;
    signal.#aborted = true;
    signal.#reason = reason === undefined ? new DOMException("The operation was aborted", "AbortError") : reason;
    signal.dispatchEvent(new Event("abort"));
  }

  static abort(reason) {
    const signal = new AbortSignal(SECRET);
    abort(signal, reason);
    return signal;
  }

  static timeout(milliseconds) {
    const signal = new AbortSignal(SECRET);
    const expire = () => abort(signal, new DOMException("The operation timed out", "TimeoutError"));
    setTimeout(expire, milliseconds);
    return signal;
  }

  static any(signals) {
    const signal = new AbortSignal(SECRET);
    for (const source of signals) {
      if (source.aborted) {
        abort(signal, source.reason);
        break;
      }
      source.addEventListener("abort", () => abort(signal, source.reason), { once: true });
    }
    return signal;
  }
}

const abort = AbortSignal.abortSignal;
delete AbortSignal.abortSignal;

export class AbortController {
  #signal = new AbortSignal(SECRET);

  get signal() {
    return this.#signal;
  }

  abort(reason) {
    abort(this.#signal, reason);
  }
}
