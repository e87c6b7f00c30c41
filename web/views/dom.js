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

/** Shows or hides an element; the focus of one that goes is handed to `next`, not to the canvas. */
export function hide(element, is, next) {
  if (is && element === document.activeElement) next?.focus({ preventScroll: true });
  element.hidden = is;
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

/** A number for people: three significant digits unless told, very small and large ones as 1.2e-5. */
export function shown(number, digits = 3) {
  if (typeof number !== "number" || !Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return number.toExponential(digits - 1);
  return String(Number(number.toPrecision(digits)));
}

/**
 * Buttons to the page before and after, and words for where that is; hidden where there is one page.
 * A button at an end stays in reach: a disabled one would drop the keyboard's focus to the canvas.
 * @param {{tag?: string, before: string, after: string}} texts and the element's tag and attributes
 * @param {(page: number) => void} turn
 */
export function pager({ tag = "div", before, after, ...attributes }, signal, turn) {
  let page = 0;
  let count = 0;
  const step = (by) => page + by >= 0 && page + by < count && turn(page + by);
  const [back, next] = [[before, "‹", -1], [after, "›", 1]].map(([label, text, by]) => {
    const button = el("button", { class: "laser-button", type: "button", "aria-label": label, text });
    button.addEventListener("click", () => step(by), { signal });
    return button;
  });
  const where = el("span", { class: "laser-where", "aria-live": "polite" });
  const element = el(tag, { ...attributes, hidden: true }, back, where, next);
  return {
    element,
    step,
    /** @param {number} now the page @param {number} of how many @param {string} text */
    show(now, of, text) {
      page = now;
      count = of;
      element.hidden = of < 2;
      where.textContent = text;
      set(back, { "aria-disabled": now <= 0 && "true" });
      set(next, { "aria-disabled": now >= of - 1 && "true" });
    },
  };
}

export function percent(share, digits = 1) {
  if (typeof share !== "number" || !Number.isFinite(share)) return "–";
  return `${(100 * share).toFixed(digits)} %`;
}
