/** VAQ of every layer: a bar each, its map on hover or with the arrow keys, a click chooses it. */

import { el, hide, onKeys, set, shown } from "./dom.js";
import { peakText, pictureStage } from "./picture.js";

const NAMED = 3; // of the layers that are fused

/**
 * @param {object} host see laser.js
 * @param {AbortSignal} signal
 */
export function layerSection(host, signal) {
  const { t } = host;
  const status = el("p", { class: "laser-status", "aria-live": "polite" });
  const byRule = el("button", { class: "laser-button", type: "button", text: t("backToRule") });
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
    caption,
  );
  let data = null;
  let looked = 0; // the layer whose map is shown

  const given = () => {
    const value = Number(host.get("layer"));
    return Number.isInteger(value) && value >= 0 ? value : -1;
  };
  const chosen = () => (given() >= 0 ? given() : data.by_hand ? data.rule_layer : data.layer);

  function label(layer) {
    const vaq = data.vaq[layer];
    const parts = [t("layerVaq", { layer, vaq: vaq === null ? t("notFinite") : shown(vaq) })];
    if (fused(layer)) parts.push(t("fused", { share: Math.round(100 * data.weights[layer]) }));
    else if (layer === chosen()) parts.push(t(given() >= 0 ? "chosenByHand" : "chosenByRule"));
    return parts.join(", ");
  }

  /** How the rule's choice reads: one layer, or several of which the strongest are named. */
  function ruleWords(layer) {
    const ranked = Object.keys(data.weights).sort((a, b) => data.weights[b] - data.weights[a]);
    if (ranked.length < 2) return t("layerByRule", { layer });
    return t("layersFused", { count: ranked.length, layers: ranked.slice(0, NAMED).join(", ") });
  }

  const fused = (layer) =>
    given() < 0 && layer in data.weights && Object.keys(data.weights).length > 1;

  function look(layer) {
    looked = Math.min(Math.max(layer, 0), data.vaq.length - 1);
    for (const bar of bars.children) bar.classList.toggle("looked", Number(bar.dataset.layer) === looked);
    set(bars, { "aria-activedescendant": bars.children[looked]?.id });
    stage.showMap(looked);
    const words = `${label(looked)}. ${peakText(t, data.maps?.peaks?.[looked])}`;
    caption.textContent = words;
    stage.describe(`${t("mapAlt")} ${words}`);
  }

  /** Chooses a layer by hand; the chosen one again goes back to the rule. */
  function choose(layer) {
    if (host.locked("layer")) return;
    host.change(() => host.set("layer", given() === layer ? -1 : layer));
  }

  /** Marks what is chosen now, without building the bars anew. */
  function mark() {
    const layer = chosen();
    for (const bar of bars.children) {
      const own = Number(bar.dataset.layer);
      bar.classList.toggle("chosen", own === layer);
      bar.classList.toggle("hand", own === layer && given() >= 0);
      bar.classList.toggle("fused", own !== layer && fused(own));
      set(bar, { "aria-selected": String(own === layer), "aria-label": label(own) });
    }
    const hand = given() >= 0;
    const words = hand ? t("layerByHand", { layer, rule: data.rule_layer }) : ruleWords(layer);
    const waits = hand !== Boolean(data.by_hand) || (hand && layer !== data.layer);
    status.textContent = [
      words,
      data.nothing_found && !waits ? t("nothingFound") : "",
      host.locked("layer") ? t("setByLink") : "",
      waits ? t("runToApply") : "",
    ].filter(Boolean).join(" ");
    hide(byRule, !hand || host.locked("layer"), bars);
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
  byRule.addEventListener("click", () => host.change(() => host.set("layer", -1)), { signal });
  onKeys(bars, signal, (event) => {
    if (!data) return false;
    const last = data.vaq.length - 1;
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -last, End: last };
    if (event.key in steps) look(looked + steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") choose(looked);
    else if (event.key === "Escape" && given() >= 0) choose(given());
    else return false;
    return true;
  });

  function layerOf(event) {
    const bar = event.target.closest?.("[data-layer]");
    return bar ? Number(bar.dataset.layer) : null;
  }

  return {
    element,
    show(picture) {
      data = picture.layers;
      const most = Math.max(...data.vaq.map((vaq) => vaq ?? 0)) || 1;
      bars.replaceChildren(
        ...data.vaq.map((vaq, layer) =>
          el(
            "div",
            {
              class: vaq === null ? "laser-bar broken" : "laser-bar",
              role: "option",
              id: `${host.id}-layer-${layer}`,
              "data-layer": layer,
            },
            el("i", { style: `height:${vaq === null ? 100 : (100 * Math.max(vaq, 0)) / most}%` }),
          ),
        ),
      );
      stage.show(data, "");
      mark();
      look(Math.min(chosen(), data.vaq.length - 1));
    },
    refresh() {
      if (!data) return;
      mark();
      look(looked);
    },
    clear: () => stage.clear(),
  };
}
