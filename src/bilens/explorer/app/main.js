// The page: its head, the view that the address names, light and dark.

import { aboutPage } from "./about.js";
import { comparePage } from "./compare.js";
import { readDocument } from "./data.js";
import { fill, h } from "./dom.js";
import { faithfulnessPage } from "./faithfulness.js";
import { featurePage, title } from "./feature.js";
import { overview } from "./overview.js";
import { usePalette } from "./picture.js";
import { currentRoute, featureAt, link } from "./route.js";
import { samplePage } from "./sample.js";
import { treePage, treeTitle } from "./trees.js";
import { themeButton } from "./theme.js";

const PAGES = { overview: "Overview", tree: "Trees", sample: "Sample", faithfulness: "Faithfulness", compare: "Compare", about: "About" };

function start() {
  const content = readDocument(), runs = content.runs;
  usePalette(content.palette);
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  const main = h("main", { id: "main", tabindex: -1 });
  const menu = h("ul", {});
  fill(app,
    h("a", { class: "skip", href: "#main", click: (/** @type {Event} */ event) => {
      event.preventDefault();
      main.focus();
    } }, "Skip to the content"),
    h("header", { class: "masthead" }, h("div", { class: "inner" },
      h("p", { class: "brand" }, h("a", { href: link("overview") }, "bilens"), runs[0].name ? h("span", {}, runs.map((run) => run.name).join(" · ")) : null),
      h("nav", { "aria-label": "Pages" }, menu), themeButton())),
    main,
    h("footer", {}, h("p", {}, "Written by bilens. This page needs no network and no server.")));
  const show = (/** @type {boolean} */ first) => {
    const route = currentRoute();
    fill(menu, Object.entries(PAGES).filter(([name]) => name !== "tree" || runs[0].trees).map(([name, words]) => h("li", {}, h("a", { href: link(name),
      "aria-current": name === route.view || (name === "overview" && route.view === "feature") ? "page" : null }, words))));
    fill(main, page(runs, route));
    const found = route.view === "feature" ? featureAt(runs, route.value) : null;
    const tree = route.view === "tree" && runs[0].trees?.trees[Number(route.value || 0)];
    const words = tree ? treeTitle(runs[0], Number(route.value || 0)) : route.view === "feature" && !found ? "No such feature" : found ? title(found.set, found.feature) : /** @type {Record<string, string>} */ (PAGES)[route.view];
    document.title = route.view === "overview" ? runs[0].title : `${words} · ${runs[0].title}`;
    if (!first) {
      window.scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
  };
  window.addEventListener("hashchange", () => show(false));
  show(true);
  performance.mark("bilens:interactive");
}

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
function page(runs, route) {
  if (route.view === "feature") return featurePage(runs, route);
  if (route.view === "tree") return treePage(runs, route);
  if (route.view === "sample") return samplePage(runs, route);
  if (route.view === "faithfulness") return faithfulnessPage(runs, route);
  if (route.view === "compare") return comparePage(runs, route);
  if (route.view === "about") return aboutPage(runs);
  return overview(runs, route);
}

try {
  start();
} catch (error) {
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  fill(app, h("main", {}, h("h1", {}, "This page cannot be shown"), h("p", { class: "lead" },
    `Write it again with bilens explore RUN. ${error instanceof Error ? error.message : ""}`)));
  throw error;
}
