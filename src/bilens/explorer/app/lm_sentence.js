// A stored sentence: a feature at each of its tokens, and at the chosen one as an exact sum of terms.

import { bars } from "./chart.js";
import { fill, h, roving } from "./dom.js";
import { figure } from "./figure.js";
import { number, plural, short, signed } from "./format.js";
import { placeOf } from "./lm_alike.js";
import { firstSet, found, nameOf, valuesOf } from "./lm_data.js";
import { ONE_BY_ONE } from "./lm_layout.js";
import { computed, typedValues } from "./lm_model.js";
import { limited } from "./lm_overview.js";
import { featureTitle, level, visible } from "./lm_tokens.js";
import { link, remember } from "./route.js";

const TYPED = "typed";
const EXAMPLE = "The king is dead, my lord.";
const CHARACTERS = 400;

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
 * A sentence: the texts of its tokens, and what a feature is at each.
 * @typedef {{texts: string[], cut: boolean, of: (one: import("./lm_data.js").Found) => Values}} Sentence
 * @typedef {{true: ArrayLike<number>, whole: ArrayLike<number>, terms: ArrayLike<number>[]}} Values
 */

/**
 * One of the stored stretches of text.
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Text} text
 * @param {number} number
 * @returns {Sentence}
 */
function stored(reading, text, number) {
  const tokens = text.stretches[number], start = text.stretches.slice(0, number).reduce((sum, each) => sum + each.length, 0);
  return { texts: tokens.map((token) => reading.tokens[token]), cut: false, of: (one) => {
    const all = /** @type {NonNullable<ReturnType<typeof valuesOf>>} */ (valuesOf(one)), part = (/** @type {Float32Array} */ row) => row.subarray(start, start + tokens.length);
    return { true: part(all.true), whole: part(all.whole), terms: all.terms.map(part) };
  } };
}

/**
 * A sentence that was typed, through the model; null for one without a token.
 * @param {import("./lm_data.js").Reading} reading
 * @param {string} text
 * @returns {Sentence|null}
 */
