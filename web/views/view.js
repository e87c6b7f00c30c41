/** A node's view: its sections for one picture at a time, and a pager for a batch. */

import { answerSection } from "./answer.js";
import { el, pager } from "./dom.js";
import { layerSection } from "./layers.js";
import { lookedSection } from "./looked.js";
import { tokenSection } from "./tokens.js";
import { windowSection } from "./windows.js";

/**
 * What each node shows, from top to bottom: sections, each with the part of a picture that it is
 * of; and how much room a result needs (CSS pixels), on a node at least WIDE_PX wide too, where
 * the answer stands beside its window.
 */
export const VIEWS = {
  LaserVAQLayerSelect: { sections: [["layers", layerSection]], height: 400 },
  LaserConViCrop: { sections: [["windows", windowSection]], height: 320 },
  LaserVATDecode: {
    sections: [
      ["tokens", answerSection],
      ["tokens", tokenSection],
      ["looked", lookedSection],
    ],
    height: 350,
  },
  LaserAnswer: {
    sections: [
      ["tokens", answerSection],
      ["windows", windowSection],
      ["tokens", tokenSection],
    ],
    height: 690,
    wide: 360,
  },
  LaserCheck: { sections: [["tokens", answerSection]], height: 150 },
  LaserPick: { sections: [["tokens", answerSection]], height: 110 },
};

export const WIDE_PX = 540; // of a node: its view then has the width that laser.css asks for
const ERROR_HEIGHT = 120; // CSS pixels

/**
 * @typedef {object} Host what a view asks of the canvas
 * @property {string} id unique in the page
 * @property {(key: string, values?: object) => string} t
 * @property {(entry: object | null) => string | null} url of a temp file
 * @property {(entry: object) => Promise<unknown>} json of a temp file; null if it is gone
 * @property {(text: string) => Promise<boolean>} copy to the clipboard; whether it is there
 * @property {(picture: Blob) => Promise<boolean>} copyPicture likewise
 * @property {(picture: Blob) => Promise<boolean>} savePicture as a download
 * @property {(name: string) => unknown} get a widget's value
 * @property {(name: string, value: unknown) => void} set
 * @property {(name: string) => boolean} locked whether a link gives the widget's value
 * @property {(act: () => void) => void} change does it as one step of undo
 * @property {() => void} begin of a longer step of undo
 * @property {() => void} end
 * @property {(px?: number) => void} makeRoom for a result, or this much; called before each
 * @property {() => number} count of pictures
 * @property {(map: object | null) => void} lay a map over the view's picture; null: its own again
 */

/**
 * Fills `root` with the view of a node.
 * @param {HTMLElement} root
 * @param {[string, Function][]} sections
 * @param {Omit<Host, "count" | "lay">} given
 */
export function createView(root, sections, given) {
  const controller = new AbortController();
  const { signal } = controller;
  let pictures = [];
  let of = 0;
  let index = 0;
  let running = false;
  const lay = (map) => {
    for (const part of parts) part.lay?.(map);
  };
  const host = { ...given, count: () => of, lay };
  const { t } = host;

  const empty = el("p", { class: "laser-empty", text: t("runFirst") });
  const failure = el("p", { class: "laser-error", role: "alert", hidden: true });
  const pages = pager(
    {
      tag: "nav",
      class: "laser-pager",
      "aria-label": t("pictures"),
      before: t("pictureBefore"),
      after: t("pictureAfter"),
    },
    signal,
    turn,
  );
  const parts = sections.map(([name, make]) => ({ name, ...make(host, signal) }));
  const body = el(
    "div",
    { class: "laser-body", hidden: true },
    ...parts.map(({ element }) => element),
  );
  root.replaceChildren(failure, pages.element, empty, body);

  for (const { element } of parts) element.hidden = true;

  function turn(to) {
    running = false;
    body.classList.remove("waits");
    index = Math.min(Math.max(to, 0), Math.max(of - 1, 0));
    pages.show(index, of, t("pictureOf", { number: index + 1, count: of }));
    const picture = pictures[index];
    body.hidden = !picture;
    empty.hidden = Boolean(picture) || !failure.hidden;
    empty.textContent = t(of ? "pictureNotKept" : "runFirst");
    if (!picture) return;
    try {
      for (const { name, element, show } of parts) {
        element.hidden = !picture[name];
        if (picture[name]) show(picture);
      }
    } catch (error) {
      // A workflow file may hold anything; what cannot be drawn must not stop it from loading
      console.warn("LASER: a saved result cannot be shown", error);
      body.hidden = true;
      empty.hidden = false;
      empty.textContent = t("unreadable");
    }
  }

  return {
    /** @param {{pictures: object[], of: number}} result */
    show(result) {
      host.makeRoom();
      failure.hidden = true;
      pictures = result.pictures;
      of = result.of;
      turn(index);
    },
    /** After a widget has changed. */
    refresh() {
      if (!body.hidden) for (const { refresh } of parts) refresh();
    },
    /** The node runs and has nothing to show yet. */
    begin() {
      running = true;
      body.classList.add("waits");
      empty.textContent = t("running");
    },
    /** Results shown while the node runs: its windows, then its answer as it grows. */
    progress(result) {
      host.makeRoom();
      running = true;
      body.classList.remove("waits");
      body.hidden = false;
      empty.hidden = pages.element.hidden = true;
      for (const { name, element, show, stream } of parts) {
        if (result[name]) show(result);
        else if (result.text !== undefined && stream) stream(result.text, result.thinking);
        else continue;
        element.hidden = false;
      }
    },
    /** After a run that failed or was stopped: the last result again. */
    settle() {
      if (running) turn(index);
    },
    /** Why there is no new result, above the last one; null takes it away. */
    fail(text) {
      if (failure.hidden && !text) return;
      if (text) host.makeRoom(ERROR_HEIGHT);
      failure.hidden = !text;
      failure.textContent = text ? `⚠ ${text}` : "";
      turn(index);
    },
    destroy() {
      for (const { clear } of parts) clear();
      controller.abort();
      root.replaceChildren();
    },
  };
}
