/** The windows on a picture and its heat, to move and resize by hand. */

import { button, el, hide, joined, onKeys, percent, set } from "./dom.js";
import { peakText, pictureStage } from "./picture.js";
import { moved, onPicture, parsed, resized, written } from "./window.js";

const EDGES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEY_STEP = 0.01; // of the picture's side

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function windowSection(host, signal) {
  const { t } = host;
  const status = el("p", { class: "laser-status", "aria-live": "polite" });
  const byEvidence = () => host.change(() => host.set("override", ""));
  const reset = button({ text: t("backToEvidence") }, signal, byEvidence);
  const stage = pictureStage(host, signal);
  const layer = el("div", { class: "laser-windows" });
  stage.frame.append(layer);
  const caption = el("p", { class: "laser-caption" });
  const element = el(
    "section",
    { class: "laser-section laser-crop" },
    el("div", { class: "laser-row" }, status, reset),
    stage.element,
    stage.tools,
    caption,
  );
  let data = null;
  let drag = null; // what a pointer that holds a window has done so far
  let keys = null; // the window while keys are held: one step of undo for all of them

  /** The window by hand, as text. What a link gives is what the last run took. */
  function override() {
    if (!host.locked("override")) return String(host.get("override") ?? "").trim();
    return data.by_hand && data.windows.length ? written(placed()[0]) : "";
  }
  const gesture = () => drag !== null || keys !== null;
  const byHand = () => gesture() || override() !== "";
  const movable = () => !host.locked("override");
  const placed = () =>
    data.windows.map(([x1, y1, x2, y2]) => ({ x: x1, y: y1, width: x2 - x1, height: y2 - y1 }));

  /** The windows to draw: the one that is held, the one by hand, or those the last run placed. */
  function current() {
    const held = drag?.window ?? keys;
    if (held) return [held];
    if (!override()) return data.by_hand ? [] : placed();
    const hand = parsed(override());
    const visible = hand && onPicture(hand, data.size);
    return visible ? [visible] : [];
  }

  function draw() {
    const windows = current();
    const boxes = [...layer.children];
    while (boxes.length > windows.length) boxes.pop().remove();
    while (boxes.length < windows.length) {
      boxes.push(box(boxes.length));
      layer.append(boxes.at(-1));
    }
    for (const [index, window] of windows.entries()) place(boxes[index], window, windows.length);
    say(windows);
  }

  function box(index) {
    const handles = EDGES.map((edges) =>
      el("b", { class: `laser-handle ${edges}`, "data-edges": edges }),
    );
    return el(
      "div",
      { class: "laser-window", role: "group", "data-window": index },
      el("span", { class: "laser-number", "aria-hidden": "true" }),
      ...handles,
    );
  }

  /** Lays a box over its window, one of `count`. */
  function place(element, window, count) {
    const [width, height] = data.size;
    element.style.left = `${(100 * window.x) / width}%`;
    element.style.top = `${(100 * window.y) / height}%`;
    element.style.width = `${(100 * window.width) / width}%`;
    element.style.height = `${(100 * window.height) / height}%`;
    element.classList.toggle("hand", byHand());
    element.classList.toggle("movable", movable());
    const number = count > 1 ? Number(element.dataset.window) + 1 : "";
    element.firstChild.textContent = number;
    const name = number ? t("windowNumber", { number }) : t("window");
    set(element, {
      tabindex: movable() ? "0" : null,
      "aria-label": joined(". ", name, spoken(window), movable() && t("windowKeys")),
    });
  }

  const spoken = ({ x, y, width, height }) => t("windowAt", { width, height, x, y });

  /** Writes the status, the caption and the picture's description. */
  function say(windows) {
    const waits = waitsForRun(windows[0]);
    const locked = host.locked("override");
    status.textContent = joined(
      " ",
      statusOf(windows),
      locked && t("setByLink"),
      waits && t("runToApply"),
    );
    hide(reset, !override() || locked, layer.firstChild);

    const shares = waits ? null : data.shares;
    const captions = windows.map((window, index) => {
      const share = shares && t("shareOfEvidence", { share: percent(shares[index], 0) });
      return joined(", ", spoken(window), share);
    });
    caption.textContent = captions.join("; ") || "–";

    const [width, height] = data.size;
    const heat = data.maps && peakText(t, data.maps.peaks[0]);
    stage.describe(joined(". ", t("pictureAlt", { width, height }), heat, ...captions));
  }

  /** Who placed the windows, or what is wrong with the one by hand. */
  function statusOf(windows) {
    if (byHand()) {
      if (!gesture() && !parsed(override())) return t("overrideUnreadable");
      if (!windows.length) return t("overrideBeside");
      return t(host.count() > 1 ? "windowByHandAll" : "windowByHand");
    }
    if (data.nothing_found) return t("nothingFound");
    if (data.by_hand) return t("windowGone");
    const count = windows.length;
    return t(count > 1 ? "windowsByEvidence" : "windowByEvidence", { count });
  }

  /** Whether the last run took something else than `drawn`. */
  function waitsForRun(drawn) {
    if (!byHand() || !data.by_hand) return byHand() !== data.by_hand;
    return Boolean(drawn) && written(drawn) !== written(placed()[0]);
  }

  const commit = (window) => host.set("override", written(window));

  /**
   * The window of the box that a gesture starts on. The gesture leaves one box, the first: it takes
   * the focus, which would fall to the canvas with a box that goes.
   */
  function grasped(held) {
    layer.firstChild.focus({ preventScroll: true });
    return current()[Number(held.dataset.window)];
  }

  // ---- pointer

  layer.addEventListener(
    "pointerdown",
    (event) => {
      const held = event.target.closest?.("[data-window]");
      if (!held || !movable() || event.button !== 0 || drag) return;
      const frame = stage.frame.getBoundingClientRect();
      const first = grasped(held);
      if (!first || !frame.width || !frame.height) return;
      drag = {
        pointer: event.pointerId,
        first,
        edges: event.target.dataset.edges ?? "", // none: the whole window moves
        x: event.clientX,
        y: event.clientY,
        scale: [data.size[0] / frame.width, data.size[1] / frame.height],
        window: null, // where it is now
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
      draw();
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
    if (event.key === "Escape" && drag) {
      drag = null;
      draw();
      return true;
    }
    if (event.key === "Escape" && override() && !keys) {
      byEvidence();
      return true;
    }
    if (!(event.key in ARROWS) || drag) return false;
    const [x, y] = ARROWS[event.key];
    const from = keys ?? grasped(event.target.closest("[data-window]"));
    if (!from) return false;
    const dx = x * Math.max(1, Math.round(KEY_STEP * data.size[0]));
    const dy = y * Math.max(1, Math.round(KEY_STEP * data.size[1]));
    if (keys === null) host.begin();
    keys = event.shiftKey ? resized(from, "se", dx, dy, data.size) : moved(from, dx, dy, data.size);
    commit(keys);
    draw();
    return true;
  });
  const release = () => {
    if (keys === null) return;
    keys = null;
    host.end();
    draw();
  };
  layer.addEventListener("keyup", ({ key }) => key in ARROWS && release(), { signal });
  layer.addEventListener("focusout", release, { signal });

  return {
    element,
    show(picture) {
      data = picture.windows;
      stage.show(data, "");
      draw();
    },
    lay: stage.lay,
    refresh() {
      if (data && !gesture()) draw();
    },
    clear() {
      release();
      stage.clear();
    },
  };
}
