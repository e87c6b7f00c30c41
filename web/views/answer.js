/** What was said, in plain text to read and to copy, and what the model says without the method. */

import { button, el, joined, percent, set } from "./dom.js";

const SHORT = 40; // characters of an answer that is written large
const STOPS = { "max tokens": "stoppedAtMax", "unfinished thought": "stoppedInThought" };
const COPIED_MS = 1500; // how long the button says so

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function answerSection(host, signal) {
  const { t } = host;
  const live = { "aria-live": "polite", "aria-atomic": "true" };
  const said = el("p", { class: "laser-said", tabindex: "0", ...live });
  const group = { role: "group", "aria-label": t("answer") };
  const copy = button({ text: t("copy") }, signal, copySaid);
  const without = el("p", { class: "laser-plain" });
  const note = el("p", { class: "laser-caption", "aria-live": "polite" });
  const notice = el("p", { class: "laser-caption" });
  const element = el(
    "section",
    { class: "laser-section laser-head", ...group },
    el("div", { class: "laser-row" }, said, copy),
    el("div", { class: "laser-row laser-below" }, without, note),
    notice,
  );
  let text = "";

  async function copySaid() {
    const done = await host.copy(text);
    copy.textContent = t(done ? "copied" : "notCopied");
    setTimeout(() => (copy.textContent = t("copy")), COPIED_MS);
  }

  function write(words, running) {
    text = words;
    set(said, { "aria-busy": running && "true" }); // it is read out once, when it is whole
    said.textContent = words || (running ? "" : t("emptyAnswer"));
    said.classList.toggle("short", words.length <= SHORT);
    copy.hidden = running || !words;
    without.hidden = running;
  }

  /** How sure the model was of each reading, and which one the answer is of. */
  function looksOf({ looks, believed }) {
    if (!Array.isArray(looks)) return "";
    const read = looks.map(([certainty, windows], index) => {
      const sizes = windows.map(([width, height]) => `${width} x ${height}`).join(", ");
      const where = sizes ? t("lookWindow", { sizes }) : t("lookWhole");
      const sure = `${where} ${percent(certainty, 0)}`;
      return looks.length > 1 && index === believed ? t("lookBelieved", { sure }) : sure;
    });
    return t(looks.length > 1 ? "sureOf" : "sureAtOnce", { read: read.join(", ") });
  }

  function drawPlain({ tokens, plain }) {
    without.hidden = !plain;
    if (!plain) return;
    const same = tokens.same ?? plain.trim() === tokens.text.trim();
    without.replaceChildren(
      el("span", { class: "laser-tag", text: t("plainModel") }),
      el("span", { text: plain }),
      el("span", { class: "laser-tag", text: same ? t("sameAnswer") : "" }),
    );
  }

  return {
    element,
    show(picture) {
      const { text: words, count, seconds, stop_reason, uncut, unsure } = picture.tokens;
      said.classList.remove("thought");
      write(words, false);
      drawPlain(picture);
      notice.textContent = picture.tokens.notice ?? "";
      const took = Number.isFinite(seconds) && t("took", { count, seconds: seconds.toFixed(1) });
      note.textContent = joined(
        " ",
        took,
        stop_reason in STOPS && t(STOPS[stop_reason]),
        uncut && t("uncut"),
        unsure && t("unsure"),
        looksOf(picture.tokens),
      );
    },
    /** The answer while it grows, or the thoughts before it. */
    stream(words, thinking = false) {
      said.classList.toggle("thought", thinking);
      write(words, true);
      const now = t(thinking ? "thinking" : "answering");
      if (note.textContent !== now) note.textContent = now; // or it would be read out each time
      said.scrollTop = said.scrollHeight;
    },
    refresh() {},
    clear() {},
  };
}
