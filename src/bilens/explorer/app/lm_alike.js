// How alike the kernels of two features are, and what that is for features that have nothing to do with one another.

import { row } from "./data.js";

const MOST = 0.95;

/**
 * @typedef {import("./lm_data.js").Reading} Reading
 * @typedef {import("./lm_data.js").Found} Found
 * @typedef {{cosine: number, distance: number, metric: string}} Likeness
 * @typedef {{sizes: number[], median: number, most: number}} Chance
 */

/**
 * The place of a set's first feature among all of its page's.
 * @param {Reading} page
 * @param {import("./lm_data.js").FeatureSet} set
 */
function start(page, set) {
  return page.sets.slice(0, page.sets.indexOf(set)).reduce((sum, each) => sum + each.features.length, 0);
}

/**
 * The place of a feature of this page among all of them.
 * @param {Reading} reading
 * @param {Found} one
 */
export function placeOf(reading, one) {
  return start(reading, one.set) + one.place;
}

/**
 * The numbers of a pair of sets, and the places in them; between two pages the first page's features are the rows.
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 */
function table(reading, first, second) {
  const pages = [first.of || reading, second.of || reading];
  const places = [first, second].map((one, side) => start(pages[side], one.set) + one.place);
  if (pages[0] === pages[1]) return { alike: pages[0].alike, row: places[0], column: places[1], across: false, turned: false };
  const turned = Boolean(first.of), alike = /** @type {NonNullable<Reading["beside"]>} */ (reading.beside).alike;
  return { alike, row: places[turned ? 1 : 0], column: places[turned ? 0 : 1], across: true, turned };
}

/**
 * The exact cosine of two kernels, and ‖Q − Q′‖ / ‖Q‖.
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 * @returns {Likeness}
 */
export function likeness(reading, first, second) {
  const at = table(reading, first, second), cosine = at.row === at.column && !at.across ? 1 : row(at.alike.cosines, at.row)[at.column];
  const [a, b] = at.turned ? [at.alike.second[at.column], at.alike.first[at.row]] : [at.alike.first[at.row], at.alike.second[at.column]];
  return { cosine, distance: a ? Math.sqrt(Math.max(0, a * a + b * b - 2 * a * b * cosine)) / a : 0, metric: at.alike.metric };
}

/**
 * |cosine| of every feature of one set with every other feature of another: those of one name, or a feature with itself, are left out.
 * @param {Reading} reading
 * @param {Found} first
 * @param {Found} second
 * @returns {Chance|null}
 */
export function randomPairs(reading, first, second) {
  const at = table(reading, first, second);
  const [rows, columns] = at.turned ? [second, first] : [first, second];
  const startRow = at.row - rows.place, startColumn = at.column - columns.place;
  /** @type {number[]} */
  const sizes = [];
  rows.set.features.forEach((one, i) => {
    const values = row(at.alike.cosines, startRow + i);
    columns.set.features.forEach((other, j) => {
      const same = at.across ? one.label === other.label && rows.set.name === columns.set.name : startRow + i === startColumn + j;
      if (!same) sizes.push(Math.abs(values[startColumn + j]));
    });
  });
  return summed(sizes);
}

/**
 * @param {number[]} sizes
 * @returns {Chance|null}
 */
function summed(sizes) {
  sizes.sort((a, b) => a - b);
  const at = (/** @type {number} */ share) => sizes[Math.min(sizes.length - 1, Math.floor(share * sizes.length))];
  return sizes.length ? { sizes, median: at(0.5), most: at(MOST) } : null;
}

/**
 * The features that both pages have under one name, by sets.
 * @param {Reading} reading
 * @returns {{set: import("./lm_data.js").FeatureSet, pairs: [Found, Found][]}[]}
 */
export function shared(reading) {
  const beside = reading.beside;
  if (!beside) return [];
  return reading.sets.flatMap((set) => {
    const other = beside.reading.sets.find((each) => each.name === set.name);
    if (!other) return [];
    const places = new Map(other.features.map((feature, place) => [feature.label, place]));
    const pairs = set.features.flatMap((feature, place) => {
      const there = places.get(feature.label);
      return there === undefined ? [] : [/** @type {[Found, Found]} */ ([{ set, place, feature },
        { set: other, place: there, feature: other.features[there], of: beside.reading }])];
    });
    return pairs.length ? [{ set, pairs }] : [];
  });
}
