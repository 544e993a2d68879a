// One feature: its spectrum and eigenvectors, how much of it the first ones hold, what it does, where it is large.

import { constantMatters, foremost, linearKernels, sharedScale } from "./algebra.js";
import { bars, lines } from "./chart.js";
import { labelOf, numbers } from "./data.js";
import { h, s } from "./dom.js";
import { extremes, pairs } from "./extremes.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript, whole } from "./format.js";
import { color, weightsPicture } from "./picture.js";
import { featureAt, featureName, link, remember } from "./route.js";

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function featurePage(runs, route) {
  const found = featureAt(runs, route.value);
  if (!found) {
    return h("div", {}, h("h1", {}, "No such feature"), h("p", { class: "lead" },
      "This page has no feature of that name. ", h("a", { href: link("overview") }, "See all features"), "."));
  }
  const { run: which, set, place, feature } = found;
  const run = runs[which];
  const kernels = linearKernels(feature);
  const first = foremost(kernels, set.input)?.rank || 0;
  const model = { selected: Math.max(0, Math.min(kernels.length - 1, (Number(route.more.k) || first + 1) - 1)) };
  const scale = sharedScale(kernels, set.input);
  /** @type {(() => void)[]} */
  const redraws = [];
  const select = (/** @type {number} */ rank) => {
    model.selected = rank;
    remember(link("feature", featureName(set, place, which), { k: rank === first ? "" : rank + 1 }));
    for (const redraw of redraws) redraw();
  };
  const parts = { run, set, feature, kernels, scale, model, select, redraws, name: `${set.name}-${place}`, of: title(set, feature) };
  const step = (/** @type {number} */ by, /** @type {string} */ words) => {
    const other = set.features[place + by];
    return other ? h("a", { class: "step", href: link("feature", featureName(set, place + by, which)),
      rel: by < 0 ? "prev" : "next" }, by < 0 ? `← ${words}` : `${words} →`) : null;
  };
  return h("article", { class: "feature" },
    h("p", { class: "crumbs" }, h("a", { href: link("overview", set.name) }, set.title),
      runs.length > 1 ? ` · ${run.name}` : ""),
    h("header", { class: "feature-head" },
      h("div", {}, h("h1", {}, title(set, feature)),
        h("p", { class: "lead" }, feature.raises.join() === feature.label && !feature.lowers.length ? "" : `${effects(feature)} `,
          `${capital(set.measure)}: ${number(feature.importance)}.`)),
      h("nav", { class: "steps", "aria-label": "Other features" }, step(-1, "previous"), step(1, "next"),
        h("a", { class: "step", href: link("compare", featureName(set, place, which)) }, "compare"))),
    feature.residual > 1e-4 ? h("p", { class: "warning" }, `The eigenpairs are right only to ${number(feature.residual)} of the largest eigenvalue.`) : null,
    kernels.length && kernels.some((kernel) => kernel.value !== 0) ? [
      h("div", { class: "two wide-left" }, spectrum(parts), selected(parts)),
      strips(parts),
      h("div", { class: "two" }, kept(parts), h("div", { class: "column" }, set.name === run.outputs_set ? null : weights(parts), pairs(parts))),
      extremes(parts),
      legend(parts),
    ] : h("p", { class: "empty" }, "This feature is 0: its kernel has no eigenvalue but 0."));
}

/**
 * @param {import("./layout.js").Features} set
 * @param {import("./layout.js").Feature} feature
 */
export function title(set, feature) {
  return `${set.feature} ${short(feature.label, 80)}`;
}

/**
 * What a feature does to the outputs, as a sentence.
 * @param {import("./layout.js").Feature} feature
 */
export function effects(feature) {
  return feature.raises.length || feature.lowers.length ? `Effects: ${feature.speaks}.` : "It moves no output.";
}

/** @param {string} text */
function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

/**
 * @typedef {{run: import("./layout.js").Run, set: import("./layout.js").Features, feature: import("./layout.js").Feature,
 *   kernels: {rank: number, value: number, weights: Float32Array}[], scale: number, model: {selected: number},
 *   select: (rank: number) => void, redraws: (() => void)[], name: string, of: string}} Parts
 */

