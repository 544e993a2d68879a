// The overview of a layer: what stands for it and what that costs, its spectra, and every feature to be searched.

import { lines } from "./chart.js";
import { fill, h, roving, s } from "./dom.js";
import { figure } from "./figure.js";
import { cell, number, percent, plural, signed, whole } from "./format.js";
import { control, firstSet, nameOf } from "./lm_data.js";
import { chip, visible } from "./lm_tokens.js";
import { link, remember } from "./route.js";

const SHOWN_TOKENS = 4;
const METHODS = {
  exact: "exact: this layer is bilinear, nothing stands in for it",
  least_squares: "its quadratic surrogate, fitted to text by least squares",
  gaussian: "its quadratic surrogate, the best for Gaussian inputs",
  weights_only: "its quadratic surrogate, from the weights alone",
};

const SORTS = { order: "order in the set", held: "held by its pairs", two: "predicted by two pairs", size: "size on text", label: "name" };
const WHERE = { any: "name, reads or writes", label: "name", reads: "what it reads", writes: "what it writes" };
/** @type {Record<string, string>} */
const LOOKED = { any: "its name, or in the tokens that it reads or writes", label: "its name", reads: "the tokens that it reads", writes: "the tokens that it writes" };

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./route.js").Route} route
 */
export function lmOverview(reading, route) {
  const set = reading.sets.find((each) => each.name === route.value) || firstSet(reading);
  return h("div", { class: "overview lm" },
    h("header", { class: "opening" }, h("h1", {}, visibleTitle(reading)), h("p", { class: "lead" }, lead(reading)), labels(reading)),
    h("dl", { class: "facts" }, reading.facts.map((fact) => h("div", {}, h("dt", {}, fact.name), h("dd", {}, cell(fact.value))))),
    others(reading), costs(reading),
    h("div", { class: "two" }, shares(reading), reading.correlations.length ? correlations(reading) : null),
    set ? features(reading, set, route) : null,
    reading.notes.length ? h("section", { class: "section lm-notes" }, h("h2", {}, "To keep in mind"),
      h("ul", {}, reading.notes.map((note) => h("li", {}, note)))) : null);
}

/** @param {import("./lm_data.js").Reading} reading */
export function visibleTitle(reading) {
  return visible(reading.title).replace(/␣/g, " ");
}

/** @param {import("./lm_data.js").Reading} reading */
function lead(reading) {
  const what = reading.method === "exact"
    ? "This layer has no nonlinearity but a product, so that each feature of its output is a quadratic form of its input, exactly."
    : "Each feature of the output is read as a quadratic form of the layer’s input. The gate is not linear, so that a quadratic surrogate stands for it; how much that loses is measured below.";
  return `${what} A quadratic form is a sum of λ (v·x)²: eigenvectors v that raise the feature or lower it.`;
}

/**
 * What is weights only, what saw text, and how much.
 * @param {import("./lm_data.js").Reading} reading
 */
export function labels(reading) {
  const text = reading.text;
  /** @type {[string, string][]} */
  const found = reading.method === "exact"
    ? [["exact", reading.apart === null ? "from the weights, exact" : `from the weights, exact (to ${number(reading.apart)})`]]
    : [["kind", text ? `surrogate: saw ${whole(text.fit)} tokens` : "surrogate: weights only"]];
  found.push(text && reading.order === "data" ? ["kind", `order of pairs: saw ${whole(text.fit)} tokens`] : ["kind", "order of pairs: |λ|, weights only"]);
  found.push(text ? ["kind", `contexts and correlations: ${whole(text.held_out)} held-out tokens`] : ["kind", "no text was read: no contexts"]);
  return h("ul", { class: "labels", "aria-label": "What this page rests on" }, found.map(([kind, words]) => h("li", { class: kind }, words)));
}

/**
 * Why the page has less than it could, in a few words; none where its size is not why.
 * @param {import("./lm_data.js").Reading} reading
 */
export function limited(reading) {
  return reading.limit === null ? "" : `, which is kept below ${whole(Math.round(reading.limit / 1e6))} MB`;
}

