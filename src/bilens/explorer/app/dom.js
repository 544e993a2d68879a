// Elements. Text from the data only ever becomes a text node or an attribute's value, never markup.

/**
 * @typedef {Node|string|number|null|undefined|false} Child
 * @typedef {Record<string, string|number|boolean|null|undefined|((event: any) => void)>} Attributes
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element. A function among the attributes listens: `{click: …}`; false, null and undefined leave one out.
 * @param {string} name
 * @param {Attributes} attributes
 * @param {...(Child|Child[])} children
 * @returns {HTMLElement}
 */
export function h(name, attributes = {}, ...children) {
  return /** @type {HTMLElement} */ (filled(document.createElement(name), attributes, children));
}

/**
 * An SVG element.
 * @param {string} name
 * @param {Attributes} attributes
 * @param {...(Child|Child[])} children
 * @returns {SVGElement}
 */
export function s(name, attributes = {}, ...children) {
  return /** @type {SVGElement} */ (filled(document.createElementNS(SVG, name), attributes, children));
}

/**
 * @param {Element} element
 * @param {Attributes} attributes
 * @param {(Child|Child[])[]} children
 */
function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false) {
      element.append(child instanceof Node ? child : String(child));
    }
  }
  return element;
}

/**
 * The rest of an element's life: new children instead of the old ones.
 * @param {Element} element
 * @param {...(Child|Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  filled(element, {}, children);
  return element;
}

let count = 0;

/** A name that no other element of the page has. */
export function unique() {
  count += 1;
  return `e${count}`;
}

/**
 * One stop of the tab key for many items: arrow keys, Home and End move among them, by their places on the screen.
 * @param {HTMLElement} holder
 * @param {string} selector
 */
export function roving(holder, selector) {
  const items = () => /** @type {HTMLElement[]} */ ([...holder.querySelectorAll(selector)]);
  const all = items();
  const current = all.find((item) => item.getAttribute("aria-current") || item.getAttribute("aria-pressed") === "true");
  for (const item of all) item.tabIndex = item === (current || all[0]) ? 0 : -1;
  holder.addEventListener("keydown", (event) => {
    const list = items();
    const at = list.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = Math.max(1, list.filter((item) => item.offsetTop === list[0].offsetTop).length);
    /** @type {Record<string, number>} */
    const moves = {
      ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: list.length - 1,
    };
    if (!Object.hasOwn(moves, event.key)) return;
    event.preventDefault();
    const target = list[moves[event.key]];
    if (!target) return;
    for (const item of list) item.tabIndex = item === target ? 0 : -1;
    target.focus();
  });
}
