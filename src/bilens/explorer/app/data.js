// The page's data: JSON from the document, arrays decoded when they are first asked for.

import { FORMAT } from "./layout.js";

/** @returns {import("./layout.js").Document} */
export function readDocument() {
  const holder = /** @type {HTMLElement} */ (document.getElementById("data"));
  const content = JSON.parse(holder.textContent || "");
  if (content.format !== FORMAT) throw new Error(`data of format ${content.format}, not ${FORMAT}`);
  return content;
}

/** @type {WeakMap<import("./layout.js").Array, Float32Array>} */
const decoded = new WeakMap();

/**
 * An array as float32 numbers, row by row; decoded once.
 * @param {import("./layout.js").Array} array
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
 * @param {import("./layout.js").Array} array
 * @param {number} row
 */
export function row(array, row) {
  const width = array.shape[1];
  return numbers(array).subarray(row * width, (row + 1) * width);
}

/**
 * The text of a coordinate: its label, or its number.
 * @param {import("./layout.js").Axis} axis
 * @param {number} index
 */
export function labelOf(axis, index) {
  if (index === axis.size) return "1";
  return axis.labels ? axis.labels[index] : String(index);
}
