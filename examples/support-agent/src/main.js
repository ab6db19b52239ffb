// The agent's HTTP face: POST /ask.
import { getEnvironment } from 'wasi:cli/environment@0.2.10';
import { ask, BadQuestion, configuration, parseQuestion, UpstreamError } from './agent.js';

const USAGE = 'POST /ask {"customer":"c-17","question":"Where is my order 4711?"}';

addEventListener('fetch', (event) => event.respondWith(handle(event.request)));

async function handle(request) {
  const { pathname } = new URL(request.url);
  if (pathname !== '/ask') return answer(404, { error: `there is no ${pathname}`, usage: USAGE });
  if (request.method !== 'POST') return answer(405, { error: `${request.method} is not offered`, usage: USAGE });
  try {
    const question = parseQuestion(await request.text());
    const config = configuration(Object.fromEntries(getEnvironment()));
    return answer(200, await ask(question, config, fetch));
  } catch (error) {
    return failure(error);
  }
}

function failure(error) {
  if (error instanceof BadQuestion) return answer(400, { error: error.message });
  console.error(error.message);
  if (error instanceof UpstreamError) {
    return answer(502, { error: error.message, upstream: error.upstream, status: error.status });
  }
  return answer(500, { error: error.message });
}

function answer(status, body) {
  return new Response(`${JSON.stringify(body)}\n`, { status, headers: { 'content-type': 'application/json' } });
}
