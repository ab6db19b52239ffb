// env.LOADER: code that comes at run time, each call of it in a sandbox of its own; and what such code finds in its env. The
// shape is that of Cloudflare's Worker Loader, as far as it goes.
import * as host from "hearth:host";
import { Upload, abortion, fetch } from "./fetch.js";
import { Request, dropBody, givenSignal, headersFrom, incomingResponse, outgoing, useBody } from "./http.js";
import { URL } from "./url.js";

/** Where loaded code calls back who loaded it. The host never sends it anywhere. */
const FUNCTIONS = "http://functions.hearth/";

const PARTS = ["mainModule", "modules", "env", "egress", "limits"];
// What the shape has elsewhere and means nothing here.
const PASSED_OVER = ["compatibilityDate", "compatibilityFlags", "tails"];
const LIMITS = ["memoryBytes", "deadlineMilliseconds", "cpuMilliseconds", "outboundCalls"];

/** The call that is answered now: what was loaded in another one is loaded anew. */
let epoch = 0;

export function beginCall() {
  epoch += 1;
}

/** What went wrong with a call of loaded code. */
export class LoaderError extends Error {
  constructor(report) {
    super(`the loaded code: ${report.outcome}${report.problem ? `: ${report.problem}` : ""}`);
    this.report = report;
  }

  get name() {
    return "LoaderError";
  }

  get outcome() {
    return this.report.outcome;
  }
}

function sourceOf(name, module) {
  if (typeof module === "string") return module;
  if (typeof module?.js === "string") return module.js;
  if (typeof module?.text === "string") return `export default ${JSON.stringify(module.text)};`;
  if (module?.json !== undefined) return `export default ${JSON.stringify(module.json)};`;
  throw new TypeError(`the module ${JSON.stringify(name)} is none of a string, { js }, { text } and { json }`);
}

function boundOf(name, value) {
  if (value === undefined) return value;
  if (typeof value !== "number" || !(value >= 0 && value < Infinity)) {
    throw new TypeError(`limits.${name} is a number, and not ${JSON.stringify(value) ?? String(value)}`);
  }
  return value;
}

/** What is loaded, as the host takes it. */
function described(code) {
  for (const name of Object.keys(code)) {
    if (name === "globalOutbound" && code[name] === null) continue;
    if (name === "globalOutbound") throw new TypeError("globalOutbound is null or left out; name hosts in egress");
    if (!PARTS.includes(name) && !PASSED_OVER.includes(name)) throw new TypeError(`loaded code has no ${name}; it has ${PARTS.join(", ")}`);
  }
  const { mainModule, modules, env = {}, egress = [], limits = {} } = code;
  if (typeof mainModule !== "string") throw new TypeError("mainModule is the name of a module");
  const texts = Object.entries(modules ?? {}).flatMap(([name, module]) => [name, sourceOf(name, module)]);
  const values = [];
  const functions = new Map();
  for (const [name, value] of Object.entries(env)) {
    if (typeof value === "function") {
      if (!/^[\w$]+$/.test(name)) throw new TypeError(`env.${name} is a function, whose name is letters, digits, _ and $`);
      functions.set(name, value);
      continue;
    }
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError(`env.${name} is neither a function nor a value with a form in JSON`);
    values.push(name, text);
  }
  for (const name of Object.keys(limits)) {
    if (!LIMITS.includes(name)) throw new TypeError(`there is no limit ${name}; limits are ${LIMITS.join(", ")}`);
  }
  const bounds = LIMITS.map((name) => boundOf(name, limits[name]));
  if (!Array.isArray(egress)) throw new TypeError(`egress is a list of hosts, and not ${JSON.stringify(egress)}`);
  return { mainModule, texts, values, functions, egress: egress.map(String), bounds };
}

function reportOf([outcome, start, problem, milliseconds, cpuMilliseconds, memoryBytes, lines, droppedLines]) {
  const log = [];
  for (let at = 0; at < lines.length; at += 2) log.push({ stream: lines[at] ? "stderr" : "stdout", text: lines[at + 1] });
  return { outcome, start, problem, milliseconds, cpuMilliseconds, memoryBytes, log, droppedLines };
}

async function invoke(functions, execution, [id, name, args]) {
  let isError = false;
  let text;
  try {
    const called = functions.get(name);
    if (!called) throw new TypeError(`there is no function ${name}`);
    text = JSON.stringify((await called(...JSON.parse(args))) ?? null);
    if (text === undefined) throw new TypeError(`what ${name} returned has no form in JSON`);
  } catch (error) {
    isError = true;
    text = error instanceof Error ? `${error.name}: ${error.message}` : String(error);
  }
  host.reply(execution, id, isError, text);
}

