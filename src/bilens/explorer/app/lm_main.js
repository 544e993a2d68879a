// The page of one layer of a language model: its views, and what the menu and the window's title call them.

import { showPage } from "./frame.js";
import { lmAbout } from "./lm_about.js";
import { besidePage } from "./lm_beside.js";
import { lmCompare } from "./lm_compare.js";
import { found, readReading } from "./lm_data.js";
import { lmFeature } from "./lm_feature.js";
import { lmOverview, visibleTitle } from "./lm_overview.js";
import { sentencePage } from "./lm_sentence.js";
import { featureTitle } from "./lm_tokens.js";

/** @type {Record<string, string>} */
const LM_PAGES = { overview: "Layer", beside: "Side by side", sentence: "Sentence", compare: "Compare", about: "About" };
const LM_VIEWS = ["overview", "feature", "beside", "sentence", "compare", "about"];

/** @returns {import("./frame.js").Page} */
function readingPage() {
  const reading = readReading(), title = visibleTitle(reading), home = reading.beside ? "beside" : "overview";
  return {
    name: title,
    title,
    views: [home, ...LM_VIEWS.filter((name) => name !== home)],
    menu: Object.fromEntries(Object.entries(LM_PAGES).filter(([name]) => name !== "beside" || reading.beside)),
    show: (route) => route.view === "feature" ? lmFeature(reading, route) : route.view === "sentence" ? sentencePage(reading, route)
      : route.view === "compare" ? lmCompare(reading, route) : route.view === "beside" ? besidePage(reading, route)
      : route.view === "about" ? lmAbout(reading) : lmOverview(reading, route),
    words: (route) => {
      const asked = route.view === "feature" ? found(reading, route.value) : null, one = asked && !asked.of ? asked : null;
      return one ? featureTitle(one) : LM_PAGES[route.view] || "No such feature";
    },
  };
}

showPage(readingPage, "Run the same bilens read command again.");
