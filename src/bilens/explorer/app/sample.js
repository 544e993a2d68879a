// A sample, picked or drawn: the outputs, computed here from the factors, and each of them as a sum of eigenvector terms.

import { linearKernels, outputsOf, sharedScale, softmax, terms } from "./algebra.js";
import { bars } from "./chart.js";
import { labelOf, row } from "./data.js";
import { fill, h, roving, s } from "./dom.js";
import { fall } from "./fall.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript } from "./format.js";
import { linked, packed, pad, sliders, unpacked } from "./input.js";
import { inkCanvas, weightsPicture } from "./picture.js";
import { featureName, link, remember } from "./route.js";
import { formsOf, sidesOf } from "./trees.js";

const SHOWN_SAMPLES = 60;
const SHOWN_TERMS = 10;

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function samplePage(runs, route) {
  const run = runs[0], axis = run.input, output = run.output;
  if ((!run.model && !run.levels.length) || !axis || !output) {
    return h("div", {}, h("h1", {}, "A sample"), h("p", { class: "empty" },
      "This page does not hold the factors of its model, so it cannot compute its outputs. If bilens wrote it from a run that was stopped, run the same command again: it goes on and writes the page anew."));
  }
  const samples = run.samples, unit = run.logits ? "logit" : "output";
  const set = run.sets.find((each) => each.name === run.outputs_set) || null;
  const start = route.value === "drawn" || !samples ? -1 : samples.numbers.indexOf(Number(route.value || samples.numbers[0]));
  const state = {
    x: start >= 0 && samples ? Float32Array.from(row(samples.inputs, start)) : unpacked(route.more.ink || "", axis),
    sample: start,
    output: route.more.logit === undefined ? -1 : Math.max(0, Math.min(output.size - 1, Number(route.more.logit) || 0)),
  };
  const verdict = h("p", { class: "verdict", role: "status" });
  const result = { y: outputsOf(run, state.x), output: 0 };
  const address = () => {
    const more = { logit: state.output < 0 ? "" : state.output, ink: state.sample < 0 ? packed(state.x, axis) : "" };
    remember(link("sample", state.sample < 0 || !samples ? "drawn" : samples.numbers[state.sample], more));
  };
  const tell = () => {
    const best = indexOfLargest(result.y);
    const known = state.sample >= 0 && samples && samples.labels ? labelOf(output, samples.labels[state.sample]) : null;
    const says = labelOf(output, best);
    const empty = state.x.every((value) => value === 0);
    fill(verdict, empty && state.sample < 0 ? (axis.image ? "Draw on the pad, or pick a sample below." : "All inputs are 0.") : [
      h("span", {}, run.logits ? "The model says " : "The largest output is "), h("strong", {}, short(says, 60)),
      run.logits ? ` with ${percent(softmax(result.y)[best])}. ` : `, ${signed(result.y[best])}. `,
      known === null ? "" : known === says ? "That is its label." : h("span", {}, "Its label is ", h("strong", {}, short(known, 60)), "."),
    ]);
  };

  const chart = figure({
    title: run.logits ? "Logits" : "Outputs", name: "outputs",
    note: `Computed in this page from the ${run.levels.length ? "layers’" : "layer’s"} factors${run.logits ? "; the mean over outputs is taken off, which changes no prediction" : ""}.`,
    alt: `Bar chart of the ${run.logits ? "logit of each output" : "outputs"}`,
    table: () => {
      const shares = run.logits ? softmax(result.y) : null;
      const own = samples && state.sample >= 0 ? row(samples.outputs, state.sample) : null;
      return { columns: [output.name, unit, ...(shares ? ["probability"] : []), ...(own ? [`the library’s ${unit}`] : [])],
        rows: Array.from(result.y, (value, o) => [labelOf(output, o), value, ...(shares ? [shares[o]] : []), ...(own ? [own[o]] : [])]) };
    },
    draw: (width) => {
      const shares = run.logits ? softmax(result.y) : null, order = order_(result.y, output.size);
      const drawing = bars({ width, row: 25, ends: width < 480 ? 64 : 112, rows: order.map((o) => ({ label: labelOf(output, o), value: result.y[o], strong: o === result.output,
        text: `${signed(result.y[o])}${shares && shares[o] >= 0.001 && width >= 480 ? ` · ${percent(shares[o])}` : ""}` })) });
      order.forEach((o, line) => drawing.parts.push(s("rect", { x: 0, y: 4 + 25 * line, width, height: 25, class: `catch click${o === result.output ? " on" : ""}`, click: () => choose(o) })));
      return drawing;
    },
  });
  const choices = h("select", { id: "which", change: (/** @type {any} */ event) => choose(Number(event.target.value)) },
    Array.from({ length: output.size }, (_, o) => h("option", { value: o }, labelOf(output, o))));
  const sum = run.trees ? votes(run, run.trees, state, result) : set ? waterfall(run, set, state, result) : null;
  const redraw = (drawing = false) => {
    result.y = outputsOf(run, state.x);
    result.output = state.output < 0 ? indexOfLargest(result.y) : state.output;
    /** @type {HTMLSelectElement} */ (choices).value = String(result.output);
    chart.redraw();
    tell();
    if (!sum) return;
    if (drawing) later(sum.redraw); // the outputs first, so that they keep up with the pen
    else sum.redraw();
  };
  let waiting = false;
  const later = (/** @type {() => void} */ work) => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => setTimeout(() => {
      waiting = false;
      work();
    }));
  };
  const choose = (/** @type {number} */ o) => {
    state.output = o;
    address();
    redraw();
  };
  const edited = (/** @type {boolean} */ ended) => {
    performance.mark("bilens:ink");
    if (state.sample >= 0 && list) for (const each of list.querySelectorAll("button")) each.setAttribute("aria-pressed", "false");
    state.sample = -1;
    if (axis.image) state.x.forEach((value, i) => { state.x[i] = linked(value); });
    redraw(!ended);
    performance.measure("bilens:stroke", "bilens:ink");
    if (ended) address();
  };
  /** @type {HTMLElement|null} */
  let list = null;
  const input = axis.image ? pad(axis, state, edited) : sliders(axis, state, edited);
  const pick = (/** @type {number} */ place) => {
    if (!samples) return;
    state.sample = place;
    state.x.set(row(samples.inputs, place));
    address();
    input.redraw();
    redraw();
  };
  redraw();
  list = samples ? picker(run, samples, axis, state, pick) : null;
  return h("div", { class: "sample" },
    h("h1", {}, axis.image ? "Draw or pick a sample" : "Set or pick a sample"),
    verdict,
    h("div", { class: "three" }, input.element, chart.element),
    list || h("p", { class: "empty" }, "This page holds no samples to pick."),
    sum ? h("section", {},
      h("div", { class: "field inline" }, h("label", { for: "which" }, `Take apart the ${run.logits ? `logit of ${output.one}` : output.one}`), choices),
      sum.element) : h("p", { class: "empty" }, "This run holds no eigenvectors of its outputs, so they cannot be taken apart here."));
}

