// Any figure as a file: SVG with its colours and fonts written into it, or PNG at twice its size.

import { s } from "./dom.js";
import { short } from "./format.js";

const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linejoin",
  "font-family", "font-size", "font-weight", "opacity", "image-rendering", "visibility", "filter"];

const MARGIN = 14;
const LINE = 20;

/**
 * Text in lines of about a width; a word that is longer than one is cut.
 * @param {string} text
 * @param {number} width
 */
function wrapped(text, width) {
  const most = Math.max(12, Math.floor(width / 8));
  /** @type {string[]} */
  const found = [""];
  for (const word of text.split(/\s+/).map((each) => short(each, most))) {
    const last = found[found.length - 1];
    if (!last) found[found.length - 1] = word;
    else if (last.length + 1 + word.length <= most) found[found.length - 1] = `${last} ${word}`;
    else found.push(word);
  }
  return found;
}

/**
 * The SVG as text that stands alone, with its size: what the page's style says is written into each element, the title
 * stands above, and a margin is around it. Links of the page lead nowhere from a file, and are left out.
 * @param {SVGSVGElement} svg
 * @param {string} title
 */
export function standalone(svg, title) {
  const copy = /** @type {SVGSVGElement} */ (svg.cloneNode(true));
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((element, place) => {
    const style = getComputedStyle(originals[place]);
    for (const name of STYLES) {
      const value = style.getPropertyValue(name);
      if (value) element.setAttribute(name, value.replace(/"/g, "'"));
    }
    for (const name of ["class", "tabindex", "role"]) element.removeAttribute(name);
  });
  for (const hidden of copy.querySelectorAll("[visibility=hidden]")) hidden.remove();
  for (const link of copy.querySelectorAll("a")) link.replaceWith(...link.childNodes);
  const box = svg.viewBox.baseVal, texts = wrapped(title, box.width);
  const head = texts.length * LINE + 8, width = box.width + 2 * MARGIN, height = box.height + head + 2 * MARGIN;
  copy.setAttribute("viewBox", `${-MARGIN} ${-MARGIN - head} ${width} ${height}`);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  const { backgroundColor, color, fontFamily } = getComputedStyle(document.body);
  copy.prepend(s("rect", { x: -MARGIN, y: -MARGIN - head, width, height, fill: backgroundColor }),
    ...texts.map((text, line) => s("text", { x: 0, y: LINE * (line + 1) - head - 6, fill: color, "font-size": 15, "font-weight": 700,
      "font-family": fontFamily.replace(/"/g, "'") }, text)));
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

/**
 * @param {SVGSVGElement} svg
 * @param {string} name of the file, without its ending
 * @param {string} title
 */
export function saveSVG(svg, name, title) {
  download(new Blob([standalone(svg, title).text], { type: "image/svg+xml" }), `${name}.svg`);
}

/**
 * @param {SVGSVGElement} svg
 * @param {string} name of the file, without its ending
 * @param {string} title
 */
export async function savePNG(svg, name, title) {
  const { text, width, height } = standalone(svg, title);
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = 2 * width;
  canvas.height = 2 * height;
  /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d")).drawImage(image, 0, 0, canvas.width, canvas.height);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  download(/** @type {Blob} */ (blob), `${name}.png`);
}

/**
 * @param {Blob} blob
 * @param {string} name
 */
function download(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
