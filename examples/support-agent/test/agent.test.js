// The agent's decisions, without a component and without a network: `fetch` is a function of these tests.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ask, BadQuestion, configuration, parseQuestion, UpstreamError } from '../src/agent.js';

const CONFIG = { llm: 'http://llm', model: 'm', knowledge: 'http://docs', orders: 'http://shop' };
const QUESTION = { customer: 'c-17', question: 'Where is my order 4711?' };

const json = (body, status = 200) => new Response(JSON.stringify(body), { status });
const wants = (order) => ({
  choices: [{ message: { role: 'assistant', tool_calls: [{ id: 't', function: { name: 'lookup_order', arguments: JSON.stringify({ order_id: order }) } }] } }],
});
const says = (content) => ({ choices: [{ message: { role: 'assistant', content } }] });

/** Servers: completions in order, one order, one document. Notes every call. */
function servers(completions, order) {
  const calls = [];
  const fetch = async (url, options = {}) => {
    calls.push({ url, body: options.body && JSON.parse(options.body) });
    if (url.startsWith('http://docs/search?q=')) return json({ documents: [{ id: 'd', title: 'D', text: 'Two days.' }] });
    if (url.startsWith('http://shop/orders/')) return order ? json(order) : json({}, 404);
    return json(completions.shift());
  };
  return { calls, fetch };
}

test('question, retrieval, LLM, order API, LLM, answer', async () => {
  const { calls, fetch } = servers([wants('4711'), says('On Thursday.')], { id: '4711', customer: 'c-17' });
  const result = await ask(QUESTION, CONFIG, fetch);
  assert.equal(result.answer, 'On Thursday.');
  assert.deepEqual(calls.map(({ url }) => new URL(url).hostname), ['docs', 'llm', 'shop', 'llm']);
  assert.match(JSON.stringify(calls[3].body.messages.at(-1)), /4711/);
});

test("another customer's order stays unknown to the model", async () => {
  const { calls, fetch } = servers([wants('4712'), says('I do not know it.')], { id: '4712', customer: 'c-18', status: 'packed' });
  await ask(QUESTION, CONFIG, fetch);
  assert.doesNotMatch(JSON.stringify(calls[3].body.messages), /packed/);
});

test('a model that never answers is stopped', async () => {
  const { fetch } = servers(Array(9).fill(wants('4711')), undefined);
  await assert.rejects(ask(QUESTION, CONFIG, fetch), UpstreamError);
});

test('a service that is down is named', async () => {
  const fetch = async () => { throw new Error('refused'); };
  await assert.rejects(ask(QUESTION, CONFIG, fetch), /knowledge service could not be reached: refused/);
});

test('bad questions and missing settings say what to send', () => {
  assert.throws(() => parseQuestion('{'), BadQuestion);
  assert.throws(() => parseQuestion('{"customer":"c"}'), /"question" is missing/);
  assert.throws(() => configuration({ LLM_URL: 'http://x' }), /KNOWLEDGE_URL, ORDERS_URL/);
});