function typedSentence(reading, text) {
  const model = reading.typed;
  if (!model || !text) return null;
  const run = computed(model, text);
  return run.tokens.length ? { texts: run.tokens.map((token) => model.texts[token]), cut: run.cut,
    of: (one) => typedValues(model, run, placeOf(reading, one), one.feature.values) } : null;
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./route.js").Route} route
 */
export function sentencePage(reading, route) {
  const set = firstSet(reading), text = reading.text && reading.text.stretches.length ? reading.text : null, model = reading.typed;
  const asked = found(reading, route.more.f || "");
  const first = (asked && !asked.of ? asked : null) || (set && set.features.length ? { set, place: 0, feature: set.features[0] } : null);
  if (!first || !(text && valuesOf(first)) && !model) {
    return h("div", {}, h("h1", {}, "A sentence"), h("p", { class: "empty" }, "No text was read, and so there is no sentence to look at. bilens read MODEL --text FILE keeps some."));
  }
  const whole = (/** @type {string} */ value, /** @type {number} */ below) => (/^\d+$/.test(value) && Number(value) < below ? Number(value) : 0);
  const state = { one: first, number: whole(route.value, text ? text.stretches.length : 0), typed: route.value === TYPED || !text ? route.more.t || EXAMPLE : "", at: -1 };
  /** @type {Sentence} */
  let now = (state.typed && typedSentence(reading, state.typed)) || (text ? stored(reading, text, state.number) : /** @type {Sentence} */ (typedSentence(reading, EXAMPLE)));
  let values = now.of(state.one);
  const strongest = () => {
    const sizes = Array.from(values.true, Math.abs);
    return sizes.indexOf(Math.max(...sizes));
  };
  state.at = route.more.at ? whole(route.more.at, now.texts.length) : strongest();
  const line = h("div", { class: "sentence", role: "group", "aria-label": "Tokens of the sentence" }), told = h("p", { class: "verdict", role: "status" });
  const drawing = figure({
    title: "The value as a sum", name: "sentence-sum", alt: "Bars of the terms that add up to the value of the feature",
    note: `Each pair adds λ (v·x)². “All other pairs” is the rest of the quadratic form${reading.method === "exact" ? "" : ", and the last term is what the surrogate misses of the original layer"}. Nothing else is in it.`,
    table: () => ({ columns: ["term", "adds"], rows: [...terms().map((term) => /** @type {[string, number]} */ ([term.label, term.value])), ["the value", values.true[state.at]]] }),
    draw: (width) => bars({ width, row: 22, rows: [...terms(), { label: "the value", value: values.true[state.at], strong: true }] }),
  });
  const terms = () => {
    const t = state.at, shown = values.terms.slice(0, ONE_BY_ONE), sum = shown.reduce((total, term) => total + term[t], 0);
    const found = shown.map((term, pair) => ({ label: `pair ${pair + 1}${madeOf(reading, state.one.feature.parts[pair])}`, value: term[t] }));
    found.push({ label: "all other pairs", value: values.whole[t] - sum });
    if (reading.method !== "exact") found.push({ label: "surrogate misses", value: values.true[t] - values.whole[t] });
    return found;
  };
  const show = (/** @type {boolean} */ anew) => {
    remember(link("sentence", state.typed ? TYPED : state.number, { f: nameOf(state.one), at: state.at, t: state.typed }));
    if (anew) {
      const most = Math.max(1e-12, ...Array.from(values.true, Math.abs));
      fill(line, now.texts.map((shown, t) => {
        const value = values.true[t];
        return h("button", { type: "button", class: `word ${value < 0 ? "minus" : "plus"} ${level(value, most)}`, "aria-pressed": String(t === state.at),
          title: number(value), click: () => {
            state.at = t;
            show(false);
          } }, h("bdi", {}, short(visible(shown), 40)));
      }));
      roving(line, "button");
    }
    line.querySelectorAll("button").forEach((button, t) => button.setAttribute("aria-pressed", String(t === state.at)));
    fill(told, `At `, h("bdi", { class: "tok name" }, short(visible(now.texts[state.at]), 40)), `, ${featureTitle(state.one)} is `, h("strong", {}, signed(values.true[state.at])),
      `: ${plural(terms().length, "term")} that add up to it.`, now.cut && model ? ` Of what was typed the first ${model.longest} tokens were computed.` : null);
    drawing.redraw();
  };
  const take = (/** @type {Sentence} */ sentence) => {
    now = sentence;
    values = now.of(state.one);
    state.at = strongest();
    show(true);
  };
  show(true);
  return h("div", { class: "lm sentences" }, h("h1", {}, "A sentence"),
    h("p", { class: "lead" }, `${text ? "Held-out text, as the layer sees it. " : ""}Choose a token: the value of the feature there is an exact sum.`),
    h("div", { class: "bar" },
      text ? h("div", { class: "field" }, h("label", { for: "which" }, "Sentence"), h("select", { id: "which", change: (/** @type {any} */ event) => {
        state.number = Number(event.target.value);
        state.typed = "";
        take(stored(reading, text, state.number));
      } }, text.stretches.map((tokens, place) => h("option", { value: place, selected: place === state.number },
        `${place + 1}: ${short(tokens.slice(0, 12).map((token) => visible(reading.tokens[token]).replace(/␣/g, " ")).join("").trim(), 52)}`)))) : null,
      featureField(reading, "which-feature", "Feature", state.one, (name) => {
        state.one = found(reading, name) || state.one;
        values = now.of(state.one);
        show(true);
      }),
      typing(reading, state.typed, (typed) => {
        const sentence = typedSentence(reading, typed);
        if (!sentence) return;
        state.typed = typed;
        take(sentence);
      })),
    model ? h("p", { class: "hint" }, `This page carries the model up to the layer, and runs it on what is typed: values are the model’s, up to rounding. Texts of it begin as in training.`)
      : h("p", { class: "hint" }, `Stored sentences alone: what a typed one is depends on all layers up to ${reading.layer}, attention included, and this page${limited(reading)}${reading.limit === null ? "" : ","} does not carry them.`),
    line, told, drawing.element);
}

/**
 * A field to type a sentence in, where the page can compute with it.
 * @param {import("./lm_data.js").Reading} reading
 * @param {string} typed
 * @param {(text: string) => void} take
 */
function typing(reading, typed, take) {
  if (!reading.typed) return null;
  const field = /** @type {HTMLInputElement} */ (h("input", { type: "text", id: "typed", value: typed, maxlength: CHARACTERS, autocomplete: "off", spellcheck: "false",
    keydown: (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Enter" && !event.isComposing) go();
    } }));
  const go = () => take(field.value.replace(/\p{Cs}/gu, "\ufffd"));
  return h("div", { class: "field" }, h("label", { for: "typed" }, "Or type one"), h("span", { class: "typing" }, field, h("button", { type: "button", click: go }, "Show")));
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
