// The overview: what the model is, and every feature as a tile that can be searched and sorted.

import { foremost, linearKernels, sharedScale } from "./algebra.js";
import { fill, h, roving, s } from "./dom.js";
import { title } from "./feature.js";
import { cell, number, plural, short, whole } from "./format.js";
import { weightsPicture } from "./picture.js";
import { featureName, link, remember } from "./route.js";
import { treeTiles } from "./trees.js";

/** @type {Record<string, string>} */
const SORTS = { importance: "importance", label: "name", outputs: "effects" };

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
export function overview(runs, route) {
  const run = runs[0];
  const chosen = run.sets.find((each) => each.name === route.value) || run.sets[0];
  const state = { find: route.more.find || "", sort: Object.hasOwn(SORTS, route.more.sort || "") ? route.more.sort : "importance" };
  const holder = h("div", {});
  const showTab = (/** @type {import("./layout.js").Features} */ set, /** @type {boolean} */ focus) => {
    remember(link("overview", set.name, stored(state)));
    fill(holder, tabs(run, set, showTab), panel(set, state, `tab-${run.sets.indexOf(set)}`));
    const grid = /** @type {HTMLElement|null} */ (holder.querySelector(".tiles"));
    if (grid) roving(grid, ".tile:not([hidden])");
    if (focus) /** @type {HTMLElement} */ (holder.querySelector("[role=tab][aria-selected=true]")).focus();
  };
  const element = h("div", { class: "overview" },
    h("header", { class: "opening" },
      h("h1", {}, run.title),
      h("p", { class: "lead" }, run.levels.length
        ? "Bilinear layers have no nonlinearity but products, so that a network of them is one tensor, held as a tree, and can be read from the weights."
        : "A bilinear layer has no nonlinearity but a product, so that each of its features is a " +
        "quadratic form of the input, and can be read from the weights: as eigenvectors that raise it or lower it.")),
    run.facts.length ? h("dl", { class: "facts" }, run.facts.map((fact) =>
      h("div", {}, h("dt", {}, fact.name), h("dd", {}, cell(fact.value))))) : null,
    run.trees ? treeTiles(run) : null,
    run.sets.length ? holder : h("p", { class: "empty" }, "This page holds no features yet. A run of bilens that was stopped " +
      "goes on when its command is run again, and writes this page anew."));
  if (chosen) showTab(chosen, false);
  return element;
}

/** @param {{find: string, sort: string}} state */
function stored(state) {
  return { find: state.find, sort: state.sort === "importance" ? "" : state.sort };
}

/**
 * @param {import("./layout.js").Run} run
 * @param {import("./layout.js").Features} set
 * @param {(set: import("./layout.js").Features, focus: boolean) => void} show
 */
function tabs(run, set, show) {
  const keys = (/** @type {KeyboardEvent} */ event) => {
    const at = run.sets.indexOf(set);
    /** @type {Record<string, number>} */
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: run.sets.length - 1 };
    if (!Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    show(run.sets[(moves[event.key] + run.sets.length) % run.sets.length], true);
  };
  return h("div", { class: "tabs", role: "tablist", "aria-label": "Ways of reading features", keydown: keys },
    run.sets.map((view) => h("button", {
      type: "button", role: "tab", id: `tab-${run.sets.indexOf(view)}`, "aria-selected": String(view === set),
      "aria-controls": "features", tabindex: view === set ? 0 : -1, click: () => show(view, false),
    }, view.tab,
    h("span", { class: "count" }, String(view.features.length)))));
}

/**
 * How many features there are, where not all of them are here.
 * @param {import("./layout.js").Features} set
 */
function among(set) {
  const shown = set.features.length, kind = set.among;
  return set.total !== null && set.total > shown && shown > 0
    ? h("p", { class: "among" }, shown === 1 ? `The most important of ${whole(set.total)} ${kind} is here.`
      : `The ${whole(shown)} most important of ${whole(set.total)} ${kind} are here.`) : null;
}

/**
 * @param {import("./layout.js").Features} set
 * @param {{find: string, sort: string}} state
 * @param {string} tab
 */
