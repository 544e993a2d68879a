// A stored sentence: a feature at each of its tokens, and at the chosen one as an exact sum of terms.

import { bars } from "./chart.js";
import { fill, h, roving } from "./dom.js";
import { figure } from "./figure.js";
import { number, plural, short, signed } from "./format.js";
import { firstSet, found, nameOf, valuesOf } from "./lm_data.js";
import { featureTitle } from "./lm_feature.js";
import { level, visible } from "./lm_tokens.js";
import { link, remember } from "./route.js";

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {string} id
 * @param {string} label
 * @param {import("./lm_data.js").Found} one
 * @param {(name: string) => void} choose
 * @param {boolean} both whether those of the layer beside it, too
 */
export function featureField(reading, id, label, one, choose, both = false) {
  const pages = both && reading.beside ? [reading, reading.beside.reading] : [reading];
  return h("div", { class: "field" }, h("label", { for: id }, label), h("select", { id, change: (/** @type {any} */ event) => choose(event.target.value) },
    pages.flatMap((page) => page.sets.filter((set) => set.features.length).map((set) => h("optgroup", { label: page === reading ? set.title : `${set.title}, beside: ${short(visible(page.title), 40)}` },
      set.features.map((feature, place) => {
        const name = nameOf({ set, place, feature, ...(page === reading ? {} : { of: page }) });
        return h("option", { value: name, selected: name === nameOf(one) }, short(visible(feature.label), 40));
      }))))));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./route.js").Route} route
 */
export function sentencePage(reading, route) {
  const set = firstSet(reading), text = reading.text;
  const asked = found(reading, route.more.f || "");
  const first = (asked && !asked.of ? asked : null) || (set && set.features.length ? { set, place: 0, feature: set.features[0] } : null);
  if (!text || !text.stretches.length || !first || !valuesOf(first)) {
    return h("div", {}, h("h1", {}, "A sentence"), h("p", { class: "empty" }, "No text was read, and so there is no sentence to look at. bilens read MODEL --text FILE keeps some."));
  }
  const whole = (/** @type {string} */ value, /** @type {number} */ below) => (/^\d+$/.test(value) && Number(value) < below ? Number(value) : 0);
  const state = { one: first, sentence: whole(route.value, text.stretches.length), at: -1 };
  const values = () => /** @type {NonNullable<ReturnType<typeof valuesOf>>} */ (valuesOf(state.one));
  const span = () => text.stretches.slice(0, state.sentence).reduce((sum, each) => sum + each.length, 0);
  const strongest = () => {
    const tokens = text.stretches[state.sentence], sizes = tokens.map((_, t) => Math.abs(values().true[span() + t]));
    return sizes.indexOf(Math.max(...sizes));
  };
  state.at = route.more.at ? whole(route.more.at, text.stretches[state.sentence].length) : strongest();
  const line = h("div", { class: "sentence", role: "group", "aria-label": "Tokens of the sentence" }), told = h("p", { class: "verdict", role: "status" });
  const drawing = figure({
    title: "The value as a sum", name: "sentence-sum", alt: "Bars of the terms that add up to the value of the feature",
    note: "Each pair adds λ (v·x)². “All other pairs” is the rest of the quadratic form, and the last term is what the surrogate misses of the original layer. Nothing else is in it.",
    table: () => ({ columns: ["term", "adds"], rows: [...terms().map((term) => /** @type {[string, number]} */ ([term.label, term.value])), ["the value", values().true[span() + state.at]]] }),
    draw: (width) => bars({ width, row: 22, rows: [...terms(), { label: "the value", value: values().true[span() + state.at], strong: true }] }),
  });
  const terms = () => {
    const all = values(), t = span() + state.at, shown = all.terms.slice(0, 8);
    const sum = shown.reduce((total, term) => total + term[t], 0);
    const missed = all.true[t] - all.whole[t];
    const found = shown.map((term, pair) => ({ label: `pair ${pair + 1}${madeOf(reading, state.one.feature.parts[pair])}`, value: term[t] }));
    found.push({ label: "all other pairs", value: all.whole[t] - sum });
    if (reading.method !== "exact") found.push({ label: "surrogate misses", value: missed });
    return found;
  };
  const show = (/** @type {boolean} */ anew) => {
    const tokens = text.stretches[state.sentence], start = span(), all = values();
    remember(link("sentence", state.sentence, { f: nameOf(state.one), at: state.at }));
    if (anew) {
      const most = Math.max(1e-12, ...tokens.map((_, t) => Math.abs(all.true[start + t])));
      fill(line, tokens.map((token, t) => {
        const value = all.true[start + t], shown = reading.tokens[token];
        return h("button", { type: "button", class: `word ${value < 0 ? "minus" : "plus"} ${level(value, most)}`, "aria-pressed": String(t === state.at),
          title: number(value), click: () => {
            state.at = t;
            show(false);
          } }, h("bdi", {}, short(visible(shown), 40)));
      }));
      roving(line, "button");
    }
    line.querySelectorAll("button").forEach((button, t) => button.setAttribute("aria-pressed", String(t === state.at)));
    fill(told, `At `, h("bdi", { class: "tok name" }, short(visible(reading.tokens[tokens[state.at]]), 40)), `, ${featureTitle(state.one)} is `, h("strong", {}, signed(all.true[start + state.at])),
      `: ${plural(terms().length, "term")} that add up to it.`);
    drawing.redraw();
  };
  show(true);
  return h("div", { class: "lm sentences" }, h("h1", {}, "A sentence"),
    h("p", { class: "lead" }, "Held-out text, as the layer sees it. Choose a token: the value of the feature there is an exact sum."),
    h("div", { class: "bar" },
      h("div", { class: "field" }, h("label", { for: "which" }, "Sentence"), h("select", { id: "which", change: (/** @type {any} */ event) => {
        state.sentence = Number(event.target.value);
        state.at = strongest();
        show(true);
      } }, text.stretches.map((tokens, place) => h("option", { value: place, selected: place === state.sentence },
        `${place + 1}: ${short(tokens.slice(0, 12).map((token) => visible(reading.tokens[token]).replace(/␣/g, " ")).join("").trim(), 52)}`)))),
      featureField(reading, "which-feature", "Feature", state.one, (name) => {
        state.one = found(reading, name) || state.one;
        show(true);
      })),
    line, told, drawing.element);
}

/**
 * What an eigenvector is made of in a few tokens: the first of either side.
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Part|undefined} part
 */
function madeOf(reading, part) {
  if (!part) return "";
  const first = (/** @type {import("./lm_layout.js").Tokens} */ side, /** @type {number} */ count) =>
    side.tokens.slice(0, count).map((token) => short(visible(reading.tokens[token]), 9)).join(" ");
  return part.constant > 0.5 ? " · the mean" : ` · ${first(part.one, 2)} | ${first(part.other, 2)}`;
}
