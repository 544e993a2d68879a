// A small model run by the page itself, up to its layer: what a sentence is that a person types, in float64.

import { numbers } from "./data.js";

// GPT-2's words: a contraction, letters, digits or other signs with a space before them, and white space.
const SPACES = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const WORDS = new RegExp(`'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACES}\\p{L}\\p{N}]+|[${SPACES}]+(?![^${SPACES}])|[${SPACES}]+`, "gu");

/**
 * @typedef {import("./lm_layout.js").Typed} Typed
 * @typedef {import("./lm_layout.js").Array} Numbers
 * @typedef {{tokens: number[], cut: boolean, inputs: Float64Array[], outputs: Float64Array[], surrogates: Float64Array[]}} Computed
 */

/** The character that a vocabulary of bytes has for each byte. */
function alphabet() {
  const own = (/** @type {number} */ byte) => (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
  let more = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(own(byte) ? byte : more++));
}

/**
 * A text as tokens, as the model's tokenizer has it.
 * @param {Typed} model
 * @param {string} text
 */
export function tokenized(model, text) {
  const numbersOf = new Map(model.names.map((name, token) => [name, token])), ranks = new Map(model.merges.map((pair, rank) => [pair, rank]));
  const bytes = alphabet(), encoder = new TextEncoder();
  const escaped = model.special.map((each) => each.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = escaped.length ? text.split(new RegExp(`(${escaped.join("|")})`)) : [text];
  return parts.flatMap((part, place) => {
    if (place % 2) return [/** @type {number} */ (numbersOf.get(part))];
    return (part.match(WORDS) || []).flatMap((word) => {
      let pieces = [...encoder.encode(word)].map((byte) => bytes[byte]);
      for (;;) {
        let best = -1, least = Infinity;
        for (let i = 0; i + 1 < pieces.length; i++) {
          const rank = ranks.get(`${pieces[i]} ${pieces[i + 1]}`);
          if (rank !== undefined && rank < least) [best, least] = [i, rank];
        }
        if (best < 0) break;
        const [a, b] = [pieces[best], pieces[best + 1]], joined = [];
        for (let i = 0; i < pieces.length; i++) {
          if (pieces[i] === a && pieces[i + 1] === b) joined.push(a + pieces[++i]);
          else joined.push(pieces[i]);
        }
        pieces = joined;
      }
      return pieces.map((piece) => /** @type {number} */ (numbersOf.get(piece)));
    });
  });
}

/**
 * W x for each of some vectors.
 * @param {Numbers} matrix
 * @param {Float64Array[]} vectors
 */
function times(matrix, vectors) {
  const weights = numbers(matrix), [out, width] = matrix.shape;
  return vectors.map((x) => Float64Array.from({ length: out }, (_, o) => {
    let sum = 0;
    for (let i = 0, at = o * width; i < width; i++, at++) sum += weights[at] * x[i];
    return sum;
  }));
}

/**
 * x / √(mean x² + ε).
 * @param {Float64Array} x
 * @param {number} eps
 */
function normalised(x, eps) {
  const scale = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + eps);
  return x.map((value) => value / scale);
}

/**
 * @param {Float64Array} x
 * @param {Numbers} gain
 */
function gained(x, gain) {
  const weights = numbers(gain);
  return x.map((value, i) => value * weights[i]);
}

/**
 * Rotate the two halves of each head by the token's place.
 * @param {Float64Array[]} vectors
 * @param {number} size of a head
 * @param {number} theta
 */
function rotated(vectors, size, theta) {
  const half = size / 2;
  return vectors.map((x, place) => {
    const found = new Float64Array(x.length);
    for (let start = 0; start < x.length; start += size) {
      for (let i = 0; i < half; i++) {
        const angle = place * theta ** (-2 * i / size), cos = Math.cos(angle), sin = Math.sin(angle);
        found[start + i] = x[start + i] * cos - x[start + half + i] * sin;
        found[start + half + i] = x[start + half + i] * cos + x[start + i] * sin;
      }
    }
    return found;
  });
}

/**
 * What attention adds to each token.
 * @param {Typed} model
 * @param {import("./lm_layout.js").Block} block
 * @param {Float64Array[]} x
 */
