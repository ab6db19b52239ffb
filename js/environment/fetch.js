// fetch: calls out, which the host allows or refuses (spec.egress).
import * as host from "hearth:host";
import { bytesOf } from "./encoding.js";
import { Headers, Request, headersFrom, incomingResponse, isRedirect, outgoing, readHost, useBody, writeHost } from "./http.js";
import { URL } from "./url.js";

const REDIRECTIONS = 20;

/** Moves a body to a stream of the host's, and ends it. A promise where the host does not take all of it at once. */
export function sendAtOnce(body, output) {
  const { bytes } = body;
  if (!bytes) return send(body, output);
  try {
    const written = host.write(output, bytes, 0);
    if (written === bytes.length) return host.finish(output);
    return send({ ...body, bytes: bytes.subarray(written) }, output);
  } catch (error) {
    host.close(output);
    throw error;
  }
}

/** The same, of which somebody hears later. */
export async function send({ bytes, handle, stream }, output) {
  try {
    if (bytes) {
      await writeHost(output, bytes);
    } else if (handle) {
      for (let chunk = await readHost(handle); chunk !== null; chunk = await readHost(handle)) await writeHost(output, chunk);
      host.close(handle);
    } else if (stream) {
      const reader = stream.getReader();
      try {
        for (;;) {
          const { value, done } = await reader.read();
          if (done) break;
          await writeHost(output, bytesOf(value));
        }
      } catch (error) {
        host.handled(reader.cancel(error));
        throw error;
      }
    }
    host.finish(output);
  } catch (error) {
    host.close(output);
    throw error;
  }
}

/** Rejects when the signal is aborted; `stop` ends the waiting. */
function abortion(signal) {
  if (!signal) return { promise: new Promise(() => {}), stop() {} };
  const { promise, reject } = Promise.withResolvers();
  host.handled(promise);
  const listener = () => reject(signal.reason);
  signal.addEventListener("abort", listener);
  return { promise, stop: () => signal.removeEventListener("abort", listener) };
}

async function once(url, method, headers, body, aborted) {
  const [list, isThere] = outgoing(headers, body);
  const { protocol, host: authority, pathname, search } = url;
  if (protocol !== "http:" && protocol !== "https:") throw new TypeError(`the scheme ${protocol} cannot be fetched`);
  const [call, output] = host.fetch(method, protocol.slice(0, -1), authority, pathname + search, list, isThere);
  const sent = isThere ? send(body, output) : null;
  // What goes wrong with the body is told by the answer that does not come, or by one that refuses it.
  if (sent) host.handled(sent);
  try {
    for (;;) {
      const answer = host.answer(call);
      if (answer) return answer;
      await Promise.race([host.wait(call), aborted]);
    }
  } finally {
    host.close(call);
  }
}

export async function fetch(input, init = {}) {
  const request = new Request(input, init);
  const { redirect } = request;
  // Without one, none is made.
  const signal = init.signal ?? (input instanceof Request ? input.signal : null);
  signal?.throwIfAborted();
  let url = new URL(request.url);
  let { method } = request;
  const headers = new Headers(request.headers);
  let body = useBody(request);
  const { promise: aborted, stop } = abortion(signal);
  try {
    for (let redirections = 0; ; redirections++) {
      const [status, list, handle] = await once(url, method, headers, body, aborted);
      const answer = headersFrom(list);
      const location = answer.get("location");
      if (!isRedirect(status) || !location || redirect === "manual") {
        return incomingResponse({ status, headers: answer, url: url.href, redirected: redirections > 0, handle });
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
