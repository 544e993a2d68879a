// One feature: its spectrum beside a random direction's, what its eigenvectors are made of, where it is large and fails.

import { fill, h, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, plural, short, signed, subscript, whole } from "./format.js";
import { control, found, nameOf, predicted, randomShares, valuesOf } from "./lm_data.js";
import { contexts } from "./lm_examples.js";
import { interactionsOf } from "./lm_interactions.js";
import { labels } from "./lm_overview.js";
import { chips, featureTitle, inputChip, level, visible } from "./lm_tokens.js";
import { link } from "./route.js";

/** @typedef {import("./lm_data.js").Found} Found */

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./route.js").Route} route
 */
export function lmFeature(reading, route) {
  const one = found(reading, route.value);
  if (!one || one.of) {
    return h("div", {}, h("h1", {}, "No such feature"), h("p", { class: "lead" }, "This page has no feature of that name. ",
      h("a", { href: link("overview") }, "See all features"), "."));
  }
  const { set, feature, place } = one;
  const step = (/** @type {number} */ by, /** @type {string} */ words) => {
    const other = set.features[place + by];
    return other ? h("a", { href: link("feature", nameOf({ set, place: place + by, feature: other })), rel: by < 0 ? "prev" : "next" }, words) : null;
  };
  return h("article", { class: "feature lm" },
    h("p", { class: "crumbs" }, h("a", { href: link("overview", set.name) }, set.title)),
    h("header", { class: "feature-head" },
      h("div", {}, h("h1", {}, `${set.feature} `, h("bdi", { class: "tok name" }, short(visible(feature.label), 80))), h("p", { class: "lead" }, summary(reading, one))),
      h("nav", { class: "steps", "aria-label": "Other features" }, step(-1, "← previous"), step(1, "next →"),
        h("a", { href: link("compare", nameOf(one)) }, "compare"),
        reading.text ? h("a", { href: link("sentence", 0, { f: nameOf(one) }) }, "on a sentence") : null)),
    labels(reading),
    feature.exact ? null : h("p", { class: "warning" }, "Not all eigenpairs met the tolerance; their residuals are in the tables."),
    h("div", { class: "two" }, spectrum(reading, one), fit(reading, one) || reads(reading, one)),
    parts(reading, one),
    contexts(reading, one),
    h("div", { class: "two" }, fit(reading, one) ? reads(reading, one) : null, writes(reading, one)),
    interactionsOf(reading, one));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
function summary(reading, one) {
  const { feature } = one, null_ = control(reading.shares);
  const beside = null_ ? ` (a random direction: ${percent(null_.median[Math.min(feature.values.length, null_.median.length) - 1], 0)})` : "";
  const first = `Its first ${plural(feature.values.length, "pair")} hold ${percent(feature.held, 0)} of ‖Q‖²${beside}.`;
  const at = reading.at.indexOf(2), lows = control(reading.correlations);
  if (!feature.correlations || at < 0 || feature.full === null) return first;
  return `${first} Two of them predict the layer with r = ${number(feature.correlations[at])}${lows ? ` (random: ${number(lows.median[at])})` : ""}, all with r = ${number(feature.full)}.`;
}

/**
 * How high a chart of the shares of a feature's pairs is, random directions' among them.
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
export function highest(reading, one) {
  return Math.max(1e-9, ...one.feature.shares, ...randomShares(reading).medians) * 1.08;
}

/**
 * Shares of the pairs as bars, with the random directions' medians as marks.
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 * @param {number} top
 */
export function spectrum(reading, one, top = highest(reading, one)) {
  const { feature } = one, { medians: random, count } = randomShares(reading);
  return figure({
    title: reading.order === "data" ? "Pairs, in the order of the data" : "Pairs, in the order of |λ|", of: featureTitle(one), name: `${one.set.name}-${feature.number}-spectrum`,
    note: "Each pair’s share of ‖Q‖²: blue raises the feature, red lowers it." + (count ? ` The marks are the medians of ${plural(count, "random direction")}.` : ""),
    alt: `Bars of the shares of ${plural(feature.values.length, "pair")} of ${featureTitle(one)}${count ? ", beside random directions" : ""}`,
    table: () => ({ columns: ["pair", "λ", "share of ‖Q‖²", "random directions, median"],
      rows: feature.values.map((value, pair) => [pair + 1, value, feature.shares[pair], random[pair] ?? null]) }),
    draw: (width) => {
      const left = 44, top_ = 16, height = 250, bottom = 40, reach = width - left - 6, each = reach / feature.values.length;
      const y = (/** @type {number} */ share) => top_ + (1 - share / top) * (height - top_ - bottom);
      const group = s("g", {});
      for (const tick of [0, top / 2.16, top / 1.08]) {
        group.append(s("line", { x1: left, x2: width - 6, y1: y(tick), y2: y(tick), class: tick ? "grid" : "axis" }),
          s("text", { x: left - 7, y: y(tick), dy: "0.32em", class: "tick", "text-anchor": "end" }, percent(tick, tick && top < 0.1 ? 1 : 0)));
      }
      feature.values.forEach((value, pair) => {
        const x = left + pair * each;
        group.append(s("rect", { x: x + each * 0.16, width: each * 0.68, y: y(feature.shares[pair]), height: Math.max(0.5, y(0) - y(feature.shares[pair])),
          class: value < 0 ? "negative" : "positive" }, s("title", {}, `pair ${pair + 1}: λ = ${signed(value)}, ${percent(feature.shares[pair])}`)));
        if (random[pair] !== undefined) group.append(s("rect", { x: x + each * 0.04, width: each * 0.92, y: y(random[pair]) - 1, height: 2, class: "total" }));
        if (feature.values.length <= 20 && (each > 17 || pair % 2 === 0)) group.append(s("text", { x: x + each / 2, y: height - 23, class: "tick", "text-anchor": "middle" }, pair + 1));
      });
      group.append(s("text", { x: width - 6, y: height - 5, class: "label", "text-anchor": "end" }, "pair"),
        s("text", { x: 0, y: 10, class: "label" }, "share of ‖Q‖²"));
      return { height, parts: [group] };
    },
  }).element;
}

/**
 * Predicted against true at the number of pairs that the reader chooses.
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
function fit(reading, one) {
  const values = valuesOf(one), { feature } = one;
  if (!values || !feature.correlations) return null;
  const lows = control(reading.correlations), at = reading.at;
  const state = { k: at.includes(2) ? 2 : at[0] };
  const tokens = (reading.text ? reading.text.stretches : []).flat();
  const words = h("p", { class: "readout", role: "status" });
  const tell = () => {
    const place = at.indexOf(state.k), r = /** @type {number[]} */ (feature.correlations)[place];
    fill(words, `${plural(state.k, "pair")}: r = ${number(r)}`, lows ? ` (random directions ${number(lows.median[place])})` : "",
      `, all pairs ${feature.full === null ? "–" : number(feature.full)}, over ${whole(reading.text ? reading.text.held_out : 0)} held-out tokens.`);
  };
  tell();
  const drawing = figure({
    title: "Predicted against true", of: featureTitle(one), name: `${one.set.name}-${feature.number}-fit`, most: 460,
    note: `At the ${whole(values.true.length)} tokens of the stored sentences. On the dashed line both are equal.`,
    alt: `Scatter plot of predicted against true values of ${featureTitle(one)}`,
    control: h("div", { class: "stack" }, h("fieldset", { class: "choice compact" }, h("legend", {}, "pairs"), at.map((k) => h("label", {},
      h("input", { type: "radio", name: "pairs", value: k, checked: k === state.k, change: () => {
        state.k = k;
        tell();
        drawing.redraw();
      } }), String(k)))), words),
    table: () => {
      const said = predicted(one, state.k, at) || [];
      return { columns: ["token", "true", `predicted by ${plural(state.k, "pair")}`], rows: tokens.map((token, t) => [visible(reading.tokens[token]), values.true[t], said[t]]) };
    },
    draw: (width) => {
      const said = predicted(one, state.k, at) || new Float64Array(0), left = 54, size = Math.min(width - left - 6, 330), top = 26;
      const all = [...values.true, ...said], low = Math.min(...all), high = Math.max(...all), span = high - low || 1;
      const x = (/** @type {number} */ value) => left + (value - low) / span * (width - left - 8);
      const y = (/** @type {number} */ value) => top + size * 0.78 - (value - low) / span * size * 0.78;
      const group = s("g", {}, s("line", { x1: x(low), y1: y(low), x2: x(high), y2: y(high), class: "mark" }),
        s("line", { x1: left, x2: width - 8, y1: y(low), y2: y(low), class: "axis" }), s("line", { x1: left, x2: left, y1: y(low), y2: y(high), class: "axis" }));
      for (const end of [low, high]) {
        group.append(s("text", { x: x(end), y: y(low) + 16, class: "tick", "text-anchor": end === low ? "start" : "end" }, number(end)),
          s("text", { x: left - 6, y: y(end), dy: "0.32em", class: "tick", "text-anchor": "end" }, number(end)));
      }
      values.true.forEach((value, t) => group.append(s("circle", { cx: x(value), cy: y(said[t]), r: 2.6, class: "point" },
        s("title", {}, `${visible(reading.tokens[tokens[t]])}: true ${number(value)}, predicted ${number(said[t])}`))));
      group.append(s("text", { x: width - 8, y: y(low) + 32, class: "label", "text-anchor": "end" }, "true, of the original layer"),
        s("text", { x: 0, y: 11, class: "label" }, "predicted"));
      return { height: y(low) + 38, parts: [group] };
    },
  });
  return drawing.element;
}

