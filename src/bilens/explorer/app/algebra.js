// What the page computes: outputs from the factors, and eigenvector terms. The same formulas as the library's.

import { numbers, row } from "./data.js";

/**
 * x' = [x; 1] where the space has a constant coordinate.
 * @param {ArrayLike<number>} x
 * @param {import("./layout.js").Axis} axis
 */
export function lift(x, axis) {
  const lifted = new Float32Array(axis.size + (axis.constant ? 1 : 0));
  for (let i = 0; i < axis.size; i++) lifted[i] = x[i];
  if (axis.constant) lifted[axis.size] = 1;
  return lifted;
}

/**
 * The outputs of the model, layer after layer.
 * @param {import("./layout.js").Run} run
 * @param {ArrayLike<number>} x
 * @returns {Float64Array}
 */
export function outputsOf(run, x) {
  const levels = run.model ? [run.model] : run.levels;
  const lifted = lift(x, /** @type {import("./layout.js").Axis} */ (run.input));
  return /** @type {Float64Array} */ (levels.reduce((/** @type {ArrayLike<number>} */ y, level) => through(level, y), lifted));
}

/**
 * y_o = Σ_h down_oh (left_h·x')(right_h·x'), sums in double precision; pixels that are 0 cost nothing.
 * @param {import("./layout.js").Model} model
 * @param {ArrayLike<number>} lifted x', with the constant coordinate where the layer reads one
 * @returns {Float64Array}
 */
function through(model, lifted) {
  const [hidden, width] = model.left.shape;
  const outputs = model.down.shape[0];
  const left = numbers(model.left), right = numbers(model.right), down = numbers(model.down);
  const lit = [];
  for (let i = 0; i < width; i++) if (lifted[i] !== 0) lit.push(i);
  const y = new Float64Array(outputs);
  for (let h = 0; h < hidden; h++) {
    let a = 0, b = 0;
    const start = h * width;
    for (const i of lit) {
      a += left[start + i] * lifted[i];
      b += right[start + i] * lifted[i];
    }
    const product = a * b;
    for (let o = 0; o < outputs; o++) y[o] += down[o * hidden + h] * product;
  }
  return y;
}

/**
 * λ_k (v_k·x')² of the eigenvectors that the page has of a feature.
 * @param {import("./layout.js").Feature} feature
 * @param {import("./layout.js").Axis} axis
 * @param {ArrayLike<number>} x
 * @returns {Float64Array}
 */
export function terms(feature, axis, x) {
  const lifted = lift(x, axis);
  const values = numbers(feature.eigenvalues);
  const found = new Float64Array(feature.vectors.shape[0]);
  for (let k = 0; k < found.length; k++) {
    const vector = row(feature.vectors, k);
    let product = 0;
    for (let i = 0; i < vector.length; i++) product += vector[i] * lifted[i];
    found[k] = values[k] * product * product;
  }
  return found;
}

/**
 * Probabilities of logits.
 * @param {ArrayLike<number>} y
 */
export function softmax(y) {
  const values = Array.from(y), top = Math.max(...values);
  const raised = values.map((value) => Math.exp(value - top));
  const total = raised.reduce((a, b) => a + b, 0);
  return raised.map((value) => value / total);
}

/**
 * √|λ| v of the eigenvectors that the page has, with the place of each in the spectrum.
 * @param {import("./layout.js").Feature} feature
 * @returns {{rank: number, value: number, weights: Float32Array}[]}
 */
export function linearKernels(feature) {
  const values = numbers(feature.eigenvalues);
  const found = [];
  for (let k = 0; k < feature.vectors.shape[0]; k++) {
    const root = Math.sqrt(Math.abs(values[k]));
    found.push({ rank: k, value: values[k], weights: row(feature.vectors, k).map((entry) => root * entry) });
  }
  return found;
}

/**
 * The largest |entry| of some weights, the constant coordinate left out; 1 when all are 0.
 * @param {{weights: Float32Array}[]} kernels
 * @param {import("./layout.js").Axis} axis
 */
export function sharedScale(kernels, axis) {
  let largest = 0;
  for (const { weights } of kernels) {
    for (let i = 0; i < axis.size; i++) largest = Math.max(largest, Math.abs(weights[i]));
  }
  return largest || 1;
}

/**
 * Whether an eigenvector is the constant coordinate and next to nothing else, so that it has no picture.
 * @param {{weights: Float32Array}} kernel
 * @param {import("./layout.js").Axis} axis
 */
export function constantAlone(kernel, axis) {
  if (!axis.constant) return false;
  let rest = 0;
  for (let i = 0; i < axis.size; i++) rest += kernel.weights[i] ** 2;
  return rest < 1e-3 * kernel.weights[axis.size] ** 2;
}

/**
 * The eigenvector that stands for a feature, on its tile and first on its page: the largest that raises it and has a
 * picture, or the largest that lowers it.
 * @template {{rank: number, value: number, weights: Float32Array}} K
 * @param {K[]} kernels
 * @param {import("./layout.js").Axis} axis
 * @returns {K|undefined}
 */
export function foremost(kernels, axis) {
  const pictured = kernels.filter((kernel) => !constantAlone(kernel, axis));
  return pictured.find((kernel) => kernel.value > 0) || pictured.find((kernel) => kernel.value < 0);
}

/**
 * Whether the constant coordinate has a part in these eigenvectors that is worth a line.
 * @param {{weights: Float32Array}[]} kernels
 * @param {import("./layout.js").Axis} axis
 */
export function constantMatters(kernels, axis) {
  return axis.constant && kernels.some((kernel) => Math.abs(kernel.weights[axis.size]) > 1e-6 * sharedScale(kernels, axis));
}

/**
 * ⟨Q₁, Q₂⟩ / (‖Q₁‖ ‖Q₂‖) from the eigenpairs that the page has, and |v·w| of each two of them. Where one feature has
 * the constant coordinate and the other has none, it is 0 in the other.
 * @param {import("./layout.js").Feature} first
 * @param {import("./layout.js").Feature} second
 */
export function overlap(first, second) {
  const a = numbers(first.eigenvalues), b = numbers(second.eigenvalues);
  const cosines = [];
  let inner = 0;
  for (let k = 0; k < first.vectors.shape[0]; k++) {
    const v = row(first.vectors, k), line = [];
    for (let l = 0; l < second.vectors.shape[0]; l++) {
      const w = row(second.vectors, l);
      let product = 0;
      for (let i = 0; i < Math.min(v.length, w.length); i++) product += v[i] * w[i];
      line.push(Math.min(1, Math.abs(product)));
      inner += a[k] * b[l] * product * product;
    }
    cosines.push(line);
  }
  const norms = Math.sqrt(first.energy * second.energy);
  return { cosine: norms > 0 ? Math.max(-1, Math.min(1, inner / norms)) : 0, cosines };
}

/**
 * Cosine of two vectors; 0 where one is 0.
 * @param {number[]} a
 * @param {number[]} b
 */
export function cosine(a, b) {
  let inner = 0, one = 0, two = 0;
  for (let i = 0; i < a.length; i++) {
    inner += a[i] * b[i];
    one += a[i] * a[i];
    two += b[i] * b[i];
  }
  return one > 0 && two > 0 ? inner / Math.sqrt(one * two) : 0;
}
