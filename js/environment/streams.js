// ReadableStream, WritableStream and TransformStream (Streams Standard, default readers: no BYOB).
import { handled } from "hearth:host";
import { TextDecoder, encode } from "./encoding.js";

/** A promise with its ends; nobody has to look at its rejection. */
function deferred() {
  const all = Promise.withResolvers();
  handled(all.promise);
  return all;
}

function strategyOf(strategy, usual) {
  const { highWaterMark, size } = strategy ?? {};
  const mark = highWaterMark === undefined ? usual : Number(highWaterMark);
  if (Number.isNaN(mark) || mark < 0) throw new RangeError("highWaterMark is not negative");
  return { mark, size: size ?? (() => 1) };
}

/** How much a chunk counts, as a strategy says. */
function sizeOf(size, chunk) {
  const counted = Number(size(chunk));
  if (!(counted >= 0 && counted < Infinity)) throw new RangeError(`the size ${counted} of a chunk is no finite number that is not negative`);
  return counted;
}

export class CountQueuingStrategy {
  constructor({ highWaterMark }) {
    this.highWaterMark = highWaterMark;
  }

  size() {
    return 1;
  }
}

export class ByteLengthQueuingStrategy {
  constructor({ highWaterMark }) {
    this.highWaterMark = highWaterMark;
  }

  size(chunk) {
    return chunk.byteLength;
  }
}

// What the classes below see of each other: stream -> state.
const readables = new WeakMap();
const writables = new WeakMap();

/** The state of a ReadableStream, and what changes it. */
class Readable {
  status = "readable";
  error = undefined;
  queue = [];
  queued = 0;
  reads = [];
  reader = null;
  isDisturbed = false;
  isPulling = false;
  isWanted = false;
  isEnding = false;

  constructor(source, { mark, size }) {
    this.source = source;
    this.mark = mark;
    this.size = size;
    this.controller = new ReadableStreamDefaultController(SECRET, this);
    this.isStarted = false;
    const started = source.start?.(this.controller);
    const begin = () => {
      this.isStarted = true;
      this.pull();
    };
    // The source hears of it when whoever makes the stream has it.
    if (started !== undefined) Promise.resolve(started).then(begin, (error) => this.fail(error));
    else if (source.pull && mark > 0) Promise.resolve().then(begin);
    else this.isStarted = true;
  }

  get desired() {
    return this.status === "readable" ? this.mark - this.queued : this.status === "closed" ? 0 : null;
  }

  async pull() {
    const isWanted = () =>
      this.status === "readable" && !this.isEnding && this.isStarted && (this.reads.length > 0 || this.desired > 0);
    if (!this.source.pull || !isWanted()) return;
    this.isWanted = true;
    if (this.isPulling) return;
    this.isPulling = true;
    try {
      while (this.isWanted && isWanted()) {
        this.isWanted = false;
        await this.source.pull(this.controller);
      }
    } catch (error) {
      this.fail(error);
    } finally {
      this.isPulling = false;
    }
  }

  enqueue(chunk) {
    if (this.status !== "readable" || this.isEnding) throw new TypeError("the stream is closed");
    if (this.reads.length > 0) {
      this.reads.shift().resolve({ value: chunk, done: false });
    } else {
      let size;
      try {
        size = sizeOf(this.size, chunk);
      } catch (error) {
        this.fail(error);
        throw error;
      }
      this.queue.push({ chunk, size });
      this.queued += size;
    }
    this.pull();
  }

  read() {
    this.isDisturbed = true;
    if (this.queue.length > 0) {
      const { chunk, size } = this.queue.shift();
      this.queued -= size;
      if (this.queue.length === 0 && this.isEnding) this.finish();
      else this.pull();
      return Promise.resolve({ value: chunk, done: false });
    }
    if (this.status === "errored") return Promise.reject(this.error);
    if (this.status === "closed") return Promise.resolve({ value: undefined, done: true });
    const { promise, resolve, reject } = deferred();
    this.reads.push({ resolve, reject });
    this.pull();
    return promise;
  }

  end() {
    if (this.status !== "readable" || this.isEnding) throw new TypeError("the stream is closed");
    this.isEnding = true;
    if (this.queue.length === 0) this.finish();
  }