/**
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Features} set
 * @param {{x: Float32Array}} state
 * @param {{y: Float64Array, output: number}} result
 */
function waterfall(run, set, state, result) {
  const output = /** @type {import("./layout.js").Axis} */ (run.output), unit = run.logits ? "logit" : "output", image = set.input.image;
  return fall({
    title: `The ${unit} as an exact sum`,
    note: `Each row adds λ(v·x)² to the ${unit}, largest first, from where the row above ended. ${whole_(set)
      ? `All eigenvectors are in this page, so the sum is the ${unit} but for rounding.` : `The remainder is what the eigenvectors that are not in this page add; with it the sum is the ${unit}.`}`,
    alt: `Waterfall chart of the terms that add up to the ${unit}`,
    cell: image ? 40 : 0, tall: 40,
    called: () => `${run.logits ? "logit of" : output.one} ${labelOf(output, result.output)}`,
    sum: () => {
      const feature = set.features[result.output], kernels = linearKernels_(feature), scale = sharedScale(kernels, set.input);
      const all = Array.from(terms(feature, set.input, state.x), (value, rank) => ({ value, rank }));
      const shown = [...all].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, SHOWN_TERMS);
      const sum = (/** @type {{value: number}[]} */ list) => list.reduce((total, item) => total + item.value, 0);
      const total = result.y[result.output], more = all.length - shown.length, others = feature.eigenvalues.shape[0] - all.length;
      return { total, rounding: others > 0 ? null : total - sum(all), terms: [
        ...shown.map(({ value, rank }) => ({ label: `λ${subscript(rank + 1)} = ${signed(kernels[rank].value)}`, value,
          picture: (/** @type {{x: number, y: number, width: number, height: number}} */ box) => s("a", { href: link("feature", featureName(set, result.output), { k: rank + 1 }), "aria-label": `Eigenvector ${rank + 1}` },
            weightsPicture(kernels[rank], set.input, scale, box)) })),
        ...(more > 0 ? [{ label: plural(more, "more eigenvector"), narrow: `${more} more`, value: sum(all) - sum(shown), faint: true }] : []),
        ...(others > 0 ? [{ label: `remainder: ${plural(others, "other")}`, narrow: `rest: ${plural(others, "other")}`, value: total - sum(all), faint: true }] : []),
      ] };
    },
  });
}

