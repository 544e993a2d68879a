// Two features of a layer side by side.

import { h } from "./dom.js";
import { number, percent, short, signed, whole } from "./format.js";
import { firstSet, found, nameOf, valuesOf } from "./lm_data.js";
import { featureTitle, spectrum, twoSides } from "./lm_feature.js";
import { featureField } from "./lm_sentence.js";
import { shaded, visible } from "./lm_tokens.js";
import { link } from "./route.js";

const SHOWN_SENTENCES = 4;

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./route.js").Route} route
 */
export function lmCompare(reading, route) {
  const set = firstSet(reading), asked = route.value.split(",");
  const at = (/** @type {number} */ place) => (set && set.features.length ? { set, place: Math.min(place, set.features.length - 1), feature: set.features[Math.min(place, set.features.length - 1)] } : null);
  const first = found(reading, asked[0]) || at(0);
  const second = found(reading, asked[1] || "") || (first && first.set === set && first.place === 1 ? at(0) : at(1));
  if (!first || !second) return h("div", {}, h("h1", {}, "Compare"), h("p", { class: "empty" }, "This page holds no features to compare."));
  const go = (/** @type {number} */ side, /** @type {string} */ name) => {
    location.hash = link("compare", [side ? nameOf(first) : name, side ? name : nameOf(second)].join(","));
  };
  const both = [first, second], values = both.map(valuesOf);
  const most = Math.max(...both.flatMap((one) => one.feature.shares)) * 1.08;
  const r = values[0] && values[1] ? correlation(values[0].true, values[1].true) : null;
  const common = (/** @type {"reads"|"writes"} */ what) => both[0].feature[what][0].tokens.filter((token) => both[1].feature[what][0].tokens.includes(token)).length;
  return h("div", { class: "compare lm" }, h("h1", {}, "Compare"),
    h("div", { class: "bar pickers" }, featureField(reading, "side0", "Compare", first, (name) => go(0, name)), featureField(reading, "side1", "with", second, (name) => go(1, name))),
    h("dl", { class: "facts" },
      r === null ? null : h("div", {}, h("dt", {}, "values on stored sentences, correlation"), h("dd", {}, signed(r)), h("dd", { class: "small" }, `${whole(values[0] ? values[0].true.length : 0)} tokens`)),
      h("div", {}, h("dt", {}, "tokens that both read, of those named"), h("dd", {}, `${common("reads")} of ${first.feature.reads[0].tokens.length}`)),
      h("div", {}, h("dt", {}, "tokens that both raise, of those named"), h("dd", {}, `${common("writes")} of ${first.feature.writes[0].tokens.length}`)),
      h("div", {}, h("dt", {}, "held by their pairs"), h("dd", {}, both.map((one) => percent(one.feature.held, 0)).join(" · ")))),
    h("div", { class: "two" }, both.map((one) => h("section", { class: "stack" },
      h("h2", {}, h("a", { href: link("feature", nameOf(one)) }, `${one.set.feature} `, h("bdi", { class: "tok name" }, short(visible(one.feature.label), 40)))),
      spectrum(reading, one, most), h("h3", {}, "reads"), twoSides(reading, one.feature.reads, "largest at", "smallest at"),
      h("h3", {}, "writes"), twoSides(reading, one.feature.writes, "raises", "lowers")))),
    sentences(reading, both));
}

/**
 * The same stretches of text, shaded by either.
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").Found[]} both
 */
function sentences(reading, both) {
  const text = reading.text, values = both.map(valuesOf);
  if (!text || !values[0] || !values[1]) return null;
  let start = 0;
  const largest = values.map((one) => Math.max(1e-12, .../** @type {NonNullable<typeof one>} */ (one).true.map(Math.abs)));
  return h("section", { class: "contexts" }, h("h2", { class: "section" }, "The same sentences"), text.stretches.slice(0, SHOWN_SENTENCES).map((tokens) => {
    const here = start;
    start += tokens.length;
    return h("ul", { class: "examples" }, both.map((one, side) => {
      const part = /** @type {NonNullable<ReturnType<typeof valuesOf>>} */ (values[side]).true.subarray(here, here + tokens.length);
      return h("li", {}, h("span", { class: "value" }, h("bdi", { class: "tok name", title: featureTitle(one) }, short(visible(one.feature.label), 14)), h("span", { class: "hint" }, `up to ${number(Math.max(...part))}`)),
        shaded(reading, tokens, part, { most: largest[side] }));
    }));
  }));
}

/**
 * @param {Float32Array} a
 * @param {Float32Array} b
 */
function correlation(a, b) {
  const mean = (/** @type {Float32Array} */ values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [ma, mb] = [mean(a), mean(b)];
  let ab = 0, aa = 0, bb = 0;
  for (let t = 0; t < a.length; t++) {
    ab += (a[t] - ma) * (b[t] - mb);
    aa += (a[t] - ma) ** 2;
    bb += (b[t] - mb) ** 2;
  }
  return aa && bb ? ab / Math.sqrt(aa * bb) : 0;
}
