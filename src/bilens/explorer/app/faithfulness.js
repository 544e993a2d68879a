// How much of the model is left when its layer is replaced by what each set of features keeps.

import { lines } from "./chart.js";
import { fill, h } from "./dom.js";
import { figureOf } from "./extra.js";
import { figure } from "./figure.js";
import { cell, percent, plural, whole } from "./format.js";
import { link, remember } from "./route.js";

/** @type {Record<string, {words: string, label: string, share: boolean}>} */
const MEASURES = {
  accuracy: { words: "Accuracy", label: "share classified right", share: true },
  recovered: { words: "Cross-entropy recovered", label: "cross-entropy recovered", share: true },
  cross_entropy: { words: "Cross-entropy", label: "cross-entropy, nats", share: false },
};

/** @type {Record<string, string>} */
const AXES = { kept: "components kept", numbers: "numbers stored" };

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function faithfulnessPage(runs, route) {
  const run = runs[0];
  const counted = run.curves.some((line) => line.numbers);
  const state = { measure: Object.hasOwn(MEASURES, route.value) ? route.value : "accuracy", axis: counted && route.more.axis === "numbers" ? "numbers" : "kept" };
  const charts = h("div", {});
  const changed = () => {
    remember(link("faithfulness", state.measure === "accuracy" ? "" : state.measure, { axis: state.axis === "kept" ? "" : state.axis }));
    // Ten eigenvectors of each output and ten components are not alike: they share an axis only of what they store.
    const groups = bySamples(run.curves).flatMap((curves) => (state.axis === "numbers" ? [curves] : byKind(curves)));
    charts.className = groups.length > 1 && state.axis === "kept" ? "two" : "charts";
    fill(charts, groups.map((curves, place) => curvesFigure(run, curves, place, state)));
  };
  changed();
  const measures = Object.entries(MEASURES).filter(([name]) => run.curves.some((line) => valuesOf(line, name)));
  const choices = [choice("Measure", "measure", measures.map(([name, measure]) => [name, measure.words]), state, changed),
    counted ? choice("Against", "axis", Object.entries(AXES), state, changed) : null];
  const diagnostics = [
    ...run.curves.filter((line) => line.error && line.bound).map((line, place) => certificate(line, place)),
    ...run.sets.flatMap((set) => set.figures.map((each) => figureOf(set, each))),
  ];
  return h("div", { class: "faithfulness" },
    h("h1", {}, "How much of the model is left?"),
    h("p", { class: "lead" }, `The ${run.levels.length ? "network" : "layer"} is replaced by what a set of features keeps of it. `,
      run.logits ? "Cross-entropy recovered is then 1 for the model itself and 0 for a guess that knows nothing." : null),
    run.curves.length ? [...choices, charts] : h("p", { class: "empty" }, run.samples && run.samples.labels
      ? "This page has no curves of faithfulness. If bilens wrote it from a run that was stopped, run the same command again to add them."
      : "This page has no curves of faithfulness: they need labelled samples, and it has none. If bilens wrote it from a run that was stopped, run the same command again to add what is missing."),
    run.scores.length ? scores(run) : null,
    diagnostics.length ? h("h2", { class: "section" }, "Checks") : null,
    h("div", { class: "two" }, diagnostics));
}

/**
 * Curves that were measured on as many samples, together: a chart never mixes them.
 * @param {import("./layout.js").Line[]} curves
 */
function bySamples(curves) {
  /** @type {Map<number|null, import("./layout.js").Line[]>} */
  const groups = new Map();
  for (const line of curves) groups.set(line.samples, [...(groups.get(line.samples) || []), line]);
  return [...groups.values()];
}

/**
 * Each curve with its nulls and rivals: what is counted alike.
 * @param {import("./layout.js").Line[]} curves
 */
function byKind(curves) {
  const first = curves.filter((line) => !curves.some((other) => other.name === line.beside));
  return first.map((line) => [line, ...curves.filter((other) => other.beside === line.name)]);
}

