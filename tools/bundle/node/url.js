// node:url.
const { URL, URLSearchParams } = globalThis;

function fileURLToPath(url) {
  const { protocol, pathname } = new URL(url);
  if (protocol !== "file:") throw new TypeError("The URL must be of scheme file");
  return decodeURIComponent(pathname);
}

function pathToFileURL(path) {
  const url = new URL("file:///");
  url.pathname = encodeURI(path).replaceAll("?", "%3F").replaceAll("#", "%23");
  return url;
}

function format(url) {
  if (typeof url === "string" || url instanceof URL) return String(url);
  const { protocol = "", auth, host, hostname = "", port, pathname = "", search, query, hash = "" } = url;
  const authority = host ?? (port ? `${hostname}:${port}` : hostname);
  const asked = search ?? (query ? `?${typeof query === "string" ? query : new URLSearchParams(query)}` : "");
  const scheme = protocol && !protocol.endsWith(":") ? `${protocol}:` : protocol;
  return `${scheme}${authority ? "//" : ""}${auth ? `${auth}@` : ""}${authority}${pathname}${asked}${hash}`;
}

function parse(text, isQueryParsed = false) {
  const [, protocol = null, authority, rest] = /^([a-z][a-z0-9+.-]*:)?(?:\/\/([^/?#]*))?(.*)$/is.exec(text);
  const [, path, search = null, hash = null] = /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(rest);
  const at = authority?.lastIndexOf("@") ?? -1;
  const host = authority === undefined ? null : authority.slice(at + 1).toLowerCase();
  const [, hostname = null, port = null] = /^(.*?)(?::(\d+))?$/.exec(host ?? "") ?? [];
  const query = search?.slice(1) ?? null;
  return {
    protocol: protocol?.toLowerCase() ?? null, slashes: authority !== undefined || null, auth: at < 0 ? null : decodeURIComponent(authority.slice(0, at)),
    host, hostname: host === null ? null : hostname, port, pathname: path || (host ? "/" : null), search, hash,
    query: isQueryParsed ? Object.fromEntries(new URLSearchParams(query ?? "")) : query,
    path: (path || (host ? "/" : "")) + (search ?? "") || null, href: text,
  };
}

const resolve = (from, to) => String(new URL(to, from));
const domainToASCII = (domain) => new URL(`http://${domain}`).hostname;
export { URL, URLSearchParams, domainToASCII, fileURLToPath, format, parse, pathToFileURL, resolve };
export default { URL, URLSearchParams, domainToASCII, fileURLToPath, format, parse, pathToFileURL, resolve };
