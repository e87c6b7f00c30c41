/**
 * VAQ of every layer that has maps: a bar each, its map on hover or with the arrow keys, a click
 * chooses it. A layer is named by its number in the decoder; its row is the place of its bar.
 */

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
  let looked = 0; // the row whose map is shown

  /** The layer that is chosen by hand, or null. What a link gives is what the last run took. */
  function given() {
    if (host.locked("layer")) return data.by_hand ? data.layer : null;
    const layer = Number(host.get("layer"));
    return Number.isInteger(layer) && layer >= 0 ? layer : null;
  }

  const chosen = () => given() ?? (data.by_hand ? data.rule_layer : data.layer);
  const fused = (layer) =>
    given() === null && layer in data.weights && Object.keys(data.weights).length > 1;

  const rowOf = (layer) => data.numbers.indexOf(Number(layer));

  function label(row) {
    const layer = data.numbers[row];
    const vaq = data.vaq[row];
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
    // Where all count alike, by VAQ
    const most = (layer) => (data.largest ? data.vaq[rowOf(layer)] : data.weights[layer]);
    const ranked = Object.keys(data.weights).sort((a, b) => most(b) - most(a));
    if (ranked.length < 2) return t("layerByRule", { layer });
    return t(data.largest ? "layersJoined" : "layersFused", {
      count: ranked.length,
      layers: ranked.slice(0, NAMED).join(", "),
    });
  }

  function look(row) {
    looked = Math.min(Math.max(row, 0), data.vaq.length - 1);
    for (const [index, bar] of [...bars.children].entries())
      bar.classList.toggle("looked", index === looked);
    set(bars, { "aria-activedescendant": bars.children[looked]?.id });
    stage.showMap(looked);
    const words = `${label(looked)}; ${peakText(t, data.maps?.peaks?.[looked])}.`;
    caption.textContent = words;
    stage.describe(`${t("mapAlt")} ${words}`);
  }

  /** Chooses a layer by hand; the chosen one again goes back to the rule. */
  function choose(row) {
    const layer = data.numbers[row];
    put(given() === layer ? BY_RULE : layer);
  }

  function put(layer) {
    if (!host.locked("layer")) host.change(() => host.set("layer", layer));
  }

  /** Marks what is chosen now, without building the bars again. */
  function mark() {
    const layer = chosen();
    const byHand = given() !== null;
    for (const [index, bar] of [...bars.children].entries()) {
      const own = data.numbers[index] === layer;
      bar.classList.toggle("chosen", own);
      bar.classList.toggle("hand", own && byHand);
      bar.classList.toggle("fused", !own && fused(data.numbers[index]));
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
      const row = rowUnder(event);
      if (row !== null && row !== looked) look(row);
    },
    { signal },
  );
  bars.addEventListener("pointerleave", () => data && look(rowOf(chosen())), { signal });
  bars.addEventListener(
    "click",
    (event) => {
      const row = rowUnder(event);
      if (row !== null) choose(row);
    },
    { signal },
  );
  onKeys(bars, signal, (event) => {
    if (!data) return false;
    if (event.key in STEPS) look(looked + STEPS[event.key]);
    else if (event.key === "Home") look(0);
    else if (event.key === "End") look(data.vaq.length - 1);
    else if (event.key === "Enter" || event.key === " ") choose(looked);
    else if (event.key === "Escape" && given() !== null) put(BY_RULE);
    else return false;
    return true;
  });

  function bar(row, vaq, most) {
    const height = vaq === null ? 100 : (100 * Math.max(vaq, 0)) / most; // per cent
    return el(
      "div",
      {
        class: vaq === null ? "laser-bar broken" : "laser-bar",
        role: "option",
        id: `${host.id}-layer-${row}`,
        "data-layer": data.numbers[row],
      },
      el("i", { style: `height:${height}%` }),
    );
  }

  function rowUnder(event) {
    const bar = event.target.closest?.("[data-layer]");
    return bar ? rowOf(bar.dataset.layer) : null;
  }

  return {
    element,
    show(picture) {
      data = picture.layers;
      const most = Math.max(...data.vaq.map((vaq) => vaq ?? 0)) || 1;
      bars.replaceChildren(...data.vaq.map((vaq, row) => bar(row, vaq, most)));
      stage.show(data, "");
      mark();
      look(rowOf(chosen()));
    },
    refresh() {
      if (!data) return;
      mark();
      look(looked);
    },
    clear: () => stage.clear(),
  };
}
