// About the run: how it was trained, notes, and what the page is.

import { lines } from "./chart.js";
import { h } from "./dom.js";
import { figure } from "./figure.js";
import { cell, whole } from "./format.js";

/** @type {[string, string][]} */
const GLOSSARY = [
  ["Feature", "A number that the layer computes of its input, xᵀQx, with a symmetric matrix Q that follows from the weights: its kernel."],
  ["Eigenvector, linear kernel", "Q is a sum of λ v vᵀ. An input x adds λ(v·x)² to the feature for each eigenvector v. √|λ| v, in the unit of the output’s square root, is its linear kernel: pictures show that."],
  ["Raises, lowers", "An eigenvector with λ > 0 can only raise its feature, and one with λ < 0 can only lower it, whichever sign the overlap v·x has. v and −v are the same eigenvector."],
  ["Effects: for, against", "The outputs that one unit of the feature raises, or lowers, most: the largest of each sign, at least half as large as the largest of its sign and a quarter of the largest of all."],
  ["Effect, logit weight", "What one unit of the feature adds to each output. Where outputs are the logits of classes: to each logit, less the mean over them."],
  ["‖Q‖", "The root of the sum of all λ². The share of ‖Q‖² says how much of a feature the first eigenvectors hold."],
  ["Colours", "Blue is what is added and red what is taken off: eigenvalues, terms, logits, pairs. Green and purple are the two sides of an eigenvector, and which is which means nothing."],
  ["Constant", "Biases are weights of one more input that is always 1. “The constant” is an eigenvector that is next to nothing else."],
  ["Cross-entropy recovered", "(baseline − loss) / (baseline − the model’s own loss): 1 for the model itself, 0 for a uniform guess over the outputs, and below 0 for what is worse than that guess."],
  ["Null, rival", "A null is what the same procedure gives without its content, for example a dictionary that was never trained. A rival is another way to the same end; beside it stand the numbers that it stores. A score says little without them."],
  ["Numbers stored", "How many numbers must be kept to compute what replaces the layer, the place of one number among many counts as one more."],
  ["Certificate, proven bound", "What leaving out eigenvectors or components can change at most, for any input of that length. It follows from the weights alone and is usually generous."],
];

/** @param {import("./layout.js").Run[]} runs */
export function aboutPage(runs) {
  const run = runs[0], training = run.training;
  const words = [...GLOSSARY, ...new Map(runs.flatMap((each) => [...(each.trees ? [each.trees] : []), ...each.sets].flatMap((set) => set.words.map((word) => [word.name, String(word.value)]))))];
  return h("div", { class: "about" }, h("h1", {}, "About this run"),
    runs.map((each) => h("section", {}, runs.length > 1 ? h("h2", {}, each.name) : null,
      each.facts.length ? h("dl", { class: "facts" }, each.facts.map((fact) => h("div", {}, h("dt", {}, fact.name), h("dd", {}, cell(fact.value))))) : null,
      each.notes.map((note) => h("p", {}, note)))),
    training && training.rows.length ? h("section", {}, h("h2", { class: "section" }, "Training"), h("div", { class: "two" },
      training.columns.slice(1).map((name, column) => figure({
        title: name, name: `training-${column + 1}`, alt: `Line chart of ${name} against optimiser steps`,
        table: () => ({ columns: [training.columns[0], name], rows: training.rows.map((line) => [line[0], line[column + 1]]) }),
        draw: (width) => lines({ width, height: 220, marks: training.rows.length < 30, x: { label: "optimiser steps", format: whole }, y: { label: name },
          series: [{ name, color: 0, points: training.rows.map((line) => ({ x: line[0], y: line[column + 1] })) }] }),
      }).element))) : null,
    h("section", {}, h("h2", { class: "section" }, "Words"),
      h("dl", { class: "glossary" }, words.flatMap(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)]))),
    h("section", {}, h("h2", { class: "section" }, "This page"),
      h("p", {}, "One file, written by bilens from the run’s records. It loads nothing and sends nothing; all computation happens here. Links keep what you look at, in the part after #, and every figure can be saved or read as a table.")));
}