function attended(model, block, x) {
  const inputs = x.map((each) => gained(normalised(each, model.eps), block.norm));
  const size = block.query.shape[0] / model.heads, share = model.heads / model.groups;
  const queries = rotated(times(block.query, inputs), size, model.theta), keys = rotated(times(block.key, inputs), size, model.theta);
  const values = times(block.value, inputs);
  const mixed = queries.map((query, t) => {
    const found = new Float64Array(model.heads * size);
    for (let head = 0; head < model.heads; head++) {
      const mine = head * size, theirs = Math.floor(head / share) * size, scores = new Float64Array(t + 1);
      for (let s = 0; s <= t; s++) {
        for (let i = 0; i < size; i++) scores[s] += query[mine + i] * keys[s][theirs + i];
        scores[s] /= Math.sqrt(size);
      }
      const most = Math.max(...scores), weights = scores.map((score) => Math.exp(score - most)), sum = weights.reduce((a, b) => a + b, 0);
      for (let s = 0; s <= t; s++) for (let i = 0; i < size; i++) found[mine + i] += weights[s] / sum * values[s][theirs + i];
    }
    return found;
  });
  return times(block.output, mixed);
}

/**
 * What the MLP gives each token, and what its surrogate does.
 * @param {Typed} model
 * @param {import("./lm_layout.js").Block} block
 * @param {Float64Array[]} unit normalised inputs
 * @param {Numbers|null} surrogate
 */
function written(model, block, unit, surrogate) {
  const inputs = unit.map((each) => gained(each, block.mlp_norm)), z = times(block.gate, inputs), v = times(block.up, inputs);
  const silu = (/** @type {number} */ value) => value / (1 + Math.exp(-value));
  const units = z.map((row, t) => row.map((value, h) => (model.gate === "silu" ? silu(value) : value) * v[t][h]));
  if (!surrogate) return [times(block.down, units), null];
  const parts = numbers(surrogate), width = surrogate.shape[1];
  const near = z.map((row, t) => row.map((value, h) => value * (parts[h] * v[t][h] + parts[width + h] * value + parts[2 * width + h])
    + parts[3 * width + h] * v[t][h] + parts[4 * width + h]));
  return [times(block.down, units), times(block.down, near)];
}

/**
 * The layer's inputs and outputs at the tokens of a text, the first token of all left out.
 * @param {Typed} model
 * @param {string} text
 * @returns {Computed}
 */
export function computed(model, text) {
  const whole = [...(model.first === null ? [] : [model.first]), ...tokenized(model, text)], tokens = whole.slice(0, model.longest);
  const table = numbers(model.embedding), width = model.embedding.shape[1], last = model.blocks.length - 1;
  let x = tokens.map((token) => Float64Array.from(table.subarray(token * width, (token + 1) * width)));
  /** @type {Computed} */
  const found = { tokens: tokens.slice(1), cut: whole.length > tokens.length, inputs: [], outputs: [], surrogates: [] };
  model.blocks.forEach((block, number) => {
    const more = attended(model, block, x);
    x = x.map((each, t) => each.map((value, i) => value + more[t][i]));
    const unit = x.map((each) => normalised(each, model.eps));
    const [y, near] = written(model, block, unit, number === last ? model.surrogate : null);
    if (number === last) {
      const lifted = model.vectors.shape[1] > width;
      found.inputs = unit.slice(1).map((each) => (lifted ? Float64Array.from([...each, 1]) : each));
      found.outputs = /** @type {Float64Array[]} */ (y).slice(1);
      found.surrogates = (near || /** @type {Float64Array[]} */ (y)).slice(1);
    }
    x = x.map((each, t) => each.map((value, i) => value + /** @type {Float64Array[]} */ (y)[t][i]));
  });
  return found;
}

/**
 * What a feature is at each token: the layer's value, the full quadratic form, and the terms of its first pairs.
 * @param {Typed} model
 * @param {Computed} run
 * @param {number} place of the feature among all of the page
 * @param {number[]} values λ
 */
export function typedValues(model, run, place, values) {
  const width = model.directions.shape[1], u = numbers(model.directions).subarray(place * width, (place + 1) * width);
  const dot = (/** @type {ArrayLike<number>} */ a, /** @type {ArrayLike<number>} */ b) => {
    let sum = 0;
    for (let i = 0; i < b.length; i++) sum += a[i] * b[i];
    return sum;
  };
  const size = model.vectors.shape[1], vectors = numbers(model.vectors);
  const terms = values.slice(0, model.pairs).map((value, pair) => {
    const at = (place * model.pairs + pair) * size;
    return Float64Array.from(run.inputs, (x) => value * dot(vectors.subarray(at, at + size), x) ** 2);
  });
  return { true: Float64Array.from(run.outputs, (y) => dot(u, y)), whole: Float64Array.from(run.surrogates, (y) => dot(u, y)), terms };
}
