// The types of the page's data, written by docs/explorer_schema.py from explorer/lm_layout.py.

export const LM_FORMAT = 3;
export const ONE_BY_ONE = 8;

/**
 * An array: little-endian numbers of `type`, row by row, in base64.
 *
 * `f4` is float32, `i2` int16, `u1` uint8. A value is scale · number where there is a `scale`, one for each row of
 * the first axis.
 * @typedef {object} Array
 * @property {"f4"|"i2"|"u1"} type
 * @property {number[]} shape
 * @property {string} data
 * @property {number[]} [scale]
 */

/**
 * A name and what is said of it.
 * @typedef {object} Fact
 * @property {string} name
 * @property {string|number} value
 */

/**
 * Tokens, by their places among the page's, each with a number; the largest first.
 * @typedef {object} Tokens
 * @property {number[]} tokens
 * @property {number[]} values
 */

/**
 * Input features, by their places among the set's, each with a number.
 * @typedef {object} Named
 * @property {number[]} inputs
 * @property {number[]} values
 */

/**
 * What one eigenvector reads: tokens and input features on its two sides, which side is which means nothing.
 *
 * `constant` is what the mean input, or the constant coordinate, holds of it.
 * @typedef {object} Part
 * @property {number} constant
 * @property {Tokens} one
 * @property {Tokens} other
 * @property {Named|null} inputs_one
 * @property {Named|null} inputs_other
 */

/**
 * A stretch of text around a token, `focus`, with the feature's value at each.
 *
 * `predicted` is what all stored pairs say there, `two` what the first two say, each with the mean of the rest.
 * @typedef {object} Example
 * @property {number} focus
 * @property {number[]} tokens
 * @property {number[]} values
 * @property {number} value
 * @property {number} predicted
 * @property {number} two
 */

/**
 * Pairs of input features whose products add to the feature, and what share of all interactions each holds.
 *
 * `together` and `expected` say in how many samples both are active, and would be by chance; `change` is what taking
 * the pair away changes in the mean.
 * @typedef {object} Interactions
 * @property {number[]} first
 * @property {number[]} second
 * @property {number[]} coefficient
 * @property {number[]} share
 * @property {(number|null)[]} together
 * @property {(number|null)[]} expected
 * @property {(number|null)[]} change
 */

/**
 * Coefficients among some input features.
 * @typedef {object} Square
 * @property {number[]} inputs
 * @property {number[][]} values
 */

/**
 * One feature u·y ≈ Σ λ (v·x')², and what else there is.
 *
 * `values` are λ, `shares` λ² / ‖Q‖²; `correlations` those of the first k pairs at the set's numbers, `full` that of
 * all pairs; `reads` and `writes` have two sides, the largest and the smallest. `place` is its row in the set's terms.
 * `left` bounds what all interactions left out add, per ‖z‖².
 * @typedef {object} Feature
 * @property {number} number
 * @property {string} label
 * @property {number|null} token
 * @property {number} energy
 * @property {number} held
 * @property {number[]} values
 * @property {number[]} shares
 * @property {number} residual
 * @property {boolean} exact
 * @property {number|null} mean
 * @property {number|null} deviation
 * @property {number[]|null} rest
 * @property {number[]|null} correlations
 * @property {number|null} full
 * @property {Tokens[]} reads
 * @property {Tokens[]} writes
 * @property {Part[]} parts
 * @property {Example[]} largest
 * @property {Example[]} smallest
 * @property {Example[]} failed
 * @property {Interactions} interactions
 * @property {number} left
 * @property {Square} square
 */

/**
 * A set of features. `total` is how many the run has; `terms` λ (v·x')² at the stretches' tokens, (n · r, s):
 * of each feature the pairs that are shown one by one, then sums of the others, one for each further number of `at`.
 * `whole` is the full quadratic form, `true` what the original layer gives, (n, s), all in the order of `features`.
 * @typedef {object} Features
 * @property {string} name
 * @property {string} title
 * @property {string} feature
 * @property {string} about
 * @property {boolean} control
 * @property {number} total
 * @property {Feature[]} features
 * @property {Array|null} terms
 * @property {Array|null} whole
 * @property {Array|null} true
 */

