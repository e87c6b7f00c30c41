/** Texts of the views, from locales/<language>/main.json as ComfyUI serves them. */

/**
 * @param {() => Record<string, {laserViews?: Record<string, string>}>} texts by language
 * @param {() => string} language the one that is set, such as "ja" or "zh-TW"
 * @returns {(key: string, values?: Record<string, unknown>) => string}
 */
export function translator(texts, language) {
  return (key, values = {}) => {
    const text = found(texts(), [...near(language()), "en"], "laserViews", key) ?? key;
    return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
  };
}

/** Names a choice of a node in the language that is set, with the choice itself behind. */
export function choiceNamer(texts, language) {
  return (choice) => {
    const name = found(texts(), near(language()), "laserChoices", choice);
    return name ? `${name} (${choice})` : String(choice ?? "");
  };
}

const near = (language) => [language, language?.split("-")[0]];

function found(texts, languages, part, key) {
  const name = languages.find((one) => texts[one]?.[part]?.[key]);
  return name && texts[name][part][key];
}
