/** What a chosen model is and needs, in a line of the server's numbers. Pure; knows no page. */

import { joined } from "./dom.js";

/**
 * @param {object} definition of a node, as the server describes it
 * @returns {Record<string, object> | undefined} what is known of each model, by its stored value
 */
export function modelsOf(definition) {
  return definition.input?.optional?.model?.[1]?.about;
}

/**
 * @param {Record<string, object>} models see nodes/models.py
 * @param {Pick<import("./view.js").Host, "t" | "get" | "locked">} host
 */
export function modelLine(models, { t, get, locked }) {
  if (locked("model") || locked("custom_model")) return t("setByLink");
  const custom = String(get("custom_model") ?? "").trim();
  const model = Object.hasOwn(models, custom || get("model")) && models[custom || get("model")];
  if (!model) return t(custom ? "modelByHand" : "modelUnknown");
  if (model.bundled) return t("modelBundled");
  if (model.lacks) return t("modelLacks", { file: model.lacks });
  const about = joined(", ", model.description, model.size, model.precision);
  return joined(" ", `${about}.`, !model.here && t("modelDownload"), verdict(model, { t, get }));
}

/** Whether it fits as it is chosen, and if not, what makes it fit. */
function verdict({ needs, memory }, { t, get }) {
  if (get("device") !== "auto" || get("precision") !== "auto") return null;
  const chosen = needs[get("quantization")] ?? needs.none;
  if (!chosen) return null;
  const values = { needs: chosen.size, memory };
  if (chosen.fits) return t("modelFits", values);
  const [smaller] = Object.entries(needs).find(([, { fits }]) => fits) ?? [];
  return joined(" ", t("modelTooLarge", values), smaller && t("modelQuantize", { smaller }));
}
