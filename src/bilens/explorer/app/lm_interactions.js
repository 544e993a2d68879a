// Interactions of a feature: the pairs of input features that make it, as a table and a small matrix.

import { h, s } from "./dom.js";
import { figure } from "./figure.js";
import { number, percent, short, signed, whole } from "./format.js";
import { featureTitle, inputChip, visible } from "./lm_tokens.js";

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").Found} one
 */
export function interactionsOf(reading, one) {
  const { feature } = one, columns = feature.interactions, count = columns.first.length;
  if (!count) return null;
  const held = columns.share.reduce((sum, share) => sum + share, 0), seen = columns.together.some((each) => each !== null);
  const cells = (/** @type {number} */ at) => {
    const { coefficient, share, together, expected, change } = columns, /** @type {(value: number|null, shown: (value: number) => string) => Element} */ known = (value, shown) => h("td", {}, value === null ? "–" : shown(value));
    return [h("td", { class: coefficient[at] < 0 ? "lowers" : "raises" }, signed(coefficient[at])), h("td", {}, percent(share[at], 1)),
      ...(seen ? [known(together[at], whole), known(expected[at], number), known(change[at], signed)] : [])];
  };
  return h("section", { class: "interactions" }, h("h2", { class: "section" }, "Interactions"),
    h("p", { class: "note" }, `${reading.inputs.about} The feature gains c · z₁ · z₂ from a pair. These ${whole(count)} hold ${percent(held, held < 0.1 ? 1 : 0)} of ‖C‖²; what all stored ones leave out is at most ${number(feature.left)} · ‖z‖².` +
      (seen ? " “Together” is how often both are active on held-out text, beside what chance would give; “without it” is what taking the pair away changes on average." : " Weights only: whether the two ever meet is not in it.")),
    h("div", { class: "two" },
      h("div", { class: "table", tabindex: 0, role: "region", "aria-label": "Interactions" }, h("table", {},
        h("thead", {}, h("tr", {}, ["pair", "c", "share", ...(seen ? ["together", "by chance", "without it"] : [])].map((name) => h("th", { scope: "col" }, name)))),
        h("tbody", {}, columns.first.map((first, at) => h("tr", {}, h("th", { scope: "row" }, inputChip(reading, first), " × ", inputChip(reading, columns.second[at])), cells(at)))))),
      matrix(reading, one)));
}

/**
 * @param {import("./lm_data.js").Reading} reading
 * @param {import("./lm_data.js").Found} one
 */
function matrix(reading, one) {
  const { inputs, values } = one.feature.square, count = inputs.length;
  const name = (/** @type {number} */ input) => {
    const tokens = reading.inputs.tokens[input] || [];
    return visible(reading.inputs.labels[input]) + (tokens.length ? ` ${visible(reading.tokens[tokens[0]])}` : "");
  };
  const most = Math.max(1e-12, ...values.flat().map(Math.abs));
  return figure({
    title: "Among the strongest", of: featureTitle(one), name: `${one.set.name}-${one.feature.number}-matrix`, most: 460,
    note: "Coefficients of the input features that the strongest pairs hold most of; deeper is larger.",
    alt: `Matrix of ${count} × ${count} interaction coefficients`,
    table: () => ({ columns: ["", ...inputs.map(name)], rows: inputs.map((input, row) => [name(input), ...values[row]]) }),
    draw: (width) => {
      const left = Math.min(130, width * 0.3), top = 76, slant = 50, size = (width - left - slant) / count;
      const group = s("g", {});
      inputs.forEach((input, row) => {
        const label = short(name(input), Math.floor((left - 8) / 8)), at = left + row * size + size / 2;
        group.append(s("text", { x: left - 6, y: top + row * size + size / 2, dy: "0.32em", "text-anchor": "end", class: "tick" }, label),
          s("text", { x: at, y: top - 6, class: "tick", transform: `rotate(-48 ${at} ${top - 6})` }, short(label, 12)));
        inputs.forEach((other, column) => {
          const value = values[row][column];
          group.append(s("rect", { x: left + column * size, y: top + row * size, width: size - 1.5, height: size - 1.5, class: value < 0 ? "negative" : "positive",
            "fill-opacity": 0.04 + 0.96 * Math.abs(value) / most }, s("title", {}, `${name(input)} × ${name(other)}: ${signed(value)}`)));
        });
      });
      return { height: top + count * size + 4, parts: [group] };
    },
  }).element;
}
