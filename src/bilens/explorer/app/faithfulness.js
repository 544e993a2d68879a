// How much of the model is left when it runs through each source of features.

import { lines } from "./chart.js";
import { fill, h, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, whole } from "./format.js";
import { link, remember } from "./route.js";

/** @type {Record<string, {words: string, label: string, share: boolean}>} */
const MEASURES = {
  accuracy: { words: "Accuracy", label: "share classified right", share: true },
  recovered: { words: "Cross-entropy recovered", label: "cross-entropy recovered", share: true },
  cross_entropy: { words: "Cross-entropy", label: "cross-entropy, nats", share: false },
};

/**
 * @param {import("./data.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function faithfulnessPage(runs, route) {
  const run = runs[0];
  const state = { measure: Object.hasOwn(MEASURES, route.value) ? route.value : "accuracy" };
  const counts = run.curves.map((line) => line.seeds);
  const [fewest, most] = [Math.min(...counts), Math.max(...counts)];
  const chart = run.curves.length ? figure({
    title: "The more components are kept, the more of the model is left", name: "faithfulness",
    note: "The model runs with the first components of each source in place of its weights, most important first" +
      (most > 1
        ? `; means over ${fewest < most ? `${fewest} to ${most}` : most} seeds with 95 % intervals.`
        : "; one seed, so that there is no interval."),
    alt: `Line chart of the model’s faithfulness against components kept, for ${run.curves.map((line) => line.name).join(", ")}`,
    table: () => curveTable(run.curves, state.measure),
    draw: (width) => {
      const measure = MEASURES[state.measure];
      const series = run.curves.flatMap((line, place) => {
        const values = valuesOf(line, state.measure), halves = halvesOf(line, state.measure);
        return values ? [{ name: line.name, color: place % 6, points: line.kept.map((k, i) => ({ x: k, y: values[i], half: halves ? halves[i] : 0 })) }] : [];
      });
      const low = Math.min(0, ...series.flatMap((each) => each.points.map((point) => point.y)));
      return lines({ width, height: width < 500 ? 300 : 400, series,
        x: { label: "components kept", log: true, low: 1, format: whole },
        y: { label: measure.label, low: measure.share ? Math.max(-0.2, low) : 0, high: measure.share ? 1 : undefined, format: measure.share ? (value) => percent(value, value > 0.9 && value < 1 ? 1 : 0) : undefined } });
    },
  }) : null;
  const options = Object.entries(MEASURES).filter(([name]) => run.curves.some((line) => valuesOf(line, name)));
  const choice = h("fieldset", { class: "choice" }, h("legend", {}, "Measure"), options.map(([name, measure]) =>
    h("label", {}, h("input", { type: "radio", name: "measure", value: name, checked: name === state.measure, change: () => {
      state.measure = name;
      remember(link("faithfulness", name === "accuracy" ? "" : name));
      if (chart) chart.redraw();
    } }), measure.words)));
  const diagnostics = [
    ...run.curves.filter((line) => line.error && line.bound).map((line, place) => certificate(line, place)),
    run.singular_values && run.singular_values.length ? singularValues(run) : null,
    run.codes ? codes(run.codes) : null,
  ].filter(Boolean);
  return h("div", { class: "faithfulness" },
    h("h1", {}, "How faithful is each view?"),
    h("p", { class: "lead" }, "Cross-entropy recovered is 1 for the model itself and 0 for a guess that knows nothing."),
    chart ? h("div", {}, choice, chart.element) : h("p", { class: "empty" }, run.samples && run.samples.labels
      ? "This page has no curves of faithfulness. If bilens made it from a run that was stopped, running the same command again adds them."
      : "This page has no curves of faithfulness: they need labelled samples, and it has none. If bilens made it from a run that was stopped, running the same command again adds what is missing."),
    run.scores.length ? scores(run) : null,
    diagnostics.length ? h("h2", { class: "section" }, "Checks") : null,
    h("div", { class: "two" }, diagnostics));
}

/**
 * @param {import("./data.js").Line} line
 * @param {string} measure
 * @returns {number[]|null}
 */
function valuesOf(line, measure) {
  return measure === "accuracy" ? line.accuracy : measure === "recovered" ? line.recovered : line.cross_entropy;
}

/**
 * @param {import("./data.js").Line} line
 * @param {string} measure
 */
function halvesOf(line, measure) {
  return measure === "accuracy" ? line.accuracy_half : measure === "recovered" ? line.recovered_half : line.cross_entropy_half;
}

/**
 * @param {import("./data.js").Line[]} curves
 * @param {string} measure
 */
