// URL and URLSearchParams (URL Standard).
import { decode as decodeBytes } from "hearth:host";
import { encode } from "./encoding.js";

const PORTS = { "http:": 80, "https:": 443, "ws:": 80, "wss:": 443, "ftp:": 21, "file:": null };

const C0 = /[^\x20-\x7e]/;
const FRAGMENT = /[^\x21\x23-\x3b\x3d\x3f-\x5f\x61-\x7e]/;
const QUERY = /[^\x21\x24-\x3b\x3d\x3f-\x7e]/;
const SPECIAL_QUERY = /[^\x21\x24-\x26\x28-\x3b\x3d\x3f-\x7e]/;
const PATH = /[^\x21\x24-\x3b\x3d\x40-\x5d\x5f\x61-\x7a\x7c\x7e]/;
const USERINFO = /[^\x21\x24-\x2e\x30-\x39\x41-\x5a\x5f\x61-\x7a\x7e]/;

function percentEncoded(text, set) {
  if (!set.test(text)) return text;
  let out = "";
  for (const character of text) {
    if (!set.test(character)) out += character;
    else for (const byte of encode(character)) out += `%${byte < 16 ? "0" : ""}${byte.toString(16).toUpperCase()}`;
  }
  return out;
}

function percentDecoded(bytes) {
  const out = [];
  for (let at = 0; at < bytes.length; at++) {
    const digits = bytes[at] === 0x25 ? String.fromCharCode(bytes[at + 1], bytes[at + 2]) : "";
    if (/^[0-9a-f]{2}$/i.test(digits)) {
      out.push(Number.parseInt(digits, 16));
      at += 2;
    } else {
      out.push(bytes[at]);
    }
  }
  return new Uint8Array(out);
}

function decoded(text) {
  return text.includes("%") ? decodeBytes(percentDecoded(encode(text)), false) : text;
}

/** RFC 3492, without its prefix. */
function punycode(label) {
  const points = Array.from(label, (character) => character.codePointAt(0));
  let out = points.filter((point) => point < 128).map((point) => String.fromCharCode(point)).join("");
  const basic = out.length;
  if (basic > 0) out += "-";
  let [next, delta, bias, done] = [128, 0, 72, basic];
  const digit = (value) => String.fromCharCode(value < 26 ? value + 97 : value + 22);
  while (done < points.length) {
    const least = Math.min(...points.filter((point) => point >= next));
    delta += (least - next) * (done + 1);
    next = least;
    for (const point of points) {
      if (point < next) delta++;
      if (point !== next) continue;
      let rest = delta;
      for (let k = 36; ; k += 36) {
        const threshold = k <= bias ? 1 : k >= bias + 26 ? 26 : k - bias;
        if (rest < threshold) break;
        out += digit(threshold + ((rest - threshold) % (36 - threshold)));
        rest = Math.floor((rest - threshold) / (36 - threshold));
      }
      out += digit(rest);
      delta = done === basic ? Math.floor(delta / 700) : delta >> 1;
      delta += Math.floor(delta / (done + 1));
      let k = 0;
      for (; delta > 455; k += 36) delta = Math.floor(delta / 35);
      bias = k + Math.floor((36 * delta) / (delta + 38));
      delta = 0;
      done++;
    }
    delta++;
    next++;
  }
  return out;
}

function domainToASCII(domain) {
  const labels = domain.normalize("NFKC").toLowerCase().normalize("NFC").replace(/[\u3002\uff0e\uff61]/g, ".").split(".");
  return labels.map((label) => (/[^\x00-\x7f]/.test(label) ? `xn--${punycode(label)}` : label)).join(".");
}

/** An IPv4 address as a number, or null for what is none. */
function parseIPv4(host) {
  const parts = host.split(".");
  if (parts.at(-1) === "" && parts.length > 1) parts.pop();
  const isNumber = (part) => /^(0x[0-9a-f]*|[0-9]+)$/i.test(part);
  if (!isNumber(parts.at(-1))) return null;
  if (parts.length > 4) throw new TypeError("the address has too many parts");
  const numbers = parts.map((part) => {
    if (part === "") throw new TypeError("a part of the address is empty");
    const value = /^0x/i.test(part)
      ? part.length === 2 ? 0 : Number.parseInt(part.slice(2), 16)
      : /^0[0-7]+$/.test(part) ? Number.parseInt(part, 8) : /^[0-9]+$/.test(part) && !/^0[0-9]/.test(part) ? Number(part) : Number.NaN;
    if (!isNumber(part) || Number.isNaN(value)) throw new TypeError("a part of the address is no number");
    return value;
  });
  const last = numbers.pop();
  if (numbers.some((number) => number > 255) || last >= 256 ** (4 - numbers.length)) {
    throw new TypeError("a part of the address is too large");
  }
  return numbers.reduce((sum, number, index) => sum + number * 256 ** (3 - index), last);
}

