/**
 * What a node's run sent, by picture: {layers, windows, tokens, plain}, each where the node has it.
 */

const KEPT_CHARACTERS = 32_000; // of the last result in a saved workflow, per node

/** A node's `ui` output -> a list of pictures; null where it holds none of ours. */
export function picturesOf(output) {
  const parts = {
    layers: output?.laser_vaq,
    windows: output?.laser_windows,
    tokens: output?.laser_tokens,
    plain: output?.laser_plain,
  };
  const lists = Object.entries(parts).filter(([, list]) => Array.isArray(list));
  const count = Math.max(0, ...lists.map(([, list]) => list.length));
  if (!count) return null;
  return Array.from({ length: count }, (_, index) =>
    Object.fromEntries(lists.map(([name, list]) => [name, list[index] ?? null])),
  );
}

/** What of the pictures a workflow file keeps: the first ones, as many as the limit allows. */
export function kept(pictures, limit = KEPT_CHARACTERS) {
  const result = [];
  let length = 0;
  for (const picture of pictures) {
    length += JSON.stringify(picture).length;
    if (length > limit) break;
    result.push(picture);
  }
  return { pictures: result, of: pictures.length };
}

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
