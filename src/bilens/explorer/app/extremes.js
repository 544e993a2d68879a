// What a feature does to inputs: its strongest pairs of them, and the samples on which it is largest and smallest.

import { foremost, terms } from "./algebra.js";
import { bars } from "./chart.js";
import { labelOf, row } from "./data.js";
import { h, s } from "./dom.js";
import { figure } from "./figure.js";
import { plural, short, signed, subscript } from "./format.js";
import { samplePicture, weightsPicture } from "./picture.js";
import { link } from "./route.js";

/** @typedef {import("./feature.js").Parts} Parts */

/** @param {Parts} parts */
export function pairs(parts) {
  const { feature, set, kernels, scale } = parts;
  const axis = set.input;
  if (!feature.pairs.length) return h("p", { class: "empty" }, "This page has no input pairs of the feature. If bilens made it from a run, running the same command again adds them.");
  const largest = Math.max(1e-30, ...feature.pairs.map((pair) => Math.abs(pair.strength)));
  const name = (/** @type {number} */ i) => (axis.image ? `${Math.floor(i / axis.image[1])},${i % axis.image[1]}` : labelOf(axis, i));
  return figure({
    title: axis.image ? "Strongest pixel pairs" : "Strongest input pairs", of: parts.of, name: `${parts.name}-pairs`,
    note: axis.image ? "Each line joins two pixels, and a ring is a pixel with itself: blue raises the feature where both are inked, red lowers it. Behind them, the eigenvector on the feature’s tile."
      : "What each pair of inputs adds to the feature where both are 1.",
    alt: `The ${feature.pairs.length} strongest input pairs of ${feature.label}`,
    table: () => ({ columns: [axis.image ? "pixel (row,column)" : axis.name, "with", "adds where both are 1"], rows: feature.pairs.map((pair) => [name(pair.i), name(pair.j), pair.strength]) }),
    most: axis.image ? 420 : Infinity,
    draw: (width) => {
      if (!axis.image) {
        return bars({ width, rows: feature.pairs.slice(0, 14).map((pair) => ({ label: `${name(pair.i)} × ${name(pair.j)}`, value: pair.strength })) });
      }
      const [rows, columns] = axis.image, unit = width / columns, height = unit * rows;
      const group = s("g", {}, s("g", { opacity: 0.22 }, weightsPicture(foremost(kernels, axis) || kernels[0], axis, scale, { x: 0, y: 0, width, height })));
      for (const pair of [...feature.pairs].reverse()) {
        const [x1, y1, x2, y2] = [(pair.i % columns + 0.5) * unit, (Math.floor(pair.i / columns) + 0.5) * unit,
          (pair.j % columns + 0.5) * unit, (Math.floor(pair.j / columns) + 0.5) * unit];
        const share = Math.abs(pair.strength) / largest;
        const shape = { class: pair.strength > 0 ? "pair plus" : "pair minus", "stroke-width": 1 + 2.4 * share };
        const told = s("title", {}, `${name(pair.i)} × ${name(pair.j)}: ${signed(pair.strength)}`);
        group.append(pair.i === pair.j ? s("circle", { cx: x1, cy: y1, r: unit * 0.36, ...shape }, told)
          : s("g", {}, s("line", { x1, y1, x2, y2, ...shape }, told), s("circle", { cx: x1, cy: y1, r: 2.2, class: shape.class + " end" }), s("circle", { cx: x2, cy: y2, r: 2.2, class: shape.class + " end" })));
      }
      return { height, parts: [group] };
    },
  }).element;
}