/** @param {Parts} parts */
function spectrum(parts) {
  const { feature, set, kernels, model, select } = parts;
  const values = Array.from(numbers(feature.eigenvalues));
  const all = values.map((value, rank) => ({ value, rank }));
  const positive = all.filter((pair) => pair.value > 0).sort((a, b) => b.value - a.value);
  const negative = all.filter((pair) => pair.value < 0).sort((a, b) => b.value - a.value);
  const order = [...positive, ...negative].map((pair) => pair.rank).filter((rank) => rank < kernels.length);
  const slider = h("div", {
    class: "slider", role: "slider", tabindex: 0, "aria-label": "Eigenvalue", "aria-valuemin": 1, "aria-valuemax": order.length,
    keydown: (/** @type {KeyboardEvent} */ event) => {
      const at = order.indexOf(model.selected);
      /** @type {Record<string, number>} */
      const moves = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: order.length - 1 };
      if (!Object.hasOwn(moves, event.key)) return;
      event.preventDefault();
      const next = order[moves[event.key]];
      if (next !== undefined) select(next);
    },
  });
  const tell = () => {
    slider.setAttribute("aria-valuenow", String(order.indexOf(model.selected) + 1));
    slider.setAttribute("aria-valuetext", `λ${model.selected + 1} = ${signed(values[model.selected])}`);
  };
  const drawing = figure({
    title: "Eigenvalues", of: parts.of, name: `${parts.name}-eigenvalues`,
    note: `From the one that raises the feature most to the one that lowers it most; dark ones have a picture: click one, or use the arrow keys.` +
      (feature.discarded > 0 ? ` These are the first ${whole(values.length)} of ${whole(set.input.size + (set.input.constant ? 1 : 0))}; no other is larger than ${number(feature.discarded)} in size.` : ""),
    alt: `Bar chart of the eigenvalues of ${feature.label}, from ${signed(Math.max(...values))} to ${signed(Math.min(...values))}`,
    table: () => ({ columns: ["rank by |λ|", "λ", "share of ‖Q‖²"],
      rows: values.map((value, rank) => [rank + 1, value, feature.energy ? value * value / feature.energy : 0]) }),
    draw: (width) => {
      const top_ = Math.max(0, ...values), low = Math.min(0, ...values);
      const left = Math.max(44, ...[top_, low].map((end) => 9 + 6.4 * number(end).length)), height = 250, top = 22, bottom = 34, size = 11;
      const room = Math.floor((width - left - 8) / size);
      const fits = positive.length + negative.length <= room;
      const gap = fits ? 0 : 74;
      const each = fits ? room : Math.floor((room - gap / size) / 2);
      const few = Math.min(positive.length, fits ? room : Math.max(each, 2 * each - negative.length));
      const rest = Math.min(negative.length, fits ? room : Math.max(each, 2 * each - positive.length));
      const place = (/** @type {number} */ value) => top + ((top_ - value) / (top_ - low || 1)) * (height - top - bottom);
      const group = s("g", {});
      for (const tick of [low, 0, top_]) {
        if (tick === 0 && (top_ === 0 || low === 0 ? false : Math.min(Math.abs(place(0) - place(low)), Math.abs(place(0) - place(top_))) < 14)) continue;
        group.append(s("text", { x: left - 8, y: place(tick), dy: "0.32em", "text-anchor": "end", class: "tick" }, number(tick)));
      }
      group.append(s("line", { x1: left, x2: width, y1: place(0), y2: place(0), class: "axis" }));
      const word = s("text", { x: left, y: height - 8, class: "tick" });
      const say = (/** @type {{value: number, rank: number}} */ pair) => {
        word.textContent = `λ${subscript(pair.rank + 1)} = ${signed(pair.value)}, ${percent(feature.energy ? pair.value ** 2 / feature.energy : 0)} of ‖Q‖²` +
          (pair.rank < kernels.length ? "" : ", no picture kept");
      };
      const draw = (/** @type {{value: number, rank: number}[]} */ shown, /** @type {number} */ start) => shown.forEach((pair, i) => {
        const x = start + i * size, y = Math.min(place(0), place(pair.value)), tall = Math.max(1, Math.abs(place(0) - place(pair.value)));
        const has = pair.rank < kernels.length;
        group.append(s("rect", { x: x + 1, y, width: size - 2, height: tall,
          class: `${pair.value > 0 ? "positive" : "negative"}${has ? "" : " faint"}` }));
        if (pair.rank === model.selected) {
          group.append(s("path", { d: `M${x + size / 2 - 5} ${pair.value > 0 ? y - 9 : y + tall + 9}h10l-5 ${pair.value > 0 ? 6 : -6}z`, class: "pointer" }));
        }
        group.append(s("rect", { x, y: top - 10, width: size, height: height - top - bottom + 20, class: has ? "catch click" : "catch",
          pointerenter: () => say(pair), click: () => has && select(pair.rank) }));
      });
      draw(positive.slice(0, few), left);
      const after = left + few * size;
      if (!fits) {
        const left_out = positive.length - few + negative.length - rest;
        group.append(s("text", { x: after + gap / 2, y: place(0) + (top_ > -low ? -20 : 20), "text-anchor": "middle", class: "tick" }, `${whole(left_out)} smaller`));
      }
      draw(negative.slice(negative.length - rest), Math.max(after + gap, fits ? after : width - rest * size));
      say(all[model.selected]);
      group.append(word);
      tell();
      return { height, parts: [group] };
    },
  });
  parts.redraws.push(drawing.redraw);
  const body = /** @type {HTMLElement} */ (drawing.element.querySelector(".drawing"));
  body.replaceWith(slider);
  slider.append(body);
  return drawing.element;
}

