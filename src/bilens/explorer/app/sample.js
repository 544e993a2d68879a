// A sample, picked or drawn: its logits, computed here from the factors, and each of them as a sum of eigenvector terms.

import { linearKernels, logits, sharedScale, softmax, terms } from "./algebra.js";
import { bars } from "./chart.js";
import { labelOf, row } from "./data.js";
import { fill, h, roving, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript } from "./format.js";
import { inkCanvas, weightsPicture } from "./picture.js";
import { featureName, link, remember } from "./route.js";

const SHOWN_SAMPLES = 60;
const SHOWN_TERMS = 10;
const LEVELS = 15;

/**
 * @param {import("./data.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function samplePage(runs, route) {
  const run = runs[0], axis = run.input, output = run.output;
  if (!run.model || !axis || !output) {
    return h("div", {}, h("h1", {}, "A sample"), h("p", { class: "empty" },
      "This page does not hold the factors of its model, so it cannot compute logits. If bilens wrote it from a run that was stopped, run the same command again: it goes on and writes the page anew."));
  }
  const samples = run.samples;
  const section = run.views.find((view) => view.name === run.outputs_view) || null;
  const start = route.value === "drawn" || !samples ? -1 : samples.numbers.indexOf(Number(route.value || samples.numbers[0]));
  const state = {
    x: start >= 0 && samples ? Float32Array.from(row(samples.inputs, start)) : unpacked(route.more.ink || "", axis),
    sample: start,
    output: route.more.logit === undefined ? -1 : Math.max(0, Math.min(output.size - 1, Number(route.more.logit) || 0)),
  };
  const verdict = h("p", { class: "verdict", role: "status" });
  const result = { y: logits(run, state.x), output: 0 };
  const address = () => {
    const more = { logit: state.output < 0 ? "" : state.output, ink: state.sample < 0 ? packed(state.x, axis) : "" };
    remember(link("sample", state.sample < 0 || !samples ? "drawn" : samples.numbers[state.sample], more));
  };
  const tell = () => {
    const best = indexOfLargest(result.y), share = softmax(result.y)[best];
    const known = state.sample >= 0 && samples && samples.labels ? labelOf(output, samples.labels[state.sample]) : null;
    const says = labelOf(output, best);
    const empty = state.x.every((value) => value === 0);
    fill(verdict, empty && state.sample < 0 ? (axis.image ? "Draw on the pad, or pick a sample below." : "All inputs are 0.") : [
      h("span", {}, "The model says "), h("strong", {}, short(says, 60)), ` with ${percent(share)}. `,
      known === null ? "" : known === says ? "That is its label." : h("span", {}, "Its label is ", h("strong", {}, short(known, 60)), "."),
    ]);
  };

  const chart = figure({
    title: "Logits", name: "logits", note: "Computed in this page from the layer’s factors; the mean over outputs is taken off, which changes no prediction.",
    alt: "Bar chart of the logit of each output",
    table: () => {
      const shares = softmax(result.y);
      const own = samples && state.sample >= 0 ? row(samples.outputs, state.sample) : null;
      return { columns: [output.name, "logit", "probability", ...(own ? ["the library’s logit"] : [])],
        rows: Array.from(result.y, (value, o) => [labelOf(output, o), value, shares[o], ...(own ? [own[o]] : [])]) };
    },
    draw: (width) => {
      const shares = softmax(result.y), order = order_(result.y, output.size);
      const drawing = bars({ width, row: 25, ends: width < 480 ? 64 : 112, rows: order.map((o) => ({ label: labelOf(output, o), value: result.y[o], strong: o === result.output,
        text: `${signed(result.y[o])}${shares[o] >= 0.001 && width >= 480 ? ` · ${percent(shares[o])}` : ""}` })) });
      order.forEach((o, line) => drawing.parts.push(s("rect", { x: 0, y: 4 + 25 * line, width, height: 25, class: `catch click${o === result.output ? " on" : ""}`, click: () => choose(o) })));
      return drawing;
    },
  });
  const choices = h("select", { id: "which", change: (/** @type {any} */ event) => choose(Number(event.target.value)) },
    Array.from({ length: output.size }, (_, o) => h("option", { value: o }, labelOf(output, o))));
  const fall = section ? waterfall(run, section, state, result) : null;
  const redraw = (drawing = false) => {
    result.y = logits(run, state.x);
    result.output = state.output < 0 ? indexOfLargest(result.y) : state.output;
    /** @type {HTMLSelectElement} */ (choices).value = String(result.output);
    chart.redraw();
    tell();
    if (!fall) return;
    if (drawing) later(fall.redraw); // the logits first, so that they keep up with the pen
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
    if (axis.image) state.x.forEach((value, i) => { state.x[i] = level(value) / LEVELS; }); // what a link can carry
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
    section && fall ? h("section", {},
      h("div", { class: "field inline" }, h("label", { for: "which" }, `Take apart the logit of ${output.one}`), choices),
      fall.element) : h("p", { class: "empty" }, "This run holds no eigenvectors of its outputs, so logits cannot be taken apart here."));
}

