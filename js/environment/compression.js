// CompressionStream and DecompressionStream (Compression Standard): gzip, deflate and deflate-raw.
import * as host from "hearth:host";
import { bytesOf } from "./encoding.js";
import { TransformStream, roomFor } from "./streams.js";

const FORMATS = ["deflate", "deflate-raw", "gzip"];

/** A transformer that puts bytes through zlib. */
function pressing(format, isInflating) {
  if (!FORMATS.includes(format)) throw new TypeError(`the format ${format} is none of ${FORMATS.join(", ")}`);
  const press = host.pressing(format, isInflating);
  const pass = async (bytes, controller) => {
    host.feed(press, bytes);
    for (let piece = host.press(press), isFirst = true; piece; piece = host.press(press), isFirst = false) {
      // Little may become much: what nobody reads is not made.
      if (!isFirst) await roomFor(controller);
      controller.enqueue(piece);
    }
  };
  return {
    transform: (chunk, controller) => pass(bytesOf(chunk), controller),
    flush: (controller) => pass(null, controller),
  };
}

export class CompressionStream extends TransformStream {
  constructor(format) {
    super(pressing(String(format), false));
  }
}

export class DecompressionStream extends TransformStream {
  constructor(format) {
    super(pressing(String(format), true));
  }
}
