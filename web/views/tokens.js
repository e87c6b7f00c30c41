/** An answer token by token: how much each depends on the evidence, and both probabilities. */

import { el, onKeys, pager, percent, set, shown } from "./dom.js";

const PAGE = 64; // tokens; as many as travel with the payload
// Of Visual Activation of Tokens, in logits: what makes a token 1.6 and 7.4 times as likely
const NEUTRAL = 0.5;
const STRONG = 2;
const STOPS = { "max tokens": "stoppedAtMax", "unfinished thought": "stoppedInThought" };
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

/**
 * @param {import("./view.js").Host} host
 * @param {AbortSignal} signal
 */
export function tokenSection(host, signal) {
  const { t } = host;
  const comparison = el("p", { class: "laser-plain" });
  const list = el("div", {
    class: "laser-tokens",
    role: "listbox",
    tabindex: "0",
    "aria-label": t("tokensLabel"),
  });
  const legend = el("p", { class: "laser-legend" });
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
    comparison,
    list,
    pages.element,
    legend,
    note,
    detail,
  );
  let data = null;
  let tokens = [];
  let page = 0;
  let looked = -1; // the token whose details are shown
  let answers = 0; // shown so far: tokens that arrive late, for an earlier one, are dropped

  function kind(token) {
    if (typeof token.vat !== "number") return "none";
    if (Math.abs(token.vat) < NEUTRAL) return "neutral";
    return `${token.vat > 0 ? "for" : "against"}${Math.abs(token.vat) >= STRONG ? " strong" : ""}`;
  }

  const words = (token) => t(`vat_${kind(token).replace(" ", "_")}`, { vat: shown(token.vat) });
  const visible = (text) => text.replaceAll("\n", "↵\n").replaceAll("\t", "⇥");

  function classOf(token, index) {
    const special = /^<[^<>]+>$/.test(token.text) ? " special" : "";
    const thought = index < (data.thought_tokens ?? 0) ? " thought" : "";
    return `laser-token ${kind(token)}${special}${thought}`;
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
    if (!part.length) list.replaceChildren(el("span", { text: data.text || t("emptyAnswer") }));
    const where = t("tokensOf", { first: first + 1, last: first + part.length, count: data.count });
    pages.show(page, Math.ceil(data.count / PAGE), where);
    const stop = STOPS[data.stop_reason];
    note.textContent = stop ? t(stop) : "";
    list.scrollTop = 0;
    look(part.length ? first : -1);
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

  /** Scrolls the list alone: scrollIntoView would move what lies around it too. */
  function reveal() {
    const mark = list.querySelector(".looked");
    const least = mark.offsetTop + mark.offsetHeight - list.clientHeight;
    list.scrollTop = Math.min(Math.max(list.scrollTop, least), mark.offsetTop);
  }

  function details(token) {
    const compared = token.without !== null && token.without !== undefined;
    const head = [t("token"), t("withEvidence"), ...(compared ? [t("withoutEvidence")] : [])];
    const others = (token.alternatives ?? []).filter(([text]) => text !== token.text);
    const rows = [[token.text, token.with, token.without], ...others];
    return [
      el("p", { class: "laser-token-title", text: `«${visible(token.text)}» ${words(token)}` }),
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))),
        el(
          "tbody",
          {},
          ...rows.map(([text, ...shares], index) =>
            el(
              "tr",
              { class: index ? null : "said" },
              el("th", { scope: "row", text: index ? visible(text) : `✓ ${visible(text)}` }),
              ...shares.slice(0, compared ? 2 : 1).map(cell),
            ),
          ),
        ),
      ),
    ];
  }

  const cell = (share) =>
    el(
      "td",
      {},
      el(
        "span",
        { class: "laser-share", style: `--laser-share:${Number(share) || 0}` },
        el("span", { text: percent(share) }),
      ),
    );

  function drawPlain(plain) {
    comparison.hidden = !plain;
    if (!plain) return;
    const same = data.same ?? plain.trim() === data.text.trim();
    comparison.replaceChildren(
      el("span", { class: "laser-tag", text: t("plainModel") }),
      el("span", { class: same ? "laser-said" : "laser-said differs", text: plain }),
      el("span", { class: "laser-tag", text: same ? t("sameAnswer") : t("otherAnswer") }),
    );
  }

  const tokenAt = (event) => event.target.closest?.("[data-token]")?.dataset.token ?? null;
  const hover = (event) => {
    const index = tokenAt(event);
    if (index !== null && Number(index) !== looked) look(Number(index));
  };
  list.addEventListener("pointermove", hover, { signal });
  list.addEventListener("click", hover, { signal });
  onKeys(list, signal, (event) => {
    if (!data || looked < 0) return false;
    const first = page * PAGE;
    const last = Math.min(first + PAGE, tokens.length) - 1;
    const targets = { Home: first, End: last };
    const target = event.key in STEPS ? looked + STEPS[event.key] : targets[event.key];
    if (target !== undefined) {
      look(Math.min(Math.max(target, first), last));
      reveal();
    } else if (event.key === "PageDown") pages.step(1);
    else if (event.key === "PageUp") pages.step(-1);
    else return false;
    return true;
  });

  return {
    element,
    show(picture) {
      data = picture.tokens;
      tokens = data.tokens;
      answers += 1;
      page = 0;
      element.classList.remove("growing");
      drawPlain(picture.plain);
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
      );
      drawPage();
    },
    /** The answer while it grows, or the thoughts before it. */
    stream(text, thinking = false) {
      element.classList.add("growing");
      comparison.hidden = pages.element.hidden = true;
      answers += 1;
      note.textContent = t(thinking ? "thinking" : "answering");
      look(-1);
      legend.replaceChildren();
      list.replaceChildren(el("span", { class: thinking ? "thought" : null, text }));
      list.scrollTop = list.scrollHeight;
    },
    refresh() {},
    clear() {
      answers += 1;
    },
  };
}