/**
 * @param {import("./data.js").Run} run
 * @param {import("./data.js").Section} section
 * @param {{x: Float32Array}} state
 * @param {{y: Float64Array, output: number}} result
 */
function waterfall(run, section, state, result) {
  const output = /** @type {import("./data.js").Axis} */ (run.output);
  const split = () => {
    const feature = section.features[result.output];
    const all = Array.from(terms(feature, section.input, state.x), (value, rank) => ({ value, rank }));
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
    title: "The logit as an exact sum", name: "logit-terms",
    note: `Each row adds λ(v·x)² to the logit, largest first, from where the row above ended. ${whole_(section)
      ? "All eigenvectors are in this page, so the sum is the logit but for rounding." : "The remainder is what the eigenvectors that are not in this page add; with it the sum is the logit."}`,
    alt: "Waterfall chart of the terms that add up to the logit",
    table: () => {
      const parts = split();
      let sum = 0;
      const rounding = parts.leftCount > 0 ? [] : [["rounding", parts.left, parts.total]];
      return { columns: ["term", "adds", "sum so far"], rows: [...lines(parts).map((line) => [line.label, line.value, (sum += line.value)]), ...rounding, [`logit of ${labelOf(output, result.output)}`, parts.total, parts.total]] };
    },
    draw: (width) => {
      const parts = split(), rows = lines(parts), image = section.input.image;
      const kernels = linearKernels_(parts.feature), scale = sharedScale(kernels, section.input);
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
          group.append(s("a", { href: link("feature", featureName(section, result.output), { k: step.rank + 1 }), "aria-label": `Eigenvector ${step.rank + 1}` },
            weightsPicture(kernels[step.rank], section.input, scale, { x: 0.5, y: y + 3, width: cell, height: cell })));
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
        s("text", { x: cell ? cell + 14 : 0, y: middle, dy: "0.32em", class: "name strong" }, short(`logit of ${labelOf(output, result.output)}`, narrow ? 16 : 26)),
        s("rect", { x: Math.min(place(0), end), y: middle - 12, width: Math.max(1, Math.abs(end - place(0))), height: 24, class: "total" }),
        s("text", { x: parts.total < 0 ? end - 6 : end + 6, y: middle, dy: "0.32em", "text-anchor": parts.total < 0 ? "end" : "start", class: "name strong" }, signed(parts.total)));
      return { height, parts: [group] };
    },
  });
}

/**
 * Whether the page has every eigenvector of the outputs.
 * @param {import("./data.js").Section} section
 */
function whole_(section) {
  return section.features.every((feature) => feature.vectors.shape[0] === feature.eigenvalues.shape[0] && feature.discarded === 0);
}

/** @type {WeakMap<object, {rank: number, value: number, weights: Float32Array}[]>} */
const kernelsOf = new WeakMap();

/** @param {import("./data.js").Feature} feature */
function linearKernels_(feature) {
  let known = kernelsOf.get(feature);
  if (!known) kernelsOf.set(feature, (known = linearKernels(feature)));
  return known;
}

/** @param {import("./data.js").Feature} feature */
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
 * A pad to draw on, by pointer or by keys.
 * @param {import("./data.js").Axis} axis
 * @param {{x: Float32Array, sample: number}} state
 * @param {(ended: boolean) => void} edited
 */