  finish() {
    this.status = "closed";
    for (const { resolve } of this.reads.splice(0)) resolve({ value: undefined, done: true });
    this.reader?.settled.resolve();
  }

  fail(error) {
    if (this.status !== "readable") return;
    this.status = "errored";
    this.error = error;
    this.queue = [];
    for (const { reject } of this.reads.splice(0)) reject(error);
    this.reader?.settled.reject(error);
  }

  async cancel(reason) {
    this.isDisturbed = true;
    if (this.status === "closed") return;
    if (this.status === "errored") throw this.error;
    this.queue = [];
    this.finish();
    await this.source.cancel?.(reason);
  }
}

const SECRET = Symbol();

function guard(secret) {
  if (secret !== SECRET) throw new TypeError("Illegal constructor");
}

export class ReadableStreamDefaultController {
  #state;

  constructor(secret, state) {
    guard(secret);
    this.#state = state;
  }

  get desiredSize() {
    return this.#state.desired;
  }

  get byobRequest() {
    return null;
  }

  enqueue(chunk) {
    this.#state.enqueue(chunk);
  }

  close() {
    this.#state.end();
  }

  error(error) {
    this.#state.fail(error);
  }
}

export class ReadableStreamDefaultReader {
  #state;
  #handle;

  constructor(stream) {
    const state = readables.get(stream);
    if (!state) throw new TypeError("a reader reads a ReadableStream");
    if (state.reader) throw new TypeError("the stream is locked to another reader");
    this.#state = state;
    this.#handle = { settled: deferred() };
    state.reader = this.#handle;
    if (state.status === "closed") this.#handle.settled.resolve();
    if (state.status === "errored") this.#handle.settled.reject(state.error);
  }

  get closed() {
    return this.#handle.settled.promise;
  }

  read() {
    return this.#state ? this.#state.read() : Promise.reject(new TypeError("the reader's lock was released"));
  }

  cancel(reason) {
    return this.#state ? this.#state.cancel(reason) : Promise.reject(new TypeError("the reader's lock was released"));
  }