/** @param {Parts} parts */
function selected(parts) {
  const { feature, kernels, set, scale, model } = parts;
  const readout = h("p", { class: "status", role: "status" });
  const drawing = figure({
    title: "The chosen eigenvector", of: parts.of, name: `${parts.name}-eigenvector`,
    note: `√|λ| v. An input x adds (√|λ| v·x)² where λ > 0 and takes as much off where λ < 0, whichever sign the overlap v·x has.`,
    alt: `The chosen eigenvector of ${feature.label}`,
    table: () => ({ columns: [set.input.name, "√|λ| v"],
      rows: Array.from(kernels[model.selected].weights, (value, i) => /** @type {[string, number]} */ ([labelOf(set.input, i), value]))
        .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])) }),
    most: 330,
    draw: (width) => {
      const kernel = kernels[model.selected], image = set.input.image;
      const size = Math.min(width, 250);
      const tall = image ? size * image[0] / image[1] : Math.min(9, set.input.size) * 18;
      const constant = constantMatters(kernels, set.input) ? `, constant ${signed(kernel.weights[set.input.size])}` : "";
      const picture = weightsPicture(kernel, set.input, scale, { x: 0, y: 26, width: image ? size : width, height: tall });
      const group = s("g", {},
        s("text", { x: 0, y: 14, class: `name strong ${kernel.value > 0 ? "plus" : "minus"}` },
          `λ${subscript(kernel.rank + 1)} = ${signed(kernel.value)}${constant}`), picture);
      if (image) {
        group.append(s("rect", { x: 0, y: 26, width: size, height: tall, class: "catch", pointermove: (/** @type {PointerEvent} */ event) => {
          const frame = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
          const column = Math.floor((event.clientX - frame.left) / frame.width * image[1]);
          const line = Math.floor((event.clientY - frame.top) / frame.height * image[0]);
          const at = line * image[1] + column;
          if (at >= 0 && at < set.input.size) readout.textContent = `row ${line}, column ${column}: ${signed(kernel.weights[at])}`;
        } }));
      }
      readout.textContent = "";
      return { height: 26 + tall + 4, parts: [group] };
    },
  });
  drawing.element.append(readout);
  parts.redraws.push(drawing.redraw);
  return drawing.element;
}

