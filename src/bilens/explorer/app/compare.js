// Two features, or one feature in two runs, side by side.

import { cosine, linearKernels, overlap, sharedScale } from "./algebra.js";
import { bars } from "./chart.js";
import { labelOf } from "./data.js";
import { h, s } from "./dom.js";
import { effects, effectsTitle, eigenvectors, title } from "./feature.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed } from "./format.js";
import { featureAt, featureName, link } from "./route.js";

const SHOWN_EFFECTS = 24;

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function comparePage(runs, route) {
  const sets = runs.flatMap((run, which) => run.sets.filter((each) => each.features.length).map((set) => ({ which, set })));
  if (!sets.length) return h("div", {}, h("h1", {}, "Compare"), h("p", { class: "empty" }, "This run holds no features to compare."));
  const asked = route.value.split(",");
  const first = featureAt(runs, asked[0]) || featureAt(runs, featureName(sets[0].set, 0, sets[0].which));
  const two = first && featureAt(runs, asked[1] || "");
  const match = first && !two ? partner(runs, first) : null;
  const other = two || (match && match.found);
  if (!first || !other) return h("div", {});
  const names = [first, other].map((found) => featureName(found.set, found.place, found.run));
  const choose = (/** @type {number} */ side) => {
    const field = h("select", { id: `side${side}`, change: (/** @type {any} */ event) => {
      const chosen = [...names];
      chosen[side] = event.target.value;
      location.hash = link("compare", chosen.join(","));
    } }, sets.map(({ which, set }) => h("optgroup", { label: `${set.title}${runs.length > 1 ? ` · ${runs[which].name}` : ""}` },
      set.features.map((feature, place) => {
        const name = featureName(set, place, which);
        return h("option", { value: name, selected: name === names[side] },
          `${title(set, feature)}${feature.raises.join() === feature.label ? "" : ` (${short(feature.speaks, 24)})`}${runs.length > 1 ? ` · ${short(runs[which].name, 24)}` : ""}`);
      }))));
    return h("div", { class: "field" }, h("label", { for: `side${side}` }, side ? "with" : "Compare"), field);
  };
  const same = first.set.input.size === other.set.input.size;
  const found = same ? overlap(first.feature, other.feature) : null;
  const kept = [first, other].map(({ feature }) => {
    const kernels = linearKernels(feature);
    return feature.energy ? kernels.reduce((sum, kernel) => sum + kernel.value ** 2, 0) / feature.energy : 1;
  });
  const called = [first, other].map((side) => calledIn(runs, side));
  const values = [first, other].flatMap(({ feature }) => feature.effects.slice(0, SHOWN_EFFECTS));
  const scales = {
    pictures: Math.max(...[first, other].map(({ set, feature }) => sharedScale(linearKernels(feature), set.input))),
    low: Math.min(0, ...values), high: Math.max(0, ...values),
  };
  const likeness = first.feature.effects.length === other.feature.effects.length ? cosine(first.feature.effects, other.feature.effects) : null;
  return h("div", { class: "compare" }, h("h1", {}, "Compare"),
    h("div", { class: "bar pickers" }, choose(0), choose(1),
      runs.length < 2 ? h("p", { class: "hint" }, "Two runs: bilens explore RUN --compare OTHER") : null),
    two || !match ? null : h("p", { class: "note" }, match.words),
    h("dl", { class: "facts" },
      found ? h("div", {}, h("dt", {}, "kernels, cosine"), h("dd", {}, signed(found.cosine)), h("dd", { class: "small" },
        `from the eigenvectors here, which hold ${percent(Math.min(1, kept[0]), 1)} and ${percent(Math.min(1, kept[1]), 1)} of the two`)) : null,
      likeness === null ? null : h("div", {}, h("dt", {}, `${effectsTitle(runs[0])}, cosine`), h("dd", {}, signed(likeness))),
      [first, other].map((side, place) => h("div", {}, h("dt", {}, `${called[place]}: ${side.set.measure}`), h("dd", {}, number(side.feature.importance))))),
    h("div", { class: "two sides" }, [first, other].map((side, place) => column(runs, side, place, scales))),
    found ? overlapFigure(called[0], called[1], found.cosines) : h("p", { class: "empty" }, "The two features are over different inputs."));
}

/**
 * A feature's title, with its run where there are two.
 * @param {import("./layout.js").Run[]} runs
 * @param {NonNullable<ReturnType<typeof featureAt>>} side
 */
function calledIn(runs, side) {
  return `${title(side.set, side.feature)}${runs.length > 1 ? ` · ${short(runs[side.run].name, 40)}` : ""}`;
}

/**
 * The feature of the other run that is most like one, or the next of the same set where there is no other run. Outputs
 * are paired by their place; the features that each run found for itself have no order in common, and are paired by
 * their kernels.
 * @param {import("./layout.js").Run[]} runs
 * @param {NonNullable<ReturnType<typeof featureAt>>} first
 */
