// Two features side by side: of this layer, or of this one and the layer beside it.

import { row } from "./data.js";
import { h } from "./dom.js";
import { number, percent, short, signed, whole } from "./format.js";
import { likeness, randomPairs } from "./lm_alike.js";
import { pageOf } from "./lm_beside.js";
import { firstSet, found, nameOf } from "./lm_data.js";
import { highest, spectrum, twoSides } from "./lm_feature.js";
import { featureField } from "./lm_sentence.js";
import { featureTitle, shaded, visible } from "./lm_tokens.js";
import { link } from "./route.js";

const SHOWN_SENTENCES = 4;

/**
 * @typedef {import("./lm_data.js").Reading} Reading
 * @typedef {import("./lm_data.js").Found} Found
 */

/**
 * @param {Reading} reading
 * @param {import("./route.js").Route} route
 */
export function lmCompare(reading, route) {
  const set = firstSet(reading), asked = route.value.split(","), beside = reading.beside;
  const at = (/** @type {number} */ place) => (set && set.features.length ? { set, place: Math.min(place, set.features.length - 1), feature: set.features[Math.min(place, set.features.length - 1)] } : null);
  const first = found(reading, asked[0]) || at(0);
  const second = found(reading, asked[1] || "") || (first && beside ? found(reading, `${nameOf(first)}@1`) : null)
    || (first && first.set === set && first.place === 1 ? at(0) : at(1));
  if (!first || !second) return h("div", {}, h("h1", {}, "Compare"), h("p", { class: "empty" }, "This page holds no features to compare."));
  const go = (/** @type {number} */ side, /** @type {string} */ name) => {
    location.hash = link("compare", [side ? nameOf(first) : name, side ? name : nameOf(second)].join(","));
  };
  const both = /** @type {Found[]} */ ([first, second]), pages = both.map((one) => one.of || reading);
  const most = Math.max(...both.map((one, side) => highest(pages[side], one)));
  return h("div", { class: "compare lm" }, h("h1", {}, "Compare"),
    beside ? h("p", { class: "lead" }, `Features of ${visibleName(reading)} and of ${visibleName(beside.reading)}. `, h("a", { href: link("beside") }, "See all of them"), ".") : null,
    h("div", { class: "bar pickers" }, featureField(reading, "side0", "Compare", first, (name) => go(0, name), true), featureField(reading, "side1", "with", second, (name) => go(1, name), true)),
    facts(reading, first, second),
    h("div", { class: "two" }, both.map((one, side) => h("section", { class: "stack" },
      h("h2", {}, heading(one)), beside ? h("p", { class: "hint" }, visibleName(pages[side])) : null,
      spectrum(pages[side], one, most), h("h3", {}, "reads"), twoSides(pages[side], one.feature.reads, "largest at", "smallest at"),
      h("h3", {}, "writes"), twoSides(pages[side], one.feature.writes, "raises", "lowers"),
      beside ? contextsOf(pages[side], one) : null))),
    sentences(reading, both));
}

/** @param {Reading} page */
function visibleName(page) {
  return visible(pageOf(page)).replace(/␣/g, " ");
}

/** @param {Found} one */
function heading(one) {
  const name = h("bdi", { class: "tok name" }, short(visible(one.feature.label), 40));
  return one.of ? h("span", {}, `${one.set.feature} `, name) : h("a", { href: link("feature", nameOf(one)) }, `${one.set.feature} `, name);
}

/**
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 */
function facts(reading, first, second) {
  const both = /** @type {Found[]} */ ([first, second]), pages = both.map((one) => one.of || reading);
  const { cosine, distance, metric } = likeness(reading, first, second), null_ = randomPairs(reading, first, second);
  const r = together(reading, first, second);
  const common = (/** @type {"reads"|"writes"} */ what) => {
    const [ours, theirs] = both.map((one, side) => one.feature[what][0].tokens.map((token) => pages[side].tokens[token]));
    return `${ours.filter((token) => theirs.includes(token)).length} of ${ours.length}`;
  };
  const below = null_ ? null_.sizes.filter((size) => size < Math.abs(cosine)).length / null_.sizes.length : 0;
  return h("dl", { class: "facts" },
    h("div", {}, h("dt", {}, "cosine of their kernels, exact"), h("dd", {}, signed(cosine)),
      null_ ? h("dd", { class: "small" }, `a random pair of features: |cosine| ${number(null_.median)}, 95 % below ${number(null_.most)}; ${percent(below, 0)} of ${whole(null_.sizes.length)} pairs are less alike`) : null,
      h("dd", { class: "small" }, `in ${metric}`)),
    h("div", {}, h("dt", {}, "‖Q − Q′‖ / ‖Q‖"), h("dd", {}, number(distance)), h("dd", { class: "small" }, "0 for the same kernel")),
    r === null ? null : h("div", {}, h("dt", {}, "values on stored sentences, correlation"), h("dd", {}, signed(r.value)), h("dd", { class: "small" }, `${whole(r.count)} tokens`)),
    h("div", {}, h("dt", {}, "tokens that both read, of those named"), h("dd", {}, common("reads"))),
    h("div", {}, h("dt", {}, "tokens that both raise, of those named"), h("dd", {}, common("writes"))),
    h("div", {}, h("dt", {}, "held by their pairs"), h("dd", {}, both.map((one) => percent(one.feature.held, 0)).join(" · "))));
}

/**
 * The first contexts of a feature.
 * @param {Reading} page
 * @param {Found} one
 */
function contextsOf(page, one) {
  const examples = one.feature.largest.slice(0, 3);
  if (!examples.length) return null;
  const most = Math.max(1e-12, ...examples.flatMap((example) => example.values.map(Math.abs)));
  return h("section", {}, h("h3", {}, "largest in the text"), h("ul", { class: "examples" }, examples.map((example) => h("li", {},
    h("span", { class: "value" }, h("strong", {}, number(example.value))), shaded(page, example.tokens, example.values, { most, focus: example.focus })))));
}

/**
 * What the original layer gives at the stored sentences.
 * @param {Found} one
 */
function truth(one) {
  return one.set.true ? row(one.set.true, one.place) : null;
}

/**
 * Whether both were looked at on the same sentences.
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 */
function sameText(reading, first, second) {
  const [ours, theirs] = [first, second].map((one) => {
    const page = one.of || reading;
    return page.text ? page.text.stretches.map((tokens) => tokens.map((token) => page.tokens[token])) : null;
  });
  return ours !== null && JSON.stringify(ours) === JSON.stringify(theirs);
}

/**
 * The correlation of the values of two features on the stored sentences, where both have the same.
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 */
export function together(reading, first, second) {
  const a = truth(first), b = truth(second);
  return a && b && sameText(reading, first, second) ? { value: correlation(a, b), count: a.length } : null;
}

/**
 * The same stretches of text, shaded by either.
 * @param {Reading} reading
 * @param {Found[]} both
 */
function sentences(reading, both) {
  const text = reading.text, values = both.map(truth);
  if (!text || !values[0] || !values[1] || !sameText(reading, both[0], both[1])) return null;
  let start = 0;
  const largest = values.map((one) => Math.max(1e-12, .../** @type {NonNullable<typeof one>} */ (one).map(Math.abs)));
  return h("section", { class: "contexts" }, h("h2", { class: "section" }, "The same sentences"), text.stretches.slice(0, SHOWN_SENTENCES).map((tokens) => {
    const here = start;
    start += tokens.length;
    return h("ul", { class: "examples" }, both.map((one, side) => {
      const part = /** @type {Float32Array} */ (values[side]).subarray(here, here + tokens.length);
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
