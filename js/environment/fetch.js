// fetch: calls out, which the host allows or refuses (spec.egress).
import * as host from "hearth:host";
import { bytesOf } from "./encoding.js";
import {
  Headers,
  Request,
  askDecodable,
  closeHost,
  dropBody,
  endHost,
  givenSignal,
  headersFrom,
  incomingResponse,
  isRedirect,
  onAbort,
  outgoing,
  readHost,
  readPlain,
  useBody,
  writeHost,
} from "./http.js";
import { URL } from "./url.js";

const REDIRECTIONS = 20;
/** Methods whose requests say that they have no body. */
const WITH_BODIES = ["POST", "PUT", "PATCH"];

/**
 * Moves a body to a stream of the host's, and ends it. A promise where the host does not take all of it at once. Who called it
 * closes the stream where it fails.
 */
export function sendAtOnce(body, output) {
  const { bytes } = body;
  if (!bytes) return send(body, output);
  const written = host.write(output, bytes, 0);
  if (written === bytes.length) return host.finish(output);
  return send({ ...body, bytes: bytes.subarray(written) }, output);
}

/**
 * The same, of which somebody hears later. `torn` is told what the body itself failed with; a signal ends it, and what `begun`
 * is given.
 */
async function send({ bytes, handle, stream, isPlain }, output, torn, signal, begun) {
  if (bytes) {
    await writeHost(output, bytes);
    host.finish(output);
    return;
  }
  const reader = stream?.getReader();
  const cancel = (reason) => (handle ? endHost(handle, reason) : host.handled(reader.cancel(reason)));
  const stop = signal ? onAbort(signal, () => cancel(signal.reason)) : null;
  let ended = null;
  begun?.((error) => {
    ended = { error };
    cancel(error);
  });
  let isReading;
  try {
    for (;;) {
      isReading = true;
      let piece;
      if (handle) {
        piece = await (isPlain ? readPlain(handle) : readHost(handle));
      } else {
        const { value, done } = await reader.read();
        piece = done ? null : pieceOf(value);
      }
      signal?.throwIfAborted();
      if (ended) throw ended.error;
      if (piece === null) break;
      isReading = false;
      await writeHost(output, piece);
    }
    if (handle) closeHost(handle);
    host.finish(output);
  } catch (error) {
    if (isReading) torn?.(error);
    cancel(error);
    throw error;
  } finally {
    stop?.();
  }
}

function pieceOf(value) {
  if (typeof value === "string") throw new TypeError("the stream of a body has a string in it: bytes are needed, as of a TextEncoderStream");
  return bytesOf(value);
}

/** Sends a request's body while its answer is waited for. */
export class Upload {
  #answered = false;
  #torn = null;
  #problem = null;
  #where;
  #end;

  constructor(body, output, where, signal) {
    this.#where = where;
    const torn = (error) => {
      this.#torn = { error };
    };
    const begun = (end) => {
      this.#end = end;
    };
    send(body, output, torn, signal, begun).catch((error) => {
      host.close(output);
      if (signal?.aborted) return;
      this.#problem = { error };
      if (this.#answered) this.#tell();
    });
  }

  #tell() {
    const { error } = this.#problem;
    host.log(true, `warn: not all of the body of a request to ${this.#where} was sent: ${error?.message ?? error}`);
  }

  /** There is an answer, which may be all the same. */
  answered() {
    this.#answered = true;
    if (this.#problem) this.#tell();
  }

  /** There is none: nobody reads on. Returns why. */
  failed(error) {
    const reason = this.#torn ? this.#torn.error : error;
    this.#end?.(reason);
    return reason;
  }
}

/** Rejects when the signal is aborted; `stop` ends the waiting. */
export function abortion(signal) {
  if (!signal) return { promise: null, stop() {} };
  const { promise, reject } = Promise.withResolvers();
  host.handled(promise);
  return { promise, stop: onAbort(signal, () => reject(signal.reason)) };
}

/** Begins to send. Returns the call, and the stream that its body goes to. */
function begin(url, method, headers, body) {
  const [list, isThere] = outgoing(headers, body);
  if (!isThere && WITH_BODIES.includes(method)) list.push("content-length", "0");
  const { protocol, host: authority, pathname, search } = url;
  if (protocol !== "http:" && protocol !== "https:") throw new TypeError(`the scheme ${protocol} cannot be fetched`);
  return host.fetch(method, protocol.slice(0, -1), authority, pathname + search, list, isThere);
}

async function once(url, method, headers, body, signal, aborted) {
  let call;
  let output;
  try {
    [call, output] = begin(url, method, headers, body);
  } catch (error) {
    dropBody(body, error);
    throw error;
  }
  const upload = output ? new Upload(body, output, url.host, signal) : null;
  try {
    for (;;) {
      const answer = host.answer(call);
      if (answer) {
        upload?.answered();
        return answer;
      }
      const waiting = host.wait(call);
      await (aborted ? Promise.race([waiting, aborted]) : waiting);
    }
  } catch (error) {
    throw upload ? upload.failed(error) : error;
  } finally {
    host.close(call);
  }
}

function withoutHash(href) {
  const at = href.indexOf("#");
  return at < 0 ? href : href.slice(0, at);
}

export async function fetch(input, init) {
  init ??= {};
  const request = new Request(input, init);
  const { redirect } = request;
  const signal = givenSignal(request);
  if (signal?.aborted) {
    dropBody(useBody(request), signal.reason);
    throw signal.reason;
  }
  let url = new URL(request.url);
  let { method } = request;
  const headers = new Headers(request.headers);
  askDecodable(headers);
  let body = useBody(request);
  const { promise: aborted, stop } = abortion(signal);
  try {
    for (let redirections = 0; ; redirections++) {
      const [status, list, handle] = await once(url, method, headers, body, signal, aborted);
      // Since the answer came.
      if (signal?.aborted) {
        host.close(handle);
        throw signal.reason;
      }
      const answer = headersFrom(list);
      const location = answer.get("location");
      if (!isRedirect(status) || !location || redirect === "manual") {
        const init = { status, headers: answer, url: withoutHash(url.href), redirected: redirections > 0, handle };
        return incomingResponse(init, method, signal);
      }
      host.close(handle);
      if (redirect === "error") throw new TypeError(`${url.href} redirects, which the request does not allow`);
      if (redirections === REDIRECTIONS) throw new TypeError(`more than ${REDIRECTIONS} redirections`);
      const next = new URL(location, url);
      if (next.origin !== url.origin) headers.delete("authorization");
      if (status === 303 ? method !== "HEAD" : status <= 302 && method === "POST") {
        method = "GET";
        body = { bytes: null, handle: 0, stream: null };
        for (const name of ["content-type", "content-length", "content-encoding"]) headers.delete(name);
      } else if (body.handle || body.stream) {
        throw new TypeError("a body that is a stream cannot be sent again to where the answer redirects");
      }
      url = next;
    }
  } finally {
    stop();
  }
}