/**
 * The output of a network of two layers as votes and vetoes of its roots.
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Trees} found
 * @param {{x: Float32Array}} state
 * @param {{y: Float64Array, output: number}} result
 */
function votes(run, found, state, result) {
  const output = /** @type {import("./layout.js").Axis} */ (run.output), axis = /** @type {import("./layout.js").Axis} */ (run.input);
  const unit = run.logits ? "logit" : "output";
  return fall({
    title: `The ${unit} as votes and vetoes`, name: "votes",
    note: `Each root adds λq² to the ${unit}, largest first, from where the row above ended: a vote where λ > 0, a veto where λ < 0. Beside it the leaf that counts most for its q and the one that counts most against it. ` +
      `The remainder is what the roots and leaves that are not in this page add; with it the sum is the ${unit}.`,
    alt: `Waterfall chart of the roots that add up to the ${unit}`,
    cell: axis.image ? 84 : 0, tall: 40,
    called: () => `${run.logits ? "logit of" : output.one} ${labelOf(output, result.output)}`,
    sum: () => {
      const tree = found.trees[result.output], forms = formsOf(tree, axis, state.x), total = result.y[result.output];
      const all = tree.roots.map((root, rank) => ({ value: root.value * forms[rank] ** 2, rank })).sort((a, b) => Math.abs(b.value) - Math.abs(a.value));
      return { total, rounding: null, terms: [
        ...all.map(({ value, rank }) => ({ label: `root ${rank + 1}: q = ${signed(forms[rank])}`, narrow: `${rank + 1}: q ${signed(forms[rank])}`, value,
          picture: (/** @type {{x: number, y: number, width: number, height: number}} */ box) => rootPicture(tree, rank, axis, result.output, box) })),
        { label: "remainder: all others", narrow: "remainder", value: total - all.reduce((sum, item) => sum + item.value, 0), faint: true },
      ] };
    },
  });
}

/**
 * The first leaf for a root's q and the first against it.
 * @param {import("./layout.js").Tree} tree
 * @param {number} rank
 * @param {import("./layout.js").Axis} axis
 * @param {number} place
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function rootPicture(tree, rank, axis, place, box) {
  const { sides, scale } = sidesOf(tree, rank, axis, 1), width = (box.width - 4) / 2;
  return s("a", { href: link("tree", place), "aria-label": `Root ${rank + 1}` }, sides.flatMap(([leaf], which) =>
    (leaf ? [weightsPicture(leaf, axis, scale, { ...box, x: box.x + which * (width + 4), width })] : [])));
}

/**
 * Whether the page has every eigenvector of the outputs.
 * @param {import("./layout.js").Features} set
 */