/**
 * Over all features of a set, at each number of pairs: the median and the quartiles.
 * @typedef {object} Spread
 * @property {string} name
 * @property {boolean} control
 * @property {number[]} at
 * @property {number[]} median
 * @property {number[]} low
 * @property {number[]} high
 * @property {number|null} full
 */

/**
 * What stands in the layer's place: share of variance lost, cross-entropy more in nats and its standard error.
 * @typedef {object} Cost
 * @property {string} name
 * @property {"surrogate"|"null"} kind
 * @property {number} fvu
 * @property {number} delta_ce
 * @property {number} error
 */

/**
 * The input features that are named anywhere on the page; `tokens` says what each of a coder's is active at.
 * @typedef {object} InputSet
 * @property {string} title
 * @property {string} about
 * @property {"tokens"|"coder"} kind
 * @property {string[]} labels
 * @property {number[][]} tokens
 */

/**
 * What text was seen: tokens that were fitted to, tokens that were held out; stretches of the latter.
 * @typedef {object} Text
 * @property {string} described
 * @property {number} fit
 * @property {number} held_out
 * @property {number} measured
 * @property {number[][]} stretches
 */

/**
 * Exact cosines ⟨Q, Q'⟩ / ‖Q‖ ‖Q'‖ of kernels, (n, m), and their norms, in a metric that is said in words.
 *
 * The n features are those of this page, all sets in order; the m are the same, or those of the layer beside it.
 * @typedef {object} Alike
 * @property {string} metric
 * @property {Array} cosines
 * @property {number[]} first
 * @property {number[]} second
 */

/**
 * The weights of one block of a small model, each matrix (out, in), for a page that runs the model.
 * @typedef {object} Block
 * @property {Array} norm
 * @property {Array} query
 * @property {Array} key
 * @property {Array} value
 * @property {Array} output
 * @property {Array} mlp_norm
 * @property {Array} gate
 * @property {Array} up
 * @property {Array} down
 */

/**
 * A small model up to the layer, with which the page computes what a sentence is that a person types.
 *
 * `names` are its tokens as its tokenizer has them, bytes as characters, `merges` pairs of them in order, `texts` what
 * they read as, and `special` those that are no text; `first` is the token that every text begins with. `surrogate`
 * has a, b, c, e and f of z (a v + b z + c) + e v + f for each unit, (5, h), null for the layer itself. `directions`
 * are those of all features of the page, (n, o), `vectors` their first `pairs` eigenvectors, (n · pairs, i).
 * @typedef {object} Typed
 * @property {string[]} names
 * @property {string[]} texts
 * @property {string[]} merges
 * @property {string[]} special
 * @property {number|null} first
 * @property {number} longest
 * @property {number} heads
 * @property {number} groups
 * @property {number} theta
 * @property {number} eps
 * @property {"silu"|"identity"} gate
 * @property {Array} embedding
 * @property {Block[]} blocks
 * @property {Array|null} surrogate
 * @property {Array} directions
 * @property {Array} vectors
 * @property {number} pairs
 */

/**
 * Another layer, to compare with: what its page has, without what only a feature's own view shows.
 * @typedef {object} Beside
 * @property {Reading} reading
 * @property {Alike} alike
 */

/**
 * The whole page; `tokens` are the texts of all tokens on it, `order` is that of the pairs.
 *
 * `readings` are tokens of text that `reads` is an average over, 0 for embeddings; `at` the numbers of pairs that
 * predictions are measured at; `apart` how far the tensor is from what it stands for; `others` further layers;
 * `limit` the bytes for which features, or the small model, were left out, null where nothing was.
 * @typedef {object} Reading
 * @property {number} format
 * @property {string} title
 * @property {string} run
 * @property {number} layer
 * @property {number} layers
 * @property {number[]} others
 * @property {"exact"|"least_squares"|"weights_only"|"gaussian"} method
 * @property {"data"|"plain"} order
 * @property {boolean} named
 * @property {number|null} apart
 * @property {Fact[]} facts
 * @property {Cost[]} costs
 * @property {string[]} tokens
 * @property {Text|null} text
 * @property {number[]} at
 * @property {InputSet} inputs
 * @property {number} readings
 * @property {Spread[]} shares
 * @property {Spread[]} correlations
 * @property {Features[]} sets
 * @property {Alike} alike
 * @property {Beside|null} beside
 * @property {Typed|null} typed
 * @property {number|null} limit
 * @property {string[]} notes
 */
