// node:sys, an old name.
export * from "node:util";
export { default } from "node:util";
