// What the environment has, checked from inside. The engine's tests run it, and docs/javascript.md holds the table that they
// make of its answer.

function equal(got, wanted) {
  const [a, b] = [JSON.stringify(got), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${a} is not ${b}`);
}

async function throws(run, name) {
  try {
    await run();
  } catch (error) {
    return equal(error.name, name);
  }
  throw new Error(`no ${name} was thrown`);
}

const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");
const bytes = (text) => new TextEncoder().encode(text);

/** Where in a stack the frames begin. */
const titleOf = (error) => error.stack.split("\n    at ")[0].trimEnd();

/** What is compressed, and several in one. */
const pressed = (format, data) => new Response(new Response(data).body.pipeThrough(new CompressionStream(format))).bytes();
const together = (...parts) => new Blob(parts).bytes();
const unpressed = (format, data) => new Response(new Response(data).body.pipeThrough(new DecompressionStream(format))).bytes();

async function collected(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

const CHECKS = {
  "AbortController, AbortSignal": {
    async "abort, reason, abort event"() {
      const controller = new AbortController();
      let heard = 0;
      controller.signal.addEventListener("abort", () => heard++);
      controller.abort(new Error("enough"));
      controller.abort();
      equal([controller.signal.aborted, controller.signal.reason.message, heard], [true, "enough", 1]);
      await throws(() => controller.signal.throwIfAborted(), "Error");
    },
    async "AbortSignal.timeout"() {
      const signal = AbortSignal.timeout(1);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      equal(signal.reason.name, "TimeoutError");
    },
    async "AbortSignal.any, AbortSignal.abort"() {
      equal(AbortSignal.any([new AbortController().signal, AbortSignal.abort("x")]).reason, "x");
    },
  },
  "atob, btoa": {
    async "both ways, and what is no base64"() {
      equal([btoa("h\xe9arth"), atob("aOlhcnRo")], ["aOlhcnRo", "h\xe9arth"]);
      await throws(() => atob("a"), "InvalidCharacterError");
    },
  },
  "Blob, File": {
    async "parts, slice, text, stream"() {
      const blob = new Blob(["ab", bytes("cd"), new Blob(["ef"])], { type: "text/plain" });
      equal([blob.size, blob.type, await blob.slice(1, 4).text()], [6, "text/plain", "bcd"]);
      equal(await new Response(blob.stream()).text(), "abcdef");
      equal(new File(["x"], "a.txt").name, "a.txt");
    },
  },
  "CompressionStream, DecompressionStream": {
    async "gzip, deflate, deflate-raw"() {
      const text = "again and ".repeat(20_000);
      for (const format of ["gzip", "deflate", "deflate-raw"]) {
        const pressed = await new Response(new Response(text).body.pipeThrough(new CompressionStream(format))).bytes();
        if (!(pressed.length < text.length / 100)) throw new Error(`${format}: ${pressed.length}`);
        const read = (bytes) => new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format))).text();
        equal((await read(pressed)) === text, true);
        await throws(() => read(pressed.subarray(0, -9)), "TypeError");
        await throws(() => read(pressed.map((byte) => byte ^ 85)), "TypeError");
      }
      await throws(() => new CompressionStream("br"), "TypeError");
    },
    async "members one behind the other, and nothing else behind them"() {
      const [none, x, full] = [await pressed("gzip", ""), await pressed("gzip", "x"), await pressed("gzip", new Uint8Array(65536 * 2))];
      equal(hex(await unpressed("gzip", await together(none, none, x))), "78");
      equal((await unpressed("gzip", await together(full, x, none, full))).length, 65536 * 4 + 1);
      for (const format of ["gzip", "deflate", "deflate-raw"]) {
        for (const data of ["", "x", new Uint8Array(65536)]) {
          const more = await together(await pressed(format, data), "more");
          await throws(() => unpressed(format, more), "TypeError");
        }
      }
    },
    async "no more is made than is read"() {
      const { readable, writable } = new DecompressionStream("gzip");
      const writer = writable.getWriter();
      let isWritten = false;
      writer.write(await pressed("gzip", new Uint8Array(1_000_000))).then(() => void (isWritten = true));
      const closed = writer.close();
      const reader = readable.getReader();
      let length = (await reader.read()).value.length;
      await new Promise((resolve) => setTimeout(resolve, 5));
      equal(isWritten, false);
      for (let next = await reader.read(); !next.done; next = await reader.read()) length += next.value.length;
      await closed;
      equal([isWritten, length], [true, 1_000_000]);
      // Who gives up is not waited for.
      for (const end of ["abort", "cancel"]) {
        const stream = new DecompressionStream("gzip");
        const [from, to] = [stream.readable.getReader(), stream.writable.getWriter()];
        const written = to.write(await pressed("gzip", new Uint8Array(1_000_000)));
        await from.read();
        await (end === "abort" ? to.abort(new RangeError("enough")) : from.cancel(new RangeError("enough")));
        await throws(() => written, "RangeError");
      }
    },
  },
  console: {
    async "levels, formats, objects"() {
      console.log("%s is %d", "one", 1, { a: [1, { b: new Map([["k", 2]]) }] });
      console.warn(new Error("shown"));
      console.log(new Request("http://a/b"), new Response(null, { headers: { x: "shown" } }), { url: new URL("http://c/") });
      console.log(Object.assign(new RangeError("far"), { code: 7 }), new AggregateError([new Error("inner")], "all"));
      const failing = () => {
        throw new Error("no");
      };
      console.log({ get lazy() { return failing(); } }, new Proxy({}, { ownKeys: failing, getPrototypeOf: failing }));
      console.clear();
      console.dirxml("x");
    },
  },
  crypto: {
    async "getRandomValues, randomUUID"() {
      const [a, b] = [crypto.getRandomValues(new Uint8Array(16)), crypto.getRandomValues(new Uint8Array(16))];
      if (hex(a) === hex(b)) throw new Error("twice the same");
      equal(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true);
      await throws(() => crypto.getRandomValues(new Float32Array(1)), "TypeMismatchError");
    },
    async "subtle.digest: SHA-1, SHA-256, SHA-384, SHA-512"() {
      const digests = { "SHA-1": "a9993e36", "SHA-256": "ba7816bf", "SHA-384": "cb00753f", "SHA-512": "ddaf35a1" };
      for (const [name, start] of Object.entries(digests)) {
        equal(hex(await crypto.subtle.digest(name, bytes("abc"))).slice(0, 8), start);
      }
      await throws(() => crypto.subtle.digest("MD5", bytes("")), "NotSupportedError");
    },
    async "subtle with HMAC keys: importKey, generateKey, exportKey, sign, verify"() {
      const algorithm = { name: "HMAC", hash: "SHA-256" };
      const key = await crypto.subtle.importKey("raw", bytes("key"), algorithm, true, ["sign", "verify"]);
      const signature = await crypto.subtle.sign("HMAC", key, bytes("The quick brown fox jumps over the lazy dog"));
      equal(hex(signature), "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8");
      equal(await crypto.subtle.verify("HMAC", key, signature, bytes("another")), false);
      equal((await crypto.subtle.exportKey("raw", await crypto.subtle.generateKey(algorithm, true, ["sign"]))).byteLength, 64);
      const jwk = await crypto.subtle.exportKey("jwk", key);
      equal(jwk, { kty: "oct", k: "a2V5", alg: "HS256", ext: true, key_ops: ["sign", "verify"] });
      const again = await crypto.subtle.importKey("jwk", jwk, algorithm, false, ["verify"]);
      equal(await crypto.subtle.verify("HMAC", again, signature, bytes("The quick brown fox jumps over the lazy dog")), true);
      await throws(() => crypto.subtle.importKey("raw", bytes(""), algorithm, true, ["sign"]), "DataError");
      await throws(() => crypto.subtle.importKey("raw", bytes("key"), algorithm, true, ["encrypt"]), "SyntaxError");
      await throws(() => crypto.subtle.generateKey(algorithm, true, []), "SyntaxError");
    },
  },
  "Event, EventTarget, CustomEvent": {
    async "ErrorEvent, MessageEvent, PromiseRejectionEvent"() {
      const error = new RangeError("far");
      const event = new ErrorEvent("error", { message: "m", lineno: 3, error });
      equal([event.type, event.message, event.lineno, event.error === error], ["error", "m", 3, true]);
      equal(new MessageEvent("message", { data: [1] }).data, [1]);
      const promise = Promise.resolve();
      equal(new PromiseRejectionEvent("unhandledrejection", { promise, reason: 4 }).reason, 4);
      await throws(() => new PromiseRejectionEvent("x", {}), "TypeError");
    },
    async "listeners, once, dispatch"() {
      const target = new EventTarget();
      const heard = [];
      target.addEventListener("x", (event) => heard.push(event.detail), { once: true });
      target.dispatchEvent(new CustomEvent("x", { detail: 1 }));
      target.dispatchEvent(new CustomEvent("x", { detail: 2 }));
      equal(heard, [1]);
    },
    async "what is removed while it is dispatched, phases, and again"() {
      const target = new EventTarget();
      const heard = [];
      const second = () => heard.push("second");
      target.addEventListener("x", (event) => {
        heard.push(event.eventPhase, event.composedPath()[0] === target);
        target.removeEventListener("x", second);
        event.stopImmediatePropagation();
      }, { once: true });
      target.addEventListener("x", second);
      target.addEventListener("x", () => heard.push("third"));
      const event = new Event("x");
      target.dispatchEvent(event);
      equal([heard, event.eventPhase, event.composedPath()], [[2, true], 0, []]);
      target.dispatchEvent(event);
      equal(heard, [2, true, "third"]);
    },
  },
  fetch: {
    async "answers, headers, bodies both ways"(base) {
      const answer = await fetch(`${base}/echo`, { method: "POST", body: "ping", headers: { "x-sent": "yes" } });
      equal([answer.status, answer.ok, await answer.text()], [200, true, "ping"]);
    },
    async "lengths are those of bodies, whatever is copied"(base) {
      const sent = async (init) => (await fetch(`${base}/seen`, { method: "POST", ...init })).text();
      const headers = { "content-length": "3" };
      equal(await sent({ headers, body: "longer than that" }), "16 16");
      equal(await sent({ headers, body: ReadableStream.from([bytes("longer"), bytes(" too")]) }), "none 10");
      equal([await sent({}), await sent({ headers })], ["0 0", "0 0"]);
      // What came with a length goes on with it.
      equal(await sent({ body: (await fetch(`${base}/hello`)).body }), "5 5");
    },
    async "gzip and deflate are decoded"(base) {
      const answer = await fetch(`${base}/gzip`, { headers: { "accept-encoding": "br;q=1, gzip, zstd" } });
      equal([answer.headers.get("x-asked").trim(), answer.headers.get("content-encoding")], ["gzip", null]);
      equal(await answer.text(), "squeezed ".repeat(20));
      equal(await new Response((await fetch(`${base}/gzip`)).body).text(), "squeezed ".repeat(20));
      const { body } = await fetch(`${base}/gzip`);
      equal(await (await fetch(`${base}/seen`, { method: "POST", body })).text(), "none 180");
    },
    async "encoded bodies in small pieces, in several, and with more behind them"(base) {
      const read = async (encoding, body) => {
        const answer = await fetch(`${base}/as`, { method: "POST", body, headers: { "x-encoding": encoding } });
        return answer.text();
      };
      const [none, x, deflated, raw] = [await pressed("gzip", ""), await pressed("gzip", "x"), await pressed("deflate", "x"), await pressed("deflate-raw", "x")];
      const slowly = (data) =>
        ReadableStream.from(
          (async function* () {
            for (const byte of data) {
              yield Uint8Array.of(byte);
              await new Promise((resolve) => setTimeout(resolve, 2));
            }
          })(),
        );
      equal([await read("gzip", await together(none, x, none, x)), await read("gzip", slowly(x))], ["xx", "x"]);
      equal([await read("deflate", slowly(deflated)), await read("deflate", slowly(raw))], ["x", "x"]);
      equal([await read("gzip", await together(x, "more")), await read("gzip", await together(x, new Uint8Array(9)))], ["x", "x"]);
      equal([await read("deflate", await together(deflated, "more")), await read("deflate", await together(raw, "more"))], ["x", "x"]);
      equal(await read("gzip", slowly(await together(x, "more"))), "x");
      await throws(() => read("gzip", "more"), "TypeError");
      await throws(async () => read("gzip", await together(x, x.subarray(0, -1))), "TypeError");
    },
    async "answers without a body, and without a fragment"(base) {
      const answer = await fetch(`${base}/304#part`);
      equal([answer.body, new Response(answer.body, answer).status, answer.url], [null, 304, `${base}/304`]);
      equal((await fetch(`${base}/hello`, { method: "HEAD" })).body, null);
    },
    async "a stream as the body"(base) {
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      writer.write(bytes("one "));
      writer.write(bytes("two")).then(() => writer.close());
      equal(await (await fetch(`${base}/echo`, { method: "POST", body: readable, duplex: "half" })).text(), "one two");
    },
    async "redirections, and manual ones"(base) {
      const followed = await fetch(`${base}/redirect`);
      equal([followed.redirected, new URL(followed.url).pathname, await followed.text()], [true, "/hello", "hello"]);
      equal((await fetch(`${base}/redirect`, { redirect: "manual" })).status, 302);
      await throws(() => fetch(`${base}/redirect`, { redirect: "error" }), "TypeError");
    },
    async "abort by signal"(base) {
      await throws(() => fetch(`${base}/never`, { signal: AbortSignal.timeout(20) }), "TimeoutError");
    },
    async "abort of a body that stalls, and of one that is sent"(base) {
      const stalled = async (read) => read(await fetch(`${base}/stalls`, { signal: AbortSignal.timeout(50) }));
      await throws(() => stalled((answer) => answer.text()), "TimeoutError");
      const reader = (await fetch(`${base}/stalls`, { signal: AbortSignal.timeout(50) })).body.getReader();
      equal((await reader.read()).value.length, 5);
      await throws(() => reader.read(), "TimeoutError");
      let canceled;
      const body = new ReadableStream({ cancel: (reason) => void (canceled = reason.name) });
      await throws(() => fetch(`${base}/seen`, { method: "POST", body, signal: AbortSignal.timeout(20) }), "TimeoutError");
      equal(canceled, "TimeoutError");
    },
    async "abort between an answer and who waits for it"(base) {
      for (let more = 0; more < 6; more++) {
        const controller = new AbortController();
        const one = fetch(`${base}/hello`);
        const other = fetch(`${base}/stalls`, { signal: controller.signal });
        one.then(async () => {
          for (let i = 0; i < more; i++) await null;
          controller.abort();
        });
        // Both answers are there when somebody looks.
        for (const until = Date.now() + 20; Date.now() < until; );
        await throws(async () => (await other).text(), "AbortError");
      }
    },
    async "a body that is not sent is canceled"() {
      const canceled = [];
      const body = () => new ReadableStream({ cancel: (reason) => void canceled.push(reason.name) });
      await throws(() => fetch("http://denied.invalid/", { method: "POST", body: body() }), "TypeError");
      await throws(() => fetch("ftp://denied.invalid/", { method: "POST", body: body() }), "TypeError");
      await throws(() => fetch("http://denied.invalid/", { method: "POST", body: body(), signal: AbortSignal.abort() }), "AbortError");
      equal(canceled, ["TypeError", "TypeError", "AbortError"]);
    },
    async "a body that fails"(base) {
      const fails = new ReadableStream({ pull: () => Promise.reject(new RangeError("torn")) });
      await throws(() => fetch(`${base}/echo`, { method: "POST", body: fails }), "RangeError");
      await throws(() => fetch(`${base}/echo`, { method: "POST", body: ReadableStream.from(["text"]) }), "TypeError");
    },
    async "a host that no rule names is denied"() {
      await throws(() => fetch("http://elsewhere.example/"), "TypeError");
    },
  },
  FormData: {
    async "fields, files, as a body and from one"() {
      const form = new FormData();
      form.append("a", "1");
      form.append("a", "2");
      form.append("file", new Blob(["data"], { type: "text/x" }), "f.txt");
      const read = await new Response(form).formData();
      equal([read.getAll("a"), read.get("file").name, await read.get("file").text()], [["1", "2"], "f.txt", "data"]);
      const encoded = new Response("b=x+y", { headers: { "content-type": "application/x-www-form-urlencoded" } });
      equal((await encoded.formData()).get("b"), "x y");
    },
  },
  Headers: {
    async "names, values, order, set-cookie"() {
      const headers = new Headers({ B: "1", a: " 2 " });
      headers.append("b", "3");
      headers.append("set-cookie", "x");
      headers.append("set-cookie", "y");
      equal([...headers], [["a", "2"], ["b", "1, 3"], ["set-cookie", "x"], ["set-cookie", "y"]]);
      equal(headers.getSetCookie(), ["x", "y"]);
      await throws(() => headers.set("a b", "1"), "TypeError");
      equal([...new Headers([["a", undefined]])], [["a", "undefined"]]);
      await throws(() => new Headers([["a"]]), "TypeError");
    },
  },
  "node:async_hooks": {
    async "AsyncLocalStorage follows await, then, timers and callbacks"() {
      const { AsyncLocalStorage, AsyncResource } = await import("node:async_hooks");
      const storage = new AsyncLocalStorage();
      const other = new AsyncLocalStorage();
      const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
      async function* numbers() {
        yield storage.getStore();
        await pause(1);
        yield storage.getStore();
      }
      const follow = async (milliseconds) => {
        const seen = [storage.getStore()];
        await pause(milliseconds);
        seen.push(storage.getStore());
        await null;
        seen.push(storage.getStore());
        await Promise.resolve().then(() => seen.push(storage.getStore()));
        await { then: (resolve) => resolve(seen.push(storage.getStore())) };
        await new Promise((resolve) => queueMicrotask(() => resolve(seen.push(storage.getStore()))));
        for await (const value of numbers()) seen.push(value);
        try {
          await Promise.reject(new Error("x"));
        } catch {
          seen.push(storage.getStore());
        }
        other.run("inner", () => seen.push(storage.getStore() + other.getStore()));
        return seen.join();
      };
      // Side by side, the first one the slowest.
      const all = await Promise.all([3, 2, 1].map((value) => storage.run(value, follow, value)));
      equal(all, [3, 2, 1].map((value) => `${Array(9).fill(value).join()},${value}inner`));
      equal(storage.getStore(), undefined);
      equal(storage.run(1, () => storage.exit(() => storage.getStore()) ?? "none"), "none");
      const bound = storage.run("then", () => AsyncLocalStorage.bind(() => storage.getStore()));
      const resource = storage.run("made", () => new AsyncResource("x"));
      equal([bound(), resource.runInAsyncScope(() => storage.getStore())], ["then", "made"]);
      await (async () => {
        storage.enterWith("entered");
        await pause(0);
        equal(storage.getStore(), "entered");
      })();
      equal(storage.run("a", () => storage.run("b", () => storage.getStore())), "b");
    },
  },
  "performance": {
    async "marks and measures"() {
      performance.mark("begin", { startTime: 5 });
      const { duration } = performance.measure("all", "begin");
      equal([duration > 0, performance.getEntriesByName("all").length], [true, 1]);
    },
    async "now, timeOrigin"() {
      const before = performance.now();
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (!(performance.now() - before >= 1)) throw new Error("time stands still");
      if (Math.abs(performance.timeOrigin + performance.now() - Date.now()) > 1000) throw new Error("another time");
    },
  },
  queueMicrotask: {
    async "before timers"() {
      const order = [];
      await new Promise((resolve) => {
        setTimeout(() => resolve(order.push("timer")), 0);
        queueMicrotask(() => order.push("task"));
      });
      equal(order, ["task", "timer"]);
    },
    async "what a task throws is told, and the next one runs"() {
      await new Promise((resolve) => {
        queueMicrotask(() => {
          throw new Error("of a task");
        });
        queueMicrotask(resolve);
      });
    },
  },
  "ReadableStream": {
    async "readers, cancel, async iteration, from, tee"() {
      let canceled;
      const source = { pull: (controller) => controller.enqueue(1), cancel: (reason) => void (canceled = reason) };
      const reader = new ReadableStream(source).getReader();
      equal(await reader.read(), { value: 1, done: false });
      await reader.cancel("done");
      equal(canceled, "done");
      const [left, right] = ReadableStream.from([1, 2, 3]).tee();
      equal([await collected(left), await collected(right)], [[1, 2, 3], [1, 2, 3]]);
    },
    async "errors, and locks"() {
      const stream = new ReadableStream({ pull: () => Promise.reject(new RangeError("x")) });
      await throws(() => collected(stream), "RangeError");
      const locked = ReadableStream.from([]);
      locked.getReader();
      await throws(() => locked.getReader(), "TypeError");
      let isMade = false;
      await new Promise((resolve) => {
        const stream = new ReadableStream({ pull: () => resolve(equal([isMade, stream.locked], [true, false])) });
        isMade = true;
      });
      for (const size of [-1, NaN, Infinity]) {
        const start = (controller) => controller.enqueue(1);
        await throws(() => new ReadableStream({ start }, { size: () => size }), "RangeError");
      }
    },
  },
  "Request, Response": {
    async "construction, clone, json, text, arrayBuffer, bytes, blob"() {
      const request = new Request("http://a/b", { method: "post", body: JSON.stringify({ x: 1 }) });
      equal([request.method, (await request.clone().json()).x, await request.text(), request.bodyUsed], ["POST", 1, '{"x":1}', true]);
      await throws(() => request.text(), "TypeError");
      const response = Response.json({ y: 2 }, { status: 201 });
      equal([response.status, response.headers.get("content-type"), await response.text()], [201, "application/json", '{"y":2}']);
      equal((await new Response("abc").arrayBuffer()).byteLength, 3);
      equal((await new Response(new URLSearchParams({ a: "b" })).bytes()).length, 3);
      await throws(() => new Response("x", { status: 204 }), "TypeError");
      equal(Response.redirect("http://a/", 303).headers.get("location"), "http://a/");
      equal([new Request("http://a/", null).method, Response.json(1, null).status, new Blob([], null).size], ["GET", 200, 0]);
      equal([new TransformStream(null).readable.getReader(null) !== null, new File([], "x", null).size], [true, 0]);
    },
  },
  structuredClone: {
    async "objects, cycles, maps, dates, buffers, errors; not functions"() {
      const value = { date: new Date(5), map: new Map([[1, new Set([2])]]), bytes: new Uint8Array([1, 2]), error: new RangeError("x") };
      value.self = value;
      const clone = structuredClone(value);
      equal(clone.self === clone, true);
      equal([clone.date.getTime(), clone.map.get(1).has(2), clone.bytes[1], clone.error.name], [5, true, 2, "RangeError"]);
      await throws(() => structuredClone(() => {}), "DataCloneError");
      const named = structuredClone(JSON.parse('{"__proto__":{"x":1}}'));
      equal([Object.getPrototypeOf(named) === Object.prototype, named.x, Object.keys(named)], [true, undefined, ["__proto__"]]);
      equal([structuredClone(new File(["ab"], "n.txt")).name, structuredClone({ a: 1 }, null).a], ["n.txt", 1]);
      const key = await crypto.subtle.generateKey({ name: "HMAC", hash: "SHA-1" }, true, ["sign"]);
      const held = [new URL("http://a/"), new Request("http://a/"), new Response(), new Headers(), new ReadableStream(), new EventTarget(), key];
      for (const value of [...held, (function* () {})(), [].values(), new WeakMap(), Promise.resolve()]) {
        await throws(() => structuredClone({ value }), "DataCloneError");
      }
    },
  },
  "TextEncoder, TextDecoder": {
    async "UTF-8, also in pieces, replaced or fatal"() {
      equal([...bytes("aß€😀")], [97, 195, 159, 226, 130, 172, 240, 159, 152, 128]);
      const decoder = new TextDecoder();
      equal(decoder.decode(new Uint8Array([0xe2, 0x82]), { stream: true }) + decoder.decode(new Uint8Array([0xac])), "€");
      equal(new TextDecoder().decode(new Uint8Array([0xff, 97])), "\ufffda");
      equal(new TextDecoder().decode(new Uint8Array([0xed, 0xa0, 0x80])), "\ufffd\ufffd\ufffd");
      equal(new TextDecoder().decode(new Uint8Array([97, 0xe2, 0x82, 97, 0xf0, 0x9f, 0x98])), "a\ufffda\ufffd");
      await throws(() => new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([0xff])), "TypeError");
      equal(new TextEncoder().encodeInto("a€", new Uint8Array(3)), { read: 1, written: 1 });
    },
    async "TextEncoderStream, TextDecoderStream"() {
      const stream = ReadableStream.from(["a", "€"]).pipeThrough(new TextEncoderStream()).pipeThrough(new TextDecoderStream());
      equal((await collected(stream)).join(""), "a€");
      const halves = ReadableStream.from(["\ud83d", "\ude00", "x\ud83d"]).pipeThrough(new TextEncoderStream());
      equal(await new Response(halves).text(), "😀x\ufffd");
    },
  },
  "setTimeout, setInterval": {
    async "order, arguments, clearing"() {
      const order = [];
      const cleared = setTimeout(() => order.push("never"), 1);
      clearTimeout(cleared);
      await new Promise((resolve) => {
        // Far apart: a busy machine may take its time between the two lines.
        setTimeout((word) => order.push(word), 300, "second");
        setTimeout(() => order.push("first"), 1);
        const interval = setInterval(() => order.push("again") === 4 && (clearInterval(interval), resolve()), 301);
      });
      equal(order, ["first", "second", "again", "again"]);
    },
    async "thousands, each after what the one before queued"() {
      const order = [];
      await new Promise((resolve) => {
        for (let at = 0; at < 3_000; at++) setTimeout(() => order.push(at), (at * 7) % 5);
        setTimeout(resolve, 5);
      });
      equal(order.length, 3_000);
      for (let delay = 0; delay < 5; delay++) {
        const alike = order.filter((at) => (at * 7) % 5 === delay);
        equal(alike, alike.toSorted((left, right) => left - right));
      }
      await new Promise((resolve) => {
        setTimeout(() => queueMicrotask(() => order.push("task")), 1);
        setTimeout(() => resolve(order.push("timer")), 1);
      });
      equal(order.slice(-2), ["task", "timer"]);
    },
  },
  "TransformStream, WritableStream": {
    async "pipeThrough, pipeTo, flush"() {
      const seen = [];
      const double = new TransformStream({
        transform: (chunk, controller) => controller.enqueue(chunk * 2),
        flush: (controller) => controller.enqueue("end"),
      });
      await ReadableStream.from([1, 2]).pipeThrough(double).pipeTo(new WritableStream({ write: (chunk) => void seen.push(chunk) }));
      equal(seen, [2, 4, "end"]);
    },
    async "errors go both ways"() {
      const failing = new TransformStream({ transform: () => { throw new RangeError("x"); } });
      await throws(() => collected(ReadableStream.from([1]).pipeThrough(failing)), "RangeError");
      const sink = new WritableStream({ write: () => Promise.reject(new SyntaxError("x")) });
      await throws(() => ReadableStream.from([1, 2, 3]).pipeTo(sink), "SyntaxError");
    },
    async "abort waits for what is written, and a lock that is released"() {
      const order = [];
      const write = () => new Promise((resolve) => setTimeout(() => resolve(order.push("written")), 5));
      const stream = new WritableStream({ write, abort: (reason) => void order.push(reason) });
      const writer = stream.getWriter();
      const written = writer.write(1);
      const second = writer.write(2).catch((error) => order.push(`not ${error}`));
      const closed = writer.closed.catch((error) => order.push(`closed ${error}`));
      await Promise.resolve();
      await writer.abort("enough");
      await Promise.all([written, second, closed]);
      equal(order.toSorted(), ["closed enough", "enough", "not enough", "written"]);
      equal(order.slice(0, 1), ["written"]);
      const released = new WritableStream().getWriter();
      const { closed: ended } = released;
      released.releaseLock();
      await throws(() => ended, "TypeError");
      await throws(() => released.closed, "TypeError");
    },
    async "back pressure"() {
      const { readable, writable } = new TransformStream();
      const writer = writable.getWriter();
      equal(writer.desiredSize, 1);
      writer.write(1);
      equal(writer.desiredSize, 0);
      equal((await readable.getReader().read()).value, 1);
      await writer.ready;
    },
  },
  "URL, URLSearchParams": {
    async "parts, relative ones, setters"() {
      const url = new URL("../c?x=1#y", "HTTP://user:pw@EXAMPLE.com:80/a/b/");
      equal(url.href, "http://user:pw@example.com/a/c?x=1#y");
      equal([url.origin, url.port, url.pathname, url.search, url.hash], ["http://example.com", "", "/a/c", "?x=1", "#y"]);
      url.searchParams.append("z", "ä b");
      url.port = "8080";
      equal(url.href, "http://user:pw@example.com:8080/a/c?x=1&z=%C3%A4+b#y");
      equal([url.username, url.password, url.host, url.hostname], ["user", "pw", "example.com:8080", "example.com"]);
      [url.password, url.protocol, url.host, url.pathname] = ["", "https", "other.example", "d e"];
      url.hash = url.search = "";
      equal(url.href, "https://user@other.example:8080/d%20e");
      equal([url.searchParams.size, url.password, url.search, url.hash], [0, "", "", ""]);
      url.port = "no";
      url.username = "";
      equal([url.href, url.username, `${url}`], ["https://other.example:8080/d%20e", "", JSON.parse(JSON.stringify(url))]);
    },
    async "schemes without hosts, and origins"() {
      const parts = (text) => {
        const { origin, username, password, host, pathname, search, hash } = new URL(text);
        return [origin, username + password + host, pathname, search, hash];
      };
      equal(parts("mailto:a@b.example?x#"), ["null", "", "a@b.example", "?x", ""]);
      equal(parts("file:///C|/x/../y"), ["null", "", "/C:/y", "", ""]);
      equal(parts("web+x:/.//p?"), ["null", "", "//p", "", ""]);
      equal(parts("blob:https://a.example:444/1"), ["https://a.example:444", "", "https://a.example:444/1", "", ""]);
      equal(parts("ws://u@h:80"), ["ws://h", "uh", "/", "", ""]);
    },
    async "hosts: IPv4, IPv6, international names"() {
      const hostOf = (text) => new URL(text).host;
      equal(["http://0x7f.1/", "http://[::1]:3/", "http://bücher.example/", "http://[2001:db8:0:0:1:0:0:1]/"].map(hostOf), [
        "127.0.0.1",
        "[::1]:3",
        "xn--bcher-kva.example",
        "[2001:db8::1:0:0:1]",
      ]);
      equal(["http://faß.example", "http://日本語。JP/", "http://1.2.3/"].map(hostOf), ["xn--fa-hia.example", "xn--wgv71a119e.jp", "1.2.0.3"]);
      for (const text of ["http://a b/", "http://256.256.256.256/", "http://[1::2::3]/", "http://a%00b/", "//a", "http://"]) {
        await throws(() => new URL(text), "TypeError");
      }
      equal([URL.canParse("x"), new URL("data:text/plain,hi").pathname], [false, "text/plain,hi"]);
    },
    async "search parameters"() {
      const params = new URLSearchParams("?b=2&a=1&b=3");
      params.sort();
      equal([params.toString(), params.getAll("b"), params.size], ["a=1&b=2&b=3", ["2", "3"], 3]);
      params.set("b", "x");
      params.delete("a");
      equal([...params], [["b", "x"]]);
      equal(`${new URLSearchParams({ q: "a", limit: undefined })}`, "q=a&limit=undefined");
      equal([new URLSearchParams("??a=1").get("?a"), `${new URL("http://h/??b=2").searchParams}`], ["1", "%3Fb=2"]);
      const { searchParams } = new URL("http://h/?a=%zz+%E4&=1&b&&c=%F0%9F%94%A5");
      equal([...searchParams.keys()], ["a", "", "b", "c"]);
      equal([...searchParams.values()], ["%zz \ufffd", "1", "", "🔥"]);
      equal([searchParams.has("b", ""), searchParams.has("b", "1"), searchParams.get("d")], [true, false, null]);
      equal(`${new URLSearchParams([["a b", "~*"], ["\ud800", "&="]])}`, "a+b=%7E*&%EF%BF%BD=%26%3D");
    },
  },
  "the language": {
    async "RegExp with named groups, look-behind and Unicode"() {
      equal(/(?<=\$)(?<n>\d+)/u.exec("a $42").groups.n, "42");
    },
    async "BigInt, Proxy, WeakRef, generators, iterator helpers"() {
      const held = {};
      equal([String(2n ** 64n), new Proxy({}, { get: () => 1 }).x, new WeakRef(held).deref() === held], ["18446744073709551616", 1, true]);
      equal([1, 2, 3].values().map((x) => x * 2).toArray(), [2, 4, 6]);
    },
    async "deep recursion is a RangeError"() {
      const deep = (n) => 1 + deep(n + 1);
      await throws(() => deep(0), "RangeError");
      const spread = (n) => Math.max(...[n].map(spread));
      await throws(() => spread(0), "RangeError");
      const replaced = () => "x".replace("x", replaced);
      await throws(replaced, "RangeError");
      const asked = async () => 1 + (await asked());
      await throws(asked, "RangeError");
    },
    async "and so is that of the engine itself"() {
      const nested = (make, times = 20_000) => {
        let value = 1;
        for (let at = 0; at < times; at++) value = make(value);
        return value;
      };
      await throws(() => JSON.parse("[".repeat(100_000)), "RangeError");
      await throws(() => JSON.parse('{"a":'.repeat(100_000)), "RangeError");
      await throws(() => JSON.parse("[".repeat(5_000) + "]".repeat(5_000), (key, value) => value), "RangeError");
      await throws(() => JSON.stringify(nested((a) => [a])), "RangeError");
      await throws(() => JSON.stringify(nested((a) => ({ a }))), "RangeError");
      await throws(() => nested((a) => [a]).flat(Infinity), "RangeError");
      await throws(() => String(nested((a) => [a])), "RangeError");
      await throws(() => structuredClone(nested((a) => [a])), "RangeError");
      await throws(() => nested((a) => new Proxy(Object(a), {})).x, "RangeError");
      await throws(() => "x" in nested((a) => Object.create(new Proxy(Object(a), {}))), "RangeError");
      await throws(() => nested((a) => (typeof a === "function" ? a : () => 1).bind(null), 2_000)(), "RangeError");
      await throws(() => new RegExp("(".repeat(100_000)), "SyntaxError");
      for (const text of ["(", "[", "{", "!", "-", "a?", "a=>", "`${", "new ", "x=", "async()=>{", "if(1)", "function f(){", "class A{[", "...[", "{a:", "let[", "await "]) {
        try {
          (0, eval)(text.repeat(50_000));
        } catch (error) {
          if (error.name !== "RangeError" && error.name !== "SyntaxError") throw error;
        }
      }
      console.log(nested((a) => [a]), nested((cause) => new Error("x", { cause }), 2_000));
    },
    async "the stack of an error begins with what it says"() {
      equal(titleOf(new RangeError("far")), "RangeError: far");
      try {
        null.x;
      } catch (error) {
        equal(titleOf(error), "TypeError: cannot read property 'x' of null");
      }
      await throws(() => new Headers([1]), "TypeError");
      // Getters of users are not called before there is an object.
      let called = 0;
      class Lazy extends Error {
        #text = "late";
        get message() {
          called++;
          return this.#text;
        }
      }
      equal([titleOf(new Lazy()), called, new Lazy().message], ["Error", 0, "late"]);
      equal(titleOf(new (class extends RangeError {})("near")), "RangeError: near");
      const { stack } = await new Response("{bad").json().catch((error) => error);
      if (/hearth:/.test(stack)) throw new Error(stack);
    },
    async "Intl"() {
      if (typeof Intl === "undefined") throw new Error("there is none");
    },
  },
};

