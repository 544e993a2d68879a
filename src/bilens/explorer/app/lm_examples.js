// Contexts from the text: where a feature is largest, smallest, and where two eigenvectors fail it.

import { fill, h } from "./dom.js";
import { number, whole } from "./format.js";
import { shaded } from "./lm_tokens.js";

const FIRST = 5;

/** @type {[("largest"|"smallest"|"failed"), string, string][]} */
const GROUPS = [
  ["largest", "Largest", "Where the original layer makes the feature largest."],
  ["smallest", "Smallest", "Where it makes it smallest."],
  ["failed", "Failed", "Where the first two pairs are furthest from the truth."],
];

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").Found} one
 */
export function contexts(reading, one) {
  const { feature } = one;
  if (!reading.text || !feature.largest.length) return null;
  const most = Math.max(1e-12, ...GROUPS.flatMap(([kind]) => feature[kind].flatMap((example) => example.values.map(Math.abs))));
  return h("section", { class: "contexts" }, h("h2", { class: "section" }, "Contexts"),
    h("p", { class: "note" }, `From ${whole(reading.text.held_out)} held-out tokens. Each token is shaded by the true value of the feature there, blue above 0 and red below; the framed one is what the context is here for.`),
    GROUPS.map(([kind, title, words]) => group(reading, feature[kind], most, title, words)));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Example[]} examples
 * @param {number} most
 * @param {string} title
 * @param {string} words
 */
function group(reading, examples, most, title, words) {
  const list = h("ul", { class: "examples" });
  const show = (/** @type {number} */ count) => fill(list, examples.slice(0, count).map((example) => h("li", {},
    h("span", { class: "value", title: `two pairs say ${number(example.two)}, all that are stored ${number(example.predicted)}` },
      h("strong", {}, number(example.value)), h("span", { class: "hint" }, `two pairs: ${number(example.two)}`)),
    shaded(reading, example.tokens, example.values, { most, focus: example.focus }))));
  show(FIRST);
  const more = examples.length > FIRST ? h("button", { type: "button", class: "quiet", click: () => {
    show(examples.length);
    more?.remove();
  } }, `${examples.length - FIRST} more`) : null;
  return h("section", {}, h("h3", {}, title), h("p", { class: "hint" }, words), list, more);
}
