/** Presets: which values a chosen one writes into a node's widgets. Pure; knows no page. */

/**
 * @param {object} definition of a node, as the server describes it
 * @returns {Record<string, Record<string, unknown>> | undefined} values by setting, by preset
 */
export function presetsOf(definition) {
  return definition.input?.optional?.preset?.[1]?.presets;
}

/**
 * Writes the values of a preset into those widgets of a node that hold one of its settings.
 * @param {{name: string, value: unknown, callback?: (value: unknown) => void}[]} widgets
 * @param {Record<string, unknown>} values by setting
 */
export function fillIn(widgets, values) {
  for (const widget of widgets) {
    if (!Object.hasOwn(values, widget.name) || widget.value === values[widget.name]) continue;
    widget.value = values[widget.name];
    widget.callback?.(widget.value);
  }
}
