// setTimeout, setInterval and their ends (HTML Standard).
import * as host from "hearth:host";

const timers = new Map();
let last = 0;

async function run(id, handle, milliseconds, isRepeated, callback, args) {
  do {
    await host.wait(handle);
    if (!timers.has(id)) return;
    if (!isRepeated) timers.delete(id);
    try {
      callback(...args);
    } catch (error) {
      reportError(error);
    }
    host.close(handle);
    if (!timers.has(id)) return;
    handle = host.timer(milliseconds);
    timers.set(id, handle);
  } while (isRepeated);
}

function start(callback, milliseconds, isRepeated, args) {
  if (typeof callback !== "function") throw new TypeError("a timer's callback is a function");
  const bounded = Math.min(Math.max(Number(milliseconds) || 0, isRepeated ? 1 : 0), 0x7fffffff);
  const id = ++last;
  const handle = host.timer(bounded);
  timers.set(id, handle);
  run(id, handle, bounded, isRepeated, callback, args);
  return id;
}

export function setTimeout(callback, milliseconds = 0, ...args) {
  return start(callback, milliseconds, false, args);
}

export function setInterval(callback, milliseconds = 0, ...args) {
  return start(callback, milliseconds, true, args);
}

export function clearTimeout(id) {
  const handle = timers.get(id);
  if (handle === undefined) return;
  timers.delete(id);
  host.close(handle);
}

/** Ends all of them: the call that set them is over. */
export function clearTimers() {
  timers.clear();
}
