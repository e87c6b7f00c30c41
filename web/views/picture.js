/** A picture with a map over it, as large as there is room, and room for more on top. */

import { el, set, svg } from "./dom.js";

/**
 * @typedef {object} PictureData
 * @property {[number, number]} size of the picture in pixels
 * @property {object | null} picture its file
 * @property {Maps | null} maps
 *
 * @typedef {object} Maps all maps in one file, each in a tile
 * @property {object} image its file
 * @property {number} across tiles in a row
 * @property {[number, number]} tile its width and height, without
 * @property {number} gutter around it
 * @property {[number, number, number, number]} place of a tile on the picture: x, y, width, height
 *   as shares of the picture's sides
 * @property {([number, number] | null)[]} peaks where each map is strongest, as such shares
 */

/** @param {{t: Function, url: (entry: object) => string | null}} host */
export function pictureStage(host, signal) {
  const { t } = host;
  const image = el("img", { class: "laser-image", draggable: "false" });
  // No canvas: one would cost the page a layer of its own, and repaint all that lies above it
  const tiles = svg("image");
  const heat = svg("svg", {
    class: "laser-heat",
    "aria-hidden": "true",
    preserveAspectRatio: "none",
  });
  heat.append(tiles);
  const missing = el("p", { class: "laser-missing", hidden: true, text: t("pictureGone") });
  const over = el("div", { class: "laser-over" }, heat); // a tile may reach beyond the picture
  const frame = el("div", { class: "laser-picture" }, image, over, missing);
  const element = el("div", { class: "laser-stage" }, frame);
  let data = null;
  let map = 0;

  image.addEventListener("error", () => gone(true), { signal });
  tiles.addEventListener("error", () => set(heat, { hidden: true }), { signal });

  function gone(is) {
    missing.hidden = !is;
    over.hidden = is;
    image.hidden = is;
  }

  /** Lays the file of all maps so that one of them fills its place on the picture. */
  function draw() {
    const address = data.maps ? host.url(data.maps.image) : null;
    set(heat, { hidden: address === null });
    if (address === null) return;
    const { tile, gutter, across, place, peaks } = data.maps;
    const [width, height] = tile;
    const [x, y, w, h] = place.map((share) => `${100 * share}%`);
    heat.style.cssText = `left:${x};top:${y};width:${w};height:${h}`;
    const pitch = [width + 2 * gutter, height + 2 * gutter];
    const left = (map % across) * pitch[0] + gutter;
    const top = Math.floor(map / across) * pitch[1] + gutter;
    set(heat, { viewBox: `${left} ${top} ${width} ${height}` });
    set(tiles, {
      href: address,
      width: across * pitch[0],
      height: Math.ceil(peaks.length / across) * pitch[1],
    });
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
      draw();
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
      tiles.removeAttribute("href");
      image.removeAttribute("src");
    },
  };
}

/** Where a map is strongest, in words; nothing where it holds nothing. */
export function peakText(t, peak) {
  if (!peak) return t("mapEmpty");
  const [x, y] = peak.map((share) => Math.round(100 * share));
  return t("strongestAt", { x, y });
}
