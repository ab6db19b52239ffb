// node:console.
export default globalThis.console;
export const { console } = globalThis;