function curveTable(curves, measure) {
  const kept = [...new Set(curves.flatMap((line) => line.kept))].sort((a, b) => a - b);
  const columns = ["kept", ...curves.flatMap((line) => (halvesOf(line, measure) ? [line.name, "± 95 %"] : [line.name]))];
  const rows = kept.map((k) => [k, ...curves.flatMap((line) => {
    const place = line.kept.indexOf(k), values = valuesOf(line, measure), halves = halvesOf(line, measure);
    const value = values && place >= 0 ? values[place] : null;
    return halves ? [value, place >= 0 ? halves[place] : null] : [value];
  })]);
  return { columns, rows };
}

/** @param {import("./data.js").Run} run */
function scores(run) {
  return h("section", {}, h("h2", { class: "section" }, "The model through each view"),
    h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "The model through each view" }, h("table", { class: "scores" },
      h("thead", {}, h("tr", {}, ["The model runs through", "Accuracy", "Cross-entropy, nats", "Cross-entropy recovered"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, run.scores.map((line) => h("tr", {}, h("th", { scope: "row" }, line.name),
        h("td", {}, percent(line.accuracy, 2)), h("td", {}, line.cross_entropy.toFixed(4)),
        h("td", {}, line.recovered === null ? "–" : percent(line.recovered, 1))))))));
}

/**
 * @param {import("./data.js").Line} line
 * @param {number} place
 */
function certificate(line, place) {
  const bound = /** @type {number[]} */ (line.bound), error = /** @type {number[]} */ (line.error);
  return figure({
    title: `Error and certificate: ${line.name}`, name: `certificate-${place + 1}`,
    note: "No sample can be off by more than the bound, which follows from the weights and ‖x‖ alone, but for rounding.",
    alt: `Line chart of the proven bound and the largest error measured, for ${line.name}`,
    table: () => ({ columns: ["kept", "largest error measured", "proven bound"], rows: line.kept.map((k, i) => [k, error[i], bound[i]]) }),
    draw: (width) => lines({ width, height: 260, x: { label: "kept", log: true, low: 1, format: whole }, y: { label: "error of a logit, log scale", log: true },
      series: [{ name: "proven bound", color: 0, points: line.kept.map((k, i) => ({ x: k, y: bound[i] })) },
        { name: "largest error measured", color: 2, points: line.kept.map((k, i) => ({ x: k, y: error[i] })) }] }),
  }).element;
}

/** @param {import("./data.js").Run} run */
function singularValues(run) {
  const values = /** @type {number[]} */ (run.singular_values), energy = run.singular_energy || 0;
  let sum = 0;
  const held = values.map((value) => (sum += value * value) / (energy || 1));
  return figure({
    title: "Singular values of the layer", name: "singular-values", note: "Of the tensor before the read-out, largest first.",
    alt: "Line chart of the singular values by component",
    table: () => ({ columns: ["component", "σ", "share of ‖B‖² so far"], rows: values.map((value, i) => [i, value, held[i]]) }),
    draw: (width) => lines({ width, height: 260, marks: values.length < 40, x: { label: "component", log: values.length > 60, low: 1, format: whole }, y: { label: "σ", low: 0 },
      series: [{ name: "σ", color: 1, points: values.map((value, i) => ({ x: i + 1, y: value })) }] }),
  }).element;
}

/** @param {import("./data.js").Codes} codes */
function codes(codes) {
  const { bins, counts, low, high } = codes;
  const most = Math.max(1, ...counts.flat());
  return figure({
    title: `Codes as trained and by pseudoinverse: r = ${codes.correlation.toFixed(3)}`, name: "codes",
    note: `Of ${codes.features} features (rank ${codes.rank}) active on more than ${percent(codes.threshold, 1)} of the samples; darker cells hold more of them, on a logarithmic scale. On the dashed line the two agree.`,
    alt: `Map of codes through the pseudoinverse against codes as trained, correlation ${codes.correlation.toFixed(3)}`,
    table: () => ({ columns: ["code as trained, from", "by pseudoinverse, from", "points"], rows: counts.flatMap((column, i) => column.map((count, j) =>
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
        s("text", { x: 0, y: 12, class: "label" }, "code through the pseudoinverse"),
        s("text", { x: left + size, y: top + tall + 34, class: "label", "text-anchor": "end" }, "code as trained (ReLU)"),
        s("text", { x: left - 6, y: y(0), dy: "0.32em", class: "tick", "text-anchor": "end" }, "0"),
        s("text", { x: left - 6, y: top + 8, class: "tick", "text-anchor": "end" }, number(high[1])),
        s("text", { x: left + size, y: top + tall + 16, class: "tick", "text-anchor": "end" }, number(high[0])));
      return { height: top + tall + 42, parts: [group] };
    },
  }).element;
}
