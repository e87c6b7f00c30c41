/** VAQ of every layer: a bar each, its map on hover or with the arrow keys, a click chooses it. */

import { button, el, hide, joined, onKeys, set, shown } from "./dom.js";
import { peakText, pictureStage } from "./picture.js";

const NAMED = 3; // of the layers that are fused
const STEPS = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 };
const BY_RULE = -1; // what the widget "layer" holds where none is chosen by hand

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function layerSection(host, signal) {
  const { t } = host;
  const status = el("p", { class: "laser-status", "aria-live": "polite" });
  const byRule = button({ text: t("backToRule") }, signal, () =>
    host.change(() => host.set("layer", BY_RULE)),
  );
  const bars = el("div", {
    class: "laser-bars",
    role: "listbox",
    tabindex: "0",
    "aria-label": t("layersLabel"),
    "aria-orientation": "horizontal",
  });
  const stage = pictureStage(host, signal);
  const caption = el("p", { class: "laser-caption", "aria-live": "polite" });
  const element = el(
    "section",
    { class: "laser-section laser-layers" },
    el("div", { class: "laser-row" }, status, byRule),
    bars,
    stage.element,
    stage.tools,
    caption,
  );
  let data = null;
  let looked = 0; // the layer whose map is shown

  /** The layer that is chosen by hand, or null. What a link gives is what the last run took. */
  function given() {
    if (host.locked("layer")) return data.by_hand ? data.layer : null;
    const layer = Number(host.get("layer"));
    return Number.isInteger(layer) && layer >= 0 ? layer : null;
  }

  const chosen = () => given() ?? (data.by_hand ? data.rule_layer : data.layer);
  const fused = (layer) =>
    given() === null && layer in data.weights && Object.keys(data.weights).length > 1;

  function label(layer) {
    const vaq = data.vaq[layer];
    const score = t("layerVaq", { layer, vaq: vaq === null ? t("notFinite") : shown(vaq) });
    return joined(", ", score, role(layer));
  }

  /** What a layer is to the choice; "" for nothing. */
  function role(layer) {
    if (fused(layer) && data.largest) return t("joined");
    if (fused(layer)) return t("fused", { share: Math.round(100 * data.weights[layer]) });
    if (layer !== chosen()) return "";
    return t(given() === null ? "chosenByRule" : "chosenByHand");
  }

  /** Who chose the layer, or the layers of which the strongest are named. */
  function choice(layer) {
    if (given() !== null) return t("layerByHand", { layer, rule: data.rule_layer });
    const most = data.largest ? data.vaq : data.weights; // where all count alike
    const ranked = Object.keys(data.weights).sort((a, b) => most[b] - most[a]);
    if (ranked.length < 2) return t("layerByRule", { layer });
    return t(data.largest ? "layersJoined" : "layersFused", {
      count: ranked.length,
      layers: ranked.slice(0, NAMED).join(", "),
    });
  }

  function look(layer) {
    looked = Math.min(Math.max(layer, 0), data.vaq.length - 1);
    for (const [index, bar] of [...bars.children].entries())
      bar.classList.toggle("looked", index === looked);
    set(bars, { "aria-activedescendant": bars.children[looked]?.id });
    stage.showMap(looked);
    const words = `${label(looked)}. ${peakText(t, data.maps?.peaks?.[looked])}`;
    caption.textContent = words;
    stage.describe(`${t("mapAlt")} ${words}`);
  }

  /** Chooses a layer by hand; the chosen one again goes back to the rule. */
  function choose(layer) {
    if (host.locked("layer")) return;
    host.change(() => host.set("layer", given() === layer ? BY_RULE : layer));
  }

  /** Marks what is chosen now, without building the bars again. */
  function mark() {
    const layer = chosen();
    const byHand = given() !== null;
    for (const [index, bar] of [...bars.children].entries()) {
      const own = index === layer;
      bar.classList.toggle("chosen", own);
      bar.classList.toggle("hand", own && byHand);
      bar.classList.toggle("fused", !own && fused(index));
      set(bar, { "aria-selected": String(own), "aria-label": label(index) });
    }
    const locked = host.locked("layer");
    const waits = byHand !== Boolean(data.by_hand) || (byHand && layer !== data.layer);
    status.textContent = joined(
      " ",
      choice(layer),
      data.nothing_found && !waits && t("nothingFound"),
      locked && t("setByLink"),
      waits && t("runToApply"),
    );
    hide(byRule, !byHand || locked, bars);
  }

  bars.addEventListener(
    "pointermove",
    (event) => {
      const layer = layerOf(event);
      if (layer !== null && layer !== looked) look(layer);
    },
    { signal },
  );
  bars.addEventListener("pointerleave", () => data && look(chosen()), { signal });
  bars.addEventListener(
    "click",
    (event) => {
      const layer = layerOf(event);
      if (layer !== null) choose(layer);
    },
    { signal },
  );
  onKeys(bars, signal, (event) => {
    if (!data) return false;
    if (event.key in STEPS) look(looked + STEPS[event.key]);
    else if (event.key === "Home") look(0);
    else if (event.key === "End") look(data.vaq.length - 1);
    else if (event.key === "Enter" || event.key === " ") choose(looked);
    else if (event.key === "Escape" && given() !== null) choose(given());
    else return false;
    return true;
  });

  function bar(layer, vaq, most) {
    const height = vaq === null ? 100 : (100 * Math.max(vaq, 0)) / most; // per cent
    return el(
      "div",
      {
        class: vaq === null ? "laser-bar broken" : "laser-bar",
        role: "option",
        id: `${host.id}-layer-${layer}`,
        "data-layer": layer,
      },
      el("i", { style: `height:${height}%` }),
    );
  }

  function layerOf(event) {
    const bar = event.target.closest?.("[data-layer]");
    return bar ? Number(bar.dataset.layer) : null;
  }

  return {
    element,
    show(picture) {
      data = picture.layers;
      const most = Math.max(...data.vaq.map((vaq) => vaq ?? 0)) || 1;
      bars.replaceChildren(...data.vaq.map((vaq, layer) => bar(layer, vaq, most)));
      stage.show(data, "");
      mark();
      look(chosen());
    },
    refresh() {
      if (!data) return;
      mark();
      look(looked);
    },
    clear: () => stage.clear(),
  };
}