/** @param {import("./lm_data.js").Reading} reading */
function others(reading) {
  if (!reading.others.length) return null;
  return h("nav", { class: "others", "aria-label": "Other layers" }, h("a", { href: "index.html" }, "all layers"),
    reading.others.map((layer) => h("a", { href: `layer-${String(layer).padStart(3, "0")}.html`, "aria-label": `layer ${layer}` }, String(layer))));
}

/** @param {import("./lm_data.js").Reading} reading */
function costs(reading) {
  if (reading.method === "exact") {
    return h("p", { class: "note lm-exact" }, "Nothing stands in the layer’s place: what this page computes is the layer itself, up to rounding.");
  }
  if (!reading.costs.length) {
    return h("p", { class: "empty" }, "What the surrogate loses was not measured: that needs text. Weights alone do not know where the input is, and are often far off.");
  }
  const most = Math.max(...reading.costs.map((cost) => cost.fvu), 1);
  const text = reading.text;
  return h("section", { class: "lm-costs" }, h("h2", { class: "section" }, "What stands in the layer’s place"),
    h("p", { class: "note" }, `${METHODS[reading.method].slice(0, 1).toUpperCase()}${METHODS[reading.method].slice(1)}. ` +
      `Measured on ${text ? whole(text.measured) : ""} tokens that nothing was fitted to; ± is one standard error over texts. The mean and the random layer know nothing of the weights.`),
    h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "What stands in the layer’s place" }, h("table", { class: "scores" },
      h("thead", {}, h("tr", {}, ["in its place", "share of variance lost (FVU)", "", "cross-entropy more, nats per token"].map((name) => h("th", { scope: "col", class: name ? null : "bar-cell" }, name)))),
      h("tbody", {}, reading.costs.map((cost) => h("tr", { class: cost.kind === "null" ? "beside" : null },
        h("th", { scope: "row" }, cost.kind === "null" ? h("span", { class: "kind" }, "null") : null, cost.name),
        h("td", {}, number(cost.fvu)), h("td", { class: "bar-cell" }, meter(cost.fvu / most)),
        h("td", {}, `${signed(cost.delta_ce)} ± ${number(cost.error)}`)))))));
}

/**
 * @param {number} share
 * @param {number|null} mark
 */
export function meter(share, mark = null) {
  return s("svg", { class: "meter wide", viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { width: 100, height: 6, class: "meter-back" }),
    s("rect", { width: Math.max(0, Math.min(100, 100 * share)), height: 6, class: "meter-bar" }),
    mark === null ? null : s("rect", { x: Math.max(0, Math.min(99, 100 * mark)), width: 1.2, height: 6, class: "meter-mark" }));
}

/**
 * Medians of sets against the number of pairs, with quartiles.
 * @param {import("./lm_layout.js").Spread[]} spreads
 * @param {{title: string, note: string, name: string, label: string, full?: boolean}} parts
 */
function medians(spreads, parts) {
  return figure({
    title: parts.title, note: parts.note, name: parts.name, alt: `${parts.title}: medians of ${spreads.map((each) => each.name).join(", ")}`,
    table: () => ({ columns: ["pairs", ...spreads.flatMap((each) => [`${each.name}, median`, "lower quartile", "upper quartile"])],
      rows: spreads[0].at.map((k, place) => [k, ...spreads.flatMap((each) => [each.median[place], each.low[place], each.high[place]])]) }),
    draw: (width) => lines({ width, height: 280, series: spreads.map((each, place) => ({
      name: each.name, color: each.control ? 0 : place + 1, dashed: each.control,
      points: each.at.map((k, at) => ({ x: k, y: each.median[at], half: (each.high[at] - each.low[at]) / 2 })) })),
    x: { label: "pairs kept", log: true, ticks: spreads[0].at.length > 8 ? [1, 2, 4, 8, 16, 32, 64].filter((k) => k <= Math.max(...spreads[0].at)) : spreads[0].at, format: whole },
    y: { label: parts.label, low: 0, high: 1 } }),
  }).element;
}

/** @param {import("./lm_data.js").Reading} reading */
function shares(reading) {
  return medians(reading.shares, { title: "What the first pairs hold", name: "held", label: "share of ‖Q‖²",
    note: "Share of a kernel’s squared eigenvalues in its first pairs: the median over features, with half the distance of the quartiles." });
}

