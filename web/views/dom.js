/** Elements from data. Texts are always set as text, never parsed as HTML. */

/**
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] `text` is the text; null and false are left out
 * @param {...(Node | null)} children
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  set(element, attributes);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** An SVG element, see `el`. */
export function svg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, attributes);
  return element;
}

/** Sets attributes as `el` does; null and false remove them. */
export function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value ?? "";
    else if (value === null || value === false || value === undefined) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** Handles keys: stops the canvas from acting on those that are handled here. */
export function onKeys(element, signal, handle) {
  element.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return; // undo and the like
      if (!handle(event)) return;
      event.preventDefault();
      event.stopPropagation();
    },
    { signal },
  );
}

/** A number for people: four significant digits at most, as its own language writes it. */
export function shown(number, digits = 3) {
  if (typeof number !== "number" || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return number.toExponential(digits - 1);
  return String(Number(number.toPrecision(digits)));
}

export function percent(share, digits = 1) {
  if (typeof share !== "number" || !Number.isFinite(share)) return "–";
  return `${(100 * share).toFixed(digits)} %`;
}
