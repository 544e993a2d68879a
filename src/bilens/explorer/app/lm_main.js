// The page of one layer of a language model: its head, the view that the address names, light and dark.

import { fill, h } from "./dom.js";
import { lmAbout } from "./lm_about.js";
import { besidePage } from "./lm_beside.js";
import { lmCompare } from "./lm_compare.js";
import { found, readReading } from "./lm_data.js";
import { featureTitle, lmFeature } from "./lm_feature.js";
import { lmOverview, visibleTitle } from "./lm_overview.js";
import { sentencePage } from "./lm_sentence.js";
import { currentRoute, link } from "./route.js";
import { themeButton } from "./theme.js";

/** @type {Record<string, string>} */
const LM_PAGES = { overview: "Layer", beside: "Side by side", sentence: "Sentence", compare: "Compare", about: "About" };
const LM_VIEWS = ["overview", "feature", "beside", "sentence", "compare", "about"];

function startReading() {
  const reading = readReading();
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  const main = h("main", { id: "main", tabindex: -1 }), menu = h("ul", {});
  const title = visibleTitle(reading), home = reading.beside ? "beside" : "overview";
  const views = [home, ...LM_VIEWS.filter((name) => name !== home)];
  fill(app,
    h("a", { class: "skip", href: "#main", click: (/** @type {Event} */ event) => {
      event.preventDefault();
      main.focus();
    } }, "Skip to the content"),
    h("header", { class: "masthead" }, h("div", { class: "inner" },
      h("p", { class: "brand" }, h("a", { href: link(home) }, "bilens"), h("span", {}, title)),
      h("nav", { "aria-label": "Pages" }, menu), themeButton())),
    main,
    h("footer", {}, h("p", {}, "Written by bilens. This page needs no network and no server.")));
  const show = (/** @type {boolean} */ first) => {
    const route = currentRoute(views);
    fill(menu, Object.entries(LM_PAGES).filter(([name]) => name !== "beside" || reading.beside).map(([name, words]) => h("li", {}, h("a", { href: link(name),
      "aria-current": name === route.view || (name === "overview" && route.view === "feature") ? "page" : null }, words))));
    const asked = route.view === "feature" ? found(reading, route.value) : null, one = asked && !asked.of ? asked : null;
    fill(main, route.view === "feature" ? lmFeature(reading, route) : route.view === "sentence" ? sentencePage(reading, route)
      : route.view === "compare" ? lmCompare(reading, route) : route.view === "beside" ? besidePage(reading, route) : route.view === "about" ? lmAbout(reading) : lmOverview(reading, route));
    document.title = route.view === home ? title : `${one ? featureTitle(one) : LM_PAGES[route.view] || "No such feature"} · ${title}`;
    if (!first) {
      window.scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
  };
  window.addEventListener("hashchange", () => show(false));
  show(true);
  performance.mark("bilens:interactive");
}

try {
  startReading();
} catch (error) {
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  fill(app, h("main", {}, h("h1", {}, "This page cannot be shown"), h("p", { class: "lead" },
    `Run the same bilens read command again. ${error instanceof Error ? error.message : ""}`)));
  throw error;
}
