// The page of one or two runs: its views, and what the menu and the window's title call them.

import { aboutPage } from "./about.js";
import { comparePage } from "./compare.js";
import { readDocument } from "./data.js";
import { faithfulnessPage } from "./faithfulness.js";
import { featurePage, title } from "./feature.js";
import { showPage } from "./frame.js";
import { overview } from "./overview.js";
import { usePalette } from "./picture.js";
import { featureAt } from "./route.js";
import { samplePage } from "./sample.js";
import { treePage, treeTitle } from "./trees.js";

/** @type {Record<string, string>} */
const PAGES = { overview: "Overview", tree: "Trees", sample: "Sample", faithfulness: "Faithfulness", compare: "Compare", about: "About" };

/** @returns {import("./frame.js").Page} */
function runPage() {
  const content = readDocument(), runs = content.runs;
  usePalette(content.palette);
  return {
    name: runs[0].name ? runs.map((run) => run.name).join(" · ") : "",
    title: runs[0].title,
    views: ["overview", "feature", "tree", "sample", "faithfulness", "compare", "about"],
    menu: Object.fromEntries(Object.entries(PAGES).filter(([name]) => name !== "tree" || runs[0].trees)),
    show: (route) => view(runs, route),
    words: (route) => viewTitle(runs, route),
  };
}

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
function view(runs, route) {
  if (route.view === "feature") return featurePage(runs, route);
  if (route.view === "tree") return treePage(runs, route);
  if (route.view === "sample") return samplePage(runs, route);
  if (route.view === "faithfulness") return faithfulnessPage(runs, route);
  if (route.view === "compare") return comparePage(runs, route);
  if (route.view === "about") return aboutPage(runs);
  return overview(runs, route);
}

/**
 * @param {import("./layout.js").Run[]} runs
 * @param {import("./route.js").Route} route
 */
function viewTitle(runs, route) {
  const number = Number(route.value || 0);
  if (route.view === "tree" && runs[0].trees?.trees[number]) return treeTitle(runs[0], number);
  if (route.view !== "feature") return PAGES[route.view];
  const found = featureAt(runs, route.value);
  return found ? title(found.set, found.feature) : "No such feature";
}

showPage(runPage, "Write it again with bilens explore RUN.");