function writtenIPv4(address) {
  return [24, 16, 8, 0].map((shift) => Math.floor(address / 2 ** shift) % 256).join(".");
}

function parseIPv6(text) {
  const invalid = () => new TypeError("the IPv6 address is invalid");
  let tail = text;
  const dotted = /^(.*:)([0-9.]+)$/.exec(text);
  if (dotted?.[2].includes(".")) {
    const bytes = dotted[2].split(".");
    if (bytes.length !== 4 || bytes.some((byte) => !/^(0|[1-9][0-9]{0,2})$/.test(byte) || Number(byte) > 255)) throw invalid();
    const [a, b, c, d] = bytes.map(Number);
    tail = `${dotted[1]}${(a * 256 + b).toString(16)}:${(c * 256 + d).toString(16)}`;
  }
  const halves = tail.split("::");
  if (halves.length > 2) throw invalid();
  const pieces = halves.map((half) => (half === "" ? [] : half.split(":")));
  if (pieces.flat().some((piece) => !/^[0-9a-f]{1,4}$/i.test(piece))) throw invalid();
  const count = pieces.flat().length;
  if (halves.length === 1 ? count !== 8 : count > 7) throw invalid();
  const zeros = Array(8 - count).fill("0");
  return [...pieces[0], ...zeros, ...(pieces[1] ?? [])].map((piece) => Number.parseInt(piece, 16));
}

function writtenIPv6(pieces) {
  let [start, length] = [-1, 1];
  for (let at = 0; at < 8; at++) {
    let zeros = 0;
    while (at + zeros < 8 && pieces[at + zeros] === 0) zeros++;
    if (zeros > length) [start, length] = [at, zeros];
    at += zeros;
  }
  const hex = pieces.map((piece) => piece.toString(16));
  if (start < 0) return `[${hex.join(":")}]`;
  return `[${hex.slice(0, start).join(":")}::${hex.slice(start + length).join(":")}]`;
}

