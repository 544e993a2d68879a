// Vectors as pictures: one diverging scale for eigenvectors, whose sign means nothing alone; ink on paper for samples.

import { constantAlone } from "./algebra.js";
import { s } from "./dom.js";
import { labelOf } from "./data.js";
import { short } from "./format.js";

/** @type {number[][]} */
let table = [];

/** @param {string[]} palette "#rrggbb" from −1 to 1 */
export function usePalette(palette) {
  table = palette.map((color) => [1, 3, 5].map((start) => parseInt(color.slice(start, start + 2), 16)));
}

/**
 * Colour of a number between −1 and 1: the same steps as the library's figures.
 * @param {number} share
 */
function step(share) {
  const half = (table.length - 1) / 2;
  return Math.round(Math.max(-1, Math.min(1, share)) * half) + half;
}

/** @param {number} share */
export function color(share) {
  const [red, green, blue] = table[step(share)];
  return `rgb(${red},${green},${blue})`;
}

/**
 * A canvas with one pixel a coordinate.
 * @param {ArrayLike<number>} values
 * @param {number[]} shape
 * @param {(value: number) => number[]} paint
 */
function canvasOf(values, shape, paint) {
  const [height, width] = shape;
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = paint(values[i]);
    image.data.set([red, green, blue, 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * @param {ArrayLike<number>} weights
 * @param {import("./layout.js").Axis} axis
 * @param {number} scale
 */
export function weightsCanvas(weights, axis, scale) {
  return canvasOf(weights, /** @type {number[]} */ (axis.image), (value) => table[step(value / scale)]);
}

/**
 * Ink on paper, the same on light and dark pages.
 * @param {ArrayLike<number>} x
 * @param {number[]} shape
 */
export function inkCanvas(x, shape) {
  return canvasOf(x, shape, (value) => {
    const level = Math.round(255 - 235 * Math.max(0, Math.min(1, value)));
    return [level, level, level];
  });
}

/** @type {WeakMap<object, Map<string, string>>} */
const drawn = new WeakMap();

/**
 * A picture as a data URI, drawn once for each owner and name.
 * @param {object} owner
 * @param {string} name
 * @param {() => HTMLCanvasElement} draw
 */
export function remembered(owner, name, draw) {
  let mine = drawn.get(owner);
  if (!mine) drawn.set(owner, (mine = new Map()));
  let uri = mine.get(name);
  if (!uri) mine.set(name, (uri = draw().toDataURL()));
  return uri;
}

/**
 * Weights as an SVG group: an image, or bars of the largest entries where the input is no image.
 * @param {{weights: Float32Array}} kernel
 * @param {import("./layout.js").Axis} axis
 * @param {number} scale
 * @param {{x: number, y: number, width: number, height: number}} box
 */
export function weightsPicture(kernel, axis, scale, box) {
  const { x, y, width, height } = box;
  if (constantAlone(kernel, axis)) {
    return s("g", {}, s("rect", { ...box, class: "frame" }), width < 60 ? null : s("text", { x: x + width / 2, y: y + height / 2, dy: "0.32em",
      "text-anchor": "middle", class: "tick" }, "the constant"));
  }
  if (axis.image) {
    const uri = remembered(kernel.weights.buffer, `${kernel.weights.byteOffset}/${scale}`, () =>
      weightsCanvas(kernel.weights, axis, scale));
    return imageIn(uri, axis.image, box);
  }
  const count = drawnEntries(axis, height);
  const order = Array.from({ length: axis.size }, (_, i) => i)
    .sort((a, b) => Math.abs(kernel.weights[b]) - Math.abs(kernel.weights[a])).slice(0, count);
  const longest = Math.max(...order.map((entry) => [...labelOf(axis, entry)].length));
  const text = Math.min(Math.max(28, 12 + longest * 6.2), width * 0.62), middle = x + text + (width - text) / 2, reach = (width - text) / 2;
  const left = axis.size - count, line = Math.min(18, height / (count + (left ? 1 : 0)));
  const group = s("g", {});
  order.forEach((entry, place) => {
    const size = (Math.min(1, Math.abs(kernel.weights[entry]) / scale) * reach) || 0;
    const positive = kernel.weights[entry] > 0;
    group.append(
      s("text", { x: x + text - 6, y: y + place * line + line / 2, class: "tick", "text-anchor": "end", dy: "0.32em" },
        short(labelOf(axis, entry), Math.max(4, Math.floor((text - 6) / 6.1)))),
      s("rect", { x: positive ? middle : middle - size, y: y + place * line + 2, width: size, height: line - 4,
        class: positive ? "one" : "other" }),
    );
  });
  group.append(s("line", { x1: middle, x2: middle, y1: y, y2: y + count * line, class: "rule" }));
  if (left) group.append(s("text", { x: x + width, y: y + (count + 0.5) * line, class: "tick", "text-anchor": "end", dy: "0.32em" }, `${count} of ${axis.size} ${short(axis.name, 16)}`));
  return group;
}

/**
 * How many entries are drawn as bars in a height, where the input is no image: the last line says of how many.
 * @param {import("./layout.js").Axis} axis
 * @param {number} height
 */
function drawnEntries(axis, height) {
  const lines = Math.floor(height / 13), fit = axis.size <= Math.min(8, lines) ? axis.size : Math.min(8, lines - 1);
  return Math.max(1, fit);
}

/**
 * A sample as an SVG group: ink on paper, or bars of its coordinates.
 * @param {ArrayLike<number>} x
 * @param {import("./layout.js").Axis} axis
 * @param {{x: number, y: number, width: number, height: number}} box
 * @param {object} owner whom the picture is remembered for
 * @param {string} name
 */
export function samplePicture(x, axis, box, owner, name) {
  if (axis.image) {
    const shape = axis.image;
    return imageIn(remembered(owner, name, () => inkCanvas(x, shape)), shape, box);
  }
  const largest = Math.max(1e-12, ...Array.from(x, Math.abs));
  const width = box.width / axis.size, middle = box.y + box.height / 2;
  return s("g", {},
    s("rect", { ...box, class: "frame" }),
    Array.from(x, (value, i) => s("rect", {
      x: box.x + i * width, width: Math.max(0.5, width - 1), y: value > 0 ? middle - (value / largest) * box.height / 2 : middle,
      height: Math.abs(value / largest) * box.height / 2, class: "neutral" })));
}

/**
 * @param {string} uri
 * @param {number[]} shape
 * @param {{x: number, y: number, width: number, height: number}} box
 */
function imageIn(uri, shape, box) {
  const unit = Math.min(box.width / shape[1], box.height / shape[0]);
  const width = shape[1] * unit, height = shape[0] * unit;
  const place = { x: box.x + (box.width - width) / 2, y: box.y + (box.height - height) / 2, width, height };
  return s("g", {},
    s("image", { ...place, href: uri, class: "pixels", preserveAspectRatio: "none" }),
    s("rect", { ...place, class: "frame" }));
}
