// In place of @llamaindex/env/tokenizers, which builds the tables of OpenAI's tokenizers in each instance: 5.6 MB of code, to
// count how much of a context is used. Four bytes of text are about a token.
export const Tokenizers = { CL100K_BASE: "cl100k_base" } as const;

export const tokenizers = {
  tokenizer: () => ({
    encode(text: string): Uint32Array {
      const bytes = new TextEncoder().encode(text);
      const tokens = new Uint32Array(Math.ceil(bytes.length / 4));
      new Uint8Array(tokens.buffer).set(bytes);
      return tokens;
    },
    decode(tokens: Uint32Array): string {
      return new TextDecoder().decode(Uint32Array.from(tokens).buffer).replace(/\0+$/, "");
    },
  }),
};
