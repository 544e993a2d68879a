// The address: everything that a view shows is in the part after #, so that a link carries it.

/**
 * @typedef {{view: string, value: string, more: Record<string, string>}} Route
 */

/**
 * @param {string[]} views that the page has; the first is shown where the address names none
 * @returns {Route}
 */
export function currentRoute(views) {
  const parts = location.hash.slice(1).split("&").filter(Boolean).map((part) => {
    const [name, ...rest] = part.split("=");
    return [name, readable(rest.join("="))];
  });
  const [first, ...others] = parts;
  if (!first || !views.includes(first[0])) return { view: views[0], value: "", more: {} };
  return { view: first[0], value: first[1], more: Object.fromEntries(others) };
}

/** @param {string} text */
function readable(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

/**
 * @param {string} view
 * @param {string|number} value
 * @param {Record<string, string|number|null|undefined>} more
 */
export function link(view, value = "", more = {}) {
  /** @type {[string, string|number|null|undefined][]} */
  const parts = [[view, value], ...Object.entries(more)];
  const written = parts.filter(([name, part]) => name === view || (part !== null && part !== undefined && part !== ""));
  return `#${written.map(([name, part]) => (part === "" ? name : `${name}=${plain(String(part))}`)).join("&")}`;
}

/** @param {string} text */
function plain(text) {
  return encodeURIComponent(text).replace(/%3A/g, ":").replace(/%2C/g, ",").replace(/%40/g, "@");
}

/**
 * Put the state into the address without a step in the history.
 * @param {string} address
 */
export function remember(address) {
  try {
    history.replaceState(null, "", address);
  } catch {
    // a browser that allows no state on file:// still shows the page
  }
}

/**
 * A feature by its name in links: "svd:3", and "svd:3@1" in the second run.
 * @param {import("./layout.js").Run[]} runs
 * @param {string} name
 */
export function featureAt(runs, name) {
  const match = /^([^:]+):(\d+)(?:@(\d))?$/.exec(name);
  if (!match) return null;
  const run = Number(match[3] || 0), place = Number(match[2]);
  const set = runs[run]?.sets.find((each) => each.name === match[1]);
  const feature = set?.features[place];
  return set && feature ? { run, set, place, feature } : null;
}

/**
 * @param {import("./layout.js").Features} set
 * @param {number} place
 * @param {number} run
 */
export function featureName(set, place, run = 0) {
  return `${set.name}:${place}${run ? `@${run}` : ""}`;
}
