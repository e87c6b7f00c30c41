/**
 * What a node's run sent, by picture: {layers, windows, tokens, plain, looked}, each where the node
 * has it.
 */

const KEPT_CHARACTERS = 32_000; // of the last result in a saved workflow, per node
const KEPT_TEXT = 4_000; // of each text of a result that would not fit whole

/** A node's `ui` output -> a list of pictures; null where it holds none of ours. */
export function picturesOf(output) {
  const parts = {
    layers: output?.laser_vaq,
    windows: output?.laser_windows,
    tokens: output?.laser_tokens,
    plain: output?.laser_plain,
    looked: output?.laser_looked,
  };
  const lists = Object.entries(parts).filter(([, list]) => Array.isArray(list));
  const count = Math.max(0, ...lists.map(([, list]) => list.length));
  if (!count) return null;
  return Array.from({ length: count }, (_, index) =>
    Object.fromEntries(lists.map(([name, list]) => [name, list[index] ?? null])),
  );
}

/** What of the pictures a workflow file keeps: the first ones, as many as fit. */
export function kept(pictures) {
  const result = [];
  let left = KEPT_CHARACTERS;
  const fits = (picture) => JSON.stringify(picture).length <= left;
  for (const picture of pictures) {
    const fitting = [picture, shortened(picture)].find(fits);
    if (!fitting) break;
    left -= JSON.stringify(fitting).length;
    result.push(fitting);
  }
  return { pictures: result, of: pictures.length };
}

/** A result without its tokens' alternatives and the ends of its texts. */
function shortened({ tokens, plain, ...rest }) {
  if (!tokens) return { ...rest, tokens, plain };
  return {
    ...rest,
    plain: plain && cut(plain),
    tokens: {
      ...tokens,
      text: cut(tokens.text),
      same: plain?.trim() === tokens.text.trim(), // which the cut texts no longer tell
      tokens: tokens.tokens.map((token) => ({ ...token, alternatives: [] })),
    },
  };
}

const cut = (text) => (text.length > KEPT_TEXT ? `${text.slice(0, KEPT_TEXT)} …` : text);

/** What `kept` gave, out of a workflow file that anybody may have written; null if it is not. */
export function restored(value) {
  const pictures = value?.pictures;
  const fits = Array.isArray(pictures) && pictures.every((one) => one && typeof one === "object");
  return fits ? { pictures, of: Math.max(Number(value.of) || 0, pictures.length) } : null;
}

/** The address of a temp file: nothing but ComfyUI's own temp folder is ever asked. */
export function fileQuery(entry) {
  if (typeof entry?.filename !== "string") return null;
  return `/view?${new URLSearchParams({ filename: entry.filename, subfolder: "", type: "temp" })}`;
}

/** Of an error, the line that says what to do. */
export function firstLine(message) {
  return String(message ?? "")
    .trim()
    .split(/\r?\n/)[0];
}
