// An input of one's own: a pad to draw on or fields to fill, and the input as text for a link.

import { labelOf } from "./data.js";
import { fill, h } from "./dom.js";
import { short } from "./format.js";
import { inkCanvas } from "./picture.js";

const LEVELS = 15;

/**
 * A pad to draw on, by pointer or by keys.
 * @param {import("./layout.js").Axis} axis
 * @param {{x: Float32Array, sample: number}} state
 * @param {(ended: boolean) => void} edited
 */
export function pad(axis, state, edited) {
  const [rows, columns] = /** @type {number[]} */ (axis.image);
  const radius = Math.max(0.75, Math.min(rows, columns) / 28 * 1.15);
  const canvas = /** @type {HTMLCanvasElement} */ (h("canvas", {
    class: "pad", width: columns, height: rows, tabindex: 0, role: "application", "aria-roledescription": "drawing pad",
    "aria-label": "Drawing pad. Arrow keys move, space puts the pen down or lifts it, E takes the eraser, Delete clears.",
  }));
  const cursor = { row: Math.floor(rows / 2), column: Math.floor(columns / 2), down: false, eraser: false };
  const mark = h("div", { class: "cursor", "aria-hidden": "true" });
  const status = h("p", { class: "status", role: "status" });
  const redraw = () => {
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.drawImage(inkCanvas(state.x, [rows, columns]), 0, 0);
  };
  const stamp = (/** @type {number} */ x, /** @type {number} */ y, /** @type {boolean} */ erase) => {
    const reach = Math.ceil(radius + 1);
    for (let line = Math.floor(y) - reach; line <= Math.floor(y) + reach; line++) {
      for (let column = Math.floor(x) - reach; column <= Math.floor(x) + reach; column++) {
        if (line < 0 || column < 0 || line >= rows || column >= columns) continue;
        const ink = Math.max(0, Math.min(1, radius + 0.5 - Math.hypot(column + 0.5 - x, line + 0.5 - y)));
        const at = line * columns + column;
        state.x[at] = erase ? Math.min(state.x[at], 1 - ink) : Math.max(state.x[at], ink);
      }
    }
  };
  /** @type {{x: number, y: number}|null} */
  let last = null;
  const at = (/** @type {PointerEvent} */ event) => {
    const frame = canvas.getBoundingClientRect();
    return { x: (event.clientX - frame.left) / frame.width * columns, y: (event.clientY - frame.top) / frame.height * rows };
  };
  const through = (/** @type {{x: number, y: number}} */ point, /** @type {boolean} */ erase) => {
    const from = last || point, length = Math.hypot(point.x - from.x, point.y - from.y), steps = Math.max(1, Math.ceil(length / 0.4));
    for (let step = 0; step <= steps; step++) stamp(from.x + (point.x - from.x) * step / steps, from.y + (point.y - from.y) * step / steps, erase);
    last = point;
  };
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      edited(false);
    });
  };
  let pointer = -1; // one at a time draws: a second finger is no part of the line
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    mark.hidden = true;
    if (state.sample >= 0 && !cursor.eraser) state.x.fill(0); // a first stroke begins a drawing of one's own
    last = null;
    through(at(event), cursor.eraser);
    redraw();
    edited(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!last || event.pointerId !== pointer) return;
    const merged = event.getCoalescedEvents?.();
    for (const each of merged?.length ? merged : [event]) through(at(each), cursor.eraser);
    redraw();
    soon();
  });
  const end = (/** @type {PointerEvent} */ event) => {
    if (!last || event.pointerId !== pointer) return;
    last = null;
    edited(true);
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  const say = () => {
    status.textContent = `row ${cursor.row}, column ${cursor.column}, ${cursor.eraser ? "eraser" : "pen"} ${cursor.down ? "down" : "up"}`;
    mark.style.left = `${(cursor.column + 0.5) / columns * 100}%`;
    mark.style.top = `${(cursor.row + 0.5) / rows * 100}%`;
    mark.classList.toggle("down", cursor.down);
    mark.hidden = false;
  };
  const clear = () => {
    state.x.fill(0);
    redraw();
    edited(true);
  };
  const eraser = h("button", { type: "button", "aria-pressed": "false", click: () => useEraser(!cursor.eraser) }, "Eraser");
  const useEraser = (/** @type {boolean} */ on) => {
    cursor.eraser = on;
    eraser.setAttribute("aria-pressed", String(on));
  };
  canvas.addEventListener("keydown", (event) => {
    /** @type {Record<string, number[]>} */
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (Object.hasOwn(moves, event.key)) {
      cursor.row = Math.max(0, Math.min(rows - 1, cursor.row + moves[event.key][0]));
      cursor.column = Math.max(0, Math.min(columns - 1, cursor.column + moves[event.key][1]));
    } else if (event.key === " " || event.key === "Enter") cursor.down = !cursor.down;
    else if (event.key === "e" || event.key === "E") useEraser(!cursor.eraser);
    else if (event.key === "Delete" || event.key === "Backspace") clear();
    else return;
    event.preventDefault();
    if (cursor.down) {
      if (state.sample >= 0 && !cursor.eraser) state.x.fill(0);
      stamp(cursor.column + 0.5, cursor.row + 0.5, cursor.eraser);
      redraw();
      edited(true);
    }
    say();
  });
  canvas.addEventListener("blur", () => { mark.hidden = true; });
  mark.hidden = true;
  redraw();
  return {
    redraw,
    element: h("div", { class: "pad-holder" },
      h("div", { class: "pad-frame" }, canvas, mark),
      h("div", { class: "buttons" }, h("button", { type: "button", click: clear }, "Clear"), eraser,
        h("button", { type: "button", click: () => {
          cursor.row = cursor.column = 0;
          canvas.focus();
          cursor.row = Math.floor(rows / 2);
          cursor.column = Math.floor(columns / 2);
          say();
        } }, "Use keys")),
      h("p", { class: "hint" }, "Mouse, finger or pen. With keys: arrows move, space lowers and lifts the pen, E erases, Delete clears."),
      status),
  };
}

