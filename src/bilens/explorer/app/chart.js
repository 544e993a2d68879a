// Charts as SVG: scales, axes, lines with intervals, and bars.

import { s } from "./dom.js";
import { number, short, signed, tickText } from "./format.js";

/**
 * @typedef {{name: string, color: number, points: {x: number, y: number, half?: number}[], dashed?: boolean, dotted?: boolean}} Series
 * @typedef {{label: string, log?: boolean, low?: number, high?: number, format?: (value: number) => string,
 *   ticks?: number[]}} Scale
 */

/**
 * Nice ticks between two numbers.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 */
export function ticksBetween(low, high, count) {
  const rough = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => size >= rough) || 10 * power;
  const found = [];
  for (let value = Math.ceil(low / step - 1e-9) * step; value <= high + step * 1e-9; value += step) {
    found.push(Math.abs(value) < step * 1e-9 ? 0 : value);
  }
  return found;
}

/**
 * 1, 2, 5 of each decade, or whole decades where there are many.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 */
export function logTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  for (const factors of [[1, 2, 5], [1]]) {
    for (let every = 1; every < 12; every++) {
      const found = [];
      for (let power = first; power <= last; power++) {
        if ((power - first) % every === 0) for (const factor of factors) found.push(factor * 10 ** power);
      }
      const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
      if (inside.length <= count) return inside;
      if (factors.length > 1) break;
    }
  }
  return [low, high];
}

/**
 * A map from numbers to pixels, with its ticks.
 * @param {Scale} scale
 * @param {number[]} values
 * @param {number} start
 * @param {number} end
 * @param {number} count of ticks, about
 */
export function scaleOf(scale, values, start, end, count) {
  const usable = scale.log ? values.filter((value) => value > 0) : values;
  let low = scale.low ?? Math.min(...usable), high = scale.high ?? Math.max(...usable);
  if (!usable.length && scale.low === undefined) [low, high] = scale.log ? [1, 10] : [0, 1];
  if (!(high > low)) high = scale.log ? low * 10 : low + 1;
  const ticks = scale.ticks || (scale.log ? logTicks(low, high, count) : ticksBetween(low, high, count));
  const place = scale.log
    ? (/** @type {number} */ value) => start + (Math.log(value / low) / Math.log(high / low)) * (end - start)
    : (/** @type {number} */ value) => start + ((value - low) / (high - low)) * (end - start);
  return { place, ticks: ticks.filter((tick) => tick >= low - 1e-12 && tick <= high * (1 + 1e-9) + 1e-12), low, high };
}

const MARKS = [
  (/** @type {number} */ x, /** @type {number} */ y) => s("circle", { cx: x, cy: y, r: 3 }),
  (/** @type {number} */ x, /** @type {number} */ y) => s("rect", { x: x - 2.8, y: y - 2.8, width: 5.6, height: 5.6 }),
  (/** @type {number} */ x, /** @type {number} */ y) => s("path", { d: `M${x} ${y - 3.9}l3.9 3.9l-3.9 3.9l-3.9 -3.9z` }),
  (/** @type {number} */ x, /** @type {number} */ y) => s("path", { d: `M${x} ${y - 3.6}l3.6 6.3h-7.2z` }),
];

/**
 * The classes of a curve and of its sample in the legend.
 * @param {Series} each
 */
function stroke(each) {
  return each.dotted ? "line dotted" : each.dashed ? "line dashed" : "line";
}

/**
 * Lines with marks, intervals where they have them, direct labels where there is room, and a rule that follows the
 * pointer and tells the values under it.
 * @param {{width: number, height: number, series: Series[], x: Scale, y: Scale, mark?: number|null, marks?: boolean,
 *   legend?: boolean|"above"}} parts
 */