/**
 * What the eigenvectors are made of.
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
function parts(reading, one) {
  const { feature } = one;
  const what = reading.readings
    ? `What v·x is at a token, on average over ${whole(reading.readings)} tokens of text, less its overall mean.`
    : "What v·x is at a token’s embedding, normalised, less the mean over all tokens.";
  return h("section", {}, h("h2", { class: "section" }, "What its eigenvectors are made of"),
    h("p", { class: "note" }, `${what} An eigenvector has two sides and no sign: the feature moves the same way on both. “The mean” is what the constant and the average input hold of it.`),
    h("ol", { class: "parts" }, feature.parts.map((part, pair) => {
      const value = feature.values[pair];
      return h("li", { class: "part" },
        h("h3", {}, h("span", { class: value < 0 ? "lowers" : "raises" }, `λ${subscript(pair + 1)} ${value < 0 ? "lowers" : "raises"}`), ` ${signed(value)}`),
        h("p", { class: "hint" }, `${percent(feature.shares[pair], 1)} of ‖Q‖² · the mean ${percent(part.constant, 0)}`),
        side(reading, part.one, "one", "one side"), side(reading, part.other, "other", "other side"),
        part.inputs_one && part.inputs_other ? [names(reading, part.inputs_one, "one", "inputs, one side"), names(reading, part.inputs_other, "other", "other side")] : null);
    })));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Tokens} tokens
 * @param {string} kind
 * @param {string} words
 */