/** @param {Parts} parts */
export function extremes(parts) {
  const { feature, set, run } = parts;
  const samples = run.samples, axis = run.input;
  if (!samples || !axis) return h("p", { class: "empty" }, "This page has no samples to show the feature on.");
  if (!feature.largest.length && !feature.smallest.length) {
    return h("p", { class: "empty" }, "This page does not say on which samples the feature is largest. If bilens made it from a run, running the same command again adds that.");
  }
  const count = Math.min(6, feature.vectors.shape[0]);
  const here = (/** @type {import("./layout.js").Seen[]} */ seen) => seen.filter((item) => item.sample >= 0);
  const shares_ = here([...feature.largest, ...feature.smallest]).map((item) =>
    split({ ...item, terms: Array.from(terms(feature, set.input, row(samples.inputs, item.sample))) }, count));
  const up_ = Math.max(1e-12, ...shares_.map((shares) => sumOf(shares, 1))), down_ = Math.max(0, ...shares_.map((shares) => -sumOf(shares, -1)));
  const list = (/** @type {import("./layout.js").Seen[]} */ seen, /** @type {string} */ words, /** @type {string} */ name) => {
    const taken = here(seen).map((item) => ({ ...item, x: row(samples.inputs, item.sample), terms: [] }))
      .map((item) => ({ ...item, terms: Array.from(terms(feature, set.input, item.x)) }));
    const absent = seen.filter((item) => item.sample < 0);
    const drawing = figure({
      title: words, level: 4, note: absent.length ? `${absent.length} of ${seen.length} are not drawn, because this page does not hold their samples: ${absent.map((item) => `sample ${item.number}, ${signed(item.value)}`).join("; ")}.` : undefined, of: parts.of, name: `${parts.name}-${name}`,
      alt: `${words}: ${taken.map((item) => `sample ${samples.numbers[item.sample]}, ${signed(item.value)}`).join("; ")}`,
      table: () => ({ columns: ["sample", samples.labels ? "label" : "place", "value", ...Array.from({ length: count }, (_, k) => `λ${subscript(k + 1)}(v${subscript(k + 1)}·x)²`), "all others"],
        rows: [...taken.map((item) => /** @type {(string|number|null)[]} */ ([`sample ${samples.numbers[item.sample]}`, samples.labels && run.output ? labelOf(run.output, samples.labels[item.sample]) : item.sample, item.value,
          ...item.terms.slice(0, count), item.value - item.terms.slice(0, count).reduce((a, b) => a + b, 0)])),
        ...absent.map((item) => [`sample ${item.number}`, null, item.value])] }),
      draw: (width) => {
        const cell = 64, line = cell + 16, left = cell + 16, middle = left + 2 + (width - left - 4) * (down_ / (up_ + down_)), group = s("g", {});
        const unit = (width - left - 4) / (up_ + down_);
        taken.forEach((item, place) => {
          const y = place * line;
          const label = samples.labels && run.output ? labelOf(run.output, samples.labels[item.sample]) : "";
          group.append(s("a", { href: link("sample", samples.numbers[item.sample]), "aria-label": `Sample ${samples.numbers[item.sample]}` },
            samplePicture(item.x, axis, { x: 0.5, y: y + 0.5, width: cell, height: cell }, samples, `s${item.sample}`)));
          group.append(s("text", { x: left, y: y + 12, class: "name strong" }, signed(item.value)),
            s("text", { x: left + 62, y: y + 12, class: "tick" }, label ? `${short((run.output || axis).one, 12)} ${short(label, 16)}` : `sample ${samples.numbers[item.sample]}`));
          let up = middle, down = middle;
          const shares = [...item.terms.slice(0, count).map((value, k) => ({ value, name: `λ${subscript(k + 1)}`, k })),
            { value: item.value - item.terms.slice(0, count).reduce((a, b) => a + b, 0), name: "all others", k: -1 }];
          for (const share of shares) {
            const size = Math.abs(share.value) * unit;
            const start = share.value > 0 ? up : down - size;
            if (share.value > 0) up += size; else down -= size;
            group.append(s("rect", { x: start, y: y + 24, width: Math.max(0, size - 0.8), height: 18, class: `${share.value > 0 ? "positive" : "negative"}${share.k < 0 ? " faint" : ""}` },
              s("title", {}, `${share.name}: ${signed(share.value)}`)));
            if (size > 24 && share.k >= 0) group.append(s("text", { x: start + size / 2, y: y + 33, dy: "0.32em", "text-anchor": "middle", class: "inside" }, share.name));
          }
          group.append(s("line", { x1: middle, x2: middle, y1: y + 20, y2: y + 46, class: "axis" }));
          const end = middle + item.value * unit;
          group.append(s("path", { d: `M${end} ${y + 44}l4 7h-8z`, class: "pointer" }));
        });
        return { height: taken.length * line, parts: [group] };
      },
    });
    return drawing.element;
  };
  return h("section", {}, h("h2", { class: "section" }, "Where it is largest and smallest"),
    h("p", { class: "note" }, `Of ${plural(set.examined, "sample")}. Bars split the value into what each eigenvector adds, λ(v·x)²; pale is all other eigenvectors, and the mark is the sum. Both lists are on one scale.`),
    h("div", { class: "two" }, list(feature.largest, "Largest", "largest"), list(feature.smallest, "Smallest", "smallest")));
}

/**
 * @param {number[]} values
 * @param {number} sign
 */
function sumOf(values, sign) {
  return values.reduce((total, value) => (value * sign > 0 ? total + value : total), 0);
}

/**
 * What the first eigenvectors add, and then all others together.
 * @param {{terms: number[], value: number}} item
 * @param {number} count
 */
function split(item, count) {
  const first = item.terms.slice(0, count);
  return [...first, item.value - first.reduce((a, b) => a + b, 0)];
}
