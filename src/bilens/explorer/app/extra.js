// The figures of a set of features as a whole: lines, or points counted in cells. What they say is in the data.

import { lines } from "./chart.js";
import { s } from "./dom.js";
import { figure } from "./figure.js";
import { number, short, whole } from "./format.js";

/**
 * @param {import("./layout.js").Features} set
 * @param {import("./layout.js").Lines|import("./layout.js").Cells} shown
 */
export function figureOf(set, shown) {
  return shown.kind === "lines" ? linesFigure(set, shown) : cellsFigure(set, shown);
}

/**
 * @param {import("./layout.js").Features} set
 * @param {import("./layout.js").Lines} shown
 */
function linesFigure(set, shown) {
  const drawn = shown.columns.slice(1, shown.drawn + 1), level = shown.level;
  const series = drawn.map((name, place) => ({ name, color: place ? place + 1 : 1, points: shown.rows.map((line) => ({ x: line[0], y: line[place + 1] })) }));
  const ends = [shown.rows[0], shown.rows[shown.rows.length - 1]].filter(Boolean);
  const lowest = Math.min(...series.flatMap((each) => each.points.map((point) => point.y)).filter((y) => y > 0));
  if (level !== null && (!shown.log || level > lowest / 10)) series.push({ name: shown.level_name || "level", color: 0, points: ends.map((line) => ({ x: line[0], y: level })) });
  return figure({
    title: shown.title, of: set.title, name: `${set.name}-${shown.name}`, note: shown.note,
    alt: `Line chart of ${drawn.join(", ")} against ${shown.columns[0]}`,
    table: () => ({ columns: shown.columns, rows: shown.rows }),
    draw: (width) => lines({ width, height: 260, marks: shown.rows.length < 40, series,
      x: { label: shown.columns[0], log: shown.rows.length > 60 && shown.rows[0][0] > 0, format: whole },
      y: shown.log ? { label: `${short(drawn[0], 30)}, log scale`, log: true } : { label: short(drawn[0], 30) } }),
  }).element;
}

/**
 * @param {import("./layout.js").Features} set
 * @param {import("./layout.js").Cells} shown
 */
function cellsFigure(set, shown) {
  const { bins, counts, low, high } = shown;
  const most = Math.max(1, ...counts.flat());
  return figure({
    title: shown.title, of: set.title, name: `${set.name}-${shown.name}`, note: shown.note,
    alt: `Map of ${shown.y} against ${shown.x}`,
    table: () => ({ columns: [`${shown.x}, from`, `${shown.y}, from`, "points"], rows: counts.flatMap((column, i) => column.map((count, j) =>
      /** @type {[number, number, number]} */ ([low[0] + (high[0] - low[0]) * i / bins, low[1] + (high[1] - low[1]) * j / bins, count]))).filter((cell) => cell[2] > 0).sort((a, b) => b[2] - a[2]) }),
    most: 460,
    draw: (width) => {
      const left = 46, top = 24, size = width - left - 10, tall = size * 0.8, group = s("g", {});
      const x = (/** @type {number} */ value) => left + (value - low[0]) / (high[0] - low[0]) * size;
      const y = (/** @type {number} */ value) => top + tall - (value - low[1]) / (high[1] - low[1]) * tall;
      counts.forEach((column, i) => column.forEach((count, j) => {
        if (count) group.append(s("rect", { x: left + i * size / bins, y: top + tall - (j + 1) * tall / bins, width: size / bins + 0.3, height: tall / bins + 0.3, class: "heat", "fill-opacity": 0.12 + 0.88 * Math.log(1 + count) / Math.log(1 + most) }));
      }));
      const from = Math.max(low[0], low[1]), to = Math.min(high[0], high[1]);
      group.append(s("line", { x1: x(from), y1: y(from), x2: x(to), y2: y(to), class: "mark" }),
        s("line", { x1: left, x2: left + size, y1: y(0), y2: y(0), class: "axis" }), s("line", { x1: x(0), x2: x(0), y1: top, y2: top + tall, class: "axis" }),
        s("text", { x: 0, y: 12, class: "label" }, shown.y),
        s("text", { x: left + size, y: top + tall + 34, class: "label", "text-anchor": "end" }, shown.x),
        s("text", { x: left - 6, y: y(0), dy: "0.32em", class: "tick", "text-anchor": "end" }, "0"),
        s("text", { x: left - 6, y: top + 8, class: "tick", "text-anchor": "end" }, number(high[1])),
        s("text", { x: left + size, y: top + tall + 16, class: "tick", "text-anchor": "end" }, number(high[0])));
      return { height: top + tall + 42, parts: [group] };
    },
  }).element;
}