function partner(runs, first) {
  const { set, feature, place } = first, which = 1 - first.run;
  const there = runs.length > 1 ? runs[which].sets.find((each) => each.name === set.name) : null;
  if (!there || !there.features.length) {
    const next = featureAt(runs, featureName(set, (place + 1) % set.features.length, first.run));
    return next ? { found: next, words: "With the next feature of the same kind." } : null;
  }
  const outputs = set.name === runs[first.run].outputs_set, comparable = there.input.size === set.input.size;
  if (outputs || !comparable) {
    const same = featureAt(runs, featureName(there, Math.min(place, there.features.length - 1), which));
    return same ? { found: same, words: outputs ? "The same output of the two runs." : "The two are paired by their rank." } : null;
  }
  const cosines = there.features.map((each) => Math.abs(overlap(feature, each).cosine));
  const best = cosines.indexOf(Math.max(...cosines));
  return { found: { run: which, set: there, place: best, feature: there.features[best] },
    words: `Of ${plural(there.features.length, "feature")} of this kind in ${runs[which].name || "the other run"}, the one whose kernel has the largest |cosine| with it.` };
}

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {NonNullable<ReturnType<typeof featureAt>>} side
 * @param {number} place
 * @param {{pictures: number, low: number, high: number}} scales of both sides
 */
function column(runs, side, place, scales) {
  const { set, feature } = side, run = runs[side.run], kernels = linearKernels(feature);
  const output = run.output;
  const name = `compare-${place + 1}`, called = calledIn(runs, side);
  return h("section", { class: "side" },
    h("h2", {}, h("a", { href: link("feature", featureName(set, side.place, side.run)) }, title(set, feature))),
    h("p", { class: "note" }, `${set.title}${runs.length > 1 ? ` · ${run.name}` : ""}. ${effects(feature)}`),
    eigenvectors({ feature, kernels, set, scale: scales.pictures, name, of: called, both: true }, 3).element,
    output && set.name !== run.outputs_set ? figure({
      title: effectsTitle(run), note: `${feature.effects.length > SHOWN_EFFECTS ? `The first ${SHOWN_EFFECTS} of ${feature.effects.length}. ` : ""}Both sides are on one scale.`, of: called, name: `${name}-effects`, alt: `Bar chart of what ${feature.label} adds to each output`,
      table: () => ({ columns: [output.name, run.logits ? "logit weight" : "effect"], rows: feature.effects.map((value, o) => [labelOf(output, o), value]) }),
      draw: (width) => bars({ width, row: 22, low: scales.low, high: scales.high, rows: feature.effects.slice(0, SHOWN_EFFECTS).map((value, o) => ({ label: labelOf(output, o), value })) }),
    }).element : null);
}

/**
 * @param {string} first
 * @param {string} second
 * @param {number[][]} cosines
 */
function overlapFigure(first, second, cosines) {
  const rows = Math.min(12, cosines.length), columns = Math.min(12, cosines[0].length);
  return figure({
    title: "How far their eigenvectors are the same", name: "compare-overlap",
    note: `|v·w| for eigenvectors of ${first} (rows) and of ${second} (columns), largest |λ| first: 1 is the same direction, 0 a right angle.${cosines.length > rows || cosines[0].length > columns ? ` The first ${rows} and ${columns} are drawn; the table has all.` : ""}`,
    alt: `Map of the overlaps between the eigenvectors of ${first} and ${second}`,
    table: () => ({ columns: ["rank, first feature", ...cosines[0].map((_, l) => `second’s ${l + 1}`)], rows: cosines.map((line, k) => [k + 1, ...line]) }),
    most: 620,
    draw: (width) => {
      const left = 34, top = 26, size = (width - left - 4) / columns, tall = Math.min(size, 34), group = s("g", {});
      for (let l = 0; l < columns; l++) group.append(s("text", { x: left + (l + 0.5) * size, y: top - 8, class: "tick", "text-anchor": "middle" }, String(l + 1)));
      for (let k = 0; k < rows; k++) {
        group.append(s("text", { x: left - 10, y: top + (k + 0.5) * tall, dy: "0.32em", class: "tick", "text-anchor": "end" }, String(k + 1)));
        for (let l = 0; l < columns; l++) {
          const value = cosines[k][l];
          group.append(s("rect", { x: left + l * size + 1, y: top + k * tall + 1, width: size - 2, height: tall - 2, class: "heat", "fill-opacity": 0.04 + 0.96 * value }, s("title", {}, value.toFixed(2))));
          if (value > 0.3 && size > 30) group.append(s("text", { x: left + (l + 0.5) * size, y: top + (k + 0.5) * tall, dy: "0.32em", "text-anchor": "middle", class: value > 0.75 ? "inside" : "name" }, value.toFixed(2)));
        }
      }
      return { height: top + rows * tall + 6, parts: [group] };
    },
  }).element;
}
