// Headers, Request and Response (Fetch Standard), over bodies that are bytes, streams, or the host's streams.
import * as host from "hearth:host";
import { AbortController } from "./events.js";
import { bytesOf, encode, isBytes, joined } from "./encoding.js";
import { Blob, FormData, blobBytes, decodeForm, encodeForm } from "./blob.js";
import { ReadableStream, isDisturbed } from "./streams.js";
import { URL, URLSearchParams } from "./url.js";

/** Bytes that are read of the host's streams at once. */
const PIECE = 65536;

/**
 * Headers of a connection and not of a message: the host makes its own, and what is copied from elsewhere is left out. So is a
 * length, which is that of the body that goes out.
 */
const OF_CONNECTIONS = [
  "connection",
  "content-length",
  "host",
  "http2-settings",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
];

function fieldName(name) {
  const text = String(name);
  const known = host.fieldName(text);
  if (known === undefined) throw new TypeError(`${JSON.stringify(text)} is no name of a header`);
  return known;
}

function fieldValue(value) {
  const text = String(value);
  const known = host.fieldValue(text);
  if (known === undefined) throw new TypeError(`${JSON.stringify(text)} is no value of a header`);
  return known;
}

export class Headers {
  #fields = new Map();

  constructor(init) {
    if (init === undefined || init === null) return;
    if (typeof init !== "object") throw new TypeError("headers are an object or pairs");
    if (init instanceof Headers) {
      for (const [name, values] of init.#fields) this.#fields.set(name, [...values]);
      return;
    }
    if (!init[Symbol.iterator]) {
      for (const name of Object.keys(init)) this.append(name, init[name]);
      return;
    }
    for (const pair of init) {
      const items = [...pair];
      if (items.length !== 2) throw new TypeError("a pair has two elements");
      this.append(items[0], items[1]);
    }
  }

  /** From names and values in turn, as the host has them. */
  static fromList(list) {
    const headers = new Headers();
    for (let at = 0; at < list.length; at += 2) headers.#add(list[at].toLowerCase(), list[at + 1]);
    return headers;
  }

  static toList(headers) {
    const list = [];
    for (const [name, values] of headers.#fields) {
      if (!OF_CONNECTIONS.includes(name)) for (const value of values) list.push(name, value);
    }
    return list;
  }

  /** Sets what is known to be a name, in small letters, and a value. */
  static put(headers, name, value) {
    headers.#fields.set(name, [value]);
  }

  /** Whether there is such a name, in small letters. */
  static hold(headers, name) {
    return headers.#fields.has(name);
  }

  /** The one value of such a name; undefined where there is none, or several. */
  static one(headers, name) {
    const values = headers.#fields.get(name);
    return values?.length === 1 ? values[0] : undefined;
  }

  /** All values of such a name. */
  static all(headers, name) {
    return headers.#fields.get(name)?.join(", ");
  }

  #add(name, value) {
    const values = this.#fields.get(name);
    if (values) values.push(value);
    else this.#fields.set(name, [value]);
  }

  append(name, value) {
    this.#add(fieldName(name), fieldValue(value));
  }

  set(name, value) {
    this.#fields.set(fieldName(name), [fieldValue(value)]);
  }

  delete(name) {
    this.#fields.delete(fieldName(name));
  }

  get(name) {
    return this.#fields.get(fieldName(name))?.join(", ") ?? null;
  }

  has(name) {
    return this.#fields.has(fieldName(name));
  }