/**
 * The largest eigenvectors of both signs, side by side.
 * @param {Pick<Parts, "feature"|"kernels"|"set"|"scale"|"name"|"of"> & {both?: boolean}} parts
 * @param {number} level
 * @param {{selected: number}|null} model
 * @param {((rank: number) => void)|null} select
 */
export function eigenvectors(parts, level = 3, model = null, select = null) {
  const { feature, kernels, set, scale } = parts;
  return figure({
    title: "What raises it, and what lowers it", level, of: parts.of, name: `${parts.name}-eigenvectors`,
    note: `The largest eigenvectors of each sign as √|λ| v, on one scale${parts.both ? " for both sides" : ""}: a pale picture matters less. Green and purple are the two sides of an eigenvector: which is which means nothing, where they meet does.`,
    alt: `The largest positive and negative eigenvectors of ${feature.label}`,
    table: () => ({ columns: ["rank by |λ|", "λ", "share of ‖Q‖²"], rows: kernels.map((kernel) => [kernel.rank + 1, kernel.value, feature.energy ? kernel.value ** 2 / feature.energy : 0]) }),
    draw: (width) => {
      const image = set.input.image, gap = 10;
      const most = Math.max(1, ...[1, -1].map((sign) => kernels.filter((kernel) => kernel.value * sign > 0).length));
      const wanted = image ? 108 : 190;
      const columns = Math.max(image ? Math.min(3, most) : 1, Math.min(8, most, Math.floor((width + gap) / (wanted + gap))));
      const cell = Math.min(image ? 150 : 260, (width - gap * (columns - 1)) / columns);
      const tall = image ? cell * image[0] / image[1] : Math.min(9, set.input.size) * 14;
      const group = s("g", {}), constants = constantMatters(kernels, set.input);
      let y = 0;
      for (const [sign, words] of /** @type {[number, string][]} */ ([[1, "λ > 0: raise it"], [-1, "λ < 0: lower it"]])) {
        const mine = kernels.filter((kernel) => kernel.value * sign > 0).slice(0, columns);
        group.append(s("text", { x: 0, y: y + 14, class: `name strong ${sign > 0 ? "plus" : "minus"}` }, words));
        y += 24;
        if (!mine.length) {
          group.append(s("text", { x: 0, y: y + 14, class: "tick" }, `No eigenvalue ${sign > 0 ? "above" : "below"} 0 among those kept.`));
          y += 34;
          continue;
        }
        mine.forEach((kernel, column) => {
          const x = column * (cell + gap);
          const holder = s("g", select ? { class: "click", click: () => select(kernel.rank) } : {},
            weightsPicture(kernel, set.input, scale, { x: x + 1, y: y + 1, width: cell - 2, height: tall - 2 }),
            s("text", { x, y: y + tall + 15, class: "tick" }, `λ${subscript(kernel.rank + 1)} ${signed(kernel.value)}`));
          if (model && kernel.rank === model.selected) holder.append(s("rect", { x: x + 1, y: y + 1, width: cell - 2, height: tall - 2, class: "chosen" }));
          if (constants) holder.append(s("text", { x, y: y + tall + 29, class: "tick" }, `constant ${signed(kernel.weights[set.input.size])}`));
          group.append(holder);
        });
        y += tall + (constants ? 46 : 32);
      }
      if (!image) return { height: y, parts: [group] }; // bars have lengths, not colours
      group.append(ramp(0, y + 4, Math.min(width, 260), scale));
      return { height: y + 42, parts: [group] };
    },
  });
}

/** @param {Parts} parts */
function strips(parts) {
  const drawing = eigenvectors(parts, 3, parts.model, parts.select);
  parts.redraws.push(drawing.redraw);
  return drawing.element;
}

/**
 * The diverging scale with its ends.
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} scale
 */
