// Trees of templates: an output of two layers as roots, each the square of a form, and the leaves of each form.

import { lift } from "./algebra.js";
import { numbers, row } from "./data.js";
import { h, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript } from "./format.js";
import { weightsPicture } from "./picture.js";
import { link } from "./route.js";

const SIDES = 3;

/**
 * @typedef {{mu: number, place: number, weights: Float32Array}} Leaf
 */

/** @type {WeakMap<import("./layout.js").Tree, Leaf[][]>} */
const leavesKnown = new WeakMap();

/**
 * The leaves of each root, √|μ| times their pictures, so that a pale one counts for little.
 * @param {import("./layout.js").Tree} tree
 * @returns {Leaf[][]}
 */
function leavesOf(tree) {
  let found = leavesKnown.get(tree);
  if (!found) {
    found = tree.roots.map((root, k) => root.leaves.map((mu, j) => {
      const place = k * root.leaves.length + j, size = Math.sqrt(Math.abs(mu));
      return { mu, place, weights: row(tree.patterns, place).map((entry) => size * entry) };
    }));
    leavesKnown.set(tree, found);
  }
  return found;
}

/**
 * The largest leaves for q and those against it, and the scale of their pictures.
 * @param {import("./layout.js").Tree} tree
 * @param {number} k
 * @param {import("./layout.js").Axis} axis
 * @param {number} count of each side
 */
export function sidesOf(tree, k, axis, count) {
  const leaves = leavesOf(tree)[k];
  const sides = [leaves.filter((leaf) => leaf.mu > 0).slice(0, count), leaves.filter((leaf) => leaf.mu < 0).slice(0, count)];
  let scale = 0;
  for (const leaf of sides.flat()) for (let i = 0; i < axis.size; i++) scale = Math.max(scale, Math.abs(leaf.weights[i]));
  return { sides, scale: scale || 1 };
}

/**
 * q of every root of an output.
 * @param {import("./layout.js").Tree} tree
 * @param {import("./layout.js").Axis} axis
 * @param {ArrayLike<number>} x
 */
export function formsOf(tree, axis, x) {
  const lifted = lift(x, axis), width = tree.readers.shape[1], readers = numbers(tree.readers);
  let place = 0;
  return tree.roots.map((root) => root.leaves.reduce((sum, mu) => {
    let product = 0;
    for (let i = 0, at = place * width; i < width; i++) product += readers[at + i] * lifted[i];
    place += 1;
    return sum + mu * product * product;
  }, 0));
}

/**
 * The trees of all outputs as tiles, for the overview.
 * @param {import("./layout.js").Run} run
 */
export function treeTiles(run) {
  const found = /** @type {import("./layout.js").Trees} */ (run.trees), axis = /** @type {import("./layout.js").Axis} */ (run.input);
  const image = axis.image, [width, height] = image ? [100 * image[1] / Math.max(...image), 100 * image[0] / Math.max(...image)] : [150, 104];
  return h("section", { class: "trees" },
    h("div", { class: "intro" }, h("h2", {}, found.title), h("p", {}, found.text)),
    h("ul", { class: "tiles few" }, found.trees.map((tree, place) => {
      const first = Math.max(0, tree.roots.findIndex((root) => root.value > 0)), root = tree.roots[first]; // the largest vote
      const { sides, scale } = sidesOf(tree, first, axis, 1), top = sides[0][0] || sides[1][0];
      return h("li", {}, h("a", { class: "tile", href: link("tree", place) },
        s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, top
          ? weightsPicture(top, axis, scale, { x: 0, y: 0, width, height })
          : s("text", { x: width / 2, y: height / 2, class: "tick", "text-anchor": "middle" }, "all 0")),
        h("span", { class: "tile-name" }, short(treeTitle(run, place), 40)),
        h("span", { class: "tile-for" }, `root ${first + 1}, ${percent(root.share, 0)} of ‖T‖²`)));
    })));
}

/**
 * @param {import("./layout.js").Run} run
 * @param {number} place
 */