function pad(axis, state, edited) {
  const [rows, columns] = /** @type {number[]} */ (axis.image);
  const radius = Math.max(0.75, Math.min(rows, columns) / 28 * 1.15);
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", {
    class: "pad", width: columns, height: rows, tabindex: 0, role: "application", "aria-roledescription": "drawing pad",
    "aria-label": "Drawing pad. Arrow keys move, space puts the pen down or lifts it, E takes the eraser, Delete clears.",
  }));
  const cursor = { row: Math.floor(rows / 2), column: Math.floor(columns / 2), down: false, eraser: false };
  const mark = h("div", { class: "cursor", "aria-hidden": "true" });
  const status = h("p", { class: "status", role: "status" });
  const redraw = () => {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.drawImage(inkCanvas(state.x, [rows, columns]), 0, 0);
  };
  const stamp = (/** @type {number} */ x, /** @type {number} */ y, /** @type {boolean} */ erase) => {
    const reach = Math.ceil(radius + 1);
    for (let line = Math.floor(y) - reach; line <= Math.floor(y) + reach; line++) {
      for (let column = Math.floor(x) - reach; column <= Math.floor(x) + reach; column++) {
        if (line < 0 || column < 0 || line >= rows || column >= columns) continue;
        const ink = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(column + 0.5 - x, line + 0.5 - y)));
        const at = line * columns + column;
        state.x[at] = erase ? Math.min(state.x[at], 1 - ink) : Math.max(state.x[at], ink);
      }
    }
  };
  /** @type {{x: number, y: number}|null} */
  let last = null;
  const at = (/** @type {PointerEvent} */ event) => {
    const frame = canvas.getBoundingClientRect();
    return { x: (event.clientX - frame.left) / frame.width * columns, y: (event.clientY - frame.top) / frame.height * rows };
  };
  const through = (/** @type {{x: number, y: number}} */ point, /** @type {boolean} */ erase) => {
    const from = last || point, length = Math.hypot(point.x - from.x, point.y - from.y), steps = Math.max(1, Math.ceil(length / 0.4));
    for (let step = 0; step <= steps; step++) stamp(from.x + (point.x - from.x) * step / steps, from.y + (point.y - from.y) * step / steps, erase);
    last = point;
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      edited(false);
    });
  };
  let pointer = -1; // one at a time draws: a second finger is no part of the line
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    mark.hidden = true;
    if (state.sample >= 0 && !cursor.eraser) state.x.fill(0); // a first stroke begins a drawing of one's own
    last = null;
    through(at(event), cursor.eraser);
    redraw();
    edited(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last || event.pointerId !== pointer) return;
    const merged = event.getCoalescedEvents?.();
    for (const each of merged?.length ? merged : [event]) through(at(each), cursor.eraser);
    redraw();
    soon();
  });
  const end = (/** @type {PointerEvent} */ event) => {
    if (!last || event.pointerId !== pointer) return;
    last = null;
    edited(true);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  const say = () => {
    status.textContent = `row ${cursor.row + 1}, column ${cursor.column + 1}, ${cursor.eraser ? "eraser" : "pen"} ${cursor.down ? "down" : "up"}`;
    mark.style.left = `${(cursor.column + 0.5) / columns * 100}%`;
    mark.style.top = `${(cursor.row + 0.5) / rows * 100}%`;
    mark.classList.toggle("down", cursor.down);
    mark.hidden = false;
  };
  const clear = () => {
    state.x.fill(0);
    redraw();
    edited(true);
  };
  const eraser = h("button", { type: "button", "aria-pressed": "false", click: () => useEraser(!cursor.eraser) }, "Eraser");
  const useEraser = (/** @type {boolean} */ on) => {
    cursor.eraser = on;
    eraser.setAttribute("aria-pressed", String(on));
  };
  canvas.addEventListener("keydown", (event) => {
    /** @type {Record<string, number[]>} */
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(moves, event.key)) {
      cursor.row = Math.max(0, Math.min(rows - 1, cursor.row + moves[event.key][0]));
      cursor.column = Math.max(0, Math.min(columns - 1, cursor.column + moves[event.key][1]));
    } else if (event.key === " " || event.key === "Enter") cursor.down = !cursor.down;
    else if (event.key === "e" || event.key === "E") useEraser(!cursor.eraser);
    else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
    if (cursor.down) {
      if (state.sample >= 0 && !cursor.eraser) state.x.fill(0);
      stamp(cursor.column + 0.5, cursor.row + 0.5, cursor.eraser);
      redraw();
      edited(true);
    }
    say();
  });
  canvas.addEventListener("blur", () => { mark.hidden = true; });
  mark.hidden = true;
  redraw();
  return {
    redraw,
    element: h("div", { class: "pad-holder" },
      h("div", { class: "pad-frame" }, canvas, mark),
      h("div", { class: "buttons" }, h("button", { type: "button", click: clear }, "Clear"), eraser,
        h("button", { type: "button", click: () => {
          cursor.row = cursor.column = 0;
          canvas.focus();
          cursor.row = Math.floor(rows / 2);
          cursor.column = Math.floor(columns / 2);
          say();
        } }, "Use keys")),
      h("p", { class: "hint" }, "Mouse, finger or pen. With keys: arrows move, space lowers and lifts the pen, E erases, Delete clears."),
      status),
  };
}

