// Tokens as a person can read them, whatever they hold: spaces and controls shown, directions kept to themselves.

import { h } from "./dom.js";
import { number, short } from "./format.js";

/** @type {Record<string, string>} */
const SIGNS = { " ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍" };
const HIDDEN = /[\p{C}\p{Z}]/u;
const MARK = /^\p{M}/u;
const LEVELS = 9;
const LONGEST = 28;

/**
 * A text with everything that cannot be seen shown: ␣ ⏎ ⇥, and ⟨U+202E⟩ for what has no sign of its own.
 * @param {string} text
 */
export function visible(text) {
  if (text === "") return "∅";
  const shown = [...text].map((character) => {
    if (SIGNS[character]) return SIGNS[character];
    return HIDDEN.test(character) ? `⟨U+${(character.codePointAt(0) || 0).toString(16).toUpperCase().padStart(4, "0")}⟩` : character;
  }).join("");
  return MARK.test(shown) ? `◌${shown}` : shown;
}

/**
 * The same in running text, where a token that begins with a space and goes on with a word needs no sign for it.
 * @param {string} text
 */
function running(text) {
  return /^ [^\p{C}\p{Z}\p{M}]/u.test(text) ? ` ${visible(text.slice(1))}` : visible(text);
}

/**
 * A token as a chip; a long one is cut, and whole in its title.
 * @param {string} text
 * @param {string} more class names
 * @param {string} told
 */
export function chip(text, more = "", told = "") {
  const shown = visible(text), cut = short(shown, LONGEST);
  return h("bdi", { class: `tok ${more}`.trim(), title: [cut === shown ? "" : shown, told].filter(Boolean).join("  ") || null }, cut);
}

/**
 * A list of tokens with a number each, as chips; deeper where the number is larger.
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_layout.js").Tokens} tokens
 * @param {{kind?: string, most?: number}} parts
 */
export function chips(reading, tokens, parts = {}) {
  const most = parts.most || Math.max(1e-12, ...tokens.values.map(Math.abs));
  return h("span", { class: "chips" }, tokens.tokens.map((token, place) => chip(reading.tokens[token],
    `${parts.kind || "plain"} ${level(tokens.values[place], most)}`, number(tokens.values[place]))));
}

/**
 * @param {number} value
 * @param {number} most
 */
export function level(value, most) {
  return `l${Math.max(0, Math.min(LEVELS, Math.round(LEVELS * Math.abs(value) / most)))}`;
}

/**
 * Running text, each token shaded by its value: blue above 0, red below.
 * @param {import("./lm_data.js").Reading} reading
 * @param {number[]} tokens
 * @param {ArrayLike<number>} values
 * @param {{most: number, focus?: number}} parts
 */
export function shaded(reading, tokens, values, parts) {
  return h("span", { class: "running", dir: "ltr" }, tokens.map((token, place) => {
    const value = values[place], text = reading.tokens[token];
    const kind = `${value < 0 ? "minus" : "plus"} ${level(value, parts.most)}${place === parts.focus ? " focus" : ""}`;
    return [h(place === parts.focus ? "mark" : "span", { class: "cell", title: `${visible(text)}  ${number(value)}` },
      h("bdi", { class: kind }, running(text))), /\n/.test(text) ? h("wbr") : null];
  }).flat());
}

/** @param {import("./lm_data.js").Found} one */
export function featureTitle(one) {
  return `${one.set.feature} ${short(visible(one.feature.label), 60)}`;
}

/**
 * An input feature, with the tokens that say what it is where it has them.
 * @param {import("./lm_data.js").Reading} reading
 * @param {number} input
 * @param {string} more
 * @param {string} told
 */
export function inputChip(reading, input, more = "", told = "") {
  const label = reading.inputs.labels[input], tokens = reading.inputs.tokens[input] || [];
  if (reading.inputs.kind === "tokens" || label === "constant") return label === "constant" ? h("span", { class: "tok constant", title: told || null }, "constant") : chip(label, more, told);
  return h("span", { class: `tok coded ${more}`, title: told || null }, h("span", { class: "code" }, label), tokens.map((token) => h("bdi", {}, ` ${visible(reading.tokens[token])}`)));
}
