// node:path of POSIX.
const sep = "/";
const delimiter = ":";

function normalizeParts(path, isAbsolute) {
  const parts = [];
  for (const part of path.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") parts.push(part);
    else if (parts.length > 0 && parts.at(-1) !== "..") parts.pop();
    else if (!isAbsolute) parts.push(part);
  }
  return parts.join("/");
}

function isAbsolute(path) {
  return path.startsWith("/");
}

function normalize(path) {
  if (path === "") return ".";
  const root = isAbsolute(path);
  const inner = normalizeParts(path, root);
  const end = path.endsWith("/") && inner ? "/" : "";
  return root ? `/${inner}${end}` : inner ? inner + end : path.endsWith("/") ? "./" : ".";
}

function join(...paths) {
  const joined = paths.filter((path) => path !== "").join("/");
  return joined === "" ? "." : normalize(joined);
}

/** Where nothing says otherwise, paths begin at the root: there is no folder that one is in. */
function resolve(...paths) {
  let whole = "";
  for (const path of paths.reverse()) {
    if (path === "") continue;
    whole = whole ? `${path}/${whole}` : path;
    if (isAbsolute(path)) break;
  }
  return `/${normalizeParts(whole, true)}`;
}

function relative(from, to) {
  const [left, right] = [from, to].map((path) => resolve(path).split("/").filter(Boolean));
  let shared = 0;
  while (shared < left.length && left[shared] === right[shared]) shared++;
  return [...left.slice(shared).map(() => ".."), ...right.slice(shared)].join("/");
}

function dirname(path) {
  const trimmed = path.replace(/(?<=.)\/+$/, "");
  const at = trimmed.lastIndexOf("/");
  if (at < 0) return ".";
  return at === 0 ? "/" : trimmed.slice(0, at).replace(/(?<=.)\/+$/, "");
}

function basename(path, end) {
  const name = path.replace(/\/+$/, "").split("/").at(-1);
  return end && name !== end && name.endsWith(end) ? name.slice(0, -end.length) : name;
}

function extname(path) {
  const name = basename(path);
  const at = name.lastIndexOf(".");
  return at <= 0 || name === ".." ? "" : name.slice(at);
}

function parse(path) {
  const base = basename(path);
  const ext = extname(path);
  const root = isAbsolute(path) ? "/" : "";
  const dir = base === "" ? root : base === path ? "" : path.slice(0, path.replace(/\/+$/, "").length - base.length);
  return { root, dir: dir === root ? root : dir.replace(/\/$/, ""), base, ext, name: ext ? base.slice(0, -ext.length) : base };
}

function format({ dir, root = "", base, name = "", ext = "" }) {
  const last = base ?? name + (ext && !ext.startsWith(".") ? `.${ext}` : ext);
  if (!dir) return root + last;
  return dir === root ? dir + last : `${dir}/${last}`;
}

const toNamespacedPath = (path) => path;
const posix = { basename, delimiter, dirname, extname, format, isAbsolute, join, normalize, parse, relative, resolve, sep, toNamespacedPath };
posix.posix = posix;
export { basename, delimiter, dirname, extname, format, isAbsolute, join, normalize, parse, posix, relative, resolve, sep, toNamespacedPath };
export default posix;
