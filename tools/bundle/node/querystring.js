// node:querystring.
export const escape = encodeURIComponent;
export const unescape = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

export function parse(text, separator = "&", equals = "=") {
  const all = Object.create(null);
  for (const pair of text.split(separator)) {
    if (pair === "") continue;
    const at = pair.indexOf(equals);
    const [name, value] = (at < 0 ? [pair, ""] : [pair.slice(0, at), pair.slice(at + equals.length)]).map((part) => unescape(part.replaceAll("+", " ")));
    all[name] = name in all ? [all[name], value].flat() : value;
  }
  return all;
}

export function stringify(values, separator = "&", equals = "=") {
  const written = (value) => (["string", "number", "bigint", "boolean"].includes(typeof value) ? escape(String(value)) : "");
  return Object.entries(values ?? {})
    .flatMap(([name, value]) => [value].flat().map((item) => escape(name) + equals + written(item)))
    .join(separator);
}

export const decode = parse;
export const encode = stringify;
export default { decode, encode, escape, parse, stringify, unescape };
