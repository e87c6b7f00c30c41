/** Texts of the views, from locales/<language>/main.json as ComfyUI serves them. */

/**
 * @param {() => Record<string, {laserViews?: Record<string, string>}>} texts by language
 * @param {() => string} language the one that is set, such as "ja" or "zh-TW"
 * @returns {(key: string, values?: Record<string, unknown>) => string}
 */
export function translator(texts, language) {
  return (key, values = {}) => {
    const all = texts();
    const set = language();
    const near = [set, set?.split("-")[0], "en"].find((name) => all[name]?.laserViews?.[key]);
    const text = near ? all[near].laserViews[key] : key;
    return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
  };
}