/** @param {import("./lm_data.js").Reading} reading */
function correlations(reading) {
  const full = reading.correlations.map((each) => `${each.name} ${each.full === null ? "–" : number(each.full)}`).join(", ");
  return medians(reading.correlations, { title: "How well they predict the layer", name: "correlations", label: "correlation with the true value",
    note: `Correlation of the first pairs with what the original layer gives, on held-out text. With all pairs, medians: ${full}.` });
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").FeatureSet} first
 * @param {import("./route.js").Route} route
 */
function features(reading, first, route) {
  const state = { find: route.more.find || "", sort: route.more.sort || "order", where: route.more.where || "any" };
  const holder = h("div", {});
  const show = (/** @type {import("./lm_data.js").FeatureSet} */ set, /** @type {boolean} */ focus) => {
    const at = reading.sets.indexOf(set);
    const keys = (/** @type {KeyboardEvent} */ event) => {
      /** @type {Record<string, number>} */
      const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: reading.sets.length - 1 };
      if (!Object.hasOwn(moves, event.key)) return;
      event.preventDefault();
      show(reading.sets[(moves[event.key] + reading.sets.length) % reading.sets.length], true);
    };
    fill(holder, h("div", { class: "tabs", role: "tablist", "aria-label": "Sets of features", keydown: keys },
      reading.sets.map((each, place) => h("button", { type: "button", role: "tab", id: `tab-${place}`, "aria-selected": String(each === set),
        "aria-controls": "features", tabindex: each === set ? 0 : -1, click: () => show(each, true) }, each.title, h("span", { class: "count" }, String(each.features.length))))),
    panel(reading, set, state, `tab-${at}`));
    if (focus) /** @type {HTMLElement} */ (holder.querySelector("[aria-selected=true]")).focus();
  };
  show(first, false);
  return h("section", { class: "lm-features" }, h("h2", { class: "section" }, "Features"), holder);
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").FeatureSet} set
 * @param {{find: string, sort: string, where: string}} state
 * @param {string} tab
 */
function panel(reading, set, state, tab) {
  const two = reading.at.indexOf(2);
  const lows = control(reading.correlations);
  const mark = lows && two >= 0 ? lows.median[two] : null;
  const rows = set.features.map((feature, order) => {
    const text = {
      label: [feature.label, visible(feature.label)], reads: words(reading, feature.reads), writes: words(reading, feature.writes),
    };
    const r = feature.correlations && two >= 0 ? feature.correlations[two] : null;
    const reads = h("td", {}), writes = h("td", {});
    return { feature, order, text, r, reads, writes, element: h("tr", {},
      h("th", { scope: "row" }, h("a", { href: link("feature", nameOf({ set, place: order, feature })) },
        feature.token === null ? `${set.feature} ${visible(feature.label)}` : h("bdi", { class: "tok name" }, visible(feature.label)))),
      reads, writes,
      h("td", { class: "number" }, percent(feature.held, 0), meter(feature.held)),
      r === null ? null : h("td", { class: "number" }, number(r), meter(Math.max(0, r), mark))) };
  });
  const columns = ["feature", reading.readings ? "reads: largest at" : "reads: largest at (embeddings)", "writes: raises", `held by ${plural(set.features[0] ? set.features[0].values.length : 0, "pair")}`,
    ...(reading.correlations.length && two >= 0 ? ["predicted by two pairs, r"] : [])];
  const body = h("tbody", {}), table = h("table", { class: "listed" }, h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))), body);
  const status = h("p", { class: "status", role: "status" }), none = h("p", { class: "empty", hidden: true });
  const arrange = () => {
    remember(link("overview", set.name, { find: state.find, sort: state.sort === "order" ? "" : state.sort, where: state.where === "any" ? "" : state.where }));
    const wanted = state.find.toLowerCase();
    const shown = rows.filter(({ text }) => !wanted || Object.entries(text).some(([where, words]) => (state.where === "any" || where === state.where) && words.some((word) => word.toLowerCase().includes(wanted))));
    /** @type {Record<string, (a: typeof rows[0], b: typeof rows[0]) => number>} */
    const by = { order: (a, b) => a.order - b.order, held: (a, b) => b.feature.held - a.feature.held, two: (a, b) => (b.r || 0) - (a.r || 0),
      size: (a, b) => (b.feature.deviation || 0) - (a.feature.deviation || 0), label: (a, b) => a.feature.label.trim().localeCompare(b.feature.label.trim(), "en", { numeric: true }) };
    for (const { feature, reads, writes } of shown) {
      fill(reads, few(reading, feature.reads, state.where === "any" || state.where === "reads" ? wanted : ""));
      fill(writes, few(reading, feature.writes, state.where === "any" || state.where === "writes" ? wanted : ""));
    }
    table.classList.toggle("by-writes", state.where === "writes");
    fill(body, [...shown].sort(by[state.sort] || by.order).map(({ element }) => element));
    none.hidden = shown.length > 0;
    none.textContent = shown.length ? "" : `No feature here has that in ${LOOKED[state.where] || LOOKED.any}.`;
    const first = shown.length && state.where !== "label" ? " · tokens that were found stand first, with ↓ where the feature is smallest or lowers them" : "";
    status.textContent = shown.length === rows.length ? "" : `${plural(shown.length, "feature")} of ${rows.length}${first}`;
    const links = /** @type {HTMLElement[]} */ ([...body.querySelectorAll("a")]);
    links.forEach((each, place) => { each.tabIndex = place ? -1 : 0; });
  };
  arrange();
  roving(body, "a");
  const choose = (/** @type {"sort"|"where"} */ name, /** @type {Record<string, string>} */ options, /** @type {string} */ label) => h("div", { class: "field" },
    h("label", { for: name }, label), h("select", { id: name, change: (/** @type {any} */ event) => {
      state[name] = event.target.value;
      arrange();
    } }, Object.entries(options).map(([value, words]) => h("option", { value, selected: value === state[name] }, words))));
  return h("section", { id: "features", role: "tabpanel", "aria-labelledby": tab },
    h("div", { class: "intro" }, h("p", {}, set.about), set.total > set.features.length ? h("p", { class: "among" },
      `${whole(set.features.length)} of ${whole(set.total)} are on this page${limited(reading)}; the run’s tables have all of them.`) : null),
    h("div", { class: "bar" },
      h("div", { class: "field" }, h("label", { for: "find" }, "Find a token"), h("input", { type: "search", id: "find", value: state.find, autocomplete: "off",
        input: (/** @type {any} */ event) => {
          state.find = event.target.value;
          arrange();
        } })),
      choose("where", WHERE, "in"), choose("sort", SORTS, "Sort by"), status),
    mark === null ? null : h("p", { class: "hint" }, `The mark in the last column is the median of random directions, ${number(mark)}.`),
    h("div", { class: "table tall", tabindex: 0, role: "region", "aria-label": `Features: ${set.title}` },
      table), none);
}