// Every name of ECMA-429, the minimum common API of WinterTC, 2025.
const MINIMUM = `AbortController AbortSignal Blob ByteLengthQueuingStrategy CompressionStream CountQueuingStrategy Crypto CryptoKey
  CustomEvent DOMException DecompressionStream ErrorEvent Event EventTarget File FormData Headers MessageChannel MessageEvent
  MessagePort PromiseRejectionEvent ReadableByteStreamController ReadableStream ReadableStreamBYOBReader ReadableStreamBYOBRequest
  ReadableStreamDefaultController ReadableStreamDefaultReader Request Response SubtleCrypto TextDecoder TextDecoderStream
  TextEncoder TextEncoderStream TransformStream TransformStreamDefaultController URL URLPattern URLSearchParams WebAssembly
  WritableStream WritableStreamDefaultController WritableStreamDefaultWriter atob btoa clearInterval clearTimeout console crypto
  fetch globalThis navigator onerror onrejectionhandled onunhandledrejection performance queueMicrotask reportError self
  setInterval setTimeout structuredClone`.split(/\s+/);

/** What of some is there, where it is not all. */
const PARTS = { Crypto: "random values, digests and HMAC", CryptoKey: "HMAC", SubtleCrypto: "digests and HMAC", crypto: "as Crypto" };

/** Which of those are there, and which are not. */
function minimum() {
  const group = "ECMA-429";
  const told = (name) => (PARTS[name] ? `${name} (${PARTS[name]})` : name);
  const [there, missing] = [true, false].map((wanted) => MINIMUM.filter((name) => name in globalThis === wanted).map(told).join(", "));
  return [
    { group, name: there, problem: null },
    { group, name: missing, problem: "not there" },
  ];
}

export default {
  async fetch(request, env) {
    const results = [];
    for (const [group, checks] of Object.entries(CHECKS)) {
      for (const [name, check] of Object.entries(checks)) {
        try {
          const late = new Promise((_, reject) => setTimeout(() => reject(new Error("it takes too long")), 20_000));
          await Promise.race([check(env.BASE), late]);
          results.push({ group, name, problem: null });
        } catch (error) {
          results.push({ group, name, problem: `${error.name}: ${error.message} ${error.stack}` });
        }
      }
    }
    return Response.json([...results, ...minimum()]);
  },
};