  releaseLock() {
    if (!this.#state) return;
    const error = new TypeError("the reader's lock was released");
    for (const { reject } of this.#state.reads.splice(0)) reject(error);
    this.#state.reader = null;
    this.#state = null;
    this.#handle.settled.reject(error);
    this.#handle = { settled: deferred() };
    this.#handle.settled.reject(error);
  }
}

export class ReadableStream {
  constructor(source = {}, strategy = {}) {
    const isBytes = source?.type === "bytes";
    if (source?.type !== undefined && !isBytes) throw new TypeError(`the type ${source.type} is unknown`);
    readables.set(this, new Readable(source ?? {}, strategyOf(strategy, isBytes ? 0 : 1)));
  }

  static from(iterable) {
    if (iterable instanceof ReadableStream) return iterable;
    const make = iterable[Symbol.asyncIterator] ?? iterable[Symbol.iterator];
    if (typeof make !== "function") throw new TypeError("an iterable is needed");
    const iterator = make.call(iterable);
    return new ReadableStream(
      {
        async pull(controller) {
          const { value, done } = await iterator.next();
          if (done) controller.close();
          else controller.enqueue(await value);
        },
        async cancel(reason) {
          await iterator.return?.(reason);
        },
      },
      { highWaterMark: 0 },
    );
  }

  get locked() {
    return readables.get(this).reader !== null;
  }

  getReader(options) {
    const mode = options?.mode;
    if (mode !== undefined) throw new TypeError(`readers of mode ${mode} are not supported`);
    return new ReadableStreamDefaultReader(this);
  }

  cancel(reason) {
    if (this.locked) return Promise.reject(new TypeError("the stream is locked to a reader"));
    return readables.get(this).cancel(reason);
  }

  async pipeTo(destination, options) {
    const { preventClose, preventAbort, preventCancel, signal } = options ?? {};
    const reader = this.getReader();
    const writer = destination.getWriter();
    let problem = null;
    let stop = null;
    const fail = (error) => {
      problem ??= { error };
      stop?.(error);
    };
    const onAbort = () => fail(signal.reason);
    if (signal?.aborted) onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    // A destination that fails is noticed while the source is silent.
    writer.closed.catch(fail);
    const unlessFailed = (begin) =>
      new Promise((resolve, reject) => {
        if (problem) throw problem.error;
        stop = reject;
        begin().then(resolve, reject);
      });
    try {
      for (;;) {
        if (!(writer.desiredSize > 0)) await unlessFailed(() => writer.ready);
        const { value, done } = await unlessFailed(() => reader.read());
        if (done) break;
        handled(writer.write(value));
      }
      if (preventClose) await writer.ready;
      else await writer.close();
    } catch (error) {
      const source = readables.get(this);
      const isSource = source.status === "errored" && source.error === error;
      if (!preventAbort) await writer.abort(error).catch(() => {});
      if (!isSource && !preventCancel) await reader.cancel(error).catch(() => {});
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      reader.releaseLock();
      writer.releaseLock();
    }
  }

  pipeThrough({ readable, writable }, options) {
    handled(this.pipeTo(writable, options));
    return readable;
  }

  tee() {
    const reader = this.getReader();
    const branches = [];
    const canceled = [];
    const all = deferred();
    let isReading = false;
    const pull = async () => {
      if (isReading) return;
      isReading = true;
      try {
        const { value, done } = await reader.read();
        isReading = false;
        for (const branch of branches.filter((branch) => !branch.isCanceled)) {
          if (done) branch.controller.close();
          else branch.controller.enqueue(value);
        }
        if (done) all.resolve();
      } catch (error) {
        for (const branch of branches) branch.controller.error(error);
        all.resolve();
      }
    };
    const make = () => {
      const branch = { isCanceled: false };
      branches.push(branch);
      return new ReadableStream(
        {
          start(controller) {
            branch.controller = controller;
          },
          pull,
          cancel(reason) {
            branch.isCanceled = true;
            canceled.push(reason);
            if (canceled.length === 2) all.resolve(reader.cancel(canceled));
            return all.promise;
          },
        },
        { highWaterMark: 0 },
      );
    };
    return [make(), make()];
  }

  async *values(options) {
    const preventCancel = options?.preventCancel ?? false;
    const reader = this.getReader();
    let isDone = false;
    try {
      for (;;) {
        const { value, done } = await reader.read();
        isDone = done;
        if (done) return;
        yield value;
      }
    } catch (error) {
      isDone = true;
      throw error;
    } finally {
      if (!isDone && !preventCancel) await reader.cancel();
      reader.releaseLock();
    }
  }

  [Symbol.asyncIterator](options) {
    return this.values(options);
  }
}

/** Whether somebody has read of the stream, or canceled it. */
export function isDisturbed(stream) {
  return readables.get(stream).isDisturbed;
}

/** The state of a WritableStream, and what changes it. */
class Writable {
  status = "writable";
  error = undefined;
  queue = [];
  queued = 0;
  writer = null;
  ready = deferred();
  closing = null;
  isBusy = true;
  /** What was aborted, until it is settled: what the sink has at that time is waited for. */
  abortion = null;

  constructor(sink, { mark, size }) {
    this.sink = sink;
    this.mark = mark;
    this.size = size;
    this.signals = new AbortController();
    this.controller = new WritableStreamDefaultController(SECRET, this);
    this.update();
    const begin = () => {
      this.isBusy = false;
      this.settle();
      this.work();
    };
    const started = sink.start?.(this.controller);
    if (started === undefined) begin();
    else Promise.resolve(started).then(begin, (error) => this.startFailed(error));
  }

  startFailed(error) {
    this.isBusy = false;
    this.fail(error);
  }

  get desired() {
    if (this.status === "errored") return null;
    return this.status === "closed" ? 0 : this.mark - this.queued;
  }

  /** `ready` is pending exactly while there is back pressure. */
  update() {
    const isFull = this.status === "writable" && !this.closing && this.desired <= 0;
    if (!isFull) this.ready.resolve();
    else if (this.isReady) this.ready = deferred();
    this.isReady = !isFull;
  }

  write(chunk) {
    if (this.status === "errored") return Promise.reject(this.error);
    if (this.status === "closed" || this.closing) return Promise.reject(new TypeError("the stream is closed"));
    const done = deferred();
    let size;
    try {
      size = sizeOf(this.size, chunk);
    } catch (error) {
      this.fail(error);
      return Promise.reject(error);
    }
    this.queue.push({ chunk, size, done });
    this.queued += size;
    this.update();
    this.work();
    return done.promise;
  }

  close() {
    if (this.status === "errored") return Promise.reject(this.error);
    if (this.status === "closed" || this.closing) return Promise.reject(new TypeError("the stream is closed"));
    this.closing = deferred();
    this.update();
    this.work();
    return this.closing.promise;
  }

  async work() {
    if (this.isBusy || this.status !== "writable") return;
    this.isBusy = true;
    let done = null;
    try {
      while (this.queue.length > 0 && this.status === "writable") {
        const first = this.queue.shift();
        done = first.done;
        await this.sink.write?.(first.chunk, this.controller);
        this.queued -= first.size;
        done.resolve();
        done = null;
        if (this.status === "writable") this.update();
      }
      if (this.closing && this.status === "writable") {
        done = this.closing;
        await this.sink.close?.();
        // Also where it was aborted meanwhile.
        this.status = "closed";
        done.resolve();
        this.writer?.settled.resolve();
      }
    } catch (error) {
      done?.reject(error);
      this.fail(error);
    }
    this.isBusy = false;
    this.settle();
  }

  /** Nothing is written any more. What the sink has is waited for. */
  fail(error) {
    if (this.status !== "writable") return;
    this.status = "errored";
    this.error = error;
    this.ready.reject(error);
    if (this.isReady) {
      this.ready = deferred();
      this.ready.reject(error);
    }
    this.settle();
  }

  /** Tells who waits that the stream failed, once the sink has nothing in hand. */
  async settle() {
    if (this.isBusy || this.status === "writable") return;
    const { abortion } = this;
    this.abortion = null;
    if (this.status === "errored") {
      for (const { done } of this.queue.splice(0)) done.reject(this.error);
      try {
        if (abortion) await this.sink.abort?.(abortion.reason);
        abortion?.done.resolve();
      } catch (error) {
        abortion.done.reject(error);
      }
      this.closing?.reject(this.error);
      this.writer?.settled.reject(this.error);
    } else {
      abortion?.done.resolve();
    }
  }

  abort(reason) {
    if (this.abortion) return this.abortion.done.promise;
    if (this.status !== "writable") return Promise.resolve();
    const done = deferred();
    this.abortion = { reason, done };
    this.signals.abort(reason);
    this.fail(reason);
    return done.promise;
  }
}

export class WritableStreamDefaultController {
  #state;

  constructor(secret, state) {
    guard(secret);
    this.#state = state;
  }

  get signal() {
    return this.#state.signals.signal;
  }

  error(error) {
    this.#state.fail(error);
  }
}

export class WritableStreamDefaultWriter {
  #state;
  #handle;

  constructor(stream) {
    const state = writables.get(stream);
    if (!state) throw new TypeError("a writer writes to a WritableStream");
    if (state.writer) throw new TypeError("the stream is locked to another writer");
    this.#state = state;
    this.#handle = { settled: deferred() };
    state.writer = this.#handle;
    if (state.status === "closed") this.#handle.settled.resolve();
    if (state.status === "errored") this.#handle.settled.reject(state.error);
  }

  #locked() {
    if (!this.#state) throw new TypeError("the writer's lock was released");
    return this.#state;
  }

  get closed() {
    return this.#handle.settled.promise;
  }

  get ready() {
    return this.#state ? this.#state.ready.promise : Promise.reject(new TypeError("the writer's lock was released"));
  }

  get desiredSize() {
    return this.#locked().desired;
  }

  async write(chunk) {
    return this.#locked().write(chunk);
  }

  async close() {
    return this.#locked().close();
  }

  async abort(reason) {
    return this.#locked().abort(reason);
  }

  releaseLock() {
    if (!this.#state) return;
    this.#state.writer = null;
    this.#state = null;
    const error = new TypeError("the writer's lock was released");
    this.#handle.settled.reject(error);
    this.#handle = { settled: deferred() };
    this.#handle.settled.reject(error);
  }
}

export class WritableStream {
  constructor(sink = {}, strategy = {}) {
    writables.set(this, new Writable(sink ?? {}, strategyOf(strategy, 1)));
  }

  get locked() {
    return writables.get(this).writer !== null;
  }

  getWriter() {
    return new WritableStreamDefaultWriter(this);
  }

  async abort(reason) {
    if (this.locked) throw new TypeError("the stream is locked to a writer");
    return writables.get(this).abort(reason);
  }

  async close() {
    if (this.locked) throw new TypeError("the stream is locked to a writer");
    return writables.get(this).close();
  }
}

export class TransformStreamDefaultController {
  #readable;
  #fail;
  #room;

  constructor(secret, readable, fail, room) {
    guard(secret);
    this.#readable = readable;
    this.#fail = fail;
    this.#room = room;
  }

  /** Waits until somebody wants more, or throws what the stream was given up for. */
  static roomFor(controller) {
    return controller.#room();
  }

  get desiredSize() {
    return this.#readable.desiredSize;
  }

  enqueue(chunk) {
    this.#readable.enqueue(chunk);
  }

  error(error) {
    this.#fail(error);
  }

  terminate() {
    this.#readable.close();
    this.#fail(new TypeError("the stream was terminated"), true);
  }
}

export const roomFor = TransformStreamDefaultController.roomFor;
delete TransformStreamDefaultController.roomFor;

export class TransformStream {
  #readable;
  #writable;

  constructor(transformer, writableStrategy, readableStrategy) {
    transformer ??= {};
    let output;
    let input;
    let room = deferred();
    const fail = (error, isEnded = false) => {
      if (!isEnded) output.error(error);
      input?.error(error);
      room.resolve();
    };
    this.#readable = new ReadableStream(
      {
        start(controller) {
          output = controller;
        },
        pull() {
          room.resolve();
        },
        async cancel(reason) {
          await transformer.cancel?.(reason);
          input.error(reason);
          room.resolve();
        },
      },
      { highWaterMark: readableStrategy?.highWaterMark ?? 0, size: readableStrategy?.size },
    );
    const untilRoom = async () => {
      if (output.desiredSize > 0) return;
      room = deferred();
      if (readables.get(readable).reads.length === 0) await room.promise;
      // It was given up meanwhile.
      const { status, error } = writables.get(writable);
      if (status === "errored") throw error;
    };
    const controller = new TransformStreamDefaultController(SECRET, output, fail, untilRoom);
    const guarded = async (work) => {
      try {
        await work();
      } catch (error) {
        fail(error);
        throw error;
      }
    };
    this.#writable = new WritableStream(
      {
        start(given) {
          input = given;
          input.signal.addEventListener("abort", () => room.resolve());
          return transformer.start?.(controller);
        },
        async write(chunk) {
          if (output.desiredSize <= 0) await untilRoom();
          await guarded(async () => {
            if (transformer.transform) await transformer.transform(chunk, controller);
            else output.enqueue(chunk);
          });
        },
        async close() {
          await guarded(async () => {
            await transformer.flush?.(controller);
          });
          if (readables.get(readable).status === "readable") output.close();
        },
        async abort(reason) {
          await transformer.cancel?.(reason);
          output.error(reason);
        },
      },
      writableStrategy,
    );
    const [readable, writable] = [this.#readable, this.#writable];
  }

  get readable() {
    return this.#readable;
  }

  get writable() {
    return this.#writable;
  }
}

export class TextEncoderStream extends TransformStream {
  constructor() {
    // Half of a character whose other half may come.
    let half = "";
    super({
      transform(chunk, controller) {
        let text = half + String(chunk);
        const last = text.charCodeAt(text.length - 1);
        half = last >= 0xd800 && last <= 0xdbff ? text.slice(-1) : "";
        if (half) text = text.slice(0, -1);
        if (text) controller.enqueue(encode(text));
      },
      flush(controller) {
        if (half) controller.enqueue(encode(half));
      },
    });
  }

  get encoding() {
    return "utf-8";
  }
}

export class TextDecoderStream extends TransformStream {
  constructor(label, options) {
    const decoder = new TextDecoder(label, options);
    const pass = (text, controller) => {
      if (text) controller.enqueue(text);
    };
    super({
      transform: (chunk, controller) => pass(decoder.decode(chunk, { stream: true }), controller),
      flush: (controller) => pass(decoder.decode(), controller),
    });
  }

  get encoding() {
    return "utf-8";
  }
}
