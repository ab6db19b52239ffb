// A support agent on LlamaIndex.TS, with its packages from npm as they are: question, retrieval, LLM, order API, answer, all in
// one instance.
import { OpenAI } from "@llamaindex/openai";
import { agent } from "@llamaindex/workflow";
import { BaseRetriever, MetadataMode, type NodeWithScore, type QueryBundle, Settings, TextNode, tool } from "llamaindex";
import { z } from "zod";

interface Env {
  /** The LLM's address, in OpenAI's shape. */
  LLM_URL: string;
  LLM_MODEL?: string;
  LLM_API_KEY?: string;
  KNOWLEDGE_URL: string;
  ORDERS_URL: string;
}

interface Question {
  customer: string;
  question: string;
}

type Order = Record<string, string>;

const INSTRUCTIONS =
  "You answer questions of a shop's customers, in two sentences at most. Use the given documents, and look orders up " +
  "instead of guessing. Say so when you do not know.";

/** Documents of the knowledge service. */
class KnowledgeRetriever extends BaseRetriever {
  constructor(private readonly url: string) {
    super();
  }

  override async _retrieve({ query }: QueryBundle): Promise<NodeWithScore[]> {
    const answer = await fetch(`${this.url}/search?q=${encodeURIComponent(String(query))}`);
    if (!answer.ok) throw new Error(`the knowledge service answered ${answer.status}`);
    const { documents } = (await answer.json()) as { documents: { id: string; title: string; text: string }[] };
    return documents.map(({ id, title, text }) => ({ node: new TextNode({ id_: id, text, metadata: { title } }) }));
  }
}

/** The tool sees orders of this customer alone: whose order it is, the model must not be able to decide. */
function lookupOrder(env: Env, customer: string) {
  return tool({
    name: "lookup_order",
    description: "State of one order of this customer",
    parameters: z.object({ order_id: z.string().describe("Number of the order") }),
    execute: async ({ order_id }) => {
      const answer = await fetch(`${env.ORDERS_URL}/orders/${encodeURIComponent(order_id)}`);
      const order = answer.ok ? ((await answer.json()) as Order) : undefined;
      // It is written as JSON for the LLM.
      return order?.customer === customer ? order : { error: `this customer has no order ${order_id}` };
    },
  });
}

async function ask({ customer, question }: Question, env: Env) {
  const nodes = await new KnowledgeRetriever(env.KNOWLEDGE_URL).retrieve(question);
  const context = nodes.map(({ node }) => `[${node.id_}] ${node.getContent(MetadataMode.NONE)}`).join("\n");
  const llm = new OpenAI({
    model: env.LLM_MODEL ?? "gpt-4o",
    apiKey: env.LLM_API_KEY ?? "none",
    baseURL: `${env.LLM_URL}/v1`,
    maxRetries: 0,
  });
  const support = agent({
    llm,
    tools: [lookupOrder(env, customer)],
    systemPrompt: `${INSTRUCTIONS}\n\nDocuments:\n${context || "none"}`,
  });
  const { data } = await support.run(question);
  return {
    answer: data.result,
    sources: nodes.map(({ node }) => ({ id: node.id_, title: node.metadata.title })),
  };
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    if (request.method !== "POST") return new Response("POST a question\n", { status: 405 });
    return Response.json(await ask((await request.json()) as Question, env));
  },
};
