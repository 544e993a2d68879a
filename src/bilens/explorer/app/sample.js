// A sample, picked or drawn: the outputs, computed here from the factors, and each of them as a sum of eigenvector terms.

import { linearKernels, outputsOf, sharedScale, softmax, terms } from "./algebra.js";
import { bars } from "./chart.js";
import { labelOf, row } from "./data.js";
import { fill, h, roving, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript } from "./format.js";
import { linked, packed, pad, sliders, unpacked } from "./input.js";
import { inkCanvas, weightsPicture } from "./picture.js";
import { featureName, link, remember } from "./route.js";

const SHOWN_SAMPLES = 60;
const SHOWN_TERMS = 10;

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function samplePage(runs, route) {
  const run = runs[0], axis = run.input, output = run.output;
  if (!run.model || !axis || !output) {
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
    note: `Computed in this page from the layer’s factors${run.logits ? "; the mean over outputs is taken off, which changes no prediction" : ""}.`,
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
  const fall = set ? waterfall(run, set, state, result) : null;
  const redraw = (drawing = false) => {
    result.y = outputsOf(run, state.x);
    result.output = state.output < 0 ? indexOfLargest(result.y) : state.output;
    /** @type {HTMLSelectElement} */ (choices).value = String(result.output);
    chart.redraw();
    tell();
    if (!fall) return;
    if (drawing) later(fall.redraw); // the outputs first, so that they keep up with the pen
    else fall.redraw();
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
    set && fall ? h("section", {},
      h("div", { class: "field inline" }, h("label", { for: "which" }, `Take apart the ${run.logits ? `logit of ${output.one}` : output.one}`), choices),
      fall.element) : h("p", { class: "empty" }, "This run holds no eigenvectors of its outputs, so they cannot be taken apart here."));
}

/**
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Features} set
 * @param {{x: Float32Array}} state
 * @param {{y: Float64Array, output: number}} result
 */
function waterfall(run, set, state, result) {
  const output = /** @type {import("./layout.js").Axis} */ (run.output), unit = run.logits ? "logit" : "output";
  const called = () => `${run.logits ? "logit of" : output.one} ${labelOf(output, result.output)}`;
  const split = () => {
    const feature = set.features[result.output];
    const all = Array.from(terms(feature, set.input, state.x), (value, rank) => ({ value, rank }));
    const shown = [...all].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, SHOWN_TERMS);
    const sum = (/** @type {{value: number}[]} */ list) => list.reduce((total, item) => total + item.value, 0);
    const total = result.y[result.output], dim = feature.eigenvalues.shape[0];
    return { feature, shown, rest: sum(all) - sum(shown), restCount: all.length - shown.length, left: total - sum(all), leftCount: dim - all.length, total };
  };
  const lines = (/** @type {ReturnType<typeof split>} */ parts) => [
    ...parts.shown.map((item) => ({ label: `λ${subscript(item.rank + 1)} = ${signed(numbersOf(parts.feature)[item.rank])}`, value: item.value, rank: item.rank })),
    ...(parts.restCount > 0 ? [{ label: `${plural(parts.restCount, "more eigenvector")}`, value: parts.rest, rank: -1 }] : []),
    ...(parts.leftCount > 0 ? [{ label: `remainder: ${plural(parts.leftCount, "other")}`, value: parts.left, rank: -1 }] : []),
  ];
  return figure({
    title: `The ${unit} as an exact sum`, name: "terms",
    note: `Each row adds λ(v·x)² to the ${unit}, largest first, from where the row above ended. ${whole_(set)
      ? `All eigenvectors are in this page, so the sum is the ${unit} but for rounding.` : `The remainder is what the eigenvectors that are not in this page add; with it the sum is the ${unit}.`}`,
    alt: `Waterfall chart of the terms that add up to the ${unit}`,
    table: () => {
      const parts = split();
      let sum = 0;
      const rounding = parts.leftCount > 0 ? [] : [["rounding", parts.left, parts.total]];
      return { columns: ["term", "adds", "sum so far"], rows: [...lines(parts).map((line) => [line.label, line.value, (sum += line.value)]), ...rounding, [called(), parts.total, parts.total]] };
    },
    draw: (width) => {
      const parts = split(), rows = lines(parts), image = set.input.image;
      const kernels = linearKernels_(parts.feature), scale = sharedScale(kernels, set.input);
      const narrow = width < 560, cell = image ? 40 : 0, size = image ? 46 : 28;
      const left = (cell ? cell + 14 : 0) + (narrow ? 96 : 152), ends = 64;
      let sum = 0;
      const steps = rows.map((line) => {
        const from = sum;
        sum += line.value;
        return { ...line, from, to: sum };
      });
      const points = [0, parts.total, ...steps.map((step) => step.to)];
      const low = Math.min(...points), high = Math.max(...points);
      const place = (/** @type {number} */ value) => left + (low < 0 ? ends : 8) + ((value - low) / (high - low || 1)) * (width - left - ends - (low < 0 ? ends : 8));
      const group = s("g", {});
      const height = size * (rows.length + 1) + 8;
      group.append(s("line", { x1: place(0), x2: place(0), y1: 0, y2: height, class: "axis" }));
      steps.forEach((step, line) => {
        const y = line * size, middle = y + size / 2;
        if (step.rank >= 0 && image) {
          group.append(s("a", { href: link("feature", featureName(set, result.output), { k: step.rank + 1 }), "aria-label": `Eigenvector ${step.rank + 1}` },
            weightsPicture(kernels[step.rank], set.input, scale, { x: 0.5, y: y + 3, width: cell, height: cell })));
        }
        const barTall = Math.min(26, size - 10), start = Math.min(place(step.from), place(step.to)), end = Math.max(place(step.from), place(step.to));
        group.append(
          s("text", { x: cell ? cell + 14 : 0, y: middle, dy: "0.32em", class: step.rank < 0 ? "tick" : "name" }, short(narrow ? step.label.replace(" eigenvectors", "").replace("remainder: ", "rest: ") : step.label, narrow ? 16 : 26)),
          s("rect", { x: start, y: middle - barTall / 2, width: Math.max(1, end - start), height: barTall, class: `${step.value < 0 ? "negative" : "positive"}${step.rank < 0 ? " faint" : ""}` }),
          s("line", { x1: place(step.to), x2: place(step.to), y1: middle + barTall / 2, y2: middle + size - barTall / 2, class: "rule" }),
          s("text", { x: step.value < 0 ? start - 6 : end + 6, y: middle, dy: "0.32em", "text-anchor": step.value < 0 ? "end" : "start", class: "tick" }, signed(step.value)));
      });
      const middle = rows.length * size + size / 2, end = place(parts.total);
      group.append(
        s("text", { x: cell ? cell + 14 : 0, y: middle, dy: "0.32em", class: "name strong" }, short(called(), narrow ? 16 : 26)),
        s("rect", { x: Math.min(place(0), end), y: middle - 12, width: Math.max(1, Math.abs(end - place(0))), height: 24, class: "total" }),
        s("text", { x: parts.total < 0 ? end - 6 : end + 6, y: middle, dy: "0.32em", "text-anchor": parts.total < 0 ? "end" : "start", class: "name strong" }, signed(parts.total)));
      return { height, parts: [group] };
    },
  });
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

/** @param {import("./layout.js").Feature} feature */
function numbersOf(feature) {
  return linearKernels_(feature).map((kernel) => kernel.value);
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
