/** A picture with a map over it, as large as there is room, and room for more on top. */

import { el, set } from "./dom.js";

/**
 * @typedef {object} PictureData
 * @property {[number, number]} size of the picture in pixels
 * @property {object | null} picture its file
 * @property {null | {image: object, across: number, tile: [number, number],
 *   place: [number, number, number, number], peaks: ([number, number] | null)[]}} maps
 */

/** @param {{t: Function, url: (entry: object) => string | null}} host */
export function pictureStage(host, signal) {
  const { t } = host;
  const image = el("img", { class: "laser-image", draggable: "false" });
  const heat = el("canvas", { class: "laser-heat", "aria-hidden": "true" });
  const missing = el("p", { class: "laser-missing", hidden: true, text: t("pictureGone") });
  const frame = el("div", { class: "laser-picture" }, image, heat, missing);
  const element = el("div", { class: "laser-stage" }, frame);
  const tiles = new Image();
  let data = null;
  let map = 0;

  image.addEventListener("error", () => gone(true), { signal });
  tiles.addEventListener("load", draw, { signal });
  tiles.addEventListener("error", () => (heat.hidden = true), { signal });

  function gone(is) {
    missing.hidden = !is;
    image.hidden = is;
  }

  function draw() {
    const maps = data?.maps;
    heat.hidden = !maps || !tiles.complete || !tiles.naturalWidth;
    if (heat.hidden) return;
    const [width, height] = maps.tile;
    const [x, y, w, h] = maps.place;
    heat.width = width;
    heat.height = height;
    heat.style.cssText = `left:${100 * x}%;top:${100 * y}%;width:${100 * w}%;height:${100 * h}%`;
    const column = map % maps.across;
    const row = Math.floor(map / maps.across);
    heat
      .getContext("2d")
      ?.drawImage(tiles, column * width, row * height, width, height, 0, 0, width, height);
  }

  return {
    element,
    frame,
    /** @param {PictureData} next @param {string} alt */
    show(next, alt) {
      data = next;
      map = 0;
      const [width, height] = data.size;
      frame.style.setProperty("--laser-ratio", String(width / height));
      const address = host.url(data.picture);
      gone(address === null);
      set(image, { alt, src: address });
      const atlas = data.maps ? host.url(data.maps.image) : null;
      heat.hidden = true;
      if (atlas !== null && tiles.src !== atlas) tiles.src = atlas;
      else draw();
    },
    /** Draws one map of several. */
    showMap(index) {
      if (map === index) return;
      map = index;
      draw();
    },
    describe(alt) {
      set(image, { alt });
    },
    /** Lets go of the pictures' memory. */
    clear() {
      tiles.removeAttribute("src");
      image.removeAttribute("src");
      heat.width = heat.height = 0;
    },
  };
}

/** Where a map is strongest, in words; nothing where it holds nothing. */
export function peakText(t, peak) {
  if (!peak) return t("mapEmpty");
  return t("strongestAt", { x: Math.round(100 * peak[0]), y: Math.round(100 * peak[1]) });
}