/**
 * A few tokens of a feature: those that were looked for on either of its sides, then the first ones of the upper side.
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Tokens[]} sides
 * @param {string} wanted
 */
function few(reading, sides, wanted) {
  const [upper, lower] = sides.map((side) => side.tokens.map((token, place) => ({ token, value: side.values[place], sign: "" })));
  const has = (/** @type {{token: number}} */ { token }) => Boolean(wanted) && spelled(reading, token).some((text) => text.toLowerCase().includes(wanted));
  const there = [...upper.filter(has), ...lower.filter(has).map((each) => ({ ...each, sign: "↓ " }))];
  const shown = [...there, ...upper.filter((each) => !has(each))].slice(0, SHOWN_TOKENS);
  return h("span", { class: "chips" }, shown.flatMap(({ token, value, sign }) => [sign, chip(reading.tokens[token], "plain", number(value))]));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Tokens[]} sides
 */
function words(reading, sides) {
  return sides.flatMap((side) => side.tokens.flatMap((token) => spelled(reading, token)));
}

/**
 * A token as it is and as the page shows it: either may be looked for.
 * @param {import("./lm_data.js").Reading} reading
 * @param {number} token
 */
function spelled(reading, token) {
  return [reading.tokens[token], visible(reading.tokens[token])];
}