function parseHost(text, isSpecial) {
  if (text.startsWith("[")) {
    if (!text.endsWith("]")) throw new TypeError("the IPv6 address has no end");
    return writtenIPv6(parseIPv6(text.slice(1, -1)));
  }
  if (!isSpecial) {
    if (/[\x00\t\n\r #/:<>?@[\\\]^|]/.test(text)) throw new TypeError("the host has a forbidden character");
    return percentEncoded(text, C0);
  }
  const host = domainToASCII(decoded(text));
  if (host === "" || /[\x00-\x20"#%/:<>?@[\\\]^`{|}\x7f]/.test(host)) {
    throw new TypeError("the host is empty or has a forbidden character");
  }
  const address = parseIPv4(host);
  return address === null ? host : writtenIPv4(address);
}

const isDot = (segment) => /^(\.|%2e)$/i.test(segment);
const isDoubleDot = (segment) => /^(\.|%2e){2}$/i.test(segment);
const isDrive = (segment) => /^[A-Za-z][:|]$/.test(segment);

/** What a URL consists of. `path` is a list, or a string where it is opaque. */
class Parts {
  scheme = "";
  username = "";
  password = "";
  host = null;
  port = null;
  path = [];
  query = null;
  fragment = null;

  get isSpecial() {
    return Object.hasOwn(PORTS, this.scheme);
  }

  get isOpaque() {
    return typeof this.path === "string";
  }

  get pathname() {
    return this.isOpaque ? this.path : this.path.map((segment) => `/${segment}`).join("");
  }

  get authority() {
    const credentials = this.username || this.password ? `${this.username}${this.password ? `:${this.password}` : ""}@` : "";
    return credentials + this.hostAndPort;
  }

  get hostAndPort() {
    if (this.host === null) return "";
    return this.port === null ? this.host : `${this.host}:${this.port}`;
  }

  get href() {
    let text = this.scheme;
    if (this.host !== null) text += `//${this.authority}`;
    else if (!this.isOpaque && this.path.length > 1 && this.path[0] === "") text += "/.";
    text += this.pathname;
    if (this.query !== null) text += `?${this.query}`;
    if (this.fragment !== null) text += `#${this.fragment}`;
    return text;
  }

  setQuery(text) {
    this.query = text === null ? null : percentEncoded(text, this.isSpecial ? SPECIAL_QUERY : QUERY);
  }

  setFragment(text) {
    this.fragment = text === null ? null : percentEncoded(text, FRAGMENT);
  }

  setPort(text) {
    if (!/^[0-9]*$/.test(text) || Number(text) > 65535) throw new TypeError("the port is no number up to 65535");
    this.port = text === "" || Number(text) === PORTS[this.scheme] ? null : Number(text);
  }

  setAuthority(text) {
    const at = text.lastIndexOf("@");
    const [credentials, hostAndPort] = at < 0 ? ["", text] : [text.slice(0, at), text.slice(at + 1)];
    if (at >= 0) {
      if (hostAndPort === "") throw new TypeError("there is no host");
      const colon = credentials.indexOf(":");
      this.username = percentEncoded(colon < 0 ? credentials : credentials.slice(0, colon), USERINFO);
      this.password = colon < 0 ? "" : percentEncoded(credentials.slice(colon + 1), USERINFO);
    }
    this.setHostAndPort(hostAndPort);
  }

  setHostAndPort(text) {
    const [, host, port] = /^(\[[^\]]*\]|[^:]*)(?::(.*))?$/s.exec(text) ?? [];
    if (host === undefined) throw new TypeError("the host has a forbidden character");
    if (host === "" && (this.isSpecial || port !== undefined)) throw new TypeError("there is no host");
    this.host = host === "" ? "" : parseHost(host, this.isSpecial);
    this.setPort(port ?? "");
  }

  /** Adds a path to the segments that are there. */
  addPath(text) {
    const segments = (this.isSpecial ? text.replaceAll("\\", "/") : text).split("/");
    const isFile = this.scheme === "file:";
    segments.forEach((segment, index) => {
      const isLast = index === segments.length - 1;
      if (isDoubleDot(segment)) {
        if (!(isFile && this.path.length === 1 && isDrive(this.path[0]))) this.path.pop();
        if (isLast) this.path.push("");
      } else if (isDot(segment)) {
        if (isLast) this.path.push("");
      } else if (isFile && this.path.length === 0 && isDrive(segment)) {
        this.path.push(`${segment[0]}:`);
      } else {
        this.path.push(percentEncoded(segment, PATH));
      }
    });
  }

  setPath(text) {
    this.path = [];
    const isRooted = text.startsWith("/") || (this.isSpecial && text.startsWith("\\"));
    if (text !== "" || this.isSpecial) this.addPath(isRooted ? text.slice(1) : text);
  }

  copyTo(other, ...names) {
    for (const name of names) other[name] = Array.isArray(this[name]) ? [...this[name]] : this[name];
  }
}

function parse(input, base) {
  let text = input.replace(/^[\x00-\x20]+|[\x00-\x20]+$/g, "").replace(/[\t\n\r]/g, "");
  const parts = new Parts();
  const hash = text.indexOf("#");
  const fragment = hash < 0 ? null : text.slice(hash + 1);
  if (hash >= 0) text = text.slice(0, hash);
  const scheme = /^([A-Za-z][A-Za-z0-9+.-]*):/.exec(text);
  if (scheme) {
    parts.scheme = scheme[0].toLowerCase();
    text = text.slice(scheme[0].length);
  } else if (!base) {
    throw new TypeError("it is relative, and there is no base");
  } else if (base.isOpaque) {
    if (text !== "" || fragment === null) throw new TypeError("its base cannot be a base");
    base.copyTo(parts, "scheme", "path", "query");
    parts.setFragment(fragment);
    return parts;
  } else {
    parts.scheme = base.scheme;
  }
  const mark = text.indexOf("?");
  const query = mark < 0 ? null : text.slice(mark + 1);
  if (mark >= 0) text = text.slice(0, mark);
  const { isSpecial } = parts;
  const isFile = parts.scheme === "file:";
  const slashed = isSpecial ? text.replaceAll("\\", "/") : text;
  // A special URL of its base's scheme may be relative although it names the scheme.
  const isRelative = base && !base.isOpaque && base.scheme === parts.scheme && (!scheme || (isSpecial && !slashed.startsWith("//")));
  if (slashed.startsWith("//") || (isSpecial && !isFile && !isRelative)) {
    const rest = isSpecial && !isFile ? slashed.replace(/^\/*/, "") : slashed.slice(2);
    const end = rest.indexOf("/");
    const authority = end < 0 ? rest : rest.slice(0, end);
    const path = end < 0 ? "" : rest.slice(end);
    if (isFile) {
      if (isDrive(authority)) {
        parts.host = "";
        parts.setPath(`/${rest}`);
      } else {
        parts.host = authority === "" ? "" : parseHost(authority, true);
        if (parts.host === "localhost") parts.host = "";
        parts.setPath(path);
      }
    } else {
      parts.setAuthority(authority);
      parts.setPath(path);
    }
    parts.setQuery(query);
  } else if (isRelative) {
    base.copyTo(parts, "username", "password", "host", "port", "path");
    if (slashed.startsWith("/")) {
      parts.setPath(slashed);
      parts.setQuery(query);
    } else if (slashed !== "") {
      parts.path.pop();
      parts.addPath(slashed);
      parts.setQuery(query);
    } else if (query !== null) {
      parts.setQuery(query);
    } else {
      parts.query = base.query;
    }
  } else if (isFile) {
    parts.host = "";
    parts.setPath(slashed);
    parts.setQuery(query);
  } else if (text.startsWith("/")) {
    parts.setPath(text);
    parts.setQuery(query);
  } else {
    parts.path = percentEncoded(text, C0);
    parts.setQuery(query);
  }
  parts.setFragment(fragment);
  return parts;
}

function invalid(url, error) {
  return new TypeError(`invalid URL ${JSON.stringify(url)}: ${error.message}`);
}

export class URL {
  #parts;
  #searchParams;

  constructor(url, base) {
    const text = String(url);
    try {
      this.#parts = parse(text, base === undefined ? undefined : parse(String(base)));
    } catch (error) {
      throw invalid(text, error);
    }
  }

  static canParse(url, base) {
    return URL.parse(url, base) !== null;
  }

  static parse(url, base) {
    try {
      return new URL(url, base);
    } catch {
      return null;
    }
  }

  /** A setter that cannot be carried out changes nothing. */
  #try(change) {
    const before = new Parts();
    this.#parts.copyTo(before, "scheme", "username", "password", "host", "port", "path", "query", "fragment");
    try {
      change(this.#parts);
    } catch {
      this.#parts = before;
    }
  }

  get href() {
    return this.#parts.href;
  }

  set href(text) {
    try {
      this.#parts = parse(String(text));
    } catch (error) {
      throw invalid(text, error);
    }
    this.#searchParams?.[RELOAD](this.#parts.query ?? "");
  }

  get origin() {
    const { scheme, isSpecial, hostAndPort } = this.#parts;
    return isSpecial && scheme !== "file:" ? `${scheme}//${hostAndPort}` : "null";
  }

  get protocol() {
    return this.#parts.scheme;
  }

  set protocol(text) {
    const scheme = /^[A-Za-z][A-Za-z0-9+.-]*/.exec(text)?.[0].toLowerCase();
    const parts = this.#parts;
    if (!scheme || Object.hasOwn(PORTS, `${scheme}:`) !== parts.isSpecial) return;
    parts.scheme = `${scheme}:`;
    if (parts.port === PORTS[parts.scheme]) parts.port = null;
  }

  get username() {
    return this.#parts.username;
  }

  set username(text) {
    if (this.#parts.host) this.#parts.username = percentEncoded(String(text), USERINFO);
  }

  get password() {
    return this.#parts.password;
  }

  set password(text) {
    if (this.#parts.host) this.#parts.password = percentEncoded(String(text), USERINFO);
  }

  get host() {
    return this.#parts.hostAndPort;
  }

  set host(text) {
    this.#try((parts) => {
      if (parts.isOpaque) return;
      const { port } = parts;
      parts.setHostAndPort(/^[^/?#]*/.exec(String(text))[0]);
      if (!/:[0-9]/.test(text)) parts.port = port;
    });
  }

  get hostname() {
    return this.#parts.host ?? "";
  }

  set hostname(text) {
    this.#try((parts) => {
      if (!parts.isOpaque) parts.host = parseHost(/^(\[[^\]]*\]|[^/?#:]*)/.exec(String(text))[0], parts.isSpecial);
    });
  }

  get port() {
    return this.#parts.port === null ? "" : String(this.#parts.port);
  }

  set port(text) {
    const digits = /^[0-9]*/.exec(String(text))[0];
    if (digits || text === "") this.#try((parts) => parts.host && parts.setPort(digits));
  }

  get pathname() {
    return this.#parts.pathname;
  }

  set pathname(text) {
    if (!this.#parts.isOpaque) this.#parts.setPath(String(text).replaceAll("?", "%3F").replaceAll("#", "%23"));
  }

  get search() {
    return this.#parts.query ? `?${this.#parts.query}` : "";
  }

  set search(text) {
    const query = String(text).replace(/^\?/, "");
    this.#parts.setQuery(query === "" ? null : query.replaceAll("#", "%23"));
    this.#searchParams?.[RELOAD](query);
  }

  get searchParams() {
    this.#searchParams ??= URLSearchParams[OF](this.#parts.query ?? "", (query) => {
      this.#parts.query = query === "" ? null : query;
    });
    return this.#searchParams;
  }

  get hash() {
    return this.#parts.fragment ? `#${this.#parts.fragment}` : "";
  }

  set hash(text) {
    const fragment = String(text).replace(/^#/, "");
    this.#parts.setFragment(fragment === "" ? null : fragment);
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

function parseForm(text) {
  const decodedWord = (word) => decoded(word.replaceAll("+", " "));
  return text.split("&").filter(Boolean).map((pair) => {
    const equals = pair.indexOf("=");
    const [name, value] = equals < 0 ? [pair, ""] : [pair.slice(0, equals), pair.slice(equals + 1)];
    return [decodedWord(name), decodedWord(value)];
  });
}

export class URLSearchParams {
  #pairs = [];
  #changed = () => {};

  constructor(init = "") {
    if (typeof init === "object" && init !== null) {
      const pairs = init[Symbol.iterator] ? [...init] : Object.entries(init);
      this.#pairs = pairs.map((pair) => {
        const [name, value, ...more] = pair;
        if (value === undefined || more.length > 0) throw new TypeError("a pair has two elements");
        return [String(name), String(value)];
      });
    } else {
      this.#pairs = parseForm(String(init).replace(/^\?/, ""));
    }
  }

  static [OF](query, changed) {
    const params = new URLSearchParams(query);
    params.#changed = changed;
    return params;
  }

  [RELOAD](query) {
    this.#pairs = parseForm(query);
  }

  #change(pairs) {
    this.#pairs = pairs;
    this.#changed(this.toString());
  }

  get size() {
    return this.#pairs.length;
  }

  append(name, value) {
    this.#change([...this.#pairs, [String(name), String(value)]]);
  }

  delete(name, value) {
    const isGone = ([known, held]) => known === String(name) && (value === undefined || held === String(value));
    this.#change(this.#pairs.filter((pair) => !isGone(pair)));
  }

  get(name) {
    return this.#pairs.find(([known]) => known === String(name))?.[1] ?? null;
  }

  getAll(name) {
    return this.#pairs.filter(([known]) => known === String(name)).map(([, value]) => value);
  }

  has(name, value) {
    return this.#pairs.some(([known, held]) => known === String(name) && (value === undefined || held === String(value)));
  }

  set(name, value) {
    const first = this.#pairs.findIndex(([known]) => known === String(name));
    if (first < 0) return this.append(name, value);
    const isKept = ([known], index) => known !== String(name) || index === first;
    this.#pairs[first] = [String(name), String(value)];
    this.#change(this.#pairs.filter(isKept));
  }

  sort() {
    this.#change(this.#pairs.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  }

  forEach(callback, self) {
    for (const [name, value] of this) callback.call(self, value, name, this);
  }

  *entries() {
    for (let at = 0; at < this.#pairs.length; at++) yield [...this.#pairs[at]];
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
    const word = (text) => percentEncoded(text, /[^ *\-.0-9A-Z_a-z]/).replaceAll(" ", "+");
    return this.#pairs.map(([name, value]) => `${word(name)}=${word(value)}`).join("&");
  }
}
