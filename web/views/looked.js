/**
 * Where the model looked as it wrote tokens: their maps out of a file, averaged and coloured, and
 * the picture that they lie on.
 */

import { el } from "./dom.js";
import { pictureStage } from "./picture.js";

const HEIGHT_PX = 700; // of a view that shows the picture too
const NUMBERS = /^(\d+)\s*(-\s*(\d+)?)?$/;

/**
 * @typedef {object} Looked
 * @property {[number, number]} size of the picture in pixels
 * @property {object | null} picture its file
 * @property {object | null} levels the file of all tokens' maps: see `mapsOf`
 * @property {[number, number]} tile columns and rows of a map
 * @property {[number, number, number, number]} place of a map on the picture, as shares
 * @property {string} asked what the node's input said
 * @property {[number, number]} span the tokens it named: the first, the one behind the last
 */

/**
 * The picture under a map that another section lays on it.
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function lookedSection(host, signal) {
  const stage = pictureStage(host, signal);
  const element = el(
    "section",
    { class: "laser-section laser-looked" },
    stage.element,
    stage.tools,
  );
  return {
    element,
    show({ looked }) {
      host.makeRoom(HEIGHT_PX);
      const [width, height] = looked.size;
      stage.show({ ...looked, maps: null }, host.t("pictureAlt", { width, height }));
    },
    lay: stage.lay,
    refresh() {},
    clear: stage.clear,
  };
}

/** '3', '3-5' or '3-', counted from 1 -> [first, behind the last] of `count`; null for words. */
export function spanOf(text, count) {
  const numbers = NUMBERS.exec(text.trim());
  if (!numbers) return null;
  const first = Number(numbers[1]) - 1;
  const stop = numbers[3] ? Number(numbers[3]) : numbers[2] ? count : first + 1;
  return first >= 0 && first < stop && first < count ? [first, Math.min(stop, count)] : null;
}

/** A span as `spanOf` reads it. */
export function spanText([first, stop]) {
  return stop - first > 1 ? `${first + 1}-${stop}` : String(first + 1);
}

/** The file's content, texts of base64, as bytes; null where it is none. */
export function mapsOf(file) {
  try {
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const { levels, colours, cover } = file;
    return { levels: bytes(levels), colours: bytes(colours), cover: bytes(cover) };
  } catch {
    return null;
  }
}

/**
 * The mean of the maps from `first` to before `stop`, each by its own sum, in 256 levels of its
 * largest value; all 0 where they hold nothing.
 */
export function averaged({ levels }, cells, [first, stop]) {
  const sum = new Float64Array(cells);
  for (let index = first; index < stop; index++) {
    const map = levels.subarray(index * cells, (index + 1) * cells);
    const total = map.reduce((all, level) => all + level, 0);
    for (let cell = 0; total && cell < cells; cell++) sum[cell] += map[cell] / total;
  }
  const most = Math.max(...sum);
  return Uint8Array.from(sum, (value) => (most ? Math.round((255 * value) / most) : 0));
}

/** Levels as a picture's address, a pixel for each; null where the page cannot draw one. */
export function coloured({ colours, cover }, levels, [width, height]) {
  const canvas = el("canvas", { width, height });
  const context = canvas.getContext("2d");
  const image = context?.createImageData(width, height);
  if (!image) return null;
  for (const [cell, level] of levels.entries()) {
    image.data.set(colours.subarray(3 * level, 3 * level + 3), 4 * cell);
    image.data[4 * cell + 3] = cover[level];
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** Where levels are strongest, as shares of the picture's sides; null where they hold nothing. */
export function peakOf(levels, [columns], [x, y, width, height]) {
  const most = Math.max(...levels);
  if (!most) return null;
  const cell = levels.indexOf(most);
  const rows = levels.length / columns;
  return [
    x + (width * ((cell % columns) + 0.5)) / columns,
    y + (height * (Math.floor(cell / columns) + 0.5)) / rows,
  ];
}