/**
 * A number for each coordinate, where the input is no image.
 * @param {import("./data.js").Axis} axis
 * @param {{x: Float32Array, sample: number}} state
 * @param {(ended: boolean) => void} edited
 */
function sliders(axis, state, edited) {
  const holder = h("div", { class: "inputs" });
  const count = Math.min(axis.size, 64);
  const fields = Array.from({ length: count }, (_, i) => /** @type {HTMLInputElement} */ (h("input", {
    type: "number", step: "any", id: `x${i}`, value: String(Number(state.x[i].toFixed(4))), input: (/** @type {any} */ event) => {
      const value = Number(event.target.value);
      if (!Number.isFinite(value)) return;
      state.x[i] = value;
      edited(true);
    } })));
  fill(holder, fields.map((field, i) => h("div", { class: "field" }, h("label", { for: `x${i}` }, short(labelOf(axis, i), 24)), field)));
  return {
    redraw: () => fields.forEach((field, i) => { field.value = String(Number(state.x[i].toFixed(4))); }),
    element: h("div", { class: "pad-holder" }, holder,
      count < axis.size ? h("p", { class: "hint" }, `The first ${count} of ${axis.size} inputs; the others keep their values.`) : null),
  };
}

/**
 * Samples to pick from.
 * @param {import("./data.js").Run} run
 * @param {NonNullable<import("./data.js").Run["samples"]>} samples
 * @param {import("./data.js").Axis} axis
 * @param {{sample: number}} state
 * @param {(place: number) => void} pick
 */
function picker(run, samples, axis, state, pick) {
  const output = /** @type {import("./data.js").Axis} */ (run.output);
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

/**
 * Ink as one of the levels of a link.
 * @param {number} value
 */
function level(value) {
  return Math.round(LEVELS * Math.max(0, Math.min(1, value)));
}

/**
 * The fewest digits that are read as the same float32.
 * @param {number} value
 */
function shortest(value) {
  for (let digits = 1; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(Number(value.toPrecision(9)));
}

/**
 * A drawing as text for a link: 16 levels a pixel, runs of blank pixels as counts.
 * @param {Float32Array} x
 * @param {import("./data.js").Axis} axis
 */
function packed(x, axis) {
  if (!axis.image) return Array.from(x, shortest).join(",");
  let text = "", blank = 0;
  for (const value of [...Array.from(x, level), -1]) {
    if (value === 0) blank += 1;
    else {
      if (blank) text += blank > 2 ? `.${blank.toString(36)}.` : "g".repeat(blank);
      blank = 0;
      if (value > 0) text += value.toString(16);
    }
  }
  return text;
}

/**
 * @param {string} text
 * @param {import("./data.js").Axis} axis
 */
function unpacked(text, axis) {
  const x = new Float32Array(axis.size);
  if (!axis.image) {
    text.split(",").filter(Boolean).forEach((part, i) => { if (i < x.length && Number.isFinite(Number(part))) x[i] = Number(part); });
    return x;
  }
  let at = 0;
  for (const match of text.matchAll(/\.([0-9a-z]+)\.|([0-9a-g])/g)) {
    if (match[1]) at += parseInt(match[1], 36);
    else {
      if (match[2] !== "g" && at < x.length) x[at] = parseInt(match[2], 16) / LEVELS;
      at += 1;
    }
  }
  return x;
}
