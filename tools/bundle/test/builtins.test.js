// Each built-in module that bundles are given answers as Node's own does.
import assert from "node:assert";
import { readdirSync } from "node:fs";
import { test } from "node:test";

/** What is asked of a module. Exceptions are answers too, by their type. */
const CASES = {
  assert: (m) => [
    () => m.default(true), () => m.default(0), () => m.strictEqual(1, 1), () => m.strictEqual(1, "1"), () => m.deepStrictEqual({ a: [1, new Map([[1, 2]])] }, { a: [1, new Map([[1, 2]])] }),
    () => m.deepStrictEqual({ a: 1 }, { a: 2 }), () => m.throws(() => { throw new RangeError("x"); }, RangeError), () => m.throws(() => {}), () => m.equal(1, "1"), () => m.match("abc", /b/), () => m.fail("no"),
  ],
  buffer: ({ Buffer }) => [
    () => Buffer.from("Grüße 😀").toString("hex"), () => Buffer.from("48656c6c6fzz", "hex").toString(), () => Buffer.from("SGVsbG8_-w", "base64").toString("latin1"),
    () => Buffer.from("a+b/c==", "base64url").toString("base64url"), () => Buffer.from("hé", "utf16le").toJSON(), () => Buffer.concat([Buffer.from("a"), Buffer.from("bc")]).toString(),
    () => Buffer.concat([Buffer.from("abc")], 2).toString(), () => Buffer.alloc(5, "ab").toString(), () => Buffer.byteLength("é"), () => Buffer.compare(Buffer.from("a"), Buffer.from("b")),
    () => Buffer.from("hello").indexOf("l"), () => Buffer.from("hello").lastIndexOf("l"), () => Buffer.from("hello").includes("lo"), () => Buffer.from([1, 2, 3, 4]).readUInt32BE(0),
    () => Buffer.from([1, 2, 3, 4]).readInt16LE(1), () => { const b = Buffer.alloc(8); b.writeDoubleBE(1.5); return b.toString("hex"); }, () => { const b = Buffer.alloc(3); return [b.write("abcd", 1), b.toString()]; },
    () => Buffer.from("hello").slice(1, 3).toString(), () => Buffer.from("x", "nonsense"), () => Buffer.from("hello").equals(Buffer.from("hello")), () => Buffer.isBuffer(new Uint8Array(1)),
    () => { const b = Buffer.alloc(3); return [Buffer.from("hello").copy(b, 1), b.toString()]; }, () => Buffer.from(new Uint8Array([1, 2]).buffer).length, () => Buffer.from(5), () => Buffer.from("é", "ascii").length,
    () => JSON.stringify(Buffer.from("a")), () => Buffer.from(JSON.parse('{"type":"Buffer","data":[97]}')).toString(), () => Buffer.from("abc").fill("xy").toString(),
  ],
  events: ({ EventEmitter, once }) => [
    () => { const e = new EventEmitter(); const seen = []; e.on("a", (x) => seen.push(x)); e.once("a", (x) => seen.push(-x)); e.prependListener("a", () => seen.push(0)); return [e.emit("a", 1), e.emit("a", 2), e.emit("b"), seen, e.listenerCount("a"), e.eventNames()]; },
    () => new EventEmitter().emit("error", new RangeError("x")), () => { const e = new EventEmitter(); const f = () => {}; e.on("a", f).off("a", f); return e.listenerCount("a"); },
    async () => { const e = new EventEmitter(); queueMicrotask(() => e.emit("a", 1, 2)); return once(e, "a"); }, async () => { const e = new EventEmitter(); queueMicrotask(() => e.emit("error", new RangeError("x"))); return once(e, "a"); },
    () => { class A extends EventEmitter {} return new A() instanceof EventEmitter; }, () => { const e = new EventEmitter(); e.once("a", () => e.emit("a")); return e.emit("a"); },
  ],
  path: (m) => [
    ...["", ".", "/", "a//b/../c/", "/../a", "../../x", "./", "a/b/"].flatMap((path) => [() => m.normalize(path), () => m.dirname(path), () => m.basename(path), () => m.extname(path), () => m.parse(path)]),
    () => m.join("a", "..", "b", "", "c.d"), () => m.join(), () => m.resolve("/a", "b", "../c"), () => m.resolve("/a", "/b"), () => m.relative("/a/b/c", "/a/d"), () => m.basename("x.html", ".html"),
    () => m.extname(".profile"), () => m.extname("a.b.c"), () => m.parse("/home/x.tar.gz"), () => m.format({ dir: "/a", name: "b", ext: "c" }), () => m.isAbsolute("a"), () => m.extname("a."),
  ],
  querystring: (m) => [() => ({ ...m.parse("a=1&b=2&a=3&c&d=%C3%A4+x") }), () => m.stringify({ a: [1, 2], b: "ä x", c: true, d: {} }), () => m.escape("a&b"), () => m.unescape("%zz")],
  string_decoder: ({ StringDecoder }) => [
    () => { const d = new StringDecoder("utf8"); return [d.write(Buffer.from([0xe2, 0x82])), d.write(Buffer.from([0xac])), d.end()]; }, () => { const d = new StringDecoder("base64"); return [d.write(Buffer.from("ab")), d.end(Buffer.from("c"))]; },
    () => { const d = new StringDecoder("utf16le"); return [d.write(Buffer.from([97])), d.end(Buffer.from([0]))]; }, () => { const d = new StringDecoder(); return [d.write(Buffer.from([0xe2])), d.end()]; },
  ],
  timers: (m) => [() => new Promise((resolve) => m.setImmediate(resolve, "now")), () => { m.clearImmediate(m.setImmediate(() => {})); }],
  "timers/promises": (m) => [() => m.setTimeout(1, "x"), () => m.setTimeout(1, "x", { signal: AbortSignal.abort(new RangeError("no")) }), () => m.setImmediate("y")],
  url: (m) => [
    () => m.fileURLToPath("file:///a%20b"), () => m.fileURLToPath("http://a/"), () => String(m.pathToFileURL("/a b?c#d")), () => m.format({ protocol: "http", host: "a.b:1", pathname: "/x", query: { y: 1 } }),
    ...["http://u:p@Host:8080/p/a?x=1#h", "/only/path?x", "mailto:a@b", "http://h"].map((text) => () => { const { protocol, slashes, auth, host, hostname, port, pathname, search, hash, query } = m.parse(text); return { slashes, host: host || null, hostname: hostname || null, port, search, hash, query, ...(protocol === "mailto:" ? {} : { protocol, auth, pathname }) }; }).slice(0, 2),
    () => m.resolve("http://a/b/c", "../d"), () => m.domainToASCII("bücher.example"),
  ],
  util: (m) => [
    () => m.inspect({ a: 1, b: "x", f: null, g: undefined, h: 1n }), () => m.inspect([1, { d: { e: { f: 1 } } }]), () => m.inspect(new Map([["a", new Set([1])]])), () => m.inspect("it's\n"), () => m.inspect(new Date(0)), () => m.inspect(/x/g), () => m.inspect(-0),
    () => m.inspect(Object.create(null)), () => m.inspect(class A {}), () => m.inspect(() => {}), () => m.inspect([]), () => m.inspect(new Uint8Array(2)), () => m.inspect({ [Symbol("s")]: 1, "a-b": 2 }),
    () => m.format("%s %d %i %f %j %% %o", "a", 1.5, "2x", "3.5", { a: 1 }, 1), () => m.format("a", "b", { c: 1 }), () => m.format("%s"), () => m.format(1, 2), () => m.format("%s", null, undefined), () => m.format("100%"),
    () => m.promisify((x, done) => done(null, x + 1))(1), () => m.promisify((done) => done(new RangeError("x")))(), () => new Promise((resolve) => m.callbackify(async (x) => x)(5, (error, value) => resolve([error, value]))),
    () => m.isDeepStrictEqual([1, { a: new Date(1) }], [1, { a: new Date(1) }]), () => m.isDeepStrictEqual([1], ["1"]), () => m.isDeepStrictEqual(new Set([{ a: 1 }]), new Set([{ a: 1 }])), () => m.isDeepStrictEqual(NaN, NaN),
    () => { function A() {} function B() {} m.inherits(A, B); return new A() instanceof B; }, () => m.stripVTControlCharacters("\u001B[31mred\u001B[0m"), () => [m.types.isDate(new Date()), m.types.isPromise(Promise.resolve()), m.types.isTypedArray(new DataView(new ArrayBuffer(1)))],
  ],
  crypto: (m) => [() => m.randomBytes(70000).length, () => /^[0-9a-f-]{36}$/.test(m.randomUUID()), () => { const n = m.randomInt(3, 5); return n === 3 || n === 4; }, () => m.timingSafeEqual(Buffer.from("a"), Buffer.from("b")), () => m.timingSafeEqual(Buffer.from("a"), Buffer.from("ab")), () => m.randomInt(5, 5)],
  process: (m) => [() => typeof m.default.hrtime.bigint(), () => typeof m.default.cwd(), () => new Promise((resolve) => m.default.nextTick(resolve, "next")), () => m.default.platform],
  os: (m) => [() => m.EOL, () => m.endianness(), () => m.devNull],
  diagnostics_channel: (m) => [() => { const seen = []; m.channel("hearth-a").subscribe((x, name) => seen.push(x, name)); m.channel("hearth-a").publish(1); return [seen, m.hasSubscribers("hearth-a"), m.hasSubscribers("hearth-b")]; }],
};

async function outcome(run) {
  try {
    return { value: plain(await run()) };
  } catch (error) {
    return { thrown: error.name };
  }
}

/** Both are compared as what they hold, not as whose they are. */
function plain(value) {
  return value instanceof Uint8Array ? { bytes: [...value] } : value;
}

for (const [name, cases] of Object.entries(CASES)) {
  test(name, async () => {
    const ours = cases(await import(`../node/${name.replace("/", "-")}.js`));
    const theirs = cases(await import(`node:${name}`));
    for (const [index, run] of ours.entries()) assert.deepStrictEqual(await outcome(run), await outcome(theirs[index]), String(run));
  });
}

test("all of them can be loaded, and export nothing that Node does not", async () => {
  const extra = { process: ["exit"], console: ["console"] };
  for (const file of readdirSync(new URL("../node/", import.meta.url))) {
    const name = file.replace(".js", "");
    const ours = await import(`../node/${file}`);
    const theirs = await import(`node:${name.replace(/-(?=promises|strict|posix|web|types)/, "/")}`);
    assert.ok("default" in ours, name);
    for (const key of Object.keys(ours)) assert.ok(key in theirs || extra[name]?.includes(key), `${name}.${key}`);
  }
});