export function treeTitle(run, place) {
  const one = run.output ? run.output.one : "output", found = /** @type {import("./layout.js").Trees} */ (run.trees);
  return `${one.slice(0, 1).toUpperCase()}${one.slice(1)} ${short(found.trees[place].label, 80)}`;
}

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function treePage(runs, route) {
  const run = runs[0], found = run.trees, axis = run.input, place = Number(route.value || 0);
  if (!found || !axis || !found.trees[place]) {
    return h("div", {}, h("h1", {}, "No such tree"), h("p", { class: "lead" },
      "This page has no tree of that name: trees are of networks of two layers. ", h("a", { href: link("overview") }, "See all features"), "."));
  }
  const tree = found.trees[place], held = tree.roots.reduce((sum, root) => sum + root.share, 0);
  const step = (/** @type {number} */ by, /** @type {string} */ words) => (found.trees[place + by]
    ? h("a", { class: "step", href: link("tree", place + by), rel: by < 0 ? "prev" : "next" }, words) : null);
  return h("article", { class: "feature" },
    h("p", { class: "crumbs" }, h("a", { href: link("overview") }, found.title)),
    h("header", { class: "feature-head" },
      h("div", {}, h("h1", {}, `${treeTitle(run, place)} as a tree`),
        h("p", { class: "lead" }, `${plural(tree.roots.length, "root")}, which hold ${percent(held)} of ‖T‖²; with the leaves that are here the relative error is ${number(tree.error)}. In ${found.metric}.`)),
      h("nav", { class: "steps", "aria-label": "Other outputs" }, step(-1, "← previous"), step(1, "next →"),
        h("a", { class: "step", href: link("sample", "", { logit: place }) }, "on a sample"))),
    rootRows(run, found, axis, tree, place),
    tree.roots.some((root) => root.quantiles) ? null : h("p", { class: "empty" },
      "This run had no labelled samples, so it cannot show how q is distributed over classes. Read the model again with --data."));
}

/**
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Trees} found
 * @param {import("./layout.js").Axis} axis
 * @param {import("./layout.js").Tree} tree
 * @param {number} place
 */
function rootRows(run, found, axis, tree, place) {
  const output = /** @type {import("./layout.js").Axis} */ (run.output);
  const names = found.trees.map((each) => each.label), last = found.percentiles.length - 1;
  const measured = tree.roots.some((root) => root.quantiles && root.means);
  return figure({
    title: "Roots and their leaves", of: treeTitle(run, place), name: `tree-${place}`,
    note: `The ${run.logits ? "logit" : "output"} is the sum of λ q² over its roots; blue roots vote, red ones veto. ${measured
      ? `Left, q on the samples of each class: boxes from quartile to quartile, lines from the ${found.percentiles[0]}st to the ${found.percentiles[last]}th percentile. A square fires on −q too. ` : ""}` +
      "In the middle the leaves of q: templates whose squared overlap counts for q, and those that count against it; √|μ| times the template, one scale in each row." +
      (measured ? ` Right, what the root adds to the ${run.logits ? "logit" : "output"} on average over each class.` : ""),
    alt: `Roots of ${treeTitle(run, place)} with their leaves`,
    table: () => ({
      columns: ["root", "λ", "share of ‖T‖²", "share of its energy in its leaves", "μ of its leaves", ...(measured ? names.map((name) => `adds on ${name}`) : [])],
      rows: tree.roots.map((root, k) => [k + 1, root.value, root.share, root.held, root.leaves.map(signed).join(" "), ...(measured && root.means ? root.means : [])]),
    }),
    draw: (width) => {
      const narrow = width < 720, head = 24, side = measured ? (narrow ? (width - 16) / 2 : 190) : 0, gap = narrow ? 10 : 22;
      const room = narrow || !measured ? width : width - 2 * (side + gap), size = Math.min(112, (room - 12 - 2 * SIDES * 6) / (2 * SIDES));
      const chart = measured ? 104 : 0, pictures = size + 18, body = narrow ? chart + (chart ? 14 : 0) + pictures : Math.max(chart, pictures);
      const each = head + body + 26, group = s("g", {});
      tree.roots.forEach((root, k) => {
        const top = k * each, at = top + head, { sides, scale } = sidesOf(tree, k, axis, SIDES);
        const vote = root.value > 0;
        group.append(
          s("line", { x1: 0, x2: width, y1: top + 1, y2: top + 1, class: "grid" }),
          s("text", { x: 0, y: top + 18, class: vote ? "strong plus" : "strong minus" }, `Root ${k + 1}: λ${subscript(k + 1)} = ${signed(root.value)}, a ${vote ? "vote" : "veto"}`),
          s("text", { x: width, y: top + 18, class: "tick", "text-anchor": "end" }, narrow ? `${percent(root.share, 0)} of ‖T‖²`
            : `${percent(root.share)} of ‖T‖² · leaves hold ${percent(root.held)} of it`));
        if (measured && root.quantiles && root.means) {
          group.append(quantileBoxes(root.quantiles, names, { x: 0, y: at, width: side, height: chart }),
            meanColumns(root.means, names, { x: width - side, y: at, width: side, height: chart }));
        }
        const start = narrow || !measured ? 0 : side + gap, line = narrow && measured ? at + chart + 14 : at;
        sides.forEach((leaves, which) => leaves.forEach((leaf, n) => {
          const x = start + (which * SIDES + n) * (size + 6) + which * 12;
          group.append(weightsPicture(leaf, axis, scale, { x, y: line + 15, width: size, height: size }),
            s("text", { x: x + size / 2, y: line + 10, class: which ? "tick minus" : "tick plus", "text-anchor": "middle" }, `${narrow ? "" : "μ "}${signed(leaf.mu)}`));
        }));
      });
      if (output.size > 16 && measured) group.append(s("text", { x: 0, y: tree.roots.length * each + 10, class: "tick" }, `classes in their order, ${names[0]} first`));
      return { height: tree.roots.length * each + (output.size > 16 && measured ? 16 : 0), parts: [group] };
    },
  }).element;
}

