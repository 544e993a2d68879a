// The data of the page of one layer of a language model, and what is looked up in them.

import { row } from "./data.js";
import { LM_FORMAT, ONE_BY_ONE } from "./lm_layout.js";

/**
 * @typedef {import("./lm_layout.js").Reading} Reading
 * @typedef {import("./lm_layout.js").Features} FeatureSet
 * @typedef {import("./lm_layout.js").Feature} LmFeature
 * @typedef {{set: FeatureSet, place: number, feature: LmFeature, of?: Reading}} Found
 */

/** @returns {Reading} */
export function readReading() {
  const holder = /** @type {HTMLElement} */ (document.getElementById("data"));
  const content = JSON.parse(holder.textContent || "");
  if (content.format !== LM_FORMAT) throw new Error(`data of format ${content.format}, not ${LM_FORMAT}`);
  return content;
}

/**
 * A feature by its name in links: "tokens:12", and "tokens:12@1" of the layer beside this one, which it then names in `of`.
 * @param {Reading} reading
 * @param {string} name
 * @returns {Found|null}
 */
export function found(reading, name) {
  const match = /^([^:]+):(\d+)(@1)?$/.exec(name || "");
  const source = match && match[3] ? reading.beside && reading.beside.reading : reading;
  if (!match || !source) return null;
  const set = source.sets.find((each) => each.name === match[1]);
  const place = set ? set.features.findIndex((feature) => feature.number === Number(match[2])) : -1;
  return set && place >= 0 ? { set, place, feature: set.features[place], ...(source === reading ? {} : { of: source }) } : null;
}

/** @param {Found} one */
export function nameOf(one) {
  return `${one.set.name}:${one.feature.number}${one.of ? "@1" : ""}`;
}

/**
 * The first set that is no null, or whatever there is.
 * @param {Reading} reading
 */
export function firstSet(reading) {
  return reading.sets.find((set) => !set.control && set.features.length) || reading.sets[0];
}

/**
 * What a feature is at each token of the stretches: the original layer's value, the full quadratic form, and the rows of
 * its terms λ (v·x')², first pairs one by one, then sums of some.
 * @param {Found} one
 */
export function valuesOf(one) {
  const { set, place } = one;
  if (!set.terms || !set.whole || !set.true) return null;
  const terms = set.terms, each = terms.shape[0] / set.features.length;
  return { true: row(set.true, place), whole: row(set.whole, place),
    terms: Array.from({ length: each }, (_, term) => row(terms, place * each + term)) };
}

/**
 * What the first k pairs predict at each token of the stretches, with the mean of what they leave out.
 * @param {Found} one
 * @param {number} k one of `at`
 * @param {number[]} at
 */
export function predicted(one, k, at) {
  const values = valuesOf(one);
  if (!values || !one.feature.rest) return null;
  const found = new Float64Array(values.true.length).fill(one.feature.rest[k - 1]);
  const rows = Math.min(k, ONE_BY_ONE) + at.filter((each) => each > ONE_BY_ONE && each <= k).length;
  for (const term of values.terms.slice(0, rows)) for (let t = 0; t < found.length; t++) found[t] += term[t];
  return found;
}

/**
 * The random directions' median and quartiles, and those of a set.
 * @param {import("./lm_layout.js").Spread[]} spreads
 */
export function control(spreads) {
  return spreads.find((spread) => spread.control) || null;
}

/**
 * Each pair's share of ‖Q‖², the median over the random directions of the page, and how many they are.
 * @param {Reading} reading
 */
export function randomShares(reading) {
  const features = reading.sets.filter((set) => set.control).flatMap((set) => set.features);
  const pairs = Math.min(...features.map((feature) => feature.shares.length));
  const medians = features.length ? Array.from({ length: pairs }, (_, pair) => median(features.map((feature) => feature.shares[pair]))) : [];
  return { medians, count: features.length };
}

/** @param {number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
