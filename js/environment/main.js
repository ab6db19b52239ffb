// The globals of the environment, and how a call becomes `fetch(request, env, ctx)` of the user's module.
import * as host from "hearth:host";
import "./async_hooks.js";
import { Blob, File, FormData } from "./blob.js";
import { structuredClone } from "./clone.js";
import { CompressionStream, DecompressionStream } from "./compression.js";
import { console, inspect } from "./console.js";
import { Crypto, CryptoKey, SubtleCrypto } from "./crypto.js";
import { TextDecoder, TextEncoder } from "./encoding.js";
import * as events from "./events.js";
import { fetch, sendAtOnce } from "./fetch.js";
import { Headers, Request, Response, askedEncodings, forgetStreams, incomingRequest, outgoing, outgoingHead, useBody } from "./http.js";
import { beginCall, environment } from "./loader.js";
import { Performance, beginTime } from "./performance.js";
import * as streams from "./streams.js";
import { clearTimeout, clearTimers, setInterval, setTimeout } from "./timers.js";
import { URL, URLSearchParams } from "./url.js";

const performance = new Performance();

/** Whether a line of a stack is of the user's code: not a native function, nor a text that is no file. */
const isOwn = (line) => line.startsWith("    at ") && !line.endsWith("(native)") && !/[( ]<[^()]*>[:\d]*\)?$/.test(line);

/** The frames of a stack that are of the user's code, innermost first. */
function framesOf(error) {
  let stack;
  try {
    stack = String(error?.stack ?? "");
  } catch {
    return [];
  }
  return stack.split("\n").filter(isOwn);
}

/** Where in the user's code, as `file:line:column`. */
function position(error) {
  return /([^\s()]+:\d+:\d+)\)?$/.exec(framesOf(error)[0] ?? "")?.[1];
}

/** An exception that nobody caught, as its owner reads it. The first line says it all. */
function described(error) {
  const [title, ...rest] = inspect(error).split("\n").filter((line) => !line.startsWith("    at ") || isOwn(line));
  const place = position(error);
  return [place ? `${title} (${place})` : title, ...rest].join("\n");
}

/** Whether the engine threw it for want of memory. Where there is none even for an error, that is null. */
function isOutOfMemory(error) {
  if (error === null) return host.wasRefused();
  return error instanceof Error && error.name === "InternalError" && error.message === "out of memory";
}

function reportError(error) {
  host.log(true, `uncaught ${described(error)}`);
}

/** What a task threw that nobody waits for. False where memory was out, which ends the call. */
export function uncaught(error) {
  if (isOutOfMemory(error)) return false;
  reportError(error);
  return true;
}

/** A promise was rejected and nobody handled it before the next wait. */
export function unhandled(reason) {
  host.log(true, `unhandled rejection: ${described(reason)}`);
}

const globals = {
  Blob,
  CompressionStream,
  Crypto,
  CryptoKey,
  DecompressionStream,
  File,
  FormData,
  Headers,
  Performance,
  Request,
  Response,
  SubtleCrypto,
  TextDecoder,
  TextEncoder,
  URL,
  URLSearchParams,
  clearInterval: clearTimeout,
  clearTimeout,
  console,
  crypto: new Crypto(),
  fetch,
  navigator: Object.freeze({ userAgent: "Hearth", hardwareConcurrency: 1 }),
  performance,
  reportError,
  self: globalThis,
  setInterval,
  setTimeout,
  structuredClone,
  ...events,
  ...streams,
};
delete globals.isDisturbed;
delete globals.roomFor;
for (const [name, value] of Object.entries(globals)) {
  Object.defineProperty(globalThis, name, { value, writable: true, configurable: true, enumerable: false });
  // Classes name themselves in Object.prototype.toString.
  const prototype = typeof value === "function" ? value.prototype : undefined;
  if (prototype && !Object.hasOwn(prototype, Symbol.toStringTag)) {
    Object.defineProperty(prototype, Symbol.toStringTag, { value: name, configurable: true });
  }
}
Math.random = host.randomNumber;
// What `process.env` of a bundle is made of (tools/bundle/node/process.js): a module may want it before there is a call.
Object.defineProperty(globalThis, Symbol.for("hearth.environment"), { value: host.environment });

let handler;
let env;

/** Before the user's module is evaluated. */
export function begin() {
  beginTime(performance);
}

/** Takes the user's module, once it is evaluated. */
export function accept(namespace) {
  const exported = namespace.default;
  if (typeof exported?.fetch !== "function") {
    throw new TypeError("the module has no default export with a function `fetch`: export default { fetch(request, env, ctx) { … } }");
  }
  handler = exported;
}

/** What an exception at load is: its title, its place and its frames. */
export function loadProblem(error) {
  const isError = error instanceof Error || error instanceof DOMException;
  const title = isError ? `${error.name}: ${error.message}` : `thrown: ${inspect(error, 1)}`;
  const [, file, line, column] = /^(.*):(\d+):(\d+)$/.exec(position(error) ?? "") ?? [];
  return [title, file ?? "", Number(line ?? 0), Number(column ?? 0), isError ? framesOf(error).join("\n") : ""];
}

/** Answers the call. Returns the body and the stream of the host's that it goes to, 0 where there is nothing to send. */
function respond(response, method, asked) {
  if (!(response instanceof Response)) {
    throw new TypeError(`fetch returned no Response but ${inspect(response, 1)}`);
  }
  if (response.status === 0) throw new TypeError("fetch returned Response.error()");
  const body = useBody(response);
  if (method === "HEAD") return [body, host.respond(response.status, outgoingHead(response.headers, body), false)];
  const [list, isThere] = outgoing(response.headers, body, asked);
  return [body, host.respond(response.status, list, isThere)];
}

async function serve() {
  const pending = [];
  const ctx = {
    waitUntil(promise) {
      pending.push(promise);
    },
    passThroughOnException() {},
  };
  try {
    let body;
    let output = 0;
    try {
      const request = incomingRequest(host.request());
      const { method } = request;
      // Before the handler has them, and may change them.
      const asked = askedEncodings(request.headers);
      beginCall();
      env ??= environment();
      [body, output] = respond(await handler.fetch(request, env, ctx), method, asked);
      const sending = output ? sendAtOnce(body, output) : null;
      if (sending) await sending;
    } catch (error) {
      const text = `uncaught ${described(error)}`;
      host.log(true, text);
      // Not before it is told: an answer that breaks off ends the call.
      if (output) host.close(output);
      host.fail(isOutOfMemory(error), text);
    }
    while (pending.length > 0) {
      for (const { status, reason } of await Promise.allSettled(pending.splice(0))) {
        if (status === "rejected") host.log(true, `waitUntil: uncaught ${described(reason)}`);
      }
    }
  } finally {
    clearTimers();
    forgetStreams();
    host.done();
  }
}

/** What the engine makes when it is first touched is made before the snapshot: no instance has to make it again. */
async function touch() {
  const list = ["content-type", "text/plain", "accept", "*/*"];
  const request = incomingRequest(["GET", "http://localhost/path?name=value", list, 0, "localhost"]);
  const { searchParams, pathname } = new URL(request.url);
  const value = { name: searchParams.get("name"), pathname, type: request.headers.get("content-type") };
  for (const response of [new Response("text"), Response.json(value), new Response(null, { status: 404, headers: value })]) {
    const body = useBody(response.clone());
    outgoing(response.headers, body);
    const { bytes } = body;
    if (bytes?.length > 4) JSON.parse(host.decode(bytes, false));
  }
  await Promise.allSettled([null]);
}
await touch();

/** Answers the call that the host has now. */
export function handle() {
  serve();
}
