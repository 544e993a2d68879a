// How numbers are written: three digits, a true minus, powers of ten far from 1. As `plots.number` writes them.

const SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹";
const SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉";

/** @param {number} value */
export function number(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-3 || size >= 1e6) {
    const [mantissa, exponent] = value.toExponential(1).split("e");
    const power = exponent.replace("+", "").replace("-", "⁻").replace(/[0-9]/g, (d) => SUPERSCRIPTS[Number(d)]);
    return (mantissa === "1.0" ? `10${power}` : `${mantissa}·10${power}`).replace("-", "−");
  }
  const digits = Math.max(0, 2 - Math.floor(Math.log10(size)));
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}

/**
 * A number beside an axis: no digits that say nothing.
 * @param {number} value
 */
export function tickText(value) {
  const text = number(value);
  return /[.]/.test(text) && !text.includes("·") ? text.replace(/0+$/, "").replace(/[.]$/, "") : text;
}

/** @param {number} value */
export function signed(value) {
  return (value > 0 ? "+" : "") + number(value);
}

/** @param {number} value */
export function whole(value) {
  return value.toLocaleString("en-US");
}

/**
 * @param {number} value
 * @param {number} digits
 */
export function percent(value, digits = 1) {
  return `${(100 * value).toFixed(digits)}\u202f%`.replace("-", "−");
}

/**
 * A number as a table shows it.
 * @param {number|string|null|undefined} value
 */
export function cell(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  return Number.isInteger(value) ? whole(value) : number(value);
}

/** @param {number} value */
export function subscript(value) {
  return String(value).replace(/[0-9]/g, (d) => SUBSCRIPTS[Number(d)]);
}

/**
 * Text of at most some characters.
 * @param {string} text
 * @param {number} limit
 */
export function short(text, limit) {
  const characters = [...text]; // whole ones: half of a pair is no text that can be saved
  return characters.length <= limit ? text : `${characters.slice(0, limit - 1).join("")}…`;
}

/**
 * "1 sample", "2 samples".
 * @param {number} count
 * @param {string} noun
 */
export function plural(count, noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}