  getSetCookie() {
    return [...(this.#fields.get("set-cookie") ?? [])];
  }

  forEach(callback, self) {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  *entries() {
    for (const name of [...this.#fields.keys()].sort()) {
      const values = this.#fields.get(name);
      if (name === "set-cookie") for (const value of values) yield [name, value];
      else yield [name, values.join(", ")];
    }
  }

  *keys() {
    for (const [name] of this.entries()) yield name;
  }

  *values() {
    for (const [, value] of this.entries()) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }
}

export const headersFrom = Headers.fromList;
const headersList = Headers.toList;
const putHeader = Headers.put;
const holdsHeader = Headers.hold;
const oneHeader = Headers.one;
const allHeaders = Headers.all;
delete Headers.fromList;
delete Headers.toList;
delete Headers.put;
delete Headers.hold;
delete Headers.one;
delete Headers.all;

/**
 * What is known of the host's streams of bodies, by handle: the `length` that the message said, the `encoding` that it is
 * decoded from, the `problem` that ended one, and what to `stop` when it is closed.
 */
const known = new Map();
/** The handles of streams that nobody has made but this file. */
const handles = new WeakMap();

/** Nothing is known of streams any more: the call that they came in is over. */
export function forgetStreams() {
  if (known.size === 0) return;
  // Signals may outlive it.
  for (const about of known.values()) about.stop?.();
  known.clear();
}

/** Notes what came with a body, and has `signal`, if there is one, end it. */
function noteHost(handle, headers, encoding, signal) {
  const length = oneHeader(headers, "content-length");
  if (length === undefined && !encoding && !signal) return;
  const about = { length: /^\d+$/.test(length) ? length : undefined, encoding };
  known.set(handle, about);
  if (signal) about.stop = onAbort(signal, () => endHost(handle, signal.reason));
}

/** Has `run` called when a signal is aborted. Returns what ends that. */
export function onAbort(signal, run) {
  signal.addEventListener("abort", run);
  return () => signal.removeEventListener("abort", run);
}

/** Ends a stream before its end: who reads it is told `problem`. */
export function endHost(handle, problem) {
  known.get(handle)?.stop?.();
  known.set(handle, { problem: { error: problem } });
  host.close(handle);
}

/** A stream was read, or is not asked for any more. */
export function closeHost(handle) {
  const about = known.get(handle);
  if (about) {
    about.stop?.();
    known.delete(handle);
  }
  host.close(handle);
}

/**
 * The headers of a message that goes out, as the host takes them, and whether it has a body. Its length is that of what goes
 * out, or nobody knows it before. An answer that came encoded goes on as it came to who `asked` for such.
 */
export function outgoing(headers, body, asked) {
  const list = headersList(headers);
  const { bytes, handle, stream } = body;
  const about = handle ? known.get(handle) : undefined;
  let length = bytes ? String(bytes.length) : about?.length;
  if (about?.encoding) {
    body.isPlain = !asked || holdsHeader(headers, "content-encoding") || !accepts(asked, about.encoding);
    if (body.isPlain) length = undefined;
    else list.push("content-encoding", about.encoding);
  }
  if (length !== undefined) list.push("content-length", length);
  return [list, bytes !== null || handle !== 0 || stream !== null];
}

/** Content codings that bodies of answers are decoded from. */
const ENCODINGS = ["deflate", "gzip", "x-gzip"];

/** Whether who asked for these encodings takes one. */
function accepts(asked, encoding) {
  const list = asked.toLowerCase().split(",");
  return list.some((item) => item.split(";")[0].trim() === encoding && !/;\s*q=0(\.0*)?\s*$/.test(item));
}

/** The encodings that a request asks for. */
export function askedEncodings(headers) {
  return allHeaders(headers, "accept-encoding");
}

/** Of the encodings that a request asks for, those that can be decoded. */
export function askDecodable(headers) {
  const asked = headers.get("accept-encoding");
  if (asked === null) return;
  const kept = asked.split(",").filter((item) => [...ENCODINGS, "identity"].includes(item.split(";")[0].trim().toLowerCase()));
  headers.set("accept-encoding", kept.join(",") || "identity");
}

/** The same for the answer to HEAD, which has no body and may say how long one would be. */
export function outgoingHead(headers, body) {
  const [list, isThere] = outgoing(headers, body);
  const length = isThere ? undefined : oneHeader(headers, "content-length");
  if (length !== undefined) list.push("content-length", length);
  dropBody(body);
  return list;
}

/** Nobody reads it. */
export function dropBody({ handle, stream }, reason) {
  if (handle) closeHost(handle);
  if (stream) host.handled(stream.cancel(reason));
}

/** The next bytes of a stream of the host's; null at its end. */
export async function readHost(handle) {
  for (;;) {
    const problem = known.get(handle)?.problem;
    if (problem) throw problem.error;
    const bytes = host.read(handle, PIECE);
    if (bytes !== undefined) return bytes;
    await host.wait(handle);
  }
}

/** The same, decoded where the body came encoded. */
export async function readPlain(handle) {
  const about = known.get(handle);
  if (!about?.encoding) return readHost(handle);
  for (;;) {
    const piece = about.press ? host.press(about.press) : null;
    if (piece) return piece;
    if (about.isAll) return null;
    let bytes = await readHost(handle);
    // Nothing at all is an answer without a body.
    if (bytes === null && !about.press) return null;
    // What it is, two bytes say.
    while (!about.press && bytes.length < 2) {
      const more = await readHost(handle);
      if (more === null) break;
      bytes = joined([bytes, more]);
    }
    about.press ??= host.pressing(formatOf(about.encoding, bytes), true, true);
    about.isAll = bytes === null;
    host.feed(about.press, bytes);
  }
}

/** What `deflate` is: some servers leave out what stands around it (RFC 9112, 7.2). */
function formatOf(encoding, [first, second]) {
  if (encoding !== "deflate") return "gzip";
  return (first & 15) === 8 && (first * 256 + second) % 31 === 0 ? "deflate" : "deflate-raw";
}

/** Writes all of `bytes` to a stream of the host's. */
export async function writeHost(handle, bytes) {
  let written = host.write(handle, bytes, 0);
  while (written < bytes.length) {
    await host.wait(handle);
    written += host.write(handle, bytes, written);
  }
}

function streamOfHost(handle) {
  const stream = new ReadableStream(
    {
      type: "bytes",
      async pull(controller) {
        const bytes = await readPlain(handle);
        if (bytes !== null) return controller.enqueue(bytes);
        closeHost(handle);
        controller.close();
      },
      cancel() {
        closeHost(handle);
      },
    },
    { highWaterMark: 0 },
  );
  handles.set(stream, handle);
  return stream;
}

/** The type of a body that is text. */
const TEXT = "text/plain;charset=UTF-8";

/** A body: nothing, or one of `bytes`, `handle` (of the host) and `stream`. */
class Body {
  #bytes = null;
  #handle = 0;
  #stream = null;
  #isUsed = false;

  /** Takes what a user gave. Returns the type that it implies. */
  static take(body, given) {
    if (given === null || given === undefined) return null;
    if (typeof given === "string") {
      body.#bytes = encode(given);
      return TEXT;
    }
    if (given instanceof ReadableStream) {
      if (given.locked || isDisturbed(given)) throw new TypeError("the stream is locked or was read from");
      body.#stream = given;
      return null;
    }
    if (isBytes(given)) {
      body.#bytes = bytesOf(given).slice();
      return null;
    }
    if (given instanceof Blob) {
      body.#bytes = blobBytes(given);
      return given.type || null;
    }
    if (given instanceof FormData) {
      const { bytes, type } = encodeForm(given);
      body.#bytes = bytes;
      return type;
    }
    body.#bytes = encode(String(given));
    return given instanceof URLSearchParams ? "application/x-www-form-urlencoded;charset=UTF-8" : TEXT;
  }

  static takeHandle(body, handle) {
    body.#handle = handle;
  }

  /** Moves `from`'s body: it counts as read. */
  static move(body, from) {
    if (from.bodyUsed) throw new TypeError("the body was read already");
    body.#bytes = from.#bytes;
    body.#handle = from.#handle;
    body.#stream = from.#stream;
    from.#isUsed = from.#isThere;
    from.#handle = 0;
  }

  /** What is in it, for who sends it. */
  static use(body) {
    if (body.bodyUsed || body.#stream?.locked) throw new TypeError("the body was read already");
    body.#isUsed = body.#isThere;
    const [bytes, stream] = [body.#bytes, body.#stream];
    let handle = body.#handle;
    body.#handle = 0;
    if (stream === null) return { bytes, handle, stream };
    handle = handles.get(stream);
    if (handle === undefined) return { bytes, handle: 0, stream };
    // Nobody has read of it, nor will.
    stream.getReader();
    return { bytes, handle, stream: null };
  }

  static share(body, from) {
    if (from.bodyUsed || from.#stream?.locked) throw new TypeError("the body was read already");
    body.#bytes = from.#bytes;
    if (from.#bytes === null && from.body) [from.#stream, body.#stream] = from.body.tee();
  }

  get #isThere() {
    return this.#bytes !== null || this.#handle !== 0 || this.#stream !== null;
  }

  get bodyUsed() {
    return this.#isUsed || (this.#stream !== null && isDisturbed(this.#stream));
  }

  get body() {
    if (this.#stream) return this.#stream;
    if (this.#handle) {
      this.#stream = streamOfHost(this.#handle);
      this.#handle = 0;
    } else if (this.#bytes !== null) {
      this.#stream = this.#bytes.length > 0 ? ReadableStream.from([this.#bytes]) : ReadableStream.from([]);
      this.#bytes = null;
    }
    return this.#stream;
  }

  async bytes() {
    const { bytes, handle, stream } = use(this);
    if (bytes) return bytes;
    const chunks = [];
    if (handle) {
      for (let chunk = await readPlain(handle); chunk !== null; chunk = await readPlain(handle)) chunks.push(chunk);
      closeHost(handle);
    } else if (stream) {
      for await (const chunk of stream) chunks.push(bytesOf(chunk));
    }
    return joined(chunks);
  }

  async arrayBuffer() {
    const { buffer, byteOffset, byteLength } = await this.bytes();
    return byteLength === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + byteLength);
  }

  async text() {
    const text = host.decode(await this.bytes(), false);
    return text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }

  async json() {
    return JSON.parse(await this.text());
  }

  async blob() {
    return new Blob([await this.bytes()], { type: this.headers.get("content-type") ?? "" });
  }

  async formData() {
    const type = this.headers.get("content-type") ?? "";
    if (/^multipart\/form-data\b/i.test(type)) return decodeForm(await this.bytes(), type);
    if (!/^application\/x-www-form-urlencoded\b/i.test(type)) throw new TypeError(`the type ${JSON.stringify(type)} is none of a form`);
    const form = new FormData();
    for (const [name, value] of new URLSearchParams(await this.text())) form.append(name, value);
    return form;
  }
}

const { take, takeHandle, move, use, share } = Body;
for (const name of ["take", "takeHandle", "move", "use", "share"]) delete Body[name];

export { use as useBody };

const SECRET = Symbol();
const USUAL_METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

export class Request extends Body {
  #url;
  #method = "GET";
  #headers;
  #signal;
  #redirect = "follow";

  constructor(input, init) {
    super();
    if (input === SECRET) {
      this.#url = init.url;
      this.#method = init.method;
      this.#headers = init.headers;
      if (init.handle) takeHandle(this, init.handle);
      return;
    }
    init ??= {};
    const source = input instanceof Request ? input : null;
    if (source) {
      this.#url = source.#url;
      this.#method = source.#method;
      this.#redirect = source.#redirect;
      this.#signal = source.#signal;
    } else {
      const url = new URL(input);
      if (url.username || url.password) throw new TypeError("a request's URL has no credentials");
      this.#url = url.href;
    }
    const { method, headers, body, signal, redirect } = init;
    if (method !== undefined) {
      const name = String(method);
      if (host.fieldName(name) === undefined || /^(connect|trace|track)$/i.test(name)) throw new TypeError(`the method ${name} is not allowed`);
      this.#method = USUAL_METHODS.includes(name.toUpperCase()) ? name.toUpperCase() : name;
    }
    if (redirect !== undefined) this.#redirect = String(redirect);
    if (signal !== undefined) this.#signal = signal ?? undefined;
    this.#headers = new Headers(headers ?? source?.headers);
    if (body !== undefined && body !== null) {
      if (this.#method === "GET" || this.#method === "HEAD") throw new TypeError(`a ${this.#method} request has no body`);
      const type = take(this, body);
      if (type && !holdsHeader(this.#headers, "content-type")) putHeader(this.#headers, "content-type", type);
    } else if (source) {
      move(this, source);
    }
  }

  get url() {
    return this.#url;
  }

  get method() {
    return this.#method;
  }

  get headers() {
    return this.#headers;
  }

  get redirect() {
    return this.#redirect;
  }

  get signal() {
    this.#signal ??= new AbortController().signal;
    return this.#signal;
  }

  /** The signal that it was given, if it was. */
  static givenSignal(request) {
    return request.#signal;
  }

  clone() {
    const copy = new Request(SECRET, { url: this.#url, method: this.#method, headers: new Headers(this.#headers) });
    copy.#signal = this.#signal;
    copy.#redirect = this.#redirect;
    share(copy, this);
    return copy;
  }
}

export const givenSignal = Request.givenSignal;
delete Request.givenSignal;

/** A request that came in. `handle` is the stream of its body, 0 for none. */
export function incomingRequest([method, url, list, handle, authority]) {
  const headers = headersFrom(list);
  // The host keeps it apart.
  if (!holdsHeader(headers, "host")) putHeader(headers, "host", authority);
  if (handle) noteHost(handle, headers);
  return new Request(SECRET, { method, url, headers, handle });
}

const BODILESS = [101, 103, 204, 205, 304];
const REDIRECTS = [301, 302, 303, 307, 308];

export class Response extends Body {
  #status = 200;
  #statusText = "";
  #headers;
  #url = "";
  #redirected = false;
  #type = "default";

  constructor(body = null, init = {}) {
    super();
    if (body === SECRET) {
      this.#status = init.status;
      this.#headers = init.headers;
      this.#url = init.url;
      this.#redirected = init.redirected;
      this.#type = "basic";
      if (init.handle) takeHandle(this, init.handle);
      return;
    }
    const { status = 200, statusText = "", headers } = init ?? {};
    const code = Number(status);
    if (!(code >= 200 && code <= 599)) throw new RangeError(`the status ${status} is none of 200 to 599`);
    if (body !== null && body !== undefined && BODILESS.includes(code)) throw new TypeError(`a response of status ${code} has no body`);
    this.#status = Math.trunc(code);
    this.#statusText = String(statusText);
    this.#headers = new Headers(headers);
    const type = take(this, body);
    if (type && !holdsHeader(this.#headers, "content-type")) putHeader(this.#headers, "content-type", type);
  }

  static json(value, init) {
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError("the value has no form in JSON");
    const response = new Response(text, init);
    if (!init?.headers || !new Headers(init.headers).has("content-type")) putHeader(response.#headers, "content-type", "application/json");
    return response;
  }

  static redirect(url, status = 302) {
    if (!REDIRECTS.includes(status)) throw new RangeError(`the status ${status} is none of a redirection`);
    return new Response(null, { status, headers: { location: new URL(url).href } });
  }

  static error() {
    return new Response(SECRET, { status: 0, headers: new Headers(), url: "", redirected: false });
  }

  get status() {
    return this.#status;
  }

  get ok() {
    return this.#status >= 200 && this.#status <= 299;
  }

  get statusText() {
    return this.#statusText;
  }

  get headers() {
    return this.#headers;
  }

  get url() {
    return this.#url;
  }

  get redirected() {
    return this.#redirected;
  }

  get type() {
    return this.#status === 0 ? "error" : this.#type;
  }

  clone() {
    const copy = new Response(null, { headers: this.#headers });
    copy.#status = this.#status;
    copy.#statusText = this.#statusText;
    copy.#url = this.#url;
    copy.#redirected = this.#redirected;
    copy.#type = this.#type;
    share(copy, this);
    return copy;
  }
}

/** An answer of another server to a request of this method, whose body `signal` ends. */
export function incomingResponse(init, method, signal) {
  const { status, headers, handle } = init;
  if (handle && (method === "HEAD" || BODILESS.includes(status))) {
    host.close(handle);
    init.handle = 0;
  } else if (handle) {
    const given = oneHeader(headers, "content-encoding")?.toLowerCase();
    const encoding = ENCODINGS.includes(given) ? given : undefined;
    noteHost(handle, headers, encoding, signal);
    // They are of what came, and not of what is read.
    if (encoding) for (const name of ["content-encoding", "content-length"]) headers.delete(name);
  }
  return new Response(SECRET, init);
}

export function isRedirect(status) {
  return REDIRECTS.includes(status);
}
