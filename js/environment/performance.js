// performance: the clock, marks and measures (High Resolution Time, User Timing). Nobody observes entries.
import * as host from "hearth:host";

export class Performance {
  #origin = host.now();
  #entries = [];

  get timeOrigin() {
    return Date.now() - this.now();
  }

  now() {
    return host.now() - this.#origin;
  }

  #add(entryType, name, startTime, duration, detail = null) {
    const entry = { name: String(name), entryType, startTime, duration, detail };
    // The oldest is forgotten: an instance may be reused.
    if (this.#entries.push(entry) > 1000) this.#entries.shift();
    return entry;
  }

  #at(mark) {
    if (typeof mark === "number") return mark;
    const entry = this.#entries.findLast(({ name, entryType }) => entryType === "mark" && name === String(mark));
    if (!entry) throw new DOMException(`there is no mark ${mark}`, "SyntaxError");
    return entry.startTime;
  }

  mark(name, options) {
    return this.#add("mark", name, options?.startTime ?? this.now(), 0, options?.detail);
  }

  /** Between two marks, or as `{ start, end, duration, detail }`. */
  measure(name, from, to) {
    const { start, end, duration, detail } = typeof from === "object" && from !== null ? from : { start: from, end: to };
    const until = end !== undefined ? this.#at(end) : duration !== undefined ? this.#at(start ?? 0) + duration : this.now();
    const since = start !== undefined ? this.#at(start) : duration !== undefined ? until - duration : 0;
    return this.#add("measure", name, since, until - since, detail);
  }

  getEntries() {
    return this.#entries.toSorted((a, b) => a.startTime - b.startTime);
  }

  getEntriesByType(type) {
    return this.getEntries().filter(({ entryType }) => entryType === type);
  }

  getEntriesByName(name, type) {
    return this.getEntries().filter((entry) => entry.name === name && (type === undefined || entry.entryType === type));
  }

  clearMarks(name) {
    this.#clear("mark", name);
  }

  clearMeasures(name) {
    this.#clear("measure", name);
  }

  #clear(type, name) {
    this.#entries = this.#entries.filter((entry) => entry.entryType !== type || (name !== undefined && entry.name !== name));
  }

  /** Time begins with the instance, not with its snapshot. */
  static begin(performance) {
    performance.#origin = host.now();
  }
}

export const beginTime = Performance.begin;
delete Performance.begin;
