// About the run: how it was trained, notes, and what the page is.

import { lines } from "./chart.js";
import { h } from "./dom.js";
import { figure } from "./figure.js";
import { cell, whole } from "./format.js";

/** @param {import("./data.js").Run[]} runs */
export function aboutPage(runs) {
  const run = runs[0], training = run.training;
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
    h("section", {}, h("h2", { class: "section" }, "This page"),
      h("p", {}, "One file, written by bilens from the run’s records. It loads nothing and sends nothing; what it computes, it computes here. Links keep what you look at, in the part after #, and every figure can be saved or read as a table.")));
}