/**
 * A number for each coordinate, where the input is no image.
 * @param {import("./layout.js").Axis} axis
 * @param {{x: Float32Array, sample: number}} state
 * @param {(ended: boolean) => void} edited
 */
export function sliders(axis, state, edited) {
  const holder = h("div", { class: "inputs" });
  const count = Math.min(axis.size, 64);
  const fields = Array.from({ length: count }, (_, i) => /** @type {HTMLInputElement} */ (h("input", {
    type: "number", step: "any", id: `x${i}`, value: String(Number(state.x[i].toFixed(4))), input: (/** @type {any} */ event) => {
      const value = Number(event.target.value);
      if (!Number.isFinite(value)) return;
      state.x[i] = value;
      edited(true);
    } })));
  fill(holder, fields.map((field, i) => h("div", { class: "field" }, h("label", { for: `x${i}` }, short(labelOf(axis, i), 24)), field)));
  return {
    redraw: () => fields.forEach((field, i) => { field.value = String(Number(state.x[i].toFixed(4))); }),
    element: h("div", { class: "pad-holder" }, holder,
      count < axis.size ? h("p", { class: "hint" }, `The first ${count} of ${axis.size} inputs; the others keep their values.`) : null),
  };
}

/**
 * Ink as one of the levels of a link.
 * @param {number} value
 */
function level(value) {
  return Math.round(LEVELS * Math.max(0, Math.min(1, value)));
}

/**
 * Ink as a link can carry it.
 * @param {number} value
 */
export function linked(value) {
  return level(value) / LEVELS;
}

/**
 * The fewest digits that are read as the same float32.
 * @param {number} value
 */
function shortest(value) {
  for (let digits = 1; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === value) return String(text);
  }
  return String(Number(value.toPrecision(9)));
}

/**
 * A drawing as text for a link: 16 levels a pixel, runs of blank pixels as counts.
 * @param {Float32Array} x
 * @param {import("./layout.js").Axis} axis
 */
export function packed(x, axis) {
  if (!axis.image) return Array.from(x, shortest).join(",");
  let text = "", blank = 0;
  for (const value of [...Array.from(x, level), -1]) {
    if (value === 0) blank += 1;
    else {
      if (blank) text += blank > 2 ? `.${blank.toString(36)}.` : "g".repeat(blank);
      blank = 0;
      if (value > 0) text += value.toString(16);
    }
  }
  return text;
}

/**
 * @param {string} text
 * @param {import("./layout.js").Axis} axis
 */
export function unpacked(text, axis) {
  const x = new Float32Array(axis.size);
  if (!axis.image) {
    text.split(",").filter(Boolean).forEach((part, i) => { if (i < x.length && Number.isFinite(Number(part))) x[i] = Number(part); });
    return x;
  }
  let at = 0;
  for (const match of text.matchAll(/\.([0-9a-z]+)\.|([0-9a-g])/g)) {
    if (match[1]) at += parseInt(match[1], 36);
    else {
      if (match[2] !== "g" && at < x.length) x[at] = parseInt(match[2], 16) / LEVELS;
      at += 1;
    }
  }
  return x;
}
