// node:timers.
const { clearInterval, clearTimeout, setInterval, setTimeout } = globalThis;
const setImmediate = (callback, ...args) => setTimeout(callback, 0, ...args);
const clearImmediate = clearTimeout;
export { clearImmediate, clearInterval, clearTimeout, setImmediate, setInterval, setTimeout };
export default { clearImmediate, clearInterval, clearTimeout, setImmediate, setInterval, setTimeout };
