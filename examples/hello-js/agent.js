// The smallest agent in JavaScript: greets. `$GREETING` replaces "Hello", `?name=` replaces "world".
export default {
  async fetch(request, env) {
    const name = new URL(request.url).searchParams.get("name") ?? "world";
    return new Response(`${env.GREETING ?? "Hello"}, ${name}!\n`);
  },
};
