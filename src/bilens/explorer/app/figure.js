// A figure: a title, a drawing that follows the width of its place, the same as a table, and buttons that save it.

import { fill, h, s, unique } from "./dom.js";
import { cell, whole } from "./format.js";
import { savePNG, saveSVG } from "./save.js";

const SHOWN_ROWS = 1000;

/**
 * @typedef {{columns: string[], rows: (string|number|null)[][]}} TableData
 * @typedef {{title: string, note?: string, name: string, alt: string, table: () => TableData,
 *   draw: (width: number) => {height: number, parts: (Node|Node[])[]}, level?: number, most?: number,
 *   of?: string, control?: Node, plainTitle?: boolean}} FigureParts
 */

const watcher = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const redraw = redraws.get(entry.target);
    if (redraw) redraw();
  }
});
/** @type {WeakMap<Element, () => void>} */
const redraws = new WeakMap();

/**
 * A figure element. `of` is what it is a figure of: a saved one says so. `redraw` draws it again after what it shows has changed.
 * @param {FigureParts} parts
 * @returns {{element: HTMLElement, redraw: () => void}}
 */
export function figure(parts) {
  const body = h("div", { class: "drawing" });
  const holder = h("div", { class: "table-holder", hidden: true });
  const id = unique();
  let width = 0;
  let shown = false;
  /** @type {SVGSVGElement|null} */
  let svg = null;

  const draw = () => {
    const drawing = parts.draw(width);
    svg = /** @type {SVGSVGElement} */ (s("svg", {
      viewBox: `0 0 ${width} ${drawing.height}`, width, height: drawing.height, role: "img", "aria-label": parts.alt,
    }, ...drawing.parts));
    if (svg.querySelector("a")) svg.setAttribute("role", "group"); // an image has no links in it
    fill(body, svg);
  };
  const tabulate = () => {
    if (shown) fill(holder, ...tableOf(parts.table(), parts.title));
  };
  redraws.set(body, () => {
    const now = Math.floor(Math.min(body.clientWidth, parts.most || Infinity));
    if (now > 0 && now !== width) {
      width = now;
      draw();
    }
  });
  watcher.observe(body);

  const toggle = h("button", {
    type: "button", class: "quiet", "aria-expanded": "false", "aria-controls": id,
    click: () => {
      shown = !shown;
      holder.hidden = !shown;
      toggle.setAttribute("aria-expanded", String(shown));
      tabulate();
    },
  }, "Table");
  holder.id = id;
  const save = (/** @type {string} */ label, /** @type {(svg: SVGSVGElement, name: string, title: string) => void} */ how) =>
    h("button", { type: "button", class: "quiet", "aria-label": `Save “${parts.title}” as ${label}`,
      click: () => svg && how(svg, parts.name, parts.of ? `${parts.of}: ${parts.title}` : parts.title) }, label);
  const element = h("figure", {},
    h("figcaption", {},
      h(`h${parts.level || 3}`, {}, parts.title),
      parts.note ? h("p", { class: "note" }, parts.note) : null),
    parts.control || null,
    body,
    h("div", { class: "tools" }, toggle, save("SVG", saveSVG), save("PNG", savePNG)),
    holder);
  return {
    element,
    redraw: () => {
      if (width) draw();
      tabulate();
    },
  };
}

/**
 * @param {TableData} table
 * @param {string} title
 */
export function tableOf(table, title) {
  const shown = table.rows.slice(0, SHOWN_ROWS), all = table.rows.length;
  const body = h("div", { class: "table", tabindex: 0, role: "region", "aria-label": `Table: ${title}` },
    h("table", {},
      h("thead", {}, h("tr", {}, table.columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, shown.map((line) => h("tr", {}, line.map((value, place) =>
        place === 0 ? h("th", { scope: "row" }, cell(value)) : h("td", {}, cell(value))))))));
  return all > shown.length ? [body, h("p", { class: "hint" }, `The first ${whole(shown.length)} of ${whole(all)} rows.`)] : [body];
}
