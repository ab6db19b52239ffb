// URL and URLSearchParams (URL Standard). What they mean is told by the host.
import { changeUrl, parseForm, parseUrl, writeForm } from "hearth:host";

/** Schemes whose URLs have an origin of their own. */
const WITH_ORIGIN = ["http:", "https:", "ws:", "wss:", "ftp:"];

/** Where `parseUrl` says what. */
const [HREF, PROTOCOL_END, USERNAME_END, HOST_START, HOST_END, PATHNAME_START, SEARCH_START, HASH_START] = [0, 1, 2, 3, 4, 5, 6, 7];

function parsed(url, base) {
  const text = String(url);
  const parts = parseUrl(text, base === undefined ? undefined : String(base));
  if (parts) return parts;
  const isRelative = base === undefined && !/^[\x00-\x20]*[A-Za-z][A-Za-z0-9+.-]*:/.test(text);
  throw new TypeError(`invalid URL ${JSON.stringify(text)}${isRelative ? ": it is relative, and there is no base" : ""}`);
}

export class URL {
  #parts;
  #searchParams;

  constructor(url, base) {
    this.#parts = parsed(url, base);
  }

  static canParse(url, base) {
    return parseUrl(String(url), base === undefined ? undefined : String(base)) !== undefined;
  }

  static parse(url, base) {
    try {
      return new URL(url, base);
    } catch {
      return null;
    }
  }

  #between(from, to) {
    const parts = this.#parts;
    return parts[HREF].slice(parts[from], parts[to]);
  }

  /** A setter that cannot be carried out changes nothing. */
  #change(part, value) {
    this.#parts = changeUrl(this.#parts[HREF], part, String(value)) ?? this.#parts;
  }

  get href() {
    return this.#parts[HREF];
  }

  set href(text) {
    this.#parts = parsed(text);
    this.#searchParams?.[RELOAD](this.search);
  }

  get origin() {
    const { protocol } = this;
    if (WITH_ORIGIN.includes(protocol)) return `${protocol}//${this.host}`;
    const inner = protocol === "blob:" ? URL.parse(this.pathname) : null;
    return inner?.protocol === "http:" || inner?.protocol === "https:" ? inner.origin : "null";
  }

  get protocol() {
    return this.#parts[HREF].slice(0, this.#parts[PROTOCOL_END]);
  }

  set protocol(text) {
    this.#change("protocol", text);
  }

  get username() {
    const parts = this.#parts;
    return parts[HREF].slice(parts[PROTOCOL_END] + 2, parts[USERNAME_END]);
  }

  set username(text) {
    this.#change("username", text);
  }

  get password() {
    const parts = this.#parts;
    // A colon before it, an at sign behind.
    return parts[HREF].slice(parts[USERNAME_END] + 1, parts[HOST_START] - 1);
  }

  set password(text) {
    this.#change("password", text);
  }

  get host() {
    const parts = this.#parts;
    // What stands behind an empty host belongs to the path.
    return parts[HOST_START] === parts[HOST_END] ? "" : this.#between(HOST_START, PATHNAME_START);
  }

  set host(text) {
    this.#change("host", text);
  }

  get hostname() {
    return this.#between(HOST_START, HOST_END);
  }

  set hostname(text) {
    this.#change("hostname", text);
  }

  get port() {
    return this.host.slice(this.hostname.length + 1);
  }

  set port(text) {
    this.#change("port", text);
  }

  get pathname() {
    return this.#between(PATHNAME_START, SEARCH_START);
  }

  set pathname(text) {
    this.#change("pathname", text);
  }

  get search() {
    const text = this.#between(SEARCH_START, HASH_START);
    return text === "?" ? "" : text;
  }

  set search(text) {
    this.#change("search", text);
    this.#searchParams?.[RELOAD](this.search);
  }

  get searchParams() {
    this.#searchParams ??= URLSearchParams[OF](this.search, (query) => this.#change("search", query));
    return this.#searchParams;
  }

  get hash() {
    const text = this.#parts[HREF].slice(this.#parts[HASH_START]);
    return text === "#" ? "" : text;
  }

  set hash(text) {
    this.#change("hash", text);
  }

  toString() {
    return this.href;
  }

  toJSON() {
    return this.href;
  }
}

const RELOAD = Symbol();
const OF = Symbol();

export class URLSearchParams {
  /** Names and values in turn. */
  #list = [];
  #changed = null;

  constructor(init = "") {
    if (typeof init === "object" && init !== null) {
      const pairs = init[Symbol.iterator] ? init : Object.entries(init);
      for (const pair of pairs) {
        const items = [...pair];
        if (items.length !== 2) throw new TypeError("a pair has two elements");
        this.#list.push(String(items[0]), String(items[1]));
      }
    } else {
      this[RELOAD](String(init));
    }
  }

  static [OF](query, changed) {
    const params = new URLSearchParams(query);
    params.#changed = changed;
    return params;
  }

  [RELOAD](query) {
    this.#list = query === "" ? [] : parseForm(query);
  }

  #change(list) {
    this.#list = list;
    this.#changed?.(this.toString());
  }

  /** The next place of a name, and of a value where one is asked for. */
  #find(name, value, from = 0) {
    const list = this.#list;
    for (let at = from; at < list.length; at += 2) {
      if (list[at] === name && (value === undefined || list[at + 1] === value)) return at;
    }
    return -1;
  }

  /** All pairs from place `from` but those of a name, and of a value where one is asked for. */
  #without(name, value, from = 0) {
    const list = this.#list;
    const kept = list.slice(0, from);
    for (let at = from; at < list.length; at += 2) {
      if (list[at] !== name || (value !== undefined && list[at + 1] !== value)) kept.push(list[at], list[at + 1]);
    }
    return kept;
  }

  get size() {
    return this.#list.length / 2;
  }

  append(name, value) {
    this.#change([...this.#list, String(name), String(value)]);
  }

  delete(name, value) {
    this.#change(this.#without(String(name), value === undefined ? undefined : String(value)));
  }

  get(name) {
    const at = this.#find(String(name));
    return at < 0 ? null : this.#list[at + 1];
  }

  getAll(name) {
    const values = [];
    const text = String(name);
    for (let at = this.#find(text); at >= 0; at = this.#find(text, undefined, at + 2)) values.push(this.#list[at + 1]);
    return values;
  }

  has(name, value) {
    return this.#find(String(name), value === undefined ? undefined : String(value)) >= 0;
  }

  set(name, value) {
    const text = String(name);
    const at = this.#find(text);
    if (at < 0) return this.append(text, value);
    this.#list[at + 1] = String(value);
    this.#change(this.#without(text, undefined, at + 2));
  }

  sort() {
    const pairs = [...this].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
    this.#change(pairs.flat());
  }

  forEach(callback, self) {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  *entries() {
    for (let at = 0; at < this.#list.length; at += 2) yield [this.#list[at], this.#list[at + 1]];
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

  toString() {
    return writeForm(this.#list);
  }
}
