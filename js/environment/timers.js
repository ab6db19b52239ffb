// setTimeout, setInterval and their ends (HTML Standard). The host is asked to wait for the earliest alone.
import * as host from "hearth:host";

/** Those that are set, by number. */
const timers = new Map();
/** The same as a heap, the earliest first; what was cleared is taken out when it comes up. */
let heap = [];
let last = 0;
/** The host's timer that is waited for, 0 for none, and for which of ours. */
let armed = 0;
let awaited = null;
let isRunning = false;

function isBefore(a, b) {
  return a.due < b.due || (a.due === b.due && a.order < b.order);
}

function push(timer) {
  let at = heap.push(timer) - 1;
  while (at > 0) {
    const above = (at - 1) >> 1;
    if (!isBefore(timer, heap[above])) break;
    heap[at] = heap[above];
    at = above;
  }
  heap[at] = timer;
}

function pop() {
  const first = heap[0];
  const moved = heap.pop();
  if (heap.length === 0) return first;
  let at = 0;
  for (;;) {
    let below = 2 * at + 1;
    if (below + 1 < heap.length && isBefore(heap[below + 1], heap[below])) below++;
    if (below >= heap.length || !isBefore(heap[below], moved)) break;
    heap[at] = heap[below];
    at = below;
  }
  heap[at] = moved;
  return first;
}

/** The earliest that was not cleared. */
function first() {
  while (heap.length > 0 && timers.get(heap[0].id) !== heap[0]) pop();
  return heap[0] ?? null;
}

/** The host waits for none. Who waits goes on, and finds another. */
function disarm() {
  if (armed) host.close(armed);
  armed = 0;
  awaited = null;
}

/** Has the host wait for the earliest: another one may be that now. */
function arm() {
  const timer = first();
  if (timer === awaited) return;
  const next = timer ? host.timer(Math.max(0, timer.due - host.now())) : 0;
  disarm();
  armed = next;
  awaited = timer;
  if (!isRunning && timer) run();
}

/** Calls them as they come due. What one of them queues is done before the next. */
async function run() {
  isRunning = true;
  try {
    while (armed) {
      const waited = armed;
      await host.wait(waited);
      if (waited === armed) fire();
    }
  } finally {
    isRunning = false;
    // Where it failed: the next that is set begins anew.
    disarm();
  }
}

/** Calls the one that is due. */
function fire() {
  disarm();
  const timer = pop();
  if (timer.isRepeated) {
    timer.due = host.now() + timer.milliseconds;
    timer.order = ++last;
    push(timer);
  } else {
    timers.delete(timer.id);
  }
  const before = host.context();
  host.setContext(timer.context);
  try {
    timer.callback(...timer.args);
  } catch (error) {
    reportError(error);
  } finally {
    host.setContext(before);
  }
  arm();
}

function start(callback, milliseconds, isRepeated, args) {
  if (typeof callback !== "function") throw new TypeError("a timer's callback is a function");
  const bounded = Math.min(Math.max(Number(milliseconds) || 0, isRepeated ? 1 : 0), 0x7fffffff);
  const id = ++last;
  const timer = { id, order: id, due: host.now() + bounded, milliseconds: bounded, isRepeated, callback, args, context: host.context() };
  timers.set(id, timer);
  push(timer);
  try {
    arm();
  } catch (error) {
    // While the module is loaded there are none. Those that were set before go on.
    timers.delete(id);
    throw error;
  }
  return id;
}

export function setTimeout(callback, milliseconds = 0, ...args) {
  return start(callback, milliseconds, false, args);
}

export function setInterval(callback, milliseconds = 0, ...args) {
  return start(callback, milliseconds, true, args);
}

export function clearTimeout(id) {
  if (timers.delete(Number(id)) && awaited?.id === Number(id)) arm();
}

/** Ends all of them: the call that set them is over. */
export function clearTimers() {
  if (heap.length === 0) return;
  timers.clear();
  heap = [];
  disarm();
}
