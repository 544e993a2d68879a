// The page of one layer of a language model: its views, and what the menu and the window's title call them.

import { showPage } from "./frame.js";
import { lmAbout } from "./lm_about.js";
import { lmCompare } from "./lm_compare.js";
import { found, readReading } from "./lm_data.js";
import { featureTitle, lmFeature } from "./lm_feature.js";
import { lmOverview, visibleTitle } from "./lm_overview.js";
import { sentencePage } from "./lm_sentence.js";

/** @type {Record<string, string>} */
const LM_PAGES = { overview: "Layer", sentence: "Sentence", compare: "Compare", about: "About" };

/** @returns {import("./frame.js").Page} */
function readingPage() {
  const reading = readReading(), title = visibleTitle(reading);
  return {
    name: title,
    title,
    views: ["overview", "feature", "sentence", "compare", "about"],
    menu: LM_PAGES,
    show: (route) => route.view === "feature" ? lmFeature(reading, route) : route.view === "sentence" ? sentencePage(reading, route)
      : route.view === "compare" ? lmCompare(reading, route) : route.view === "about" ? lmAbout(reading) : lmOverview(reading, route),
    words: (route) => {
      const one = route.view === "feature" ? found(reading, route.value) : null;
      return one ? featureTitle(one) : LM_PAGES[route.view] || "No such feature";
    },
  };
}

showPage(readingPage, "Run the same bilens read command again.");