/** Answers calls back until the call is over. Returns how it ended. */
async function watch(execution, functions) {
  for (;;) {
    const event = host.next(execution);
    if (event === undefined) {
      await host.wait(execution);
    } else if (typeof event[0] === "number") {
      // Others may come before it is answered; the code may have ended when it is.
      host.handled(invoke(functions, execution, event));
    } else {
      host.close(execution);
      return reportOf(event);
    }
  }
}

async function answered(call, { url, method }, upload, ended, signal) {
  const { promise: aborted, stop } = abortion(signal);
  try {
    for (;;) {
      const answer = host.answer(call);
      if (answer) {
        const [status, list, handle] = answer;
        upload?.answered();
        return incomingResponse({ status, headers: headersFrom(list), url, redirected: false, handle }, method, signal);
      }
      const waiting = host.wait(call);
      await (aborted ? Promise.race([waiting, aborted]) : waiting);
    }
  } catch (error) {
    signal?.throwIfAborted();
    const reason = upload ? upload.failed(error) : error;
    throw reason === error ? new LoaderError(await ended) : reason;
  } finally {
    stop();
    host.close(call);
  }
}

/** Code that was loaded. */
class Worker {
  #code;
  #source;
  #handle = 0;
  #epoch = 0;
  /** The code while it is asked for, and the call in which. */
  #asking;
  #askingEpoch = 0;

  constructor(source) {
    this.#source = source;
  }

  async #ask() {
    return described(typeof this.#source === "function" ? await this.#source() : this.#source);
  }

  async #load() {
    if (!this.#code) {
      if (this.#askingEpoch !== epoch) {
        this.#asking = this.#ask();
        this.#askingEpoch = epoch;
      }
      try {
        this.#code = await this.#asking;
      } catch (error) {
        this.#askingEpoch = 0;
        throw error;
      }
    }
    if (this.#epoch !== epoch) {
      const { mainModule, texts, values, functions, egress, bounds } = this.#code;
      this.#handle = host.load(mainModule, texts, values, [...functions.keys()], egress, bounds);
      this.#epoch = epoch;
    }
    return this.#handle;
  }

  /** Calls it: `response` is its answer, `ended` how it ended. Neither rejects unheard. */
  call(input, init) {
    const request = new Request(input, init);
    const signal = givenSignal(request);
    const body = useBody(request);
    const begun = this.#load().then((worker) => {
      signal?.throwIfAborted();
      const [list, isThere] = outgoing(request.headers, body);
      const { protocol, host: authority, pathname, search } = new URL(request.url);
      const path = pathname + search;
      const [call, output, execution] = host.fetch(request.method, protocol.slice(0, -1), authority, path, list, isThere, worker);
      const upload = isThere ? new Upload(body, output, "loaded code", signal) : null;
      const ended = watch(execution, this.#code.functions);
      host.handled(ended);
      return { ended, response: answered(call, request, upload, ended, signal) };
    });
    host.handled(begun.catch((error) => dropBody(body, error)));
    const response = begun.then(({ response }) => response);
    const ended = begun.then(({ ended }) => ended);
    host.handled(response);
    host.handled(ended);
    return { response, ended };
  }

  /** Its answer. */
  fetch(input, init) {
    return this.call(input, init).response;
  }

  getEntrypoint(name) {
    if (name !== undefined && name !== null && name !== "default") throw new TypeError(`loaded code has the entry "default" alone, and no ${name}`);
    return this;
  }
}

/** What env.LOADER is. */
class Loader {
  #known = new Map();

  /** Takes `{ mainModule, modules, env, egress, limits }`. */
  load(code) {
    if (typeof code !== "object" || code === null) throw new TypeError("the code is an object with mainModule and modules");
    return new Worker(code);
  }

  /** The code that `getCode` returned when it was asked for under this name first, in this instance. */
  get(name, getCode) {
    const known = this.#known.get(name) ?? new Worker(getCode);
    this.#known.set(name, known);
    return known;
  }
}

function stub(name) {
  return async (...args) => {
    const answer = await fetch(FUNCTIONS + name, { method: "POST", body: JSON.stringify(args) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text);
    return JSON.parse(text);
  };
}

/** The env of a module: variables, and what loading gives and takes. */
export function environment() {
  const env = host.environment();
  const [mayLoad, values, functions] = host.bindings();
  if (mayLoad) env.LOADER = new Loader();
  for (let at = 0; at < values.length; at += 2) env[values[at]] = JSON.parse(values[at + 1]);
  for (const name of functions) env[name] = stub(name);
  return env;
}
