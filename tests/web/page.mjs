/** A page without a browser, and a host that records what a view asks of the canvas. */

import { readFileSync } from "node:fs";
import { JSDOM } from "jsdom";
import { translator } from "../../web/views/strings.js";

const dom = new JSDOM("<!doctype html><body></body>", { pretendToBeVisual: true });
const NAMES = "document Event KeyboardEvent MouseEvent AbortController AbortSignal".split(" ");
for (const name of NAMES) globalThis[name] = dom.window[name];
// A canvas that only says that it was drawn: jsdom has none
Object.assign(dom.window.HTMLCanvasElement.prototype, {
  getContext: () => ({
    createImageData: (width, height) => ({ data: new Uint8ClampedArray(4 * width * height) }),
    putImageData() {},
  }),
  toDataURL: () => "data:image/png;base64,",
});
globalThis.PointerEvent = class extends dom.window.MouseEvent {
  constructor(type, { pointerId = 0, ...options } = {}) {
    super(type, options);
    Object.defineProperty(this, "pointerId", { value: pointerId });
  }
};
export const texts = Object.fromEntries(
  ["en", "ja", "zh"].map((language) => [
    language,
    JSON.parse(
      readFileSync(new URL(`../../locales/${language}/main.json`, import.meta.url), "utf-8"),
    ),
  ]),
);

/** @param {Record<string, unknown>} values the node's widgets */
export function fakeHost(values = {}, { files = {}, locked = [] } = {}) {
  const host = {
    id: "laser-1",
    values,
    steps: [], // of undo: what each set
    open: 0,
    t: translator(
      () => texts,
      () => "en",
    ),
    url: (entry) => (entry ? `/view/${entry.filename}` : null),
    json: async (entry) => files[entry.filename] ?? null,
    copies: [],
    copyPicture: async () => false,
    savePicture: async () => true,
    copy: async (text) => host.copies.push(text) > 0,
    get: (name) => values[name],
    set(name, value) {
      values[name] = value;
      if (host.open) host.steps.at(-1).push([name, value]);
      else host.steps.push("outside");
      host.view?.refresh();
    },
    locked: (name) => locked.includes(name),
    change(act) {
      host.begin();
      act();
      host.end();
    },
    begin() {
      host.open += 1;
      host.steps.push([]);
    },
    end: () => (host.open -= 1),
    makeRoom() {},
  };
  return host;
}

export function press(element, key, options = {}) {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...options });
  element.dispatchEvent(event);
  return event;
}

export function point(element, type, clientX = 0, clientY = 0, options = {}) {
  element.dispatchEvent(
    new PointerEvent(type, {
      pointerId: 1,
      button: 0,
      bubbles: true,
      cancelable: true,
      clientX,
      clientY,
      ...options,
    }),
  );
}

export const file = (name) => ({ filename: name, subfolder: "", type: "temp" });

export const maps = (count) => ({
  image: file("maps.png"),
  across: 2,
  tile: [4, 3],
  gutter: 2,
  place: [0, 0.25, 1, 0.5],
  peaks: Array.from({ length: count }, (_, index) => (index ? [0.5, 0.25] : null)),
});

export const layers = (vaq, more = {}) => ({
  size: [400, 200],
  picture: file("picture.jpg"),
  maps: maps(vaq.length),
  numbers: vaq.map((_, row) => row),
  vaq,
  layer: 2,
  weights: { 2: 1 },
  by_hand: false,
  rule_layer: 2,
  nothing_found: false,
  ...more,
});

export const windows = (more = {}) => ({
  size: [400, 200],
  picture: file("picture.jpg"),
  maps: maps(2),
  windows: [[100, 50, 300, 150]],
  shares: [0.75],
  by_hand: false,
  nothing_found: false,
  ...more,
});

/** Token maps of 2 x 1 cells on the right half of a picture, or on all of it. */
export const lookedAt = (place = [0.5, 0, 0.5, 1]) => ({
  size: [400, 200],
  picture: file("picture.jpg"),
  tile: [2, 1],
  place,
  levels: file("levels.json"),
});

/** The file of token maps, as Python writes it, in a palette of greys. */
export const lookedFile = (levels) => {
  const greys = Array.from({ length: 256 }, (_, level) => level);
  const text = (bytes) => btoa(String.fromCharCode(...bytes));
  return {
    levels: text(levels),
    colours: text(greys.flatMap((grey) => [grey, grey, grey])),
    cover: text(greys),
  };
};

export const token = (text, vat, more = {}) => ({
  text,
  vat,
  with: 0.8,
  without: 0.3,
  alternatives: [
    [text, 0.8, 0.3],
    ["other", 0.1, 0.6],
  ],
  ...more,
});

export const answer = (tokens, more = {}) => ({
  text: tokens.map(({ text }) => text).join(""),
  stop_reason: "end of answer",
  seconds: 1.25,
  count: tokens.length,
  tokens,
  all_tokens: null,
  ...more,
});