function panel(set, state, tab) {
  const largest = Math.max(1e-12, ...set.features.map((feature) => Math.abs(feature.importance)));
  const tiles = set.features.map((feature, place) => ({ feature, place, element: tile(set, place, largest) }));
  const grid = h("ul", { class: set.features.length <= 10 ? "tiles few" : "tiles" });
  const status = h("p", { class: "status", role: "status" });
  const none = h("p", { class: "empty", hidden: true });
  const arrange = () => {
    remember(link("overview", set.name, stored(state)));
    const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
    const found = tiles.filter(({ feature }) => {
      const text = `${title(set, feature)} ${feature.label} ${feature.speaks}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const by = {
      importance: (/** @type {any} */ a, /** @type {any} */ b) => b.feature.importance - a.feature.importance,
      label: (/** @type {any} */ a, /** @type {any} */ b) =>
        a.feature.label.localeCompare(b.feature.label, "en", { numeric: true }),
      outputs: (/** @type {any} */ a, /** @type {any} */ b) =>
        outputFirst(a.feature).localeCompare(outputFirst(b.feature), "en", { numeric: true }),
    }[state.sort];
    fill(grid, [...found].sort(by).map(({ element }) => element));
    grid.hidden = !found.length;
    none.hidden = found.length > 0;
    none.textContent = found.length ? "" : `No feature here has “${short(state.find.trim(), 60)}” in its name or its effects.`;
    const links = /** @type {HTMLElement[]} */ ([...grid.querySelectorAll("a")]);
    links.forEach((each, place) => { each.tabIndex = place ? -1 : 0; });
    status.textContent = found.length === tiles.length ? "" : `${plural(found.length, "feature")} of ${tiles.length}`;
  };
  const search = h("input", { type: "search", id: "find", value: state.find, placeholder: "name, or “for 3”",
    autocomplete: "off", input: (/** @type {any} */ event) => {
      state.find = event.target.value;
      arrange();
    } });
  const sort = h("select", { id: "sort", change: (/** @type {any} */ event) => {
    state.sort = event.target.value;
    arrange();
  } }, Object.entries(SORTS).map(([name, words]) => h("option", { value: name, selected: name === state.sort }, words)));
  arrange();
  return h("section", { id: "features", role: "tabpanel", "aria-labelledby": tab },
    h("div", { class: "intro" }, h("h2", {}, set.title), h("p", {}, set.text), among(set)),
    set.features.length ? h("div", { class: "bar" },
      h("div", { class: "field" }, h("label", { for: "find" }, "Find"), search),
      h("div", { class: "field" }, h("label", { for: "sort" }, "Sort by"), sort), status,
      h("p", { class: "hint" }, `bars: ${set.measure}`)) : null,
    set.features.length ? [grid, none] : h("p", { class: "empty" }, "No feature of this kind was found."));
}

/**
 * @param {import("./layout.js").Features} set
 * @param {number} place
 * @param {number} largest
 */
function tile(set, place, largest) {
  const feature = set.features[place];
  const kernels = linearKernels(feature);
  const top = foremost(kernels, set.input);
  const share = Math.max(0, feature.importance / largest);
  const image = set.input.image;
  const [width, height] = image ? [100 * image[1] / Math.max(...image), 100 * image[0] / Math.max(...image)] : [150, 104];
  const speaks = besidesItsName(feature);
  return h("li", {}, h("a", { class: "tile", href: link("feature", featureName(set, place)) },
    s("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, top
      ? weightsPicture(top, set.input, sharedScale([top], set.input), { x: 0, y: 0, width, height })
      : s("text", { x: width / 2, y: height / 2, class: "tick", "text-anchor": "middle" }, "all 0")),
    h("span", { class: "tile-name" }, short(title(set, feature), 40)),
    speaks ? h("span", { class: "tile-for" }, short(speaks, 40)) : null,
    h("span", { class: "weight", title: `${set.measure}: ${number(feature.importance)}` },
      meter(share), h("span", { class: "weight-number" }, number(feature.importance)))));
}

/**
 * What stands below a tile's name: nothing where the name says it.
 * @param {import("./layout.js").Feature} feature
 */
function besidesItsName(feature) {
  return feature.raises.join() === feature.label && !feature.lowers.length ? "" : feature.speaks;
}

/**
 * By what features are sorted: the outputs that a feature moves most, whichever way, then the way.
 * @param {import("./layout.js").Feature} feature
 */
function outputFirst(feature) {
  const [way, ...outputs] = feature.speaks.split(" ");
  return `${outputs.join(" ")} ${way}`;
}

/** @param {number} share */
function meter(share) {
  return s("svg", { class: "meter", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { width: 100, height: 4, class: "meter-back" }), s("rect", { width: 100 * share, height: 4, class: "meter-bar" }));
}
