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
    else if (value === null || value === false || value === undefined)
      element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

/** A button of the views. */
export function button(attributes, signal, press) {
  const element = el("button", { class: "laser-button", type: "button", ...attributes });
  element.addEventListener("click", press, { signal });
  return element;
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
      const command = event.ctrlKey || event.metaKey || event.altKey; // undo and the like
      if (command || !handle(event)) return;
      event.preventDefault();
      event.stopPropagation();
    },
    { signal },
  );
}

/** The parts that hold a text, joined; null, false and "" are left out. */
export function joined(separator, ...parts) {
  return parts.filter(Boolean).join(separator);
}

/** A number for people: three significant digits; very small and very large ones as 1.23e-5. */
export function shown(number) {
  if (!Number.isFinite(number)) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return number.toExponential(2);
  return String(Number(number.toPrecision(3)));
}

export function percent(share, digits = 1) {
  return Number.isFinite(share) ? `${(100 * share).toFixed(digits)} %` : "–";
}

/**
 * Buttons to the page before and after, between them where that is; hidden where one page is all.
 * A button at an end stays in reach: a disabled one would drop the keyboard's focus to the canvas.
 * @param {{tag?: string, before: string, after: string}} texts and the element's tag and attributes
 * @param {(page: number) => void} turn
 */
export function pager({ tag = "div", before, after, ...attributes }, signal, turn) {
  let page = 0;
  let count = 0;
  const step = (by) => page + by >= 0 && page + by < count && turn(page + by);
  const back = button({ "aria-label": before, text: "‹" }, signal, () => step(-1));
  const next = button({ "aria-label": after, text: "›" }, signal, () => step(1));
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