/**
 * Quantiles of q by class, upright, with the line of q = 0.
 * @param {number[][]} quantiles
 * @param {string[]} names
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function quantileBoxes(quantiles, names, box) {
  const low = Math.min(0, ...quantiles.map((one) => one[0])), high = Math.max(0, ...quantiles.map((one) => one[one.length - 1]));
  const tall = box.height - 16, each = box.width / quantiles.length, wide = Math.max(1.5, each * 0.62);
  const y = (/** @type {number} */ value) => box.y + 2 + (high - value) / (high - low || 1) * (tall - 2);
  const group = s("g", {}, s("line", { x1: box.x, x2: box.x + box.width, y1: y(0), y2: y(0), class: "axis" }));
  quantiles.forEach((one, place) => {
    const middle = box.x + (place + 0.5) * each, [first, quarter, half, three, top] = one;
    group.append(s("g", {}, s("title", {}, `${names[place]}: median ${signed(half)}, from ${signed(first)} to ${signed(top)}`),
      s("line", { x1: middle, x2: middle, y1: y(first), y2: y(top), class: "whisker" }),
      s("rect", { x: middle - wide / 2, y: y(three), width: wide, height: Math.max(1, y(quarter) - y(three)), class: "quartiles" }),
      s("line", { x1: middle - wide / 2, x2: middle + wide / 2, y1: y(half), y2: y(half), class: "median" })),
    ...classLabel(names, place, middle, box, each));
  });
  return group;
}

/**
 * Means by class as columns from 0, the largest with its number.
 * @param {number[]} means
 * @param {string[]} names
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function meanColumns(means, names, box) {
  const low = Math.min(0, ...means), high = Math.max(0, ...means), tall = box.height - 16, each = box.width / means.length;
  const above = high > 0 ? 15 : 2, below = low < 0 ? 15 : 2;
  const y = (/** @type {number} */ value) => box.y + above + (high - value) / (high - low || 1) * (tall - above - below);
  const most = means.reduce((best, value, place) => (Math.abs(value) > Math.abs(means[best]) ? place : best), 0);
  const group = s("g", {}, s("line", { x1: box.x, x2: box.x + box.width, y1: y(0), y2: y(0), class: "axis" }));
  means.forEach((value, place) => {
    const middle = box.x + (place + 0.5) * each, wide = Math.max(1, each * 0.72);
    group.append(s("rect", { x: middle - wide / 2, y: Math.min(y(0), y(value)), width: wide, height: Math.abs(y(value) - y(0)), class: value < 0 ? "negative" : "positive" },
      s("title", {}, `${names[place]}: ${signed(value)}`)), ...classLabel(names, place, middle, box, each));
  });
  const anchor = most < means.length / 4 ? "start" : most > means.length * 0.75 ? "end" : "middle";
  const shift = anchor === "start" ? -each / 2 : anchor === "end" ? each / 2 : 0;
  group.append(s("text", { x: box.x + (most + 0.5) * each + shift, y: means[most] < 0 ? y(means[most]) + 12 : y(means[most]) - 4, class: "tick", "text-anchor": anchor }, signed(means[most])));
  return group;
}

/**
 * @param {string[]} names
 * @param {number} place
 * @param {number} middle
 * @param {{y: number, height: number}} box
 * @param {number} each
 */
function classLabel(names, place, middle, box, each) {
  return names.length <= 16 ? [s("text", { x: middle, y: box.y + box.height - 2, class: "tick", "text-anchor": "middle" }, short(names[place], Math.max(1, Math.floor(each / 7))))] : [];
}