export function ramp(x, y, width, scale) {
  const steps = 64;
  return s("g", {},
    Array.from({ length: steps }, (_, i) => s("rect", { class: "ramp", x: x + (width * i) / steps, y, width: width / steps + 0.6, height: 9,
      fill: color((2 * (i + 0.5)) / steps - 1) })),
    s("text", { x, y: y + 25, class: "tick" }, `−${number(scale)}`),
    s("text", { x: x + width / 2, y: y + 25, class: "tick", "text-anchor": "middle" }, "0"),
    s("text", { x: x + width, y: y + 25, class: "tick", "text-anchor": "end" }, `+${number(scale)}`));
}

/** @param {Parts} parts */
function kept(parts) {
  const { feature, set } = parts;
  const values = Array.from(numbers(feature.eigenvalues)), errors = feature.errors ? numbers(feature.errors) : null;
  const complete = feature.discarded === 0;
  /** @type {number[]} */
  const shares = [];
  let sum = 0;
  for (const value of values) {
    sum += value * value;
    shares.push(feature.energy > 0 ? Math.min(1, sum / feature.energy) : 1);
  }
  const most = values.length;
  const next = (/** @type {number} */ k) => Math.abs(k < most ? values[k] : complete ? 0 : feature.discarded);
  const bound = (/** @type {number} */ k) => next(k) * (set.norm || 1) ** 2;
  const state = { k: Math.min(8, most) };
  const readout = h("p", { class: "readout", role: "status" });
  const scale = (/** @type {number} */ position) => Math.max(1, Math.min(most, Math.round(most ** (position / 1000))));
  const slider = h("input", { type: "range", min: 0, max: 1000, id: "keep", step: "any",
    value: most > 1 ? (1000 * Math.log(state.k)) / Math.log(most) : 0,
    input: (/** @type {any} */ event) => {
      state.k = scale(Number(event.target.value));
      tell();
      drawing.redraw();
      lower.redraw();
    },
    keydown: (/** @type {KeyboardEvent} */ event) => {
      /** @type {Record<string, number>} */
      const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
      if (!Object.hasOwn(moves, event.key)) return;
      event.preventDefault();
      state.k = Math.max(1, Math.min(most, state.k + moves[event.key]));
      /** @type {HTMLInputElement} */ (slider).value = String(most > 1 ? (1000 * Math.log(state.k)) / Math.log(most) : 0);
      tell();
      drawing.redraw();
      lower.redraw();
    } });
  const tell = () => {
    slider.setAttribute("aria-valuetext", plural(state.k, "eigenvector"));
    const measured = errors ? ` The largest error on ${plural(set.examined, "sample")} is ${number(errors[state.k - 1])}.` : "";
    readout.textContent = `The first ${state.k === 1 ? "eigenvector holds" : `${whole(state.k)} eigenvectors hold`} ${percent(shares[state.k - 1])} of ‖Q‖². ` +
      (set.norm ? `Leaving out the others changes the feature by at most |λ${subscript(state.k + 1)}|·‖x‖² = ${number(bound(state.k))}.` :
        `Leaving out the others changes the feature by at most ${number(next(state.k))} · ‖x‖².`) + measured;
  };
  const points = (/** @type {(k: number) => number} */ value, /** @type {number} */ last) => {
    const found = [];
    for (let k = 1; k <= last; k = Math.max(k + 1, Math.round(k * 1.06))) found.push({ x: k, y: value(k) });
    if (found[found.length - 1].x !== last) found.push({ x: last, y: value(last) });
    return found;
  };
  const x = { label: "eigenvectors kept", log: most > 40, low: 1, high: Math.max(2, most), format: whole };
  const drawing = figure({
    title: "How much the first eigenvectors hold", of: parts.of, name: `${parts.name}-energy`,
    alt: `Line chart of the share of the squared norm of ${feature.label} in its first eigenvectors`,
    table: () => ({ columns: ["kept", "share of ‖Q‖²", "bound on the error", "largest error measured"],
      rows: points((k) => k, most).map(({ x: k }) => [k, shares[k - 1], bound(k), errors ? errors[k - 1] : null]) }),
    draw: (width) => lines({ width, height: 190, legend: false, marks: false, mark: state.k, x,
      y: { label: "share of ‖Q‖²", low: 0, high: 1, format: (value) => percent(value, 0) },
      series: [{ name: "share of ‖Q‖²", color: 1, points: points((k) => shares[k - 1], most) }] }),
  });
  const floor = Math.max(1e-30, Math.abs(values[0]) * (set.norm || 1) ** 2 * 1e-6);
  const left = [
    { name: set.norm ? "proven bound" : "|λ| left out", color: 0, points: points(bound, most).filter((p) => p.y >= floor) },
    ...(errors ? [{ name: "largest error measured", color: 2, points: points((k) => errors[k - 1], most).filter((p) => p.y >= floor) }] : []),
  ];
  const lowest = Math.min(...left.flatMap((each) => each.points.map((p) => p.y)));
  const lower = figure({
    title: set.norm ? "The error of leaving out the others" : "The largest eigenvalue left out",
    of: parts.of, name: `${parts.name}-error`,
    alt: `Line chart of the proven bound on the error of ${feature.label} and the largest error measured`,
    table: () => ({ columns: ["kept", set.norm ? "bound on the error" : "largest |λ| left out", "largest error measured"],
      rows: points((k) => k, most).map(({ x: k }) => [k, bound(k), errors ? errors[k - 1] : null]) }),
    draw: (width) => lines({ width, height: 200, marks: false, mark: state.k, x,
      y: { label: set.norm ? "error, log scale" : "|λ|, log scale", log: true, low: Number.isFinite(lowest) ? lowest : floor },
      series: left }),
  });
  tell();
  return h("div", { class: "stack" }, drawing.element,
    h("div", { class: "field range" }, h("label", { for: "keep" }, "Keep"), slider), readout, lower.element);
}

