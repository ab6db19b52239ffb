// A support agent on LangChain.js, with its packages from npm as they are: question, retrieval, LLM, order API, answer, all in
// one instance.
import { Document } from "@langchain/core/documents";
import { BaseRetriever } from "@langchain/core/retrievers";
import { ChatOpenAI } from "@langchain/openai";
import { createAgent, tool } from "langchain";
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

interface Order {
  customer: string;
}

const INSTRUCTIONS =
  "You answer questions of a shop's customers, in two sentences at most. Use the given documents, and look orders up " +
  "instead of guessing. Say so when you do not know.";

/** Documents of the knowledge service. */
class KnowledgeRetriever extends BaseRetriever {
  lc_namespace = ["hearth", "examples"];

  constructor(private readonly url: string) {
    super();
  }

  override async _getRelevantDocuments(question: string): Promise<Document[]> {
    const answer = await fetch(`${this.url}/search?q=${encodeURIComponent(question)}`);
    if (!answer.ok) throw new Error(`the knowledge service answered ${answer.status}`);
    const { documents } = (await answer.json()) as { documents: { id: string; title: string; text: string }[] };
    return documents.map(({ id, title, text }) => new Document({ pageContent: text, metadata: { id, title } }));
  }
}

/** The tool sees orders of this customer alone: whose order it is, the model must not be able to decide. */
function lookupOrder(env: Env, customer: string) {
  return tool(
    async ({ order_id }) => {
      const answer = await fetch(`${env.ORDERS_URL}/orders/${encodeURIComponent(order_id)}`);
      const order = answer.ok ? ((await answer.json()) as Order) : undefined;
      if (order?.customer !== customer) return JSON.stringify({ error: `this customer has no order ${order_id}` });
      return JSON.stringify(order);
    },
    {
      name: "lookup_order",
      description: "State of one order of this customer",
      schema: z.object({ order_id: z.string().describe("Number of the order") }),
    },
  );
}

async function ask({ customer, question }: Question, env: Env) {
  const documents = await new KnowledgeRetriever(env.KNOWLEDGE_URL).invoke(question);
  const context = documents.map(({ metadata, pageContent }) => `[${metadata.id}] ${pageContent}`).join("\n");
  const agent = createAgent({
    model: new ChatOpenAI({
      model: env.LLM_MODEL ?? "default",
      apiKey: env.LLM_API_KEY ?? "none",
      configuration: { baseURL: `${env.LLM_URL}/v1` },
      maxRetries: 0,
    }),
    tools: [lookupOrder(env, customer)],
    systemPrompt: `${INSTRUCTIONS}\n\nDocuments:\n${context || "none"}`,
  });
  const { messages } = await agent.invoke({ messages: [{ role: "user", content: question }] });
  return {
    answer: messages.at(-1)?.text,
    sources: documents.map(({ metadata }) => metadata),
    steps: messages.map((message) => message.type),
  };
}

export default {
  async fetch(request: Request, env: Env): Promise<Response> {
    if (request.method !== "POST") return new Response("POST a question\n", { status: 405 });
    return Response.json(await ask((await request.json()) as Question, env));
  },
};