/**
 * @param {number|null} samples
 */
function onSamples(samples) {
  return samples === null ? "on a number of samples that is not recorded" : `on ${plural(samples, "sample")}`;
}

/**
 * Radio buttons that set one of a state's fields.
 * @template {string} F
 * @param {string} legend
 * @param {F} field
 * @param {[string, string][]} options
 * @param {Record<F, string>} state
 * @param {() => void} changed
 */
function choice(legend, field, options, state, changed) {
  return h("fieldset", { class: "choice" }, h("legend", {}, legend), options.map(([name, words]) =>
    h("label", {}, h("input", { type: "radio", name: field, value: name, checked: name === state[field], change: () => {
      state[field] = name;
      changed();
    } }), words)));
}

/**
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Line[]} curves
 * @param {number} place
 * @param {{measure: string, axis: string}} state
 */
function curvesFigure(run, curves, place, state) {
  const counts = curves.map((line) => line.seeds), samples = curves[0].samples;
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  const unknown = curves.filter((line) => !line.numbers).map((line) => line.name);
  const layer = run.model ? [run.model.left, run.model.right, run.model.down].reduce((sum, each) => sum + each.shape[0] * each.shape[1], 0) : null;
  const stored = state.axis === "numbers";
  return figure({
    title: `${MEASURES[state.measure].words} ${onSamples(samples)}${stored ? "" : `: ${curves[0].name}`}`, name: place ? `faithfulness-${place + 1}` : "faithfulness",
    note: (stored ? "The layer is replaced by the first features of each set, most important first" : "Most important first") +
      (most > 1 ? `; means over ${fewest < most ? `${fewest} to ${most}` : most} seeds with 95 % intervals.` : "; one seed, so there is no interval.") +
      (curves.some((line) => line.beside) ? " Dashed lines are nulls and rivals of the line of the same colour." : "") +
      (stored ? ` “Numbers stored” counts what must be kept to compute each point, the place of one number among many counts as one more${layer ? `; the dashed upright is the layer itself, ${whole(layer)} numbers` : ""}.` : "") +
      (stored && unknown.length ? ` It is not known for: ${unknown.join("; ")}.` : ""),
    alt: `Line chart of the model’s faithfulness against ${AXES[state.axis]}, for ${curves.map((line) => line.name).join(", ")}`,
    table: () => curveTable(curves, state.measure),
    draw: (width) => {
      const measure = MEASURES[state.measure];
      const names = curves.filter((line) => !line.beside).map((line) => line.name);
      const series = curves.flatMap((line, own) => {
        const values = valuesOf(line, state.measure), halves = halvesOf(line, state.measure), at = stored ? line.numbers : line.kept;
        const color = names.indexOf(line.beside || line.name);
        return values && at ? [{ name: line.name, color: (color < 0 ? own : color) % 6, dashed: line.beside !== null,
          points: at.map((x, i) => ({ x, y: values[i], half: halves ? halves[i] : 0 })) }] : [];
      });
      const low = Math.min(0, ...series.flatMap((each) => each.points.map((point) => point.y)));
      const inside = series.flatMap((each) => each.points.map((point) => point.x)), first = Math.max(1, Math.min(...inside, Infinity));
      const mark = stored && layer && layer >= first && layer <= Math.max(...inside) ? layer : null;
      return lines({ width, height: stored && width >= 500 ? 400 : 300, series, mark,
        x: { label: AXES[state.axis], log: true, low: stored ? (Number.isFinite(first) ? first : 1) : 1, format: whole },
        y: { label: measure.label, low: measure.share ? Math.max(-0.2, low) : 0, high: measure.share ? 1 : undefined, format: measure.share ? (value) => percent(value, value > 0.9 && value < 1 ? 1 : 0) : undefined } });
    },
  }).element;
}

/**
 * @param {import("./layout.js").Line} line
 * @param {string} measure
 * @returns {number[]|null}
 */
