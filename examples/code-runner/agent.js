// Runs the JavaScript that it is sent, each time in a sandbox of its own, and says how that ended. The code may call back
// `env.twice`; of the agent it sees nothing else.
export default {
  async fetch(request, env) {
    if (!env.LOADER) return new Response("no loader", { status: 403 });
    const code = await request.text();
    const worker = env.LOADER.load({
      mainModule: "main.js",
      modules: { "main.js": code },
      env: { twice: (number) => 2 * number },
    });
    const { response, ended } = worker.call(request.url);
    const body = await response.then((answer) => answer.text(), () => null);
    return Response.json({ body, report: await ended });
  },
};
