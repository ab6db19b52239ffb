// Answers as a model does: word by word, as server-sent events, while the words come.
const WORDS = "The wick is lit and the room is warm".split(" ");

export default {
  fetch(request) {
    const pause = Number(new URL(request.url).searchParams.get("pause") ?? 200);
    const words = new ReadableStream({
      async start(controller) {
        for (const [index, word] of WORDS.entries()) {
          controller.enqueue(`id: ${index}\nevent: word\ndata: ${JSON.stringify({ word })}\n\n`);
          await new Promise((resolve) => setTimeout(resolve, pause));
        }
        controller.enqueue("event: end\ndata: {}\n\n");
        controller.close();
      },
    });
    return new Response(words.pipeThrough(new TextEncoderStream()), {
      headers: { "content-type": "text/event-stream", "cache-control": "no-cache" },
    });
  },
};
