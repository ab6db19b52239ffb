// The agent's HTTP face: POST /ask. What it asks, whom, and what it makes of the answers is in support.js.
import { BadQuestion, UpstreamError, ask, configuration, parseQuestion } from "./support.js";

const USAGE = 'POST /ask {"customer":"c-17","question":"Where is my order 4711?"}';

function failure(error: unknown): Response {
  if (error instanceof BadQuestion) return Response.json({ error: error.message }, { status: 400 });
  // The log tells of others, with their place.
  if (!(error instanceof UpstreamError)) throw error;
  console.error(error.message);
  return Response.json({ error: error.message }, { status: 502 });
}

export default {
  async fetch(request: Request, env: Record<string, string>): Promise<Response> {
    const { pathname } = new URL(request.url);
    if (pathname !== "/ask") return Response.json({ error: `there is no ${pathname}`, usage: USAGE }, { status: 404 });
    if (request.method !== "POST") return Response.json({ error: "POST a question", usage: USAGE }, { status: 405 });
    try {
      const question = parseQuestion(await request.text());
      return Response.json(await ask(question, configuration(env), fetch));
    } catch (error) {
      return failure(error);
    }
  },
};
