// This layer and the one beside it: how far apart the kernels of each feature are, with what chance would give.

import { lines } from "./chart.js";
import { fill, h, roving } from "./dom.js";
import { figure } from "./figure.js";
import { number, plural, signed, whole } from "./format.js";
import { likeness, randomPairs, shared } from "./lm_alike.js";
import { median, nameOf } from "./lm_data.js";
import { visible } from "./lm_tokens.js";
import { link, remember } from "./route.js";

const STEPS = 60;
const ORDERS = { apart: "furthest apart first", near: "nearest first", order: "order in the set" };
const STANDS = { exact: "exact, from the weights", least_squares: "a surrogate by least squares on text", gaussian: "a Gaussian surrogate", weights_only: "a surrogate of the weights alone" };

/**
 * @typedef {import("./lm_data.js").Reading} Reading
 * @typedef {ReturnType<typeof shared>[0]} Shared
 */

/** @param {Reading} page */
export function pageOf(page) {
  return page.beside ? page.title.slice(0, page.title.length - page.beside.reading.title.length - " beside ".length) : page.title;
}

/**
 * @param {Reading} reading
 * @param {import("./route.js").Route} route
 */
export function besidePage(reading, route) {
  const beside = reading.beside, sets = shared(reading);
  if (!beside || !sets.length) return h("div", {}, h("h1", {}, "Side by side"), h("p", { class: "empty" }, "This page has one layer. bilens compare RUN OTHER --layers 12 puts another one beside it."));
  const own = visible(pageOf(reading)).replace(/␣/g, " "), other = visible(beside.reading.title).replace(/␣/g, " ");
  return h("div", { class: "side-by-side lm" }, h("h1", {}, "Side by side"),
    h("p", { class: "lead" }, `${own}, which is ${STANDS[reading.method]}, and ${other}, which is ${STANDS[beside.reading.method]}. `,
      `Kernels of one name are compared exactly, in ${beside.alike.metric}.`),
    h("dl", { class: "facts" }, sets.map((each) => told(reading, each))),
    distribution(reading, sets),
    sets.map((each) => listed(reading, each, route)));
}

/**
 * @param {Reading} reading
 * @param {Shared} each
 */
function told(reading, each) {
  const found = each.pairs.map(([first, second]) => likeness(reading, first, second).cosine), null_ = randomPairs(reading, ...each.pairs[0]);
  return h("div", {}, h("dt", {}, `${each.set.title}: cosine of kernels, median`), h("dd", {}, signed(median(found))),
    h("dd", { class: "small" }, `${plural(found.length, "feature")}${each.set.control ? ", which stand for nothing" : ""}`),
    null_ ? h("dd", { class: "small" }, `a random pair: |cosine| ${number(null_.median)}, 95 % below ${number(null_.most)}`) : null);
}

/**
 * The share of pairs up to each cosine.
 * @param {Reading} reading
 * @param {Shared[]} sets
 */
function distribution(reading, sets) {
  const values = sets.map((each) => ({ name: `${each.set.title}, of one name`, control: each.set.control, dotted: false,
    values: each.pairs.map(([first, second]) => Math.abs(likeness(reading, first, second).cosine)) }));
  const random = randomPairs(reading, ...sets[0].pairs[0]);
  if (random) values.push({ name: `${sets[0].set.title}, random pairs`, control: true, values: random.sizes, dotted: true });
  const curves = values.map((each, place) => ({ name: each.name, color: each.control ? 0 : place + 1, dashed: each.control, dotted: each.dotted,
    points: Array.from({ length: STEPS + 1 }, (_, step) => ({ x: step / STEPS, y: each.values.filter((value) => value <= step / STEPS + 1e-9).length / each.values.length })) }));
  return figure({
    title: "How alike the kernels are", name: "alike", alt: "Share of pairs of features whose |cosine| is at most a number, for features of one name and for random pairs",
    note: "The share of pairs of features whose |cosine| is at most that. Curves further to the right are more alike; those of random pairs and of random directions are what any two features give.",
    table: () => ({ columns: ["|cosine| up to", ...curves.map((each) => each.name)], rows: curves[0].points.map((point, step) => [Number(point.x.toFixed(3)), ...curves.map((each) => each.points[step].y)]) }),
    draw: (width) => lines({ width, height: 270, series: curves, marks: false, legend: "above", x: { label: "|cosine|", low: 0, high: 1 }, y: { label: "share of pairs", low: 0, high: 1 } }),
  }).element;
}

/**
 * @param {Reading} reading
 * @param {Shared} each
 * @param {import("./route.js").Route} route
 */
function listed(reading, each, route) {
  const state = { sort: Object.hasOwn(ORDERS, route.more[each.set.name] || "") ? route.more[each.set.name] : "apart" };
  const rows = each.pairs.map(([first, second], order) => {
    const { cosine, distance } = likeness(reading, first, second);
    return { cosine, order, element: h("tr", {}, h("th", { scope: "row" }, h("a", { href: link("compare", `${nameOf(first)},${nameOf(second)}`) },
      first.feature.token === null ? `${each.set.feature} ${visible(first.feature.label)}` : h("bdi", { class: "tok name" }, visible(first.feature.label)))),
    h("td", {}, signed(cosine)), h("td", {}, number(distance)),
    h("td", {}, first.feature.deviation === null ? "–" : number(first.feature.deviation)), h("td", {}, second.feature.deviation === null ? "–" : number(second.feature.deviation))) };
  });
  const body = h("tbody", {});
  const arrange = () => {
    /** @type {Record<string, (a: typeof rows[0], b: typeof rows[0]) => number>} */
    const by = { apart: (a, b) => a.cosine - b.cosine, near: (a, b) => b.cosine - a.cosine, order: (a, b) => a.order - b.order };
    fill(body, [...rows].sort(by[state.sort]).map(({ element }) => element));
    const links = /** @type {HTMLElement[]} */ ([...body.querySelectorAll("a")]);
    links.forEach((one, place) => { one.tabIndex = place ? -1 : 0; });
  };
  arrange();
  roving(body, "a");
  const id = `order-${each.set.name}`;
  return h("section", {}, h("h2", { class: "section" }, each.set.title), h("p", { class: "note" }, `${whole(rows.length)} that both have under one name; a name leads to the two side by side.`),
    h("div", { class: "bar" }, h("div", { class: "field" }, h("label", { for: id }, "Sort by"), h("select", { id, change: (/** @type {any} */ event) => {
      state.sort = event.target.value;
      remember(link("beside", "", { [each.set.name]: state.sort }));
      arrange();
    } }, Object.entries(ORDERS).map(([value, words]) => h("option", { value, selected: value === state.sort }, words))))),
    h("div", { class: "table tall", tabindex: 0, role: "region", "aria-label": `Features of one name: ${each.set.title}` }, h("table", {},
      h("thead", {}, h("tr", {}, ["feature", "cosine of kernels", "‖Q − Q′‖ / ‖Q‖", "size on text", "size beside it"].map((name) => h("th", { scope: "col" }, name)))), body)));
}