export function lines(parts) {
  const { width, series, x, y } = parts;
  const many = series.length > 1 && parts.legend !== false;
  const beside = many && width > 620 && parts.legend !== "above";
  const longest = Math.min(34, Math.max(0, ...series.map((each) => each.name.length)));
  const top = many && !beside ? 34 + 19 * series.length : 22;
  const height = parts.height + (many && !beside ? 12 + 19 * series.length : 0);
  const left = 52, right = beside ? 24 + longest * 6.6 : 14, bottom = 42;
  const xs = scaleOf(x, series.flatMap((each) => each.points.map((point) => point.x)), left, width - right,
    Math.max(3, Math.floor((width - left - right) / 62)));
  const ys = scaleOf(y, series.flatMap((each) => each.points.map((point) => point.y)), height - bottom, top, 6);
  const xFormat = x.format || number, yFormat = y.format || number;
  const shown = (/** @type {Series["points"]} */ points) =>
    points.filter((point) => (!x.log || point.x > 0) && (!y.log || point.y > 0));

  const group = s("g", {});
  group.append(
    s("text", { x: 0, y: top - 11, class: "label" }, y.label),
    ...ys.ticks.flatMap((tick) => [
      s("line", { x1: left, x2: width - right, y1: ys.place(tick), y2: ys.place(tick), class: "grid" }),
      s("text", { x: left - 8, y: ys.place(tick), dy: "0.32em", class: "tick", "text-anchor": "end" }, (y.format || tickText)(tick)),
    ]),
    ...xs.ticks.flatMap((tick) => [
      s("line", { x1: xs.place(tick), x2: xs.place(tick), y1: height - bottom, y2: height - bottom + 5, class: "axis" }),
      s("text", { x: xs.place(tick), y: height - bottom + 18, class: "tick", "text-anchor": "middle" }, (x.format || tickText)(tick)),
    ]),
    s("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }),
    s("text", { x: width - right, y: height - 6, class: "label", "text-anchor": "end" }, x.label),
  );
  if (parts.mark !== undefined && parts.mark !== null) {
    const at = xs.place(parts.mark);
    group.append(s("line", { x1: at, x2: at, y1: top, y2: height - bottom, class: "mark" }));
  }
  const ends = [];
  for (const [place, each] of series.entries()) {
    const points = shown(each.points);
    const clamp = (/** @type {number} */ value) => Math.max(ys.low, Math.min(ys.high, value));
    const holder = s("g", { class: `series-${each.color}` });
    const banded = points.filter((point) => point.half);
    if (banded.length) {
      const upper = points.map((p) => `${xs.place(p.x)},${ys.place(clamp(p.y + (p.half || 0)))}`);
      const lower = points.map((p) => `${xs.place(p.x)},${ys.place(clamp(p.y - (p.half || 0)))}`).reverse();
      holder.append(s("polygon", { points: [...upper, ...lower].join(" "), class: "band" }));
      for (const point of banded) {
        const [a, b] = [point.y + (point.half || 0), point.y - (point.half || 0)].map((value) => ys.place(clamp(value)));
        const at = xs.place(point.x);
        holder.append(s("path", { d: `M${at - 3} ${a}h6M${at} ${a}V${b}M${at - 3} ${b}h6`, class: "whisker" }));
      }
    }
    holder.append(s("polyline", { points: points.map((p) => `${xs.place(p.x)},${ys.place(p.y)}`).join(" "),
      class: stroke(each) }));
    if (parts.marks !== false && points.length < 60) {
      holder.append(s("g", { class: "dots" }, points.map((p) => MARKS[place % MARKS.length](xs.place(p.x), ys.place(p.y)))));
    }
    if (many && !beside) {
      const at = 12 + 19 * place;
      holder.append(s("line", { x1: 0, x2: 22, y1: at - 4, y2: at - 4, class: stroke(each) }));
      if (parts.marks !== false) holder.append(s("g", { class: "dots" }, MARKS[place % MARKS.length](11, at - 4)));
      holder.append(s("text", { x: 30, y: at, class: "name" }, short(each.name, Math.floor((width - 34) / 6.6))));
    } else if (beside && points.length) {
      const last = points[points.length - 1];
      ends.push({ at: ys.place(last.y), x: xs.place(last.x), name: each.name, color: each.color });
    }
    group.append(holder);
  }
  ends.sort((a, b) => a.at - b.at);
  for (let i = 1; i < ends.length; i++) ends[i].at = Math.max(ends[i].at, ends[i - 1].at + 16);
  const spill = ends.length ? Math.max(0, ends[ends.length - 1].at - (height - bottom)) : 0;
  for (const end of ends) {
    group.append(s("g", { class: `series-${end.color}` },
      s("text", { x: width - right + 12, y: end.at - spill, dy: "0.32em", class: "name" }, short(end.name, longest))));
  }
  group.append(hover(parts, shown, xs, ys, { left, right: width - right, top, bottom: height - bottom, xFormat, yFormat }));
  return { height, parts: [group] };
}

/**
 * @param {{series: Series[], x: Scale}} parts
 * @param {(points: Series["points"]) => Series["points"]} shown
 * @param {{place: (value: number) => number}} xs
 * @param {{place: (value: number) => number}} ys
 * @param {{left: number, right: number, top: number, bottom: number, xFormat: (value: number) => string,
 *   yFormat: (value: number) => string}} box
 */
function hover(parts, shown, xs, ys, box) {
  const tip = s("g", { class: "tip", visibility: "hidden" });
  const places = [...new Set(parts.series.flatMap((each) => shown(each.points).map((point) => point.x)))];
  const follow = (/** @type {PointerEvent} */ event) => {
    const svg = /** @type {SVGSVGElement} */ (tip.ownerSVGElement);
    const frame = svg.getBoundingClientRect();
    const at = (event.clientX - frame.left) * (svg.viewBox.baseVal.width / frame.width);
    if (!places.length) return;
    const nearest = places.reduce((a, b) => (Math.abs(xs.place(a) - at) <= Math.abs(xs.place(b) - at) ? a : b));
    const told = parts.series.flatMap((each) => {
      const point = shown(each.points).find((candidate) => candidate.x === nearest);
      return point ? [{ each, point }] : [];
    });
    const rows = told.map(({ each, point }) => `${short(each.name, 30)}  ${box.yFormat(point.y)}` +
      (point.half ? ` ± ${box.yFormat(point.half)}` : ""));
    const words = [`${box.xFormat(nearest)} ${parts.x.label}`, ...rows];
    const across = Math.max(...words.map((text) => text.length)) * 6.4 + 18, tall = 12 + words.length * 17;
    const x = xs.place(nearest), start = x + across + 14 < box.right ? x + 12 : Math.max(0, x - across - 12);
    tip.replaceChildren(
      s("line", { x1: x, x2: x, y1: box.top, y2: box.bottom, class: "rule" }),
      ...told.map(({ each, point }) => s("g", { class: `series-${each.color}` },
        s("circle", { cx: x, cy: ys.place(point.y), r: 5, class: "ring" }))),
      s("rect", { x: start, y: box.top, width: across, height: tall, rx: 3, class: "card" }),
      ...words.map((text, line) => s("text", { x: start + 9, y: box.top + 18 + line * 17, class: line ? "tiptext" : "tiphead" }, text)),
    );
    tip.setAttribute("visibility", "visible");
  };
  return s("g", {},
    s("rect", { x: box.left, y: box.top, width: Math.max(0, box.right - box.left), height: box.bottom - box.top, class: "catch",
      pointermove: follow, pointerdown: follow, pointerleave: () => tip.setAttribute("visibility", "hidden") }),
    tip);
}

/**
 * Bars from 0, one per row: names on the left, values at the ends.
 * @param {{width: number, rows: {label: string, value: number, strong?: boolean, text?: string}[], row?: number,
 *   low?: number, high?: number, ends?: number}} parts
 */
export function bars(parts) {
  const size = parts.row || 24;
  const left = Math.min(parts.width * 0.45, 10 + Math.max(1, ...parts.rows.map((row) => [...row.label].length)) * 7.2), ends = parts.ends || 58;
  const longest = Math.max(3, Math.floor((left - 10) / 7.2 + 0.01));
  const low = Math.min(0, parts.low ?? 0, ...parts.rows.map((row) => row.value));
  const high = Math.max(0, parts.high ?? 0, ...parts.rows.map((row) => row.value));
  const start = left + (low < 0 ? ends : 6), reach = parts.width - start - ends;
  const place = (/** @type {number} */ value) => start + ((value - low) / (high - low || 1)) * reach;
  const height = size * parts.rows.length + 8;
  const group = s("g", {}, s("line", { x1: place(0), x2: place(0), y1: 2, y2: height - 2, class: "axis" }));
  parts.rows.forEach((row, line) => {
    const y = 4 + line * size, middle = y + size / 2, end = place(row.value);
    group.append(
      s("text", { x: left - 2, y: middle, dy: "0.32em", "text-anchor": "end", class: row.strong ? "name strong" : "name" },
        short(row.label, longest)),
      s("rect", { x: Math.min(place(0), end), y: y + 4, width: Math.abs(end - place(0)), height: size - 8,
        class: row.value < 0 ? "negative" : "positive" }),
      s("text", { x: row.value < 0 ? end - 6 : end + 6, y: middle, dy: "0.32em",
        "text-anchor": row.value < 0 ? "end" : "start", class: row.strong ? "tick strong" : "tick" },
      row.text || signed(row.value)));
  });
  return { height, parts: [group] };
}