function side(reading, tokens, kind, words) {
  return h("p", { class: "side-of" }, h("span", { class: "hint" }, words), chips(reading, tokens, { kind }));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Named} named
 * @param {string} kind
 * @param {string} words
 */
function names(reading, named, kind, words) {
  const most = Math.max(1e-12, ...named.values.map(Math.abs));
  return h("p", { class: "side-of" }, h("span", { class: "hint" }, words), h("span", { class: "chips" },
    named.inputs.slice(0, 5).map((input, place) => inputChip(reading, input, `${kind} ${level(named.values[place], most)}`, number(named.values[place])))));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
function reads(reading, one) {
  return h("section", { class: "sides" }, h("h2", {}, "What it reads"), h("p", { class: "note" }, reading.readings
    ? `Tokens at which the layer makes the feature largest and smallest, on average over ${whole(reading.readings)} tokens of text.`
    : "Tokens at whose embeddings the feature is largest and smallest: weights only."),
  twoSides(reading, one.feature.reads, "largest at", "smallest at"));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {Found} one
 */
function writes(reading, one) {
  return h("section", { class: "sides" }, h("h2", {}, "What it writes"),
    h("p", { class: "note" }, "What one unit of it adds to the logit of each token by the unembedding, before the last norm’s scale: weights only, the direct path alone."),
    twoSides(reading, one.feature.writes, "raises", "lowers"));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Tokens[]} sides
 * @param {string} first
 * @param {string} second
 */
export function twoSides(reading, sides, first, second) {
  const most = Math.max(1e-12, ...sides.flatMap((each) => each.values.map(Math.abs)));
  return [["plus", first], ["minus", second]].map(([kind, words], place) => h("p", { class: "side-of" }, h("span", { class: "hint" }, words),
    chips(reading, sides[place], { kind, most })));
}

