/**
 * An answer token by token: how much each depends on the evidence, both probabilities, and where
 * the model looked as it wrote it. A click chooses whose map the node puts out, with shift a span.
 */

import { el, joined, onKeys, pager, percent, set, shown } from "./dom.js";
import { averaged, coloured, mapsOf, peakOf, spanOf, spanText } from "./looked.js";
import { peakText } from "./picture.js";

const PAGE = 64; // tokens; as many as travel with the payload
// Of Visual Activation of Tokens, in logits: what makes a token 1.6 and 7.4 times as likely
const NEUTRAL = 0.5;
const STRONG = 2;
const LEAST = 0.01; // of a reading's share: what both think less of is among all others
const LONGEST = 60; // characters of what is said to be mapped
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function tokenSection(host, signal) {
  const { t } = host;
  const list = el("div", {
    class: "laser-tokens",
    role: "listbox",
    tabindex: "0",
    "aria-label": t("tokensLabel"),
  });
  const legend = el("p", { class: "laser-legend" });
  const mapNote = el("p", { class: "laser-caption laser-looked-at", "aria-live": "polite" });
  const note = el("p", { class: "laser-caption", "aria-live": "polite" });
  const pages = pager(
    { class: "laser-pages", before: t("tokensBefore"), after: t("tokensAfter") },
    signal,
    turn,
  );
  const detail = el("div", { class: "laser-detail", "aria-live": "polite" });
  const element = el(
    "section",
    { class: "laser-section laser-answer" },
    list,
    pages.element,
    legend,
    note,
    mapNote,
    detail,
  );
  let data = null;
  let tokens = [];
  let page = 0;
  let looked = -1; // the token whose details are shown
  let answers = 0; // shown so far: tokens that arrive late, for an earlier one, are dropped
  let seen = null; // where the tokens looked, see Looked in looked.js
  let maps = null; // the same, read from its file
  let wishes = 0; // for a map: one that arrives late is dropped
  let anchor = 0; // the token that a click with shift goes on from

  function kind(token) {
    if (typeof token.vat !== "number") return "none";
    if (Math.abs(token.vat) < NEUTRAL) return "neutral";
    return `${token.vat > 0 ? "for" : "against"}${Math.abs(token.vat) >= STRONG ? " strong" : ""}`;
  }

  const words = (token) => t(`vat_${kind(token).replace(" ", "_")}`, { vat: shown(token.vat) });
  const visible = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");

  function classOf(token, index) {
    const thought = index < (data.thought_tokens ?? 0) ? " thought" : "";
    return `laser-token ${kind(token)}${thought}`;
  }

  function drawPage() {
    const first = page * PAGE;
    const part = tokens.slice(first, first + PAGE);
    list.replaceChildren(
      ...part.map((token, index) =>
        el("span", {
          class: classOf(token, first + index),
          role: "option",
          id: `${host.id}-token-${first + index}`,
          "data-token": first + index,
          "aria-label": `${token.text.trim() || t("blank")}: ${words(token)}`,
          text: visible(token.text),
        }),
      ),
    );
    mark();
    const where = t("tokensOf", { first: first + 1, last: first + part.length, count: data.count });
    pages.show(page, Math.ceil(data.count / PAGE), where);
    note.textContent = "";
    list.hidden = !part.length;
    list.scrollTop = 0;
    const [start] = (asked() && chosen()) || [first];
    const here = start >= first && start < first + part.length;
    look(part.length ? (here ? start : first) : -1);
  }

  async function turn(to) {
    const answer = answers;
    if (to * PAGE >= tokens.length && data.all_tokens) {
      const all = await host.json(data.all_tokens);
      if (answer !== answers || signal.aborted) return;
      if (Array.isArray(all)) tokens = all;
    }
    if (to * PAGE >= tokens.length) {
      note.textContent = t("tokensGone", { kept: tokens.length, count: data.count });
      return;
    }
    page = to;
    drawPage();
  }

  function look(index) {
    looked = index;
    for (const mark of list.querySelectorAll(".laser-token")) {
      const own = mark.dataset.token === String(index);
      mark.classList.toggle("looked", own);
      set(mark, { "aria-selected": String(own) });
    }
    set(list, { "aria-activedescendant": list.querySelector(".looked")?.id });
    detail.replaceChildren(...(tokens[index] ? details(tokens[index]) : []));
  }

  /** What the node's input says. What a link gives is what the last run took. */
  function asked() {
    if (host.locked("map_of_tokens")) return seen?.asked ?? "";
    return String(host.get("map_of_tokens") ?? "").trim();
  }

  /** The tokens that the node's input names: the first, and the one behind the last; null: none. */
  function chosen() {
    if (seen?.asked !== asked()) return spanOf(asked(), data.count);
    return seen.span[0] < seen.span[1] ? seen.span : null;
  }

  /** Marks the chosen tokens and lays their map over the picture. */
  function mark() {
    const span = chosen();
    for (const one of list.querySelectorAll(".laser-token")) {
      const index = Number(one.dataset.token);
      const own = asked() !== "" && span !== null && index >= span[0] && index < span[1];
      one.classList.toggle("mapped", own);
      set(one, { "aria-checked": own ? "true" : null });
    }
    showMap(span);
  }

  /** Lays the mean map of some tokens over the picture, and says so. */
  async function showMap(span) {
    const wish = ++wishes;
    if (!seen || !span) {
      host.lay(null);
      const waits = seen ? seen.asked !== asked() : span !== null;
      mapNote.textContent = waits ? t(seen ? "runToApply" : "runToLook") : "";
      return;
    }
    const read = maps ?? mapsOf(await host.json(seen.levels));
    if (wish !== wishes || signal.aborted) return;
    maps = read;
    if (!maps) {
      mapNote.textContent = t("mapsGone");
      return;
    }
    const [columns, rows] = seen.tile;
    const levels = averaged(maps, columns * rows, span);
    const href = coloured(maps, levels, seen.tile);
    host.lay(href && { href, tile: seen.tile, place: seen.place });
    const said = tokens
      .slice(...span)
      .map(({ text }) => text)
      .join("")
      .trim();
    mapNote.textContent = joined(
      " ",
      t("lookedFor", { token: said.length > LONGEST ? `${said.slice(0, LONGEST)} …` : said }),
      `${peakText(t, peakOf(levels, seen.tile, seen.place))}.`,
      seen.asked !== asked() && t("runToApply"),
    );
  }

  /** Chooses a token, or all up to it; what is chosen already is let go. */
  function choose(index, further) {
    if (host.get("map_of_tokens") === undefined || host.locked("map_of_tokens")) return;
    if (!further) anchor = index;
    const span = spanText([Math.min(anchor, index), Math.max(anchor, index) + 1]);
    host.change(() => host.set("map_of_tokens", span === asked() ? "" : span));
  }

  /** Scrolls the list alone: scrollIntoView would move what lies around it too. */
  function reveal() {
    const mark = list.querySelector(".looked");
    const least = mark.offsetTop + mark.offsetHeight - list.clientHeight;
    list.scrollTop = Math.min(Math.max(list.scrollTop, least), mark.offsetTop);
  }

  function details(token) {
    const compared = typeof token.without === "number";
    const head = [t("token"), t("withEvidence"), ...(compared ? [t("withoutEvidence")] : [])];
    const rows = rowsOf(token, compared);
    return [
      el("p", { class: "laser-token-title", text: `«${visible(token.text)}» ${words(token)}` }),
      compared && token.alternatives?.length ? el("p", { text: wouldSay(token) }) : null,
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, ...rows.map(row)),
      ),
    ].filter(Boolean);
  }

  const row = ({ text, shares, said }) =>
    el(
      "tr",
      { class: said ? "said" : null },
      el("th", { scope: "row", text }),
      ...shares.map(cell),
    );

  /** The token, the others that either reading thinks of, and what is left to 100 % in each. */
  function rowsOf(token, compared) {
    const known = (shares) => (compared ? shares : shares.slice(0, 1)).map(rounded);
    const others = (token.alternatives ?? [])
      .filter(([text]) => text !== token.text)
      .map(([text, ...shares]) => ({ text: visible(text), shares: known(shares) }))
      .filter(({ shares }) => Math.max(...shares) >= LEAST)
      .sort((a, b) => Math.max(...b.shares) - Math.max(...a.shares));
    const said = `✓ ${visible(token.text)}`;
    const rows = [
      { text: said, shares: known([token.with, token.without]), said: true },
      ...others,
    ];
    const left = rows[0].shares.map((_, column) =>
      Math.max(0, 1 - rows.reduce((sum, { shares }) => sum + shares[column], 0)),
    );
    return [...rows, { text: t("allOthers"), shares: left }];
  }

  /** As it is written, so that what is written adds up to 100 %. */
  const rounded = (share) => Math.round(1000 * (Number(share) || 0)) / 1000;

  function wouldSay(token) {
    const choices = [[token.text, token.with, token.without], ...token.alternatives];
    const best = choices.reduce((one, other) => (other[2] > one[2] ? other : one));
    const key = best[0] === token.text ? "wouldSaySame" : "wouldSay";
    return t(key, { token: visible(best[0]).trim() || t("blank"), share: percent(best[2]) });
  }

  const cell = (share) =>
    el(
      "td",
      {},
      el(
        "span",
        { class: "laser-share", style: `--laser-share:${share}` },
        el("span", { text: percent(share) }),
      ),
    );

  const tokenAt = (event) => event.target.closest?.("[data-token]")?.dataset.token ?? null;
  const hover = (event) => {
    const index = tokenAt(event);
    if (index === null || Number(index) === looked) return;
    look(Number(index));
    preview();
  };
  const preview = () => seen && showMap([looked, looked + 1]);
  list.addEventListener("pointermove", hover, { signal });
  list.addEventListener("pointerleave", () => data && seen && mark(), { signal });
  list.addEventListener(
    "click",
    (event) => {
      hover(event);
      const index = tokenAt(event);
      if (index !== null) choose(Number(index), event.shiftKey);
    },
    { signal },
  );
  // With shift the page would select its text
  list.addEventListener("mousedown", (event) => event.shiftKey && event.preventDefault(), {
    signal,
  });
  onKeys(list, signal, (event) => {
    if (!data || looked < 0) return false;
    const first = page * PAGE;
    const last = Math.min(first + PAGE, tokens.length) - 1;
    const targets = { Home: first, End: last };
    const target = event.key in STEPS ? looked + STEPS[event.key] : targets[event.key];
    if (target !== undefined) {
      look(Math.min(Math.max(target, first), last));
      reveal();
      preview();
    } else if (event.key === "Enter" || event.key === " ") choose(looked, event.shiftKey);
    else if (event.key === "Escape" && asked() && !host.locked("map_of_tokens"))
      host.change(() => host.set("map_of_tokens", ""));
    else if (event.key === "PageDown") pages.step(1);
    else if (event.key === "PageUp") pages.step(-1);
    else return false;
    return true;
  });

  return {
    element,
    show(picture) {
      data = picture.tokens;
      tokens = data.tokens;
      seen = picture.looked ?? null;
      maps = null;
      answers += 1;
      page = 0;
      element.classList.remove("growing");
      const compared = tokens.some((token) => typeof token.vat === "number");
      legend.replaceChildren(
        ...(compared
          ? [
              el("span", { text: t("legend") }),
              ...["for", "neutral", "against"].map((name) =>
                el("span", { class: `laser-token ${name} strong`, text: t(`legend_${name}`) }),
              ),
            ]
          : [el("span", { text: t(tokens.length ? "notCompared" : "noTokens") })]),
        ...(seen || host.get("map_of_tokens") === undefined
          ? []
          : [el("span", { text: t("clickToken") })]),
      );
      drawPage();
    },
    /** While an answer grows its tokens are not known. */
    stream() {
      answers += 1;
      wishes += 1;
      seen = maps = null;
      host.lay(null);
      element.classList.add("growing");
      list.replaceChildren();
      look(-1);
    },
    refresh() {
      if (data) mark();
    },
    clear() {
      answers += 1;
      wishes += 1;
    },
  };
}
