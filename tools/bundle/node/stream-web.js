// node:stream/web.
export const { ReadableStream, TextDecoderStream, TextEncoderStream, TransformStream, WritableStream } = globalThis;
export default { ReadableStream, TextDecoderStream, TextEncoderStream, TransformStream, WritableStream };
