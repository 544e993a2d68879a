// What the words of the page mean, and what it rests on.

import { h } from "./dom.js";
import { cell, number, whole } from "./format.js";
import { labels } from "./lm_overview.js";

/** @type {[string, string][]} */
const LM_WORDS = [
  ["Feature", "A number u·y of what the layer’s MLP writes, y, for a direction u: that of a token’s logit, of a feature of an SAE or a transcoder, or one drawn at random."],
  ["Quadratic form, kernel", "u·y = xᵀQx, with x the layer’s normalised input and a last coordinate that is always 1. Q follows from the weights, exactly where the layer is bilinear, else from its surrogate."],
  ["Surrogate", "Each unit σ(z)·v is replaced by the best A zv + B z² + C z + E v + F, so that the layer becomes a quadratic form. What is lost is the share of variance (FVU) and the rise of the model’s cross-entropy with the surrogate in the layer’s place."],
  ["Pair", "An eigenvalue λ and its eigenvector v: the pair adds λ (v·x)², never anything of the other sign."],
  ["Order of the data", "Pairs of Σ^½QΣ^½, with Σ the second moment of the input on text: the first adds most on average, and each (v·x)² has mean 1. Without text pairs are in the order of |λ|."],
  ["‖Q‖²", "The sum of all λ². What some pairs hold of it says how far the others matter."],
  ["Random directions", "The null of every number here: what it is for a direction that stands for nothing."],
  ["Predicted by k pairs", "The sum of the first k terms and the mean of the others, beside the true value: that of the original layer, gate and all, on held-out text."],
  ["The mean", "What the average input and the constant hold of an eigenvector. Where it is near 100 %, the eigenvector says that the input is there, and not what it is."],
  ["Reads, writes", "Reads: the current tokens at which the feature is largest, on average. Writes: what one unit of it does to the logits by the direct path, through the unembedding."],
  ["Cosine of kernels", "⟨Q, Q′⟩ / ‖Q‖ ‖Q′‖ of two kernels, exact, with Σ as the metric where there is text: 1 for the same function up to its size. Two kernels that share no more than the mean input are alike, too: it says something only beside random pairs."],
  ["Interaction", "Two features of the input whose product adds to the feature. ‖C‖² is the sum over all pairs, and its share is what the pair holds."],
];

/** @param {import("./lm_data.js").Reading} reading */
export function lmAbout(reading) {
  const text = reading.text;
  return h("div", { class: "about lm" }, h("h1", {}, "About this page"), labels(reading),
    h("dl", { class: "facts" }, reading.facts.map((fact) => h("div", {}, h("dt", {}, fact.name), h("dd", {}, cell(fact.value))))),
    h("section", {}, h("h2", { class: "section" }, "What it rests on"),
      h("p", {}, reading.method === "exact" ? "The layer is bilinear: its tensor is computed from the weights, and is the layer itself." : reading.method === "weights_only"
        ? "The surrogate is computed from the weights alone, for an input of mean 0 and independent coordinates. Real inputs have a mean: the surrogate is often far off, and was not measured here."
        : `The surrogate was fitted to ${text ? whole(text.fit) : "some"} tokens; what it loses was measured on others.`),
      reading.apart === null ? null : h("p", {}, `The tensor gives what ${reading.method === "exact" ? "the layer" : "the surrogate"} gives, to ${number(reading.apart)} of its largest output.`),
      text ? h("p", {}, `Text: ${text.described}. The first token of each row is left out everywhere.`) : h("p", {}, "No text was read: there are no contexts, values or correlations, and pairs are in the order of |λ|."),
      reading.notes.map((note) => h("p", {}, note))),
    h("section", {}, h("h2", { class: "section" }, "Words"), h("dl", { class: "glossary" }, LM_WORDS.flatMap(([word, meaning]) => [h("dt", {}, word), h("dd", {}, meaning)]))),
    h("section", {}, h("h2", { class: "section" }, "This page"),
      h("p", {}, "One file, written by bilens from the run’s tables, which bilens query asks. It loads nothing and sends nothing. Links keep what you look at in the part after #, and every figure can be saved or read as a table. Tokens are shown as ␣ for a space, ⏎ for a new line, \\xe2 for a byte that is no text, ⟨U+202E⟩ for what cannot be seen.")));
}
