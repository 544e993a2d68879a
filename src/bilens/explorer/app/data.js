// The page's data: JSON from the document, arrays decoded when they are first asked for.

/**
 * @typedef {{type: "f4"|"i2"|"u1", shape: number[], data: string, scale?: number[]}} ArrayData
 * @typedef {{name: string, one: string, size: number, labels: string[]|null, image: number[]|null, constant: boolean}} Axis
 * @typedef {{i: number, j: number, strength: number}} Pair
 * @typedef {{sample: number, number: number, value: number}} Seen
 * @typedef {{label: string, importance: number, effects: number[], speaks: string, raises: string[], lowers: string[], eigenvalues: ArrayData,
 *   vectors: ArrayData, energy: number, discarded: number, residual: number, pairs: Pair[], largest: Seen[],
 *   smallest: Seen[], errors: ArrayData|null}} Feature
 * @typedef {{name: string, title: string, tab: string, feature: string, among: string, text: string, measure: string, norm: number|null, examined: number,
 *   total: number|null, input: Axis, features: Feature[], figures: (LinesFigure|CellsFigure)[], words: Fact[]}} Section
 * @typedef {{name: string, value: string|number}} Fact
 * @typedef {{kind: "lines", name: string, title: string, note: string, drawn: number, log: boolean, level: number|null, level_name: string,
 *   columns: string[], rows: number[][]}} LinesFigure
 * @typedef {{kind: "cells", name: string, title: string, note: string, x: string, y: string, low: number[], high: number[],
 *   bins: number, counts: number[][]}} CellsFigure
 * @typedef {{name: string, beside: string|null, seeds: number, samples: number|null, kept: number[], numbers: number[]|null, accuracy: number[], cross_entropy: number[],
 *   recovered: number[]|null, accuracy_half: number[]|null, cross_entropy_half: number[]|null,
 *   recovered_half: number[]|null, error: number[]|null, bound: number[]|null}} Line
 * @typedef {{name: string, kind: "model"|"view"|"null"|"rival", beside: string|null, samples: number|null, numbers: number|null,
 *   accuracy: number, cross_entropy: number, recovered: number|null}} ScoreRow
 * @typedef {{name: string, title: string, facts: Fact[], input: Axis|null,
 *   output: Axis|null, model: {left: ArrayData, right: ArrayData, down: ArrayData}|null,
 *   samples: {inputs: ArrayData, numbers: number[], outputs: ArrayData, labels: number[]|null}|null,
 *   outputs_view: string|null, views: Section[], scores: ScoreRow[], curves: Line[],
 *   training: {columns: string[], rows: number[][]}|null,
 *   notes: string[]}} Run
 * @typedef {{format: number, palette: string[], runs: Run[]}} DocumentData
 */

const FORMAT = 3;

/** @returns {DocumentData} */
export function readDocument() {
  const holder = /** @type {HTMLElement} */ (document.getElementById("data"));
  const content = JSON.parse(holder.textContent || "");
  if (content.format !== FORMAT) throw new Error(`data of format ${content.format}, not ${FORMAT}`);
  return content;
}

/** @type {WeakMap<ArrayData, Float32Array>} */
const decoded = new WeakMap();

/**
 * An array as float32 numbers, row by row; decoded once.
 * @param {ArrayData} array
 */
export function numbers(array) {
  const known = decoded.get(array);
  if (known) return known;
  const text = atob(array.data);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  let values;
  if (array.type === "f4") values = new Float32Array(bytes.buffer);
  else values = Float32Array.from(array.type === "i2" ? new Int16Array(bytes.buffer) : bytes);
  if (array.scale) {
    const width = values.length / array.scale.length;
    for (let row = 0; row < array.scale.length; row++) {
      for (let i = row * width; i < (row + 1) * width; i++) values[i] *= array.scale[row];
    }
  }
  decoded.set(array, values);
  return values;
}

/**
 * One row of a matrix.
 * @param {ArrayData} array
 * @param {number} row
 */
export function row(array, row) {
  const width = array.shape[1];
  return numbers(array).subarray(row * width, (row + 1) * width);
}

/**
 * The text of a coordinate: its label, or its number.
 * @param {Axis} axis
 * @param {number} index
 */
export function labelOf(axis, index) {
  if (index === axis.size) return "1";
  return axis.labels ? axis.labels[index] : String(index);
}
