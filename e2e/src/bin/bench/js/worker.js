// What `bench js` runs, the same file under Hearth and under workerd.

/** Code that is known by its number. */
function code(number) {
  const source = `
    const number = ${JSON.stringify(number)};
    class Counter { #count = 0; add(n) { this.#count += n; return this; } get count() { return this.#count; } }
    const words = (text) => text.toLowerCase().split(/[^a-z]+/).filter(Boolean);
    export default {
      async fetch(request, env) {
        const counter = words("the code of number " + number).reduce((counter, word) => counter.add(word.length), new Counter());
        return new Response(number + " " + counter.count);
      },
    };`;
  return { compatibilityDate: "2026-01-01", mainModule: "main.js", modules: { "main.js": source }, env: {}, globalOutbound: null };
}

function rows(count) {
  return Array.from({ length: count }, (_, id) => ({ id, name: `name ${id}`, tags: ["a", "b", `t${id % 7}`], score: (id * 7919) % 1000 }));
}

/** Writes, reads and changes 2,000 rows. */
function json() {
  const read = JSON.parse(JSON.stringify(rows(2000)));
  const best = read.filter((row) => row.score > 500).map(({ id, tags, score }) => ({ id, tag: tags[2], score })).sort((a, b) => b.score - a.score || a.id - b.id);
  return JSON.stringify(best).length;
}

const TEXT = "It was the best of times, it was the worst of times; it was the age of wisdom (1859), it was the age of foolishness. ".repeat(200);

/** Cuts 23 KB of text into pieces as a tokenizer does: the longest known one first. */
function tokens() {
  const known = new Map(["it", "was", "the", "of", " it", " was", " the", " of", " age", "best", " times", "wis", "dom", "ness", "fool", "ish", ", ", ". "].map((piece, index) => [piece, index]));
  let count = 0;
  for (const [word] of TEXT.matchAll(/ ?[A-Za-z]+|[0-9]+|[^A-Za-z0-9 ]+ ?| +/g)) {
    for (let at = 0; at < word.length; count++) {
      let length = word.length - at;
      while (length > 1 && !known.has(word.slice(at, at + length))) length--;
      at += length;
    }
  }
  return count;
}

/** The nearest of 500 vectors of 128 numbers. */
function vectors() {
  const size = 128;
  const all = new Float32Array(500 * size);
  for (let at = 0, state = 1; at < all.length; at++) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    all[at] = (state % 2000) / 1000 - 1;
  }
  let [best, nearest] = [-Infinity, -1];
  for (let row = 1; row < 500; row++) {
    let dot = 0;
    for (let at = 0; at < size; at++) dot += all[at] * all[row * size + at];
    if (dot > best) [best, nearest] = [dot, row];
  }
  return nearest;
}

export default {
  async fetch(request, env) {
    const url = new URL(request.url);
    switch (url.pathname) {
      case "/load": {
        const number = url.searchParams.get("code");
        return env.LOADER.get(number, async () => code(number)).getEntrypoint().fetch(request);
      }
      case "/json":
        return new Response(String(json()));
      case "/tokens":
        return new Response(String(tokens()));
      case "/vectors":
        return new Response(String(vectors()));
      case "/echo":
        return Response.json({ method: request.method, query: [...url.searchParams], body: await request.text(), agent: request.headers.get("x-agent") }, { status: 201, headers: { "x-made-by": "js" } });
      default:
        return new Response("hello");
    }
  },
};
