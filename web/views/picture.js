/**
 * A picture with a map over it, as large as there is room, and room for more on top. A slider takes
 * the map off from the right, to compare; what is seen can be copied and saved.
 */

import { button, el, set, svg } from "./dom.js";

const SAID_MS = 1500; // how long a button says what it has done

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

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
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
  const edge = el("i", { class: "laser-edge", hidden: true, "aria-hidden": "true" });
  const frame = el("div", { class: "laser-picture" }, image, over, edge, missing);
  const element = el("div", { class: "laser-stage" }, frame);
  const slider = el("input", {
    class: "laser-slider",
    type: "range",
    min: 0,
    max: 100,
    value: 100,
    "aria-label": t("compare"),
    title: t("compare"),
  });
  const taken = (label, act) => async (event) => {
    const { currentTarget } = event;
    const blob = await drawn().catch(() => null);
    currentTarget.textContent = blob && (await act(blob)) ? "✓" : "✗";
    setTimeout(() => (currentTarget.textContent = t(label)), SAID_MS);
  };
  const tools = el(
    "div",
    { class: "laser-row laser-tools" },
    slider,
    button(
      { text: t("copy"), "aria-label": t("copyPicture"), title: t("copyPicture") },
      signal,
      taken("copy", host.copyPicture),
    ),
    button(
      { text: t("save"), "aria-label": t("savePicture"), title: t("savePicture") },
      signal,
      taken("save", host.savePicture),
    ),
  );
  let data = null;
  let map = 0;

  slider.addEventListener("input", compare, { signal });

  /** Lays the map over the part of the picture left of the slider. */
  function compare() {
    const share = Number(slider.value);
    over.style.clipPath = share < 100 ? `inset(0 ${100 - share}% 0 0)` : "";
    edge.hidden = share === 0 || share === 100 || over.hidden || slider.hidden;
    edge.style.left = `${share}%`;
    set(slider, { "aria-valuetext": t("mapOn", { share }) });
  }

  image.addEventListener("error", () => gone(true), { signal });
  tiles.addEventListener("error", () => set(heat, { hidden: true }), { signal });

  function gone(is) {
    missing.hidden = !is;
    over.hidden = is;
    image.hidden = is;
    tools.hidden = is;
    compare();
  }

  /** Where the map's tile lies in the file of all maps: its left and upper edge. */
  function cornerOf({ tile: [width, height], gutter, across }) {
    const column = map % across;
    const row = Math.floor(map / across);
    return [column * (width + 2 * gutter) + gutter, row * (height + 2 * gutter) + gutter];
  }

  /** What is seen of picture and map, as a file. */
  async function drawn() {
    const canvas = el("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const address = data.maps && host.url(data.maps.image);
    if (address) {
      const sheet = el("img", { src: address });
      await sheet.decode();
      const [x, y, width, height] = data.maps.place;
      const share = Number(slider.value) / 100;
      context.beginPath();
      context.rect(0, 0, share * canvas.width, canvas.height);
      context.clip();
      context.drawImage(
        sheet,
        ...cornerOf(data.maps),
        ...data.maps.tile,
        x * canvas.width,
        y * canvas.height,
        width * canvas.width,
        height * canvas.height,
      );
    }
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  /** Lays the file of all maps so that one of them fills its place on the picture. */
  function draw() {
    const address = data.maps ? host.url(data.maps.image) : null;
    set(heat, { hidden: address === null });
    slider.hidden = address === null;
    compare();
    if (address === null) return;
    const { tile, gutter, across, place, peaks } = data.maps;
    const [width, height] = tile;
    const [x, y, w, h] = place.map((share) => `${100 * share}%`);
    heat.style.cssText = `left:${x};top:${y};width:${w};height:${h}`;
    set(heat, { viewBox: [...cornerOf(data.maps), width, height].join(" ") });
    set(tiles, {
      href: address,
      width: across * (width + 2 * gutter),
      height: Math.ceil(peaks.length / across) * (height + 2 * gutter),
    });
  }

  return {
    element,
    frame,
    tools,
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