function valuesOf(line, measure) {
  return measure === "accuracy" ? line.accuracy : measure === "recovered" ? line.recovered : line.cross_entropy;
}

/**
 * @param {import("./layout.js").Line} line
 * @param {string} measure
 */
function halvesOf(line, measure) {
  return measure === "accuracy" ? line.accuracy_half : measure === "recovered" ? line.recovered_half : line.cross_entropy_half;
}

/**
 * @param {import("./layout.js").Line[]} curves
 * @param {string} measure
 */
function curveTable(curves, measure) {
  const kept = [...new Set(curves.flatMap((line) => line.kept))].sort((a, b) => a - b);
  const columns = ["kept", ...curves.flatMap((line) => [line.name, ...(halvesOf(line, measure) ? ["± 95 %"] : []), ...(line.numbers ? ["numbers stored"] : [])])];
  const rows = kept.map((k) => [k, ...curves.flatMap((line) => {
    const place = line.kept.indexOf(k), values = valuesOf(line, measure), halves = halvesOf(line, measure);
    const value = values && place >= 0 ? values[place] : null;
    return [value, ...(halves ? [place >= 0 ? halves[place] : null] : []), ...(line.numbers ? [place >= 0 ? line.numbers[place] : null] : [])];
  })]);
  return { columns, rows };
}

/** @param {import("./layout.js").Run} run */
function scores(run) {
  const known = run.scores.filter((line) => line.samples !== null), counts = new Set(known.map((line) => line.samples));
  const words = { null: "null", rival: "rival", model: "", view: "" };
  const beside = run.scores.some((line) => line.beside !== null);
  return h("section", {}, h("h2", { class: "section" }, "The model with its layer replaced"),
    h("p", { class: "note" }, (counts.size === 1 && known.length === run.scores.length ? `All ${onSamples(known[0].samples)}. ` : "") +
      (beside ? "Indented below a row are its nulls, which are what the same procedure gives without its content, and its rivals, which are other ways to the same end: compare the numbers that they store." : "")),
    h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "The model with its layer replaced" }, h("table", { class: "scores" },
      h("thead", {}, h("tr", {}, ["Replaced by", "Accuracy", "Cross-entropy, nats", "Cross-entropy recovered", "Numbers stored", "Samples"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, run.scores.map((line) => h("tr", { class: line.beside === null ? "" : "beside" },
        h("th", { scope: "row" }, words[line.kind] ? h("span", { class: "kind" }, words[line.kind]) : null, line.name),
        h("td", {}, percent(line.accuracy, 2)), h("td", {}, line.cross_entropy.toFixed(4)),
        h("td", {}, line.recovered === null ? "–" : percent(line.recovered, 2)), h("td", {}, cell(line.numbers)), h("td", {}, cell(line.samples))))))));
}

/**
 * @param {import("./layout.js").Line} line
 * @param {number} place
 */
function certificate(line, place) {
  const bound = /** @type {number[]} */ (line.bound), error = /** @type {number[]} */ (line.error);
  return figure({
    title: `Error and certificate: ${line.name}`, name: `certificate-${place + 1}`,
    note: `The largest error ${onSamples(line.samples)}. No sample can be off by more than the bound, which follows from the weights and ‖x‖ alone, but for rounding.`,
    alt: `Line chart of the proven bound and the largest error measured, for ${line.name}`,
    table: () => ({ columns: ["kept", "largest error measured", "proven bound"], rows: line.kept.map((k, i) => [k, error[i], bound[i]]) }),
    draw: (width) => lines({ width, height: 260, x: { label: "kept", log: true, low: 1, format: whole }, y: { label: "error of a logit, log scale", log: true },
      series: [{ name: "proven bound", color: 0, points: line.kept.map((k, i) => ({ x: k, y: bound[i] })) },
        { name: "largest error measured", color: 2, points: line.kept.map((k, i) => ({ x: k, y: error[i] })) }] }),
  }).element;
}
