/** The windows on a picture and its heat: to look at, or to move and resize by hand. */

import { el, hide, onKeys, percent, set } from "./dom.js";
import { peakText, pictureStage } from "./picture.js";
import { moved, onPicture, parsed, resized, written } from "./window.js";

const EDGES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const KEY_STEP = 0.01; // of the picture's side

/** @param {{editable: boolean}} options whether a window by hand can be set on this node */
export function windowSection(host, signal, { editable }) {
  const { t } = host;
  const status = el("p", { class: "laser-status", "aria-live": "polite" });
  const reset = el("button", { class: "laser-button", type: "button", text: t("backToEvidence") });
  const stage = pictureStage(host, signal);
  const layer = el("div", { class: "laser-windows" });
  stage.frame.append(layer);
  const caption = el("p", { class: "laser-caption" });
  const element = el(
    "section",
    { class: "laser-section laser-crop" },
    el("div", { class: "laser-row" }, status, reset),
    stage.element,
    caption,
  );
  let data = null;
  let drag = null; // {window, edges, x, y, scale} while a pointer holds the window
  let keys = null; // the window while keys are held: one step of undo for all of them

  const override = () => (editable ? String(host.get("override") ?? "") : "");
  const movable = () => editable && !host.locked("override");
  const placed = () => data.windows.map(([x1, y1, x2, y2]) => ({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));

  /** The windows to draw: the one by hand, or those the last run placed. */
  function current() {
    const text = override();
    if (!text.trim()) return data.by_hand ? [] : placed();
    const hand = parsed(text);
    const cut = hand && onPicture(hand, data.size);
    return cut ? [cut] : [];
  }

  /** The window a gesture starts from: the one by hand, or the first that was placed. */
  const start = () => current()[0] ?? placed()[0] ?? null;

  function draw(windows = current()) {
    const [width, height] = data.size;
    const boxes = [...layer.children];
    while (boxes.length > windows.length) boxes.pop().remove();
    while (boxes.length < windows.length) {
      boxes.push(box(boxes.length));
      layer.append(boxes.at(-1));
    }
    const hand = Boolean(override().trim()) || drag !== null || keys !== null;
    windows.forEach((window, index) => {
      const shares = [window.x / width, window.y / height, window.width / width, window.height / height];
      const [x, y, w, h] = shares.map((share) => `${100 * share}%`);
      boxes[index].style.cssText = `left:${x};top:${y};width:${w};height:${h}`;
      boxes[index].classList.toggle("hand", hand);
      boxes[index].classList.toggle("movable", movable());
      const number = windows.length > 1 ? t("windowNumber", { number: index + 1 }) : t("window");
      set(boxes[index], {
        tabindex: movable() ? "0" : null,
        "aria-label": [number, spoken(window), movable() ? t("windowKeys") : ""].filter(Boolean).join(". "),
      });
      boxes[index].firstChild.textContent = windows.length > 1 ? String(index + 1) : "";
    });
    say(windows, hand);
  }

  function box(index) {
    const handles = editable ? EDGES.map((edges) => el("b", { class: `laser-handle ${edges}`, "data-edges": edges })) : [];
    return el(
      "div",
      { class: "laser-window", role: "group", "data-window": index },
      el("span", { class: "laser-number", "aria-hidden": "true" }),
      ...handles,
    );
  }

  const spoken = (window) =>
    t("windowAt", { width: window.width, height: window.height, x: window.x, y: window.y });

  function say(windows, hand) {
    const text = override();
    const waits = editable && (hand ? !data.by_hand || written(windows[0] ?? start() ?? {}) !== written(placed()[0] ?? {}) : data.by_hand);
    let words;
    if (!hand && data.nothing_found) words = t("nothingFound");
    else if (!hand) words = t(data.by_hand ? "windowGone" : windows.length > 1 ? "windowsByEvidence" : "windowByEvidence", { count: windows.length });
    else if (!parsed(text) && drag === null && keys === null) words = t("overrideUnreadable");
    else if (!windows.length) words = t("overrideBeside");
    else words = t(host.count() > 1 ? "windowByHandAll" : "windowByHand");
    status.textContent = [
      words,
      host.locked("override") ? t("setByLink") : "",
      waits ? t("runToApply") : "",
    ].filter(Boolean).join(" ");
    hide(reset, !editable || !override().trim() || host.locked("override"), layer.firstChild);
    const said = windows.map((window, index) =>
      [spoken(window), !waits && data.shares ? t("shareOfEvidence", { share: percent(data.shares[index], 0) }) : ""]
        .filter(Boolean)
        .join(", "),
    );
    caption.textContent = said.join("; ") || "–";
    const heat = data.maps ? peakText(t, data.maps.peaks[0]) : "";
    stage.describe([t("pictureAlt", { width: data.size[0], height: data.size[1] }), heat, ...said].filter(Boolean).join(". "));
  }

  const commit = (window) => host.set("override", written(window));

  /**
   * The window that a gesture on a box starts from. The gesture leaves one box, the first: it takes
   * the focus, which would fall to the canvas with a box that goes.
   */
  function grasped(held) {
    layer.firstChild?.focus({ preventScroll: true });
    return current()[Number(held?.dataset.window)] ?? start();
  }

  // ---- pointer

  layer.addEventListener(
    "pointerdown",
    (event) => {
      const held = event.target.closest?.("[data-window]");
      if (!held || !movable() || event.button !== 0 || drag) return;
      const frame = stage.frame.getBoundingClientRect();
      if (!frame.width || !frame.height) return;
      drag = {
        pointer: event.pointerId,
        first: grasped(held),
        edges: event.target.dataset.edges ?? "",
        x: event.clientX,
        y: event.clientY,
        scale: [data.size[0] / frame.width, data.size[1] / frame.height],
        window: null,
      };
      layer.setPointerCapture?.(event.pointerId);
      event.preventDefault();
    },
    { signal },
  );
  layer.addEventListener(
    "pointermove",
    (event) => {
      if (!drag || event.pointerId !== drag.pointer) return;
      const dx = (event.clientX - drag.x) * drag.scale[0];
      const dy = (event.clientY - drag.y) * drag.scale[1];
      drag.window = drag.edges
        ? resized(drag.first, drag.edges, dx, dy, data.size)
        : moved(drag.first, dx, dy, data.size);
      draw([drag.window]);
    },
    { signal },
  );
  const drop = (event) => {
    if (!drag || event.pointerId !== drag.pointer) return;
    const { window } = drag;
    drag = null;
    if (window && event.type === "pointerup") host.change(() => commit(window));
    draw();
  };
  layer.addEventListener("pointerup", drop, { signal });
  layer.addEventListener("pointercancel", drop, { signal });

  // ---- keys: arrows move, with shift they resize

  onKeys(layer, signal, (event) => {
    if (!data || !movable()) return false;
    const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape" && drag) {
      drag = null;
      draw();
      return true;
    }
    if (!(event.key in directions) || drag) return false;
    const [x, y] = directions[event.key];
    const from = keys ?? grasped(event.target.closest("[data-window]"));
    if (!from) return false;
    const dx = x * Math.max(1, Math.round(KEY_STEP * data.size[0]));
    const dy = y * Math.max(1, Math.round(KEY_STEP * data.size[1]));
    const opened = keys === null;
    keys = event.shiftKey ? resized(from, "se", dx, dy, data.size) : moved(from, dx, dy, data.size);
    if (opened) host.begin();
    commit(keys);
    draw([keys]);
    return true;
  });
  const release = () => {
    if (keys === null) return;
    keys = null;
    host.end();
    draw();
  };
  layer.addEventListener("keyup", (event) => event.key.startsWith("Arrow") && release(), { signal });
  layer.addEventListener("focusout", release, { signal });
  reset.addEventListener("click", () => host.change(() => host.set("override", "")), { signal });

  return {
    element,
    show(picture) {
      data = picture.windows;
      stage.show(data, "");
      draw();
    },
    refresh() {
      if (data && !drag && keys === null) draw();
    },
    clear() {
      release();
      stage.clear();
    },
  };
}