function whole_(set) {
  return set.features.every((feature) => feature.vectors.shape[0] === feature.eigenvalues.shape[0] && feature.discarded === 0);
}

/** @type {WeakMap<object, {rank: number, value: number, weights: Float32Array}[]>} */
const kernelsOf = new WeakMap();

/** @param {import("./layout.js").Feature} feature */
function linearKernels_(feature) {
  let known = kernelsOf.get(feature);
  if (!known) kernelsOf.set(feature, (known = linearKernels(feature)));
  return known;
}

/**
 * All outputs in their order, or of many the sixteen largest.
 * @param {Float64Array} y
 * @param {number} size
 */
function order_(y, size) {
  const all = Array.from({ length: size }, (_, o) => o);
  return size <= 24 ? all : all.sort((a, b) => y[b] - y[a]).slice(0, 16);
}

/** @param {ArrayLike<number>} y */
function indexOfLargest(y) {
  let best = 0;
  for (let o = 1; o < y.length; o++) if (y[o] > y[best]) best = o;
  return best;
}

/**
 * Samples to pick from.
 * @param {import("./layout.js").Run} run
 * @param {NonNullable<import("./layout.js").Run["samples"]>} samples
 * @param {import("./layout.js").Axis} axis
 * @param {{sample: number}} state
 * @param {(place: number) => void} pick
 */
function picker(run, samples, axis, state, pick) {
  const output = /** @type {import("./layout.js").Axis} */ (run.output);
  const list = h("ul", { class: "picker", "aria-label": "Samples" });
  const more = h("p", { class: "hint", role: "status" });
  const wrong = samples.labels ? samples.numbers.map((_, place) => place).filter((place) =>
    indexOfLargest(row(samples.outputs, place)) !== /** @type {number[]} */ (samples.labels)[place]) : [];
  const show = (/** @type {string} */ which, most = SHOWN_SAMPLES) => {
    let places = samples.numbers.map((_, place) => place);
    if (which === "wrong") places = wrong;
    else if (which !== "all" && samples.labels) places = places.filter((place) => String(/** @type {number[]} */ (samples.labels)[place]) === which);
    fill(list, places.slice(0, most).map((place) => {
      const label = samples.labels ? labelOf(output, samples.labels[place]) : null;
      const said = `Sample ${samples.numbers[place]}${label === null ? "" : `, label ${label}`}`;
      let picture = null;
      if (axis.image) {
        picture = inkCanvas(row(samples.inputs, place), axis.image);
        picture.setAttribute("aria-hidden", "true");
      }
      return h("li", {}, h("button", { type: "button", "aria-label": said, title: said, "aria-pressed": String(place === state.sample), click: (/** @type {any} */ event) => {
        for (const each of list.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === event.currentTarget));
        pick(place);
      } }, picture || String(samples.numbers[place])));
    }));
    fill(more, places.length > most ? [`The first ${most} of ${plural(places.length, "sample")}. `,
      h("button", { type: "button", class: "quiet", click: () => show(which, places.length) }, "Show all")] : "");
    roving(list, "button");
  };
  show("all");
  return h("section", { class: "samples" },
    h("div", { class: "field inline" }, h("label", { for: "samples" }, "Samples"),
      h("select", { id: "samples", change: (/** @type {any} */ event) => show(event.target.value) },
        h("option", { value: "all" }, "all"),
        wrong.length ? h("option", { value: "wrong" }, `that the model gets wrong (${wrong.length})`) : null,
        samples.labels ? Array.from({ length: Math.min(output.size, 100) }, (_, o) => h("option", { value: o }, short(`label ${labelOf(output, o)}`, 40))) : null)),
    list, more);
}
