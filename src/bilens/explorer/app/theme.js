// Light and dark: as the system has it, until the reader says otherwise.

import { h } from "./dom.js";

/** The button that changes from one to the other, and keeps the choice where the browser allows it. */
export function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const words = () => (dark() ? "Light" : "Dark");
  try {
    const kept = localStorage.getItem("bilens-theme");
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch {
    // a browser that keeps nothing for file:// follows the system
  }
  const button = h("button", { type: "button", class: "theme", click: () => {
    root.dataset.theme = dark() ? "light" : "dark";
    button.textContent = words();
    try {
      localStorage.setItem("bilens-theme", root.dataset.theme);
    } catch {
      // nor here
    }
  } }, words());
  return button;
}
