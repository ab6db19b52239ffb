// node:assert.
import { inspect, isDeepStrictEqual } from "node:util";

export class AssertionError extends Error {
  constructor({ message, actual, expected, operator } = {}) {
    super(message ?? `${inspect(actual)} ${operator} ${inspect(expected)}`);
    Object.assign(this, { actual, expected, operator, generatedMessage: message === undefined, code: "ERR_ASSERTION" });
    this.name = "AssertionError";
  }
}

function check(isSo, message, details) {
  if (isSo) return;
  if (message instanceof Error) throw message;
  throw new AssertionError({ message, ...details });
}

function assert(value, message) {
  check(value, message, { actual: value, expected: true, operator: "==" });
}

export const ok = assert;
export const strictEqual = (actual, expected, message) => check(Object.is(actual, expected), message, { actual, expected, operator: "strictEqual" });
export const notStrictEqual = (actual, expected, message) => check(!Object.is(actual, expected), message, { actual, expected, operator: "notStrictEqual" });
export const deepStrictEqual = (actual, expected, message) => check(isDeepStrictEqual(actual, expected), message, { actual, expected, operator: "deepStrictEqual" });
export const notDeepStrictEqual = (actual, expected, message) => check(!isDeepStrictEqual(actual, expected), message, { actual, expected, operator: "notDeepStrictEqual" });
export const equal = (actual, expected, message) => check(actual == expected || (actual !== actual && expected !== expected), message, { actual, expected, operator: "==" });
export const notEqual = (actual, expected, message) => check(actual != expected, message, { actual, expected, operator: "!=" });
export const deepEqual = deepStrictEqual;
export const notDeepEqual = notDeepStrictEqual;
export const match = (actual, expected, message) => check(expected.test(actual), message, { actual, expected, operator: "match" });
export const fail = (message = "Failed") => check(false, message, { operator: "fail" });
export const ifError = (value) => check(value === null || value === undefined, value, {});

function fits(error, expected) {
  if (expected === undefined || typeof expected === "string") return;
  if (expected instanceof RegExp) return check(expected.test(String(error)), undefined, { actual: error, expected, operator: "throws" });
  if (typeof expected === "function") {
    if (expected.prototype !== undefined && error instanceof expected) return;
    if (!(expected.prototype instanceof Error) && expected(error) === true) return;
    throw error;
  }
  for (const key of Object.keys(expected)) check(expected[key] instanceof RegExp ? expected[key].test(error[key]) : isDeepStrictEqual(error[key], expected[key]), undefined, { actual: error[key], expected: expected[key], operator: "throws" });
}

export function throws(run, expected, message) {
  try {
    run();
  } catch (error) {
    return fits(error, expected);
  }
  check(false, message ?? "Missing expected exception.", { operator: "throws" });
}

export async function rejects(run, expected, message) {
  try {
    await (typeof run === "function" ? run() : run);
  } catch (error) {
    return fits(error, expected);
  }
  check(false, message ?? "Missing expected rejection.", { operator: "rejects" });
}

Object.assign(assert, { AssertionError, deepEqual, deepStrictEqual, equal, fail, ifError, match, notDeepEqual, notDeepStrictEqual, notEqual, notStrictEqual, ok, rejects, strict: assert, strictEqual, throws });
export const strict = assert;
export default assert;
