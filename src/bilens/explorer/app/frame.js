// What every page has around its views: head and menu, the window's title, where the reader stands after a step, light
// and dark, and what is said where the page cannot be shown.

import { fill, h } from "./dom.js";
import { currentRoute, link } from "./route.js";
import { themeButton } from "./theme.js";

/**
 * @typedef {import("./route.js").Route} Route
 * @typedef {{
 *   name: string,
 *   title: string,
 *   views: string[],
 *   menu: Record<string, string>,
 *   show: (route: Route) => import("./dom.js").Child,
 *   words: (route: Route) => string,
 * }} Page what stands beside the brand; the window's title; the views that there are, the first of which it
 *   opens with, and what the menu calls those that it has; what a view shows, and its own part of the window's title
 */

/**
 * Shows a page, and what the address names of it from now on.
 * @param {() => Page} page reads the data, which may fail
 * @param {string} advice where it does
 */
export function showPage(page, advice) {
  const app = /** @type {HTMLElement} */ (document.getElementById("app"));
  try {
    frame(app, page());
  } catch (error) {
    fill(app, h("main", {}, h("h1", {}, "This page cannot be shown"), h("p", { class: "lead" },
      `${advice} ${error instanceof Error ? error.message : ""}`)));
    throw error;
  }
}

/**
 * @param {HTMLElement} app
 * @param {Page} page
 */
function frame(app, page) {
  const main = h("main", { id: "main", tabindex: -1 }), menu = h("ul", {}), home = page.views[0];
  fill(app,
    h("a", { class: "skip", href: "#main", click: (/** @type {Event} */ event) => {
      event.preventDefault();
      main.focus();
    } }, "Skip to the content"),
    h("header", { class: "masthead" }, h("div", { class: "inner" },
      h("p", { class: "brand" }, h("a", { href: link(home) }, "bilens"), page.name ? h("span", {}, page.name) : null),
      h("nav", { "aria-label": "Pages" }, menu), themeButton())),
    main,
    h("footer", {}, h("p", {}, "Written by bilens. This page needs no network and no server.")));
  const show = (/** @type {boolean} */ first) => {
    const route = currentRoute(page.views);
    const within = route.view === "feature" ? "overview" : route.view; // a feature is a step down from the overview
    fill(menu, Object.entries(page.menu).map(([name, words]) => h("li", {},
      h("a", { href: link(name), "aria-current": name === within ? "page" : null }, words))));
    fill(main, page.show(route));
    document.title = route.view === home ? page.title : `${page.words(route)} · ${page.title}`;
    if (!first) {
      window.scrollTo(0, 0);
      main.focus({ preventScroll: true });
    }
  };
  window.addEventListener("hashchange", () => show(false));
  show(true);
  performance.mark("bilens:interactive");
}