/**
 * What the effects on the outputs are called.
 * @param {import("./layout.js").Run} run
 */
export function effectsTitle(run) {
  return run.logits ? "Logit weights" : "Effects on the outputs";
}

/** @param {Parts} parts */
function weights(parts) {
  const { feature, run, set } = parts;
  const output = run.output;
  if (!output) return h("div", {});
  const places = feature.effects.map((_, place) => place);
  const many = places.length > 24;
  const order = many ? [...places].sort((a, b) => feature.effects[b] - feature.effects[a]) : places;
  const shown = many ? [...order.slice(0, 12), ...order.slice(-12)] : order;
  const strong = new Set([...feature.raises, ...feature.lowers]);
  return figure({
    title: effectsTitle(run), of: parts.of, name: `${parts.name}-effects`,
    note: `What one unit of the feature adds to each ${output.one}${run.logits ? "’s logit" : ""}.` + (many ? " The twelve it raises and the twelve it lowers most." : ""),
    alt: `Bar chart of what ${feature.label} adds to each output`,
    table: () => ({ columns: [output.name, run.logits ? "logit weight" : "effect"], rows: order.map((place) => [labelOf(output, place), feature.effects[place]]) }),
    draw: (width) => bars({ width, rows: shown.map((place) => ({ label: labelOf(output, place), value: feature.effects[place], strong: strong.has(labelOf(output, place)) })) }),
  }).element;
}

/** @param {Parts} parts */
function legend(parts) {
  const { feature, set } = parts;
  return h("section", { class: "reading" }, h("h2", { class: "section" }, "How to read this"),
    h("p", {}, "The feature's value on an input x is xᵀQx, with a symmetric matrix Q that follows from the weights. Written in the eigenvectors of Q it is a sum of squares, Σ λ (v·x)², one for each."),
    h("p", {}, "Every word used here is explained under ", h("a", { href: link("about") }, "About"), "."),
    h("p", {}, "A squared overlap has no sign, so an eigenvector and its negative are the same: what counts is the pattern of green against purple. Blue is what is added, and red what is taken off."),
    h("p", {}, `The eigenvectors are orthonormal${set.input.constant ? ", and the layer's biases are in them as one more input that is always 1" : ""}. ‖Q‖² is the sum of all λ², here ${number(feature.energy)}.`));
}
