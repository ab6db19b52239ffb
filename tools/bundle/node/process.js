// node:process: what a program may ask of the process that it is not.
const nothing = () => process;
const stream = (write) => ({ isTTY: false, write: (text) => (write(String(text).replace(/\n$/, "")), true) });
const hrtime = (before) => {
  const nanoseconds = process.hrtime.bigint();
  const now = [Number(nanoseconds / 1000000000n), Number(nanoseconds % 1000000000n)];
  if (!before) return now;
  const [seconds, rest] = [now[0] - before[0], now[1] - before[1]];
  return rest < 0 ? [seconds - 1, rest + 1e9] : [seconds, rest];
};
hrtime.bigint = () => BigInt(Math.round(performance.now() * 1e6));

/** The function's variables, which its `fetch` has as `env` too. */
const variables = globalThis[Symbol.for("hearth.environment")]?.() ?? {};

const process = {
  arch: "wasm32", argv: ["hearth", "agent.js"], argv0: "hearth", env: variables, execArgv: [], execPath: "/hearth", exitCode: undefined, pid: 1, platform: "linux",
  title: "hearth", version: "v22.0.0", versions: {}, release: { name: "hearth" }, features: {}, config: {},
  stdin: { isTTY: false }, stdout: stream((text) => console.log(text)), stderr: stream((text) => console.error(text)),
  cwd: () => "/", chdir() { throw new Error("process.chdir is not there"); }, umask: () => 0, uptime: () => performance.now() / 1000,
  exit() { throw new Error("process.exit is not there: a function ends when its call does"); },
  emitWarning: (warning) => console.warn(String(warning?.message ?? warning)), hrtime,
  memoryUsage: Object.assign(() => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }), { rss: () => 0 }),
  nextTick: (callback, ...args) => queueMicrotask(() => callback(...args)),
  addListener: nothing, emit: () => false, listenerCount: () => 0, listeners: () => [], off: nothing, on: nothing, once: nothing,
  prependListener: nothing, removeAllListeners: nothing, removeListener: nothing,
};
export const { arch, argv, cwd, emitWarning, env, exit, memoryUsage, nextTick, pid, platform, stderr, stdin, stdout, uptime, version, versions } = process;
export { hrtime };
export default process;
