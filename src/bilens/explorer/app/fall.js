// A number as an exact sum: a waterfall of its terms, each from where the one above ended.

import { s } from "./dom.js";
import { figure } from "./figure.js";
import { short, signed } from "./format.js";

/**
 * @typedef {{label: string, narrow?: string, value: number, faint?: boolean, picture?: ((box: {x: number, y: number, width: number, height: number}) => Node)}} Term
 * @typedef {{terms: Term[], total: number, rounding: number|null}} Sum
 */

/**
 * @param {{title: string, note: string, alt: string, name?: string, cell: number, tall: number, sum: () => Sum, called: () => string}} parts
 *   `cell` is the width of the pictures, 0 for none, and `tall` their height
 */
export function fall(parts) {
  const { cell, tall, sum, called } = parts;
  return figure({
    title: parts.title, name: parts.name || "terms", note: parts.note, alt: parts.alt,
    table: () => {
      const found = sum();
      let total = 0;
      const rounding = found.rounding === null ? [] : [["rounding", found.rounding, found.total]];
      return { columns: ["term", "adds", "sum so far"], rows: [...found.terms.map((term) => [term.label, term.value, (total += term.value)]), ...rounding, [called(), found.total, found.total]] };
    },
    draw: (width) => {
      const found = sum(), narrow = width < 560, size = cell ? tall + 6 : 28, begin = cell ? cell + 14 : 0;
      const left = begin + (narrow ? 96 : 152), ends = 64, limit = narrow ? 16 : 26;
      let total = 0;
      const steps = found.terms.map((term) => {
        const from = total;
        total += term.value;
        return { term, from, to: total };
      });
      const points = [0, found.total, ...steps.map((step) => step.to)];
      const low = Math.min(...points), high = Math.max(...points);
      const place = (/** @type {number} */ value) => left + (low < 0 ? ends : 8) + ((value - low) / (high - low || 1)) * (width - left - ends - (low < 0 ? ends : 8));
      const group = s("g", {});
      const height = size * (steps.length + 1) + 8;
      group.append(s("line", { x1: place(0), x2: place(0), y1: 0, y2: height, class: "axis" }));
      steps.forEach(({ term, from, to }, line) => {
        const y = line * size, middle = y + size / 2;
        if (term.picture && cell) group.append(term.picture({ x: 0.5, y: y + 3, width: cell, height: tall }));
        const barTall = Math.min(26, size - 10), start = Math.min(place(from), place(to)), end = Math.max(place(from), place(to));
        group.append(
          s("text", { x: begin, y: middle, dy: "0.32em", class: term.faint ? "tick" : "name" }, short(narrow ? term.narrow || term.label : term.label, limit)),
          s("rect", { x: start, y: middle - barTall / 2, width: Math.max(1, end - start), height: barTall, class: `${term.value < 0 ? "negative" : "positive"}${term.faint ? " faint" : ""}` }),
          s("line", { x1: place(to), x2: place(to), y1: middle + barTall / 2, y2: middle + size - barTall / 2, class: "rule" }),
          s("text", { x: term.value < 0 ? start - 6 : end + 6, y: middle, dy: "0.32em", "text-anchor": term.value < 0 ? "end" : "start", class: "tick" }, signed(term.value)));
      });
      const middle = steps.length * size + size / 2, end = place(found.total);
      group.append(
        s("text", { x: begin, y: middle, dy: "0.32em", class: "name strong" }, short(called(), limit)),
        s("rect", { x: Math.min(place(0), end), y: middle - 12, width: Math.max(1, Math.abs(end - place(0))), height: 24, class: "total" }),
        s("text", { x: found.total < 0 ? end - 6 : end + 6, y: middle, dy: "0.32em", "text-anchor": found.total < 0 ? "end" : "start", class: "name strong" }, signed(found.total)));
      return { height, parts: [group] };
    },
  });
}
