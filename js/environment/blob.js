// Blob, File and FormData (File API, XMLHttpRequest Standard), and FormData as multipart/form-data.
import { bytesOf, encode, isBytes, joined } from "./encoding.js";
import { decode } from "hearth:host";
import { ReadableStream } from "./streams.js";

export class Blob {
  #bytes;
  #type;

  constructor(parts = [], options) {
    const type = options?.type ?? "";
    const chunks = [...parts].map((part) => {
      if (part instanceof Blob) return part.#bytes;
      return isBytes(part) ? bytesOf(part) : encode(String(part));
    });
    this.#bytes = chunks.length === 1 ? chunks[0].slice() : joined(chunks);
    this.#type = /[^\x20-\x7e]/.test(type) ? "" : String(type).toLowerCase();
  }

  static bytes(blob) {
    return blob.#bytes;
  }

  get size() {
    return this.#bytes.length;
  }

  get type() {
    return this.#type;
  }

  slice(start = 0, end = this.size, type = "") {
    const part = new Blob([], { type });
    part.#bytes = this.#bytes.slice(start, end);
    return part;
  }

  async arrayBuffer() {
    return this.#bytes.slice().buffer;
  }

  async bytes() {
    return this.#bytes.slice();
  }

  async text() {
    return decode(this.#bytes, false);
  }

  stream() {
    return ReadableStream.from([this.#bytes.slice()]);
  }
}

/** The bytes of a Blob, not copied. */
export const blobBytes = Blob.bytes;
delete Blob.bytes;

export class File extends Blob {
  #name;
  #lastModified;

  constructor(parts, name, options) {
    super(parts, options);
    this.#name = String(name);
    this.#lastModified = Number(options?.lastModified ?? Date.now());
  }

  get name() {
    return this.#name;
  }

  get lastModified() {
    return this.#lastModified;
  }
}

function entry(value, filename) {
  if (!(value instanceof Blob)) return String(value);
  if (value instanceof File && filename === undefined) return value;
  return new File([value], filename ?? "blob", { type: value.type });
}

export class FormData {
  #entries = [];

  append(name, value, filename) {
    this.#entries.push([String(name), entry(value, filename)]);
  }

  set(name, value, filename) {
    const first = this.#entries.findIndex(([known]) => known === String(name));
    if (first < 0) return this.append(name, value, filename);
    this.#entries[first][1] = entry(value, filename);
    this.#entries = this.#entries.filter(([known], index) => known !== String(name) || index === first);
  }

  delete(name) {
    this.#entries = this.#entries.filter(([known]) => known !== String(name));
  }

  get(name) {
    return this.#entries.find(([known]) => known === String(name))?.[1] ?? null;
  }

  getAll(name) {
    return this.#entries.filter(([known]) => known === String(name)).map(([, value]) => value);
  }

  has(name) {
    return this.#entries.some(([known]) => known === String(name));
  }

  forEach(callback, self) {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  *entries() {
    for (const [name, value] of this.#entries) yield [name, value];
  }

  *keys() {
    for (const [name] of this.#entries) yield name;
  }

  *values() {
    for (const [, value] of this.#entries) yield value;
  }

  [Symbol.iterator]() {
    return this.entries();
  }
}

const escaped = (name) => name.replace(/\r\n|\r|\n/g, "%0D%0A").replaceAll('"', "%22");

/** A form as the body of a request, and its type. */
export function encodeForm(form) {
  const boundary = `----hearth${crypto.randomUUID().replaceAll("-", "")}`;
  const chunks = [];
  for (const [name, value] of form) {
    let head = `--${boundary}\r\ncontent-disposition: form-data; name="${escaped(name)}"`;
    if (value instanceof File) {
      head += `; filename="${escaped(value.name)}"\r\ncontent-type: ${value.type || "application/octet-stream"}`;
    }
    chunks.push(encode(`${head}\r\n\r\n`), value instanceof File ? blobBytes(value) : encode(value.replace(/\r?\n|\r/g, "\r\n")));
    chunks.push(encode("\r\n"));
  }
  chunks.push(encode(`--${boundary}--\r\n`));
  return { bytes: joined(chunks), type: `multipart/form-data; boundary=${boundary}` };
}

/** Where `wanted` begins in `bytes`, or -1. */
function indexOf(bytes, wanted, from) {
  for (let at = bytes.indexOf(wanted[0], from); at >= 0; at = bytes.indexOf(wanted[0], at + 1)) {
    let same = 1;
    while (same < wanted.length && bytes[at + same] === wanted[same]) same++;
    if (same === wanted.length) return at;
  }
  return -1;
}

/** The form in a body of type multipart/form-data. */
export function decodeForm(bytes, type) {
  const boundary = /;\s*boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(type);
  if (!boundary) throw new TypeError("the type of the form names no boundary");
  const line = encode(`\r\n--${boundary[1] ?? boundary[2]}`);
  const form = new FormData();
  // The first boundary has no line before it.
  const whole = joined([encode("\r\n"), bytes]);
  let at = indexOf(whole, line, 0);
  for (;;) {
    if (at < 0) throw new TypeError("the form has no end");
    at += line.length;
    if (whole[at] === 0x2d && whole[at + 1] === 0x2d) return form;
    const head = indexOf(whole, encode("\r\n\r\n"), at);
    const end = head < 0 ? -1 : indexOf(whole, line, head + 2);
    if (end < 0) throw new TypeError("the form has no end");
    const fields = decode(whole.subarray(at + 2, head), false);
    const disposition = /^content-disposition:\s*form-data;(.*)$/im.exec(fields)?.[1] ?? "";
    const word = (key) => new RegExp(`(?:^|;)\\s*${key}="([^"]*)"`).exec(disposition)?.[1];
    const unescaped = (text) => text.replaceAll("%22", '"').replaceAll("%0D%0A", "\r\n");
    const value = whole.slice(head + 4, end);
    const filename = word("filename");
    const kind = /^content-type:\s*(.*)$/im.exec(fields)?.[1].trim() ?? "text/plain";
    if (word("name") === undefined) throw new TypeError("a part of the form has no name");
    if (filename === undefined) form.append(unescaped(word("name")), decode(value, false));
    else form.append(unescaped(word("name")), new File([value], unescaped(filename), { type: kind }));
    at = end;
  }
}
