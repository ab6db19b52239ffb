// node:timers/promises.
const aborted = (signal) => Object.assign(new Error("The operation was aborted", { cause: signal.reason }), { name: "AbortError", code: "ABORT_ERR" });

export function setTimeout(milliseconds, value, { signal } = {}) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    const id = globalThis.setTimeout(resolve, milliseconds, value);
    signal?.addEventListener("abort", () => (clearTimeout(id), reject(aborted(signal))), { once: true });
  });
}

export const setImmediate = (value, options) => setTimeout(0, value, options);

export async function* setInterval(milliseconds, value, options) {
  for (;;) yield await setTimeout(milliseconds, value, options);
}

export const scheduler = { wait: (milliseconds, options) => setTimeout(milliseconds, undefined, options), yield: () => setTimeout(0) };
export default { scheduler, setImmediate, setInterval, setTimeout };
