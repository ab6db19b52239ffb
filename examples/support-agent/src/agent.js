// The agent: what it asks, whom, and what it makes of the answers. No I/O of its own: `fetch` comes in, so that tests run it in
// Node as it is.

/** Calls to the LLM in one question. A model that still wants tools after these is stopped. */
const MAX_ROUNDS = 4;
/** Characters of an upstream's error that are passed on. */
const MAX_DETAIL = 200;

const INSTRUCTIONS =
  'You answer questions of a shop\'s customers, in two sentences at most. Use the given documents, and look orders up ' +
  'instead of guessing. Say so when you do not know.';

const TOOLS = [
  {
    type: 'function',
    function: {
      name: 'lookup_order',
      description: 'State of one order of this customer',
      parameters: {
        type: 'object',
        properties: { order_id: { type: 'string', description: 'Number of the order' } },
        required: ['order_id'],
      },
    },
  },
];

/** The caller's mistake: answered 400. */
export class BadQuestion extends Error {}

/** A service that the agent needs failed: answered 502. */
export class UpstreamError extends Error {
  constructor(upstream, url, status, detail) {
    const what = status === undefined ? 'could not be reached' : `answered ${status}`;
    super(`${upstream} ${what}: ${detail} (${url})`);
    this.upstream = upstream;
    this.status = status;
  }
}

/** Reads the configuration, and reports every mistake in one sentence. */
export function configuration(environment) {
  const urls = ['LLM_URL', 'KNOWLEDGE_URL', 'ORDERS_URL'];
  const missing = urls.filter((name) => !/^https?:\/\/./.test(environment[name] ?? ''));
  if (missing.length > 0) {
    throw new Error(`${missing.join(', ')}: no http:// or https:// address; set it in spec.env, and list its host in spec.egress.allow`);
  }
  const base = (name) => environment[name].replace(/\/+$/, '');
  return {
    llm: base('LLM_URL'),
    model: environment.LLM_MODEL || 'default',
    key: environment.LLM_API_KEY,
    knowledge: base('KNOWLEDGE_URL'),
    orders: base('ORDERS_URL'),
  };
}

/** Checks a request's body. */
export function parseQuestion(text) {
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    throw new BadQuestion('the body is not JSON; send {"customer":"c-17","question":"Where is my order 4711?"}');
  }
  for (const field of ['customer', 'question']) {
    if (typeof body?.[field] !== 'string' || body[field].trim() === '') {
      throw new BadQuestion(`"${field}" is missing or no text; send {"customer":"c-17","question":"Where is my order 4711?"}`);
    }
  }
  return { customer: body.customer, question: body.question };
}

/** Answers one question: retrieval, then the LLM, which may look orders up, until it answers. */
export async function ask({ customer, question }, config, fetch) {
  const steps = [];
  const documents = await search(question, config, fetch);
  steps.push({ step: 'search', query: question, found: documents.length });

  const context = documents.map(({ id, text }) => `[${id}] ${text}`).join('\n');
  const messages = [
    { role: 'system', content: `${INSTRUCTIONS}\n\nDocuments:\n${context || 'none'}` },
    { role: 'user', content: question },
  ];
  for (let round = 1; round <= MAX_ROUNDS; round++) {
    const message = await complete(messages, config, fetch);
    const calls = message.tool_calls ?? [];
    steps.push({ step: 'llm', round, tools: calls.map((call) => call.function.name) });
    if (calls.length === 0) {
      return { answer: message.content, sources: documents.map(({ id, title }) => ({ id, title })), steps };
    }
    messages.push(message);
    for (const call of calls) {
      const result = await callTool(call, customer, config, fetch);
      steps.push({ step: call.function.name, arguments: call.function.arguments, result });
      messages.push({ role: 'tool', tool_call_id: call.id, content: JSON.stringify(result) });
    }
  }
  throw new UpstreamError('LLM', config.llm, undefined, `it still asked for tools after ${MAX_ROUNDS} rounds`);
}

async function search(question, config, fetch) {
  const url = `${config.knowledge}/search?q=${encodeURIComponent(question)}`;
  const body = await json('knowledge service', url, await request('knowledge service', url, {}, fetch));
  if (!Array.isArray(body.documents)) {
    throw new UpstreamError('knowledge service', url, 200, 'its JSON has no list "documents"');
  }
  return body.documents;
}

async function complete(messages, config, fetch) {
  const url = `${config.llm}/v1/chat/completions`;
  const headers = { 'content-type': 'application/json' };
  if (config.key) headers.authorization = `Bearer ${config.key}`;
  const body = JSON.stringify({ model: config.model, messages, tools: TOOLS });
  const answer = await json('LLM', url, await request('LLM', url, { method: 'POST', headers, body }, fetch));
  const message = answer.choices?.[0]?.message;
  if (!message || (!message.content && !message.tool_calls?.length)) {
    throw new UpstreamError('LLM', url, 200, 'its JSON has no choices[0].message with content or tool_calls');
  }
  return message;
}

/** What a model asks for is data: an unknown tool or a bad argument is an answer to the model, not a failure. */
async function callTool(call, customer, config, fetch) {
  if (call.function.name !== 'lookup_order') return { error: `there is no tool ${call.function.name}` };
  let id;
  try {
    id = JSON.parse(call.function.arguments).order_id;
  } catch {
    return { error: 'the arguments are not JSON' };
  }
  if (typeof id !== 'string' && typeof id !== 'number') return { error: 'order_id is missing' };
  return lookupOrder(String(id), customer, config, fetch);
}

async function lookupOrder(id, customer, config, fetch) {
  const url = `${config.orders}/orders/${encodeURIComponent(id)}`;
  const response = await request('order API', url, {}, fetch, [404]);
  const order = response.status === 404 ? undefined : await json('order API', url, response);
  // Whose order it is, the model must not be able to decide.
  if (order?.customer !== customer) return { error: `this customer has no order ${id}` };
  return order;
}

async function request(upstream, url, options, fetch, expected = []) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    throw new UpstreamError(upstream, url, undefined, `${error.message ?? error}; is its host in spec.egress.allow?`);
  }
  if (response.ok || expected.includes(response.status)) return response;
  const detail = (await response.text().catch(() => '')).trim().slice(0, MAX_DETAIL);
  throw new UpstreamError(upstream, url, response.status, detail || 'without a body');
}

async function json(upstream, url, response) {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch {
    throw new UpstreamError(upstream, url, response.status, `no JSON: ${text.slice(0, MAX_DETAIL)}`);
  }
}
