// The types of the page's data, written by docs/explorer_schema.py from explorer/layout.py.

export const FORMAT = 5;

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
 * A space: its name, what `one` coordinate is called, its size, a label for each coordinate, the image's height and
 * width, and whether 1 is appended.
 * @typedef {object} Axis
 * @property {string} name
 * @property {string} one
 * @property {number} size
 * @property {string[]|null} labels
 * @property {number[]|null} image
 * @property {boolean} constant
 */

/**
 * Input → outputs as factors: y_o = Σ_h down_oh (left_h·x')(right_h·x').
 * @typedef {object} Model
 * @property {Array} left
 * @property {Array} right
 * @property {Array} down
 */

/**
 * Inputs, their numbers in the set that they come from, the library's outputs, true classes where known.
 * @typedef {object} SampleSet
 * @property {Array} inputs
 * @property {number[]} numbers
 * @property {Array} outputs
 * @property {number[]|null} labels
 */

/**
 * An input pair i ≤ j and what it adds to the feature where both are 1.
 * @typedef {object} Pair
 * @property {number} i
 * @property {number} j
 * @property {number} strength
 */

/**
 * A sample, by its place in the sample set, −1 where it is not there, its number, and the feature's value on it.
 * @typedef {object} Seen
 * @property {number} sample
 * @property {number} number
 * @property {number} value
 */

/**
 * One feature: xᵀQx = Σ λ (v·x')².
 *
 * `eigenvalues` has all λ, or the first ones and then `discarded` > 0, the largest |λ| of the others; `vectors` the
 * first eigenvectors, one per row; `energy` is ‖Q‖², `residual` the largest ‖Qv − λv‖ / |λ₁| of the vectors. `errors`
 * has the largest error of the first k = 1 … pairs over the `examined` samples, whose largest norm is `norm`.
 * @typedef {object} Feature
 * @property {string} label
 * @property {number} importance
 * @property {number[]} effects
 * @property {string} speaks
 * @property {string[]} raises
 * @property {string[]} lowers
 * @property {Array} eigenvalues
 * @property {Array} vectors
 * @property {number} energy
 * @property {number} discarded
 * @property {number} residual
 * @property {Pair[]} pairs
 * @property {Seen[]} largest
 * @property {Seen[]} smallest
 * @property {Array|null} errors
 */

/**
 * A name and what is said of it.
 * @typedef {object} Fact
 * @property {string} name
 * @property {string|number} value
 */

/**
 * A figure of a set: lines, of which the first `drawn` are drawn and all are in its table; `rows` begin with x.
 * @typedef {object} Lines
 * @property {"lines"} kind
 * @property {string} name
 * @property {string} title
 * @property {string} note
 * @property {number} drawn
 * @property {boolean} log
 * @property {number|null} level
 * @property {string} level_name
 * @property {string[]} columns
 * @property {number[][]} rows
 */

/**
 * A figure of a set: points counted in bins × bins cells, x first, with the line on which both are equal.
 * @typedef {object} Cells
 * @property {"cells"} kind
 * @property {string} name
 * @property {string} title
 * @property {string} note
 * @property {string} x
 * @property {string} y
 * @property {number[]} low
 * @property {number[]} high
 * @property {number} bins
 * @property {number[][]} counts
 */

/**
 * A set of features, most important first; `total` is of how many `among`, where known.
 *
 * `feature` is what one of them is called, before its label; `figures` are those of the set as a whole, and `words`
 * are explained in the page's glossary.
 * @typedef {object} Features
 * @property {string} name
 * @property {string} title
 * @property {string} tab
 * @property {string} feature
 * @property {string} among
 * @property {string} text
 * @property {string} measure
 * @property {number|null} norm
 * @property {number} examined
 * @property {number|null} total
 * @property {Axis} input
 * @property {Feature[]} features
 * @property {(Lines|Cells)[]} figures
 * @property {Fact[]} words
 */

/**
 * λ q² of an output, q = Σ μ (w·x')²: λ, its `share` of ‖T‖², and `held`, the share of its energy in its leaves.
 *
 * `leaves` has the μ; `quantiles` those of q on the samples of each class, at the percentiles of `Trees`, and `means`
 * the mean of λ q² on them, None without labelled samples.
 * @typedef {object} Root
 * @property {number} value
 * @property {number} share
 * @property {number} held
 * @property {number[]} leaves
 * @property {number[][]|null} quantiles
 * @property {number[]|null} means
 */

/**
 * One output as roots; `error` is the relative error of those and the leaves left out.
 *
 * `readers` has the w and `patterns` the pictures of all leaves, root after root, one per row.
 * @typedef {object} Tree
 * @property {string} label
 * @property {number} error
 * @property {Root[]} roots
 * @property {Array} readers
 * @property {Array} patterns
 */

/**
 * The outputs of a network of two layers as trees of templates, in their order; `metric` is what they are found in.
 *
 * `samples` is on how many samples q was looked at.
 * @typedef {object} Trees
 * @property {string} title
 * @property {string} text
 * @property {string} metric
 * @property {number} samples
 * @property {number[]} percentiles
 * @property {Tree[]} trees
 * @property {Fact[]} words
 */

/**
 * Scores against components kept: means over seeds with half-widths of 95 % intervals, None for one seed.
 *
 * `samples` is how many samples each point was measured on, and `numbers` how many numbers it stores, None where that
 * is not known; `beside` names the line that this one, a null or a rival, is to be compared with.
 * @typedef {object} Line
 * @property {string} name
 * @property {string|null} beside
 * @property {number} seeds
 * @property {number|null} samples
 * @property {number[]} kept
 * @property {number[]|null} numbers
 * @property {number[]} accuracy
 * @property {number[]} cross_entropy
 * @property {number[]|null} recovered
 * @property {number[]|null} accuracy_half
 * @property {number[]|null} cross_entropy_half
 * @property {number[]|null} recovered_half
 * @property {number[]|null} error
 * @property {number[]|null} bound
 */

/**
 * A line of the table of faithfulness: shares from 0 to 1, cross-entropy in nats.
 *
 * A null or a rival comes after the line that it is `beside`.
 * @typedef {object} ScoreRow
 * @property {string} name
 * @property {"model"|"view"|"null"|"rival"} kind
 * @property {string|null} beside
 * @property {number|null} samples
 * @property {number|null} numbers
 * @property {number} accuracy
 * @property {number} cross_entropy
 * @property {number|null} recovered
 */

/**
 * Columns by name against a first one.
 * @typedef {object} Table
 * @property {string[]} columns
 * @property {number[][]} rows
 */

/**
 * Everything about one run.
 *
 * `logits` says whether the outputs are the logits of classes; `outputs_set` names the set whose features are the
 * model's outputs. `model` is one layer and `levels` are several, each from all coordinates below, the constant one
 * included, to all above; one of them is empty.
 * @typedef {object} Run
 * @property {string} name
 * @property {string} title
 * @property {Fact[]} facts
 * @property {Axis|null} input
 * @property {Axis|null} output
 * @property {boolean} logits
 * @property {Model|null} model
 * @property {Model[]} levels
 * @property {Trees|null} trees
 * @property {SampleSet|null} samples
 * @property {string|null} outputs_set
 * @property {Features[]} sets
 * @property {ScoreRow[]} scores
 * @property {Line[]} curves
 * @property {Table|null} training
 * @property {string[]} notes
 */

/**
 * The whole page: one run, or two to compare; `palette` is the diverging scale, from −1 to 1, of "#rrggbb".
 * @typedef {object} Document
 * @property {number} format
 * @property {string[]} palette
 * @property {Run[]} runs
 */
