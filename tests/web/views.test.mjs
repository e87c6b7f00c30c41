/** What people do with a view: look, choose, drag, type, page. */

import assert from "node:assert/strict";
import test from "node:test";
import { createView, VIEWS } from "../../web/views/view.js";
import {
  answer,
  fakeHost,
  file,
  layers,
  lookedAt,
  lookedFile,
  point,
  press,
  token,
  windows,
} from "./page.mjs";

function open(node, pictures, values, options) {
  const root = document.createElement("div");
  document.body.replaceChildren(root);
  const host = fakeHost(values, options);
  const view = createView(root, VIEWS[node].sections, host);
  host.view = view;
  if (pictures) view.show({ pictures, of: options?.of ?? pictures.length });
  const find = (selector) => root.querySelector(selector);
  const all = (selector) => [...root.querySelectorAll(selector)];
  return { root, host, view, find, all, text: (selector) => find(selector).textContent };
}

const openLayers = (values = { layer: -1 }, more = {}, options = {}) =>
  open("LaserVAQLayerSelect", [{ layers: layers([0.1, 0.2, 0.4, null], more) }], values, options);
const openWindow = (values = { override: "" }, more = {}, options = {}) => {
  const page = open("LaserConViCrop", [{ windows: windows(more) }], values, options);
  page.find(".laser-picture").getBoundingClientRect = () => ({
    left: 0,
    top: 0,
    width: 200,
    height: 100,
  });
  return page;
};
const TWO_WINDOWS = {
  windows: [
    [0, 0, 50, 50],
    [300, 100, 400, 200],
  ],
  shares: [0.5, 0.2],
};
const openTokens = (tokens, more = {}, options = {}, plain = null) =>
  open("LaserVATDecode", [{ tokens: answer(tokens, more), plain }], {}, options);

// ---- layers

test("there is a bar per layer, as high as its VAQ, and the chosen one is marked", () => {
  const { all } = openLayers();
  assert.deepEqual(
    all(".laser-bar i").map(({ style }) => style.height),
    ["25%", "50%", "100%", "100%"],
  );
  assert.deepEqual(
    all(".chosen").map(({ dataset }) => dataset.layer),
    ["2"],
  );
  assert.equal(all(".laser-bar")[2].getAttribute("aria-selected"), "true");
  assert.match(
    all(".laser-bar")[2].getAttribute("aria-label"),
    /layer 2, VAQ 0.4, chosen by the rule/,
  );
  assert.match(all(".laser-bar")[3].getAttribute("aria-label"), /not finite/);
});

test("where some layers have no maps, the others keep their numbers", () => {
  const more = { numbers: [3, 7, 11, 15], layer: 11, rule_layer: 11, weights: { 11: 1 } };
  const { host, all, find } = openLayers({ layer: -1 }, more);
  assert.match(find(".looked").getAttribute("aria-label"), /layer 11, VAQ 0.4, chosen by the rule/);
  point(all(".laser-bar")[1], "click");
  assert.equal(host.values.layer, 7);
  assert.deepEqual(
    all(".chosen").map(({ dataset }) => dataset.layer),
    ["7"],
  );
});

test("hovering a bar draws that layer's tile over the picture, leaving it the chosen one's", () => {
  const { all, find, text } = openLayers();
  point(all(".laser-bar i")[1], "pointermove");
  assert.equal(find(".laser-heat").getAttribute("viewBox"), "10 2 4 3");
  assert.match(text(".laser-caption"), /layer 1, VAQ 0.2/);
  find(".laser-bars").dispatchEvent(new PointerEvent("pointerleave"));
  assert.equal(find(".laser-heat").getAttribute("viewBox"), "2 9 4 3");
  assert.equal(find(".laser-heat image").getAttribute("height"), "14");
  assert.equal(find(".laser-heat").style.top, "25%");
});

test("a click chooses a layer by hand, a second one goes back to the rule", () => {
  const { all, host, text, find } = openLayers();
  all(".laser-bar")[1].click();
  assert.equal(host.values.layer, 1);
  assert.match(
    text(".laser-status"),
    /Layer 1, by hand. The rule weighs layer 2 most. Run to apply./,
  );
  assert.ok(all(".laser-bar")[1].classList.contains("hand"));
  all(".laser-bar")[1].click();
  assert.equal(host.values.layer, -1);
  all(".laser-bar")[0].click();
  find(".laser-button:not([aria-label])").click();
  assert.equal(host.values.layer, -1);
  assert.deepEqual(
    host.steps.map(([[, value]]) => value),
    [1, -1, 0, -1],
  );
  assert.equal(host.open, 0);
});

test("the arrow keys look, Enter chooses, and other keys stay the canvas's", () => {
  const { find, host } = openLayers();
  const bars = find(".laser-bars");
  press(bars, "Home");
  press(bars, "ArrowRight");
  assert.equal(bars.getAttribute("aria-activedescendant"), "laser-1-layer-1");
  assert.equal(host.steps.length, 0);
  assert.ok(press(bars, "Enter").defaultPrevented);
  assert.equal(host.values.layer, 1);
  assert.ok(!press(bars, "z", { ctrlKey: true }).defaultPrevented);
  assert.ok(!press(bars, "Delete").defaultPrevented);
});

test("a layer that a link sets is not overwritten", () => {
  const { all, host, text } = openLayers({ layer: 1 }, {}, { locked: ["layer"] });
  all(".laser-bar")[0].click();
  assert.equal(host.values.layer, 1);
  assert.match(text(".laser-status"), /connected input/);
});

test("of a layer or window that a link sets, the view shows what the run took", () => {
  const layer = openLayers({ layer: -1 }, { layer: 1, by_hand: true }, { locked: ["layer"] });
  const taken = "Layer 1, by hand. The rule weighs layer 2 most.";
  assert.equal(layer.text(".laser-status"), `${taken} The connected input sets it.`);
  const stale = { override: "1, 1, 20, 20" };
  const window = openWindow(stale, { by_hand: true }, { locked: ["override"] });
  assert.equal(window.all(".laser-window").length, 1);
  assert.match(window.text(".laser-status"), /by hand.*connected input sets it\.$/);
  const rule = openWindow(stale, { by_hand: false }, { locked: ["override"] });
  assert.doesNotMatch(rule.text(".laser-status"), /hand|Run to apply/);
});

test("a result by hand says so, and that going back waits for a run", () => {
  const { text } = openLayers({ layer: 1 }, { layer: 1, by_hand: true });
  assert.equal(text(".laser-status"), "Layer 1, by hand. The rule weighs layer 2 most.");
  const back = openLayers({ layer: -1 }, { layer: 1, by_hand: true });
  assert.equal(back.text(".laser-status"), "Layer 2, chosen by the rule. Run to apply.");
  const fused = openLayers({ layer: -1 }, { layer: 1, by_hand: true, weights: { 1: 0.3, 2: 0.7 } });
  assert.match(fused.text(".laser-status"), /^2 layers fused.*: 2, 1\. Run to apply\.$/);
});

test("fused layers are marked with their weight and named, the strongest first", () => {
  const { all, text } = openLayers({ layer: -1 }, { weights: { 0: 0.05, 1: 0.2, 2: 0.7, 3: 0.1 } });
  assert.match(text(".laser-status"), /^4 layers fused.*strongest: 2, 1, 3\.$/);
  assert.ok(all(".laser-bar")[1].classList.contains("fused"));
  assert.match(all(".laser-bar")[1].getAttribute("aria-label"), /fused with 20 %/);
  assert.match(all(".laser-bar")[2].getAttribute("aria-label"), /fused with 70 %$/);
});

test("joined layers are marked and named, those moved most first", () => {
  const even = { 0: 0.5, 2: 0.5 };
  const { all, text } = openLayers({ layer: -1 }, { weights: even, largest: true });
  assert.match(text(".laser-status"), /^2 layers joined.*most: 2, 0\.$/); // by VAQ
  assert.match(all(".laser-bar")[0].getAttribute("aria-label"), /one of those joined$/);
});

test("a layer beyond the model does not break the view", () => {
  const { text } = openLayers({ layer: 900 });
  assert.match(text(".laser-status"), /Layer 900, by hand/);
});

// ---- windows

test("the window lies where the run placed it, with its share of the evidence", () => {
  const { find, text } = openWindow();
  assert.equal(
    find(".laser-window").style.cssText,
    "left: 25%; top: 25%; width: 50%; height: 50%;",
  );
  assert.match(text(".laser-caption"), /200 x 100 px at \(100, 50\), 75 % of the evidence/);
});

test("dragging the window writes the override once, as one step of undo", () => {
  const { find, host, text } = openWindow();
  point(find(".laser-window"), "pointerdown", 50, 50);
  for (const x of [52, 55, 60]) point(find(".laser-window"), "pointermove", x, 45);
  assert.equal(host.values.override, "");
  point(find(".laser-window"), "pointerup", 60, 45);
  assert.equal(host.values.override, "120, 40, 200, 100"); // the picture is drawn at half its size
  assert.deepEqual(host.steps, [[["override", "120, 40, 200, 100"]]]);
  assert.match(text(".laser-status"), /by hand. Run to apply./);
  assert.equal(text(".laser-caption"), "200 x 100 px at (120, 40)");
});

test("dragging a handle resizes", () => {
  const { find, host } = openWindow();
  point(find(".laser-handle.se"), "pointerdown", 150, 75);
  point(find(".laser-handle.se"), "pointermove", 160, 80);
  point(find(".laser-window"), "pointerup", 160, 80);
  assert.equal(host.values.override, "100, 50, 220, 110");
});

test("a click without a drag and a cancelled drag change nothing", () => {
  const { find, host } = openWindow();
  point(find(".laser-window"), "pointerdown", 50, 50);
  point(find(".laser-window"), "pointerup", 50, 50);
  point(find(".laser-window"), "pointerdown", 50, 50);
  point(find(".laser-window"), "pointermove", 90, 50);
  point(find(".laser-window"), "pointercancel", 90, 50);
  assert.equal(host.values.override, "");
  assert.equal(find(".laser-window").style.left, "25%");
  assert.deepEqual(host.steps, []);
});

test("keys move and resize it; all of one hold are one step of undo", () => {
  const { find, host } = openWindow();
  const window = find(".laser-window");
  for (let times = 0; times < 3; times++) press(window, "ArrowRight", { repeat: times > 0 });
  press(window, "ArrowDown", { shiftKey: true });
  assert.equal(host.values.override, "112, 50, 200, 102");
  assert.equal(host.open, 1);
  window.dispatchEvent(new KeyboardEvent("keyup", { key: "ArrowDown", bubbles: true }));
  assert.equal(host.open, 0);
  assert.equal(host.steps.length, 1);
});

test("a step of undo is closed when the view goes while a key is held", () => {
  const { find, host, view } = openWindow();
  press(find(".laser-window"), "ArrowLeft");
  view.destroy();
  assert.equal(host.open, 0);
});

test("the reset button empties the override", () => {
  const { find, host } = openWindow({ override: "1, 2, 30, 40" });
  assert.equal(find(".laser-button[type]:not([aria-label])").hidden, false);
  find(".laser-row .laser-button").click();
  assert.equal(host.values.override, "");
});

test("an override is shown cut to the picture, and its faults are said in words", () => {
  const cut = openWindow({ override: "-20, 0, 120, 50" });
  assert.match(cut.text(".laser-caption"), /100 x 50 px at \(0, 0\)/);
  assert.match(
    openWindow({ override: "900, 0, 10, 10" }).text(".laser-status"),
    /outside the picture/,
  );
  assert.match(openWindow({ override: "here" }).text(".laser-status"), /four numbers/);
});

test("a window by hand that was run shows its share and asks for no run", () => {
  const page = openWindow({ override: "100, 50, 200, 100" }, { by_hand: true });
  assert.equal(page.text(".laser-status"), "The window is set by hand.");
  assert.match(page.text(".laser-caption"), /75 %/);
});

test("in a batch the window by hand is said to hold for every picture", () => {
  const pictures = [
    { windows: windows() },
    { windows: windows({ size: [80, 60], windows: [[0, 0, 40, 40]] }) },
  ];
  const page = open("LaserConViCrop", pictures, { override: "100, 50, 200, 100" });
  assert.match(page.text(".laser-status"), /for every picture/);
  page.find("[aria-label='Next picture']").click();
  assert.match(page.text(".laser-status"), /outside the picture/);
});

test("several windows are numbered; the one dragged becomes the window by hand", () => {
  const page = openWindow({ override: "" }, TWO_WINDOWS);
  assert.deepEqual(
    page.all(".laser-number").map(({ textContent }) => textContent),
    ["1", "2"],
  );
  const second = page.all(".laser-window")[1];
  point(second, "pointerdown", 160, 60);
  point(second, "pointermove", 155, 60);
  point(page.find(".laser-windows"), "pointerup", 155, 60);
  assert.equal(page.host.values.override, "290, 100, 100, 100");
});

test("the arrow keys move the one of several windows they are pressed on; it has the focus", () => {
  const page = openWindow({ override: "" }, TWO_WINDOWS);
  const second = page.all(".laser-window")[1];
  second.focus();
  press(second, "ArrowLeft");
  press(document.activeElement, "ArrowLeft", { repeat: true });
  assert.equal(page.host.values.override, "292, 100, 100, 100");
  assert.equal(document.activeElement, page.find(".laser-window"));
  document.activeElement.dispatchEvent(
    new KeyboardEvent("keyup", { key: "ArrowLeft", bubbles: true }),
  );
  assert.equal(page.host.open, 0);
  assert.equal(page.host.steps.length, 1);
});

test("a drag of one of several windows leaves the focus on the window", () => {
  const page = openWindow({ override: "" }, TWO_WINDOWS);
  point(page.all(".laser-window")[1], "pointerdown", 160, 60);
  point(page.find(".laser-windows"), "pointermove", 155, 60);
  point(page.find(".laser-windows"), "pointerup", 155, 60);
  assert.equal(document.activeElement, page.find(".laser-window"));
});

test("a button that hides itself hands its focus on", () => {
  const page = openWindow({ override: "1, 2, 30, 40" });
  const reset = page.find(".laser-row .laser-button");
  reset.focus();
  reset.click();
  assert.equal(document.activeElement, page.find(".laser-window"));
  const bars = openLayers({ layer: 1 });
  const byRule = bars.find(".laser-row .laser-button");
  byRule.focus();
  byRule.click();
  assert.equal(document.activeElement, bars.find(".laser-bars"));
});

test("an override of half pixels is drawn where Python puts it", () => {
  const page = openWindow({ override: "2.5, 3.5, 20.5, -0.5" });
  assert.match(page.text(".laser-status"), /outside the picture/);
  assert.match(
    openWindow({ override: "2.5, 3.5, 20.5, 21.5" }).text(".laser-caption"),
    /20 x 22 px at \(2, 4\)/,
  );
});

test("Escape puts a window that was moved by keys back where the evidence is", () => {
  const page = openWindow();
  press(page.find(".laser-window"), "ArrowRight");
  page
    .find(".laser-window")
    .dispatchEvent(new KeyboardEvent("keyup", { key: "ArrowRight", bubbles: true }));
  assert.notEqual(page.host.values.override, "");
  press(page.find(".laser-window"), "Escape");
  assert.equal(page.host.values.override, "");
  assert.ok(!press(page.find(".laser-window"), "Escape").defaultPrevented);
});

test("LASER Answer's window is set by hand as Con-ViCrop's is", () => {
  const pictures = [{ windows: windows(), tokens: answer([token("a", 1)]), plain: "b" }];
  const page = open("LaserAnswer", pictures, { override: "" });
  press(page.find(".laser-window"), "ArrowRight");
  assert.equal(page.host.values.override, "104, 50, 200, 100");
});

// ---- tokens

test("tokens are tinted by what the evidence does for them, and say it in words", () => {
  const { all } = openTokens([
    token("a", 3),
    token("b", 0.7),
    token("c", 0.1),
    token("d", -0.7),
    token("e", -3),
  ]);
  const kinds = all(".laser-tokens .laser-token").map(({ className }) =>
    className.replace("laser-token ", ""),
  );
  assert.deepEqual(kinds, ["for strong looked", "for", "neutral", "against", "against strong"]);
  assert.match(
    all(".laser-tokens .laser-token")[4].getAttribute("aria-label"),
    /^e: .*strongly against it \(VAT -3\)/,
  );
});

const ALTERNATIVES = {
  with: 0.912,
  without: 0.045,
  alternatives: [
    ["b", 0.912, 0.045],
    ["noise", 0.0001, 0.0004],
    ["c", 0.03, 0.1],
    ["other", 0.0004, 0.7],
  ],
};

test("hover shows both streams' probabilities and the alternatives, which add up", () => {
  const { all, text } = openTokens([token("a", 3), token("b", 1, ALTERNATIVES)]);
  point(all(".laser-tokens .laser-token")[1], "pointermove");
  assert.match(text(".laser-token-title"), /«b»/);
  assert.match(text(".laser-detail"), /most likely «other» \(70\.0 %\)/);
  const rows = all(".laser-detail tbody tr").map((row) =>
    [...row.children].map(({ textContent }) => textContent),
  );
  assert.deepEqual(rows, [
    ["✓ b", "91.2 %", "4.5 %"],
    ["other", "0.0 %", "70.0 %"],
    ["c", "3.0 %", "10.0 %"],
    ["all others", "5.8 %", "15.5 %"],
  ]);
});

test("of a token whose alternatives were not kept, nothing is claimed", () => {
  const { text } = openTokens([token("b", 1, { without: 0.1, alternatives: [] })]);
  assert.doesNotMatch(text(".laser-detail"), /most likely/);
});

test("a token that is likeliest without the evidence too is said to be", () => {
  const { text } = openTokens([token("b", 1, { without: 0.9 })]);
  assert.match(text(".laser-detail"), /most likely the same \(90\.0 %\)/);
});

test("the arrow keys go through the tokens", () => {
  const { find, text } = openTokens([token("a", 3), token("b", 1)]);
  press(find(".laser-tokens"), "ArrowRight");
  press(find(".laser-tokens"), "ArrowRight");
  assert.equal(find(".laser-tokens").getAttribute("aria-activedescendant"), "laser-1-token-1");
  assert.match(text(".laser-token-title"), /«b»/);
});

test("the keys keep the token they reach in sight, and a new page starts at its top", async () => {
  const tokens = Array.from({ length: 130 }, (_, index) => token(`t${index} `, 1));
  const page = openTokens(tokens, { count: 130 });
  const list = page.find(".laser-tokens");
  let scrolled = 0;
  Object.defineProperties(list, {
    clientHeight: { value: 60 },
    scrollTop: { get: () => scrolled, set: (value) => (scrolled = value) },
  });
  for (const [index, mark] of page.all(".laser-tokens .laser-token").entries()) {
    Object.defineProperties(mark, {
      offsetTop: { value: 20 * index },
      offsetHeight: { value: 20 },
    });
  }
  press(list, "End");
  assert.equal(scrolled, 64 * 20 - 60);
  press(list, "ArrowLeft");
  assert.equal(scrolled, 64 * 20 - 60);
  press(list, "Home");
  assert.equal(scrolled, 0);
  press(list, "End");
  press(list, "PageDown");
  await new Promise(setImmediate);
  assert.equal(page.text(".laser-tokens .laser-token"), "t64 ");
  assert.equal(scrolled, 0);
});

test("what the model writes is text, whatever it looks like", () => {
  const evil = "<img src=x onerror=alert(1)>";
  const { root } = openTokens([token(evil, 1, { alternatives: [[evil, 0.1, 0.1]] })], {}, {}, evil);
  assert.equal(root.querySelectorAll("img:not(.laser-image)").length, 0);
  assert.ok(root.textContent.includes(evil));
});

test("without a counterfactual nothing is tinted and the view says why", () => {
  const { all, text } = openTokens([token("a", null, { without: null })]);
  assert.ok(all(".laser-tokens .laser-token")[0].classList.contains("none"));
  assert.match(text(".laser-legend"), /there is no counterfactual/);
  assert.equal(all(".laser-detail thead th").length, 2);
});

test("the answer comes first, in plain text, and is copied whole", async () => {
  const page = openTokens([token("a", 1)], { text: "a very red <b>square</b>" });
  assert.equal(page.find(".laser-body").firstElementChild, page.find(".laser-head"));
  assert.equal(page.text(".laser-said"), "a very red <b>square</b>");
  page.find(".laser-head .laser-button").click();
  await new Promise(setImmediate);
  assert.deepEqual(page.host.copies, ["a very red <b>square</b>"]);
  assert.match(page.text(".laser-head .laser-button"), /Copied/);
  assert.match(page.text(".laser-head .laser-caption"), /Tokens: 1, in 1\.3 s/);
});

test("an answer that was read from the whole picture says so", () => {
  const note = ".laser-head .laser-caption";
  assert.match(openTokens([token("a", 1)], { uncut: true }).text(note), /bypassed/);
  assert.doesNotMatch(openTokens([token("a", 1)]).text(note), /bypassed/);
});

test("what a model says of itself stands under its answer", () => {
  const notice = "demo model: <b>knows</b> little";
  assert.match(openTokens([token("a", 1)], { notice }).text(".laser-head"), /<b>knows<\/b> little/);
  assert.doesNotMatch(openTokens([token("a", 1)]).text(".laser-head"), /undefined/);
});

test("the answer without LASER stands beside it, or is said to be the same", () => {
  assert.equal(
    openTokens([token("red", 1)], {}, {}, "blue").text(".laser-plain"),
    "without LASER:blue",
  );
  assert.match(
    openTokens([token("red", 1)], {}, {}, "red").text(".laser-plain"),
    /the same answer/,
  );
  assert.equal(openTokens([token("red", 1)]).find(".laser-plain").hidden, true);
});

test("a long answer is paged: no more tokens on the page than fit one", async () => {
  const tokens = Array.from({ length: 2000 }, (_, index) => token(`t${index} `, 1));
  const page = openTokens(
    tokens.slice(0, 64),
    { count: 2000, all_tokens: file("all.json") },
    { files: { "all.json": tokens } },
  );
  assert.equal(page.all(".laser-tokens .laser-token").length, 64);
  assert.match(page.text(".laser-pages"), /Tokens 1 to 64 of 2000/);
  page.find("[aria-label='Next tokens']").click();
  await new Promise(setImmediate);
  assert.match(page.text(".laser-pages"), /Tokens 65 to 128 of 2000/);
  assert.equal(page.text(".laser-tokens .laser-token"), "t64 ");
  assert.equal(page.all(".laser-tokens .laser-token").length, 64);
  const [back, next] = page.all(".laser-pages .laser-button");
  next.focus();
  for (let times = 0; times < 40; times++) next.click();
  await new Promise(setImmediate);
  assert.match(page.text(".laser-pages"), /Tokens 1985 to 2000 of 2000/);
  assert.equal(next.getAttribute("aria-disabled"), "true");
  assert.equal(back.getAttribute("aria-disabled"), null);
  assert.equal(document.activeElement, next); // an end of the list does not drop the focus
});

test("a page turn leaves the note on why the answer stopped", async () => {
  const tokens = Array.from({ length: 100 }, () => token("a ", 1));
  const page = openTokens(tokens, { stop_reason: "max tokens" });
  page.find("[aria-label='Next tokens']").click();
  await new Promise(setImmediate);
  assert.match(page.text(".laser-pages"), /Tokens 65/);
  assert.match(page.text(".laser-head .laser-caption"), /max_tokens/);
});

test("no key turns the last answer's pages while a new one grows", async () => {
  const page = openTokens(Array.from({ length: 100 }, () => token("old ", 1)));
  page.view.progress({ text: "new" });
  press(page.find(".laser-tokens"), "PageDown");
  press(page.find(".laser-tokens"), "ArrowRight");
  await new Promise(setImmediate);
  assert.equal(page.text(".laser-said"), "new");
  assert.equal(page.text(".laser-tokens"), "");
  assert.equal(page.text(".laser-detail"), "");
});

test("tokens whose file is gone are said to be gone", async () => {
  const tokens = Array.from({ length: 64 }, () => token("a ", 1));
  const page = openTokens(tokens, { count: 2000, all_tokens: file("gone.json") });
  page.find("[aria-label='Next tokens']").click();
  await new Promise(setImmediate);
  assert.match(page.text(".laser-answer > .laser-caption"), /only the first 64 of 2000/);
  assert.match(page.text(".laser-pages"), /Tokens 1 to 64/);
});

test("an answer that stopped at its limit or is empty says so", () => {
  assert.match(
    openTokens([token("a", 1)], { stop_reason: "max tokens" }).text(".laser-head .laser-caption"),
    /max_tokens/,
  );
  assert.match(openTokens([]).text(".laser-said"), /an empty answer/);
});

// ---- the whole

test("a batch is paged picture by picture", () => {
  const pictures = Array.from({ length: 16 }, (_, index) => ({
    layers: layers([0.1, 0.2, 0.4], { layer: index % 3, weights: {} }),
  }));
  const page = open("LaserVAQLayerSelect", pictures, { layer: -1 });
  assert.equal(page.all(".laser-bar").length, 3);
  assert.equal(page.text(".laser-pager .laser-where"), "Picture 1 of 16");
  page.find("[aria-label='Next picture']").click();
  assert.equal(page.text(".laser-pager .laser-where"), "Picture 2 of 16");
  assert.match(page.text(".laser-status"), /Layer 1/);
});

test("pictures that the workflow file did not keep are said to be missing", () => {
  const page = open(
    "LaserVAQLayerSelect",
    [{ layers: layers([1, 2, 3]) }],
    { layer: -1 },
    { of: 3 },
  );
  page.find("[aria-label='Next picture']").click();
  assert.match(page.text(".laser-empty"), /did not fit/);
  assert.equal(page.find(".laser-body").hidden, true);
});

test("a picture that is gone is said to be gone, and no broken one is shown", () => {
  const page = openWindow();
  page.find(".laser-image").dispatchEvent(new Event("error"));
  assert.equal(page.find(".laser-image").hidden, true);
  assert.match(page.text(".laser-missing"), /clears its temp folder/);
  assert.equal(
    openWindow({ override: "" }, { picture: null }).find(".laser-missing").hidden,
    false,
  );
});

test("before the first run the view says what to do", () => {
  const page = open("LaserAnswer", null);
  assert.match(page.text(".laser-empty"), /Run the workflow/);
  assert.equal(page.find(".laser-body").hidden, true);
});

test("a broken saved result is said to be broken and does not throw", (context) => {
  context.mock.method(console, "warn", () => {});
  for (const picture of [{ layers: 3 }, { layers: {} }, { layers: layers([1], { size: null }) }]) {
    const page = open("LaserVAQLayerSelect", [picture], { layer: -1 });
    assert.match(page.text(".laser-empty"), /cannot be shown/);
  }
});

test("a run shows its window, then the growing answer, then the result", () => {
  const page = open("LaserAnswer", null);
  page.view.progress({ windows: windows() });
  assert.equal(page.find(".laser-crop").hidden, false);
  assert.equal(page.find(".laser-head").hidden, true);
  page.view.progress({ text: "a <b>red" });
  assert.equal(page.text(".laser-said"), "a <b>red");
  page.view.show({
    pictures: [{ windows: windows(), tokens: answer([token("a", 1)]), plain: "" }],
    of: 1,
  });
  assert.equal(page.all(".laser-tokens .laser-token").length, 1);
  assert.equal(page.find(".growing"), null);
});

test("a node that runs says so, over what it showed before, until that is put back", () => {
  const page = open("LaserAnswer", null);
  page.view.begin();
  assert.equal(page.text(".laser-empty"), "Working …");
  page.view.settle();
  assert.match(page.text(".laser-empty"), /^Run the workflow/);
  page.view.show({ pictures: [{ tokens: answer([token("a", 1)]), plain: "" }], of: 1 });
  page.view.begin();
  assert.equal(page.text(".laser-said"), "a");
  assert.notEqual(page.find(".waits"), null);
  page.view.settle();
  assert.equal(page.find(".waits"), null);
});

test("an answer is read out once, when it is whole", () => {
  const page = open("LaserVATDecode", null);
  page.view.progress({ text: "a red" });
  const said = page.find(".laser-said");
  const now = () => [said.getAttribute("aria-live"), said.getAttribute("aria-busy")];
  assert.deepEqual(now(), ["polite", "true"]);
  page.view.show({ pictures: [{ tokens: answer([token("a", 1)]), plain: "" }], of: 1 });
  assert.deepEqual(now(), ["polite", null]);
});

test("an answer says how sure the model was of each look", () => {
  const page = open("LaserAnswer", null);
  const show = (more) => {
    const tokens = { ...answer([token("6", 1)]), ...more };
    page.view.show({ pictures: [{ windows: windows(), tokens, plain: "" }], of: 1 });
    return page.text(".laser-head");
  };
  const looks = [
    [0.17, []],
    [0.62, [[200, 100]]],
  ];
  assert.match(show({ looks, believed: 1 }), /whole picture 17 %, answered from 200 x 100 px 62 %/);
  assert.match(show({ looks: looks.slice(0, 1), believed: 0 }), /without looking closer.* 17 %/);
  assert.match(show({ unsure: true }), /unsure/);
});

test("thoughts are told apart from the answer, while they grow and afterwards", () => {
  const page = open("LaserAnswer", null);
  page.view.progress({ text: "the question", thinking: true });
  assert.equal(page.text(".laser-said.thought"), "the question");
  page.view.progress({ text: "blue", thinking: false });
  assert.equal(page.find(".thought"), null);
  const tokens = { ...answer([token("the", 1), token("blue", 1)]), thought_tokens: 1 };
  page.view.show({ pictures: [{ windows: windows(), tokens, plain: "" }], of: 1 });
  assert.deepEqual(
    page.all(".laser-token.thought[data-token]").map((mark) => mark.textContent),
    ["the"],
  );
});

test("after a run that failed the last result is back", () => {
  const page = openTokens([token("old", 1)]);
  page.view.progress({ text: "new" });
  page.view.settle();
  assert.equal(page.text(".laser-tokens"), "old");
});

test("an error is said above the last result, or instead of the advice to run", () => {
  const page = openTokens([token("old", 1)]);
  page.view.fail("free memory (Unload LVLM) and run again");
  assert.match(page.text(".laser-error"), /free memory/);
  assert.equal(page.find(".laser-error").getAttribute("role"), "alert");
  assert.equal(page.text(".laser-tokens"), "old");
  page.view.fail(null);
  assert.equal(page.find(".laser-error").hidden, true);
  const empty = open("LaserAnswer", null);
  empty.view.fail("write what to look for");
  assert.equal(empty.find(".laser-empty").hidden, true);
  empty.view.show({ pictures: [{ tokens: answer([token("a", 1)]) }], of: 1 });
  assert.equal(empty.find(".laser-error").hidden, true);
});

test("a removed view leaves no element and hears nothing more", () => {
  const { find, root, host, view, all } = openLayers();
  const [bars, bar] = [find(".laser-bars"), all(".laser-bar")[0]];
  view.destroy();
  assert.equal(root.childElementCount, 0);
  bar.click();
  press(bars, "Enter");
  assert.deepEqual(host.steps, []);
});

test("the map is drawn only where there is one", () => {
  const page = openWindow({ override: "" }, { maps: null });
  assert.ok(page.find(".laser-heat").hasAttribute("hidden"));
  assert.ok(!openWindow().find(".laser-heat").hasAttribute("hidden"));
});

test("a slider takes the map off the picture from the right, and says how far it reaches", () => {
  const page = openWindow();
  const slider = page.find(".laser-slider");
  assert.ok(slider.getAttribute("aria-label"));
  slider.value = "30";
  slider.dispatchEvent(new Event("input"));
  assert.equal(page.find(".laser-over").style.clipPath, "inset(0 70% 0 0)");
  assert.equal(page.find(".laser-edge").style.left, "30%");
  assert.match(slider.getAttribute("aria-valuetext"), /30 %/);
  page.view.show({ pictures: [{ windows: windows() }], of: 1 });
  assert.equal(page.find(".laser-over").style.clipPath, "inset(0 70% 0 0)");
  slider.value = "100";
  slider.dispatchEvent(new Event("input"));
  assert.equal(page.find(".laser-over").style.clipPath, "");
  assert.equal(page.find(".laser-edge").hidden, true);
  assert.equal(openWindow({ override: "" }, { maps: null }).find(".laser-slider").hidden, true);
});

// ---- where the model looked at each token

/** Two tokens of 2 x 1 cells: the first looked left, the second right. */
const openLooked = (values = { map_of_tokens: "1" }, more = {}, options = {}) => {
  const words = [token("a", 1), token(" dog", 1)];
  const looked = { ...lookedAt([0, 0, 1, 1]), asked: "1", span: [0, 1], ...more };
  const files = { "levels.json": LEVELS, ...options.files };
  const pictures = [{ tokens: answer(words), looked: more === null ? null : looked }];
  return open("LaserVATDecode", pictures, values, { ...options, files });
};
const LEVELS = lookedFile([255, 0, 0, 255]);
const settled = () => new Promise(setImmediate);

test("the map of the tokens asked for is shown at once, and its tokens are marked", async () => {
  const page = openLooked();
  await settled();
  const marked = page.all(".laser-token.mapped").map(({ textContent }) => textContent);
  assert.deepEqual(marked, ["a"]);
  assert.match(page.text(".laser-looked-at"), /as it wrote «a»: strongest 25 % from the left/);
  assert.equal(page.find(".laser-looked").hidden, false);
});

test("a click shows a token's map and asks the node for it; a second one lets it go", async () => {
  const page = openLooked();
  const [, dog] = page.all(".laser-tokens .laser-token");
  dog.click();
  await settled();
  assert.equal(page.host.values.map_of_tokens, "2");
  assert.match(page.text(".laser-looked-at"), /«dog»: strongest 75 % .* Run to apply\./);
  dog.click();
  assert.equal(page.host.values.map_of_tokens, "");
  assert.deepEqual(page.host.steps, [[["map_of_tokens", "2"]], [["map_of_tokens", ""]]]);
});

test("shift goes on from the last click, in either direction, and by keys", async () => {
  const page = openLooked({ map_of_tokens: "" });
  const [first, second] = page.all(".laser-tokens .laser-token");
  second.click();
  first.dispatchEvent(new MouseEvent("click", { shiftKey: true, bubbles: true }));
  await settled();
  assert.equal(page.host.values.map_of_tokens, "1-2");
  assert.equal(page.all(".laser-token.mapped").length, 2);
  const list = page.find(".laser-tokens");
  press(list, "Home");
  press(list, "Enter");
  press(list, "ArrowRight");
  press(list, "Enter", { shiftKey: true });
  assert.equal(page.host.values.map_of_tokens, "1-2");
  press(list, "Escape");
  assert.equal(page.host.values.map_of_tokens, "");
});

test("hovering shows a token's map, and leaving the one that is chosen again", async () => {
  const page = openLooked();
  const list = page.find(".laser-tokens");
  point(page.all(".laser-tokens .laser-token")[1], "pointermove");
  await settled();
  assert.match(page.text(".laser-looked-at"), /«dog»/);
  list.dispatchEvent(new PointerEvent("pointerleave"));
  await settled();
  assert.match(page.text(".laser-looked-at"), /«a»/);
  assert.deepEqual(page.host.steps, []);
});

test("without maps a click asks for them, and the view says to run", () => {
  const page = openLooked({ map_of_tokens: "" }, null);
  assert.match(page.text(".laser-legend"), /Click a token/);
  assert.equal(page.find(".laser-looked").hidden, true);
  page.all(".laser-tokens .laser-token")[0].click();
  assert.equal(page.host.values.map_of_tokens, "1");
  assert.match(page.text(".laser-looked-at"), /Run to see where/);
});

test("an input that a link sets is not overwritten, and shows what the run took of it", () => {
  const page = openLooked({ map_of_tokens: "7" }, {}, { locked: ["map_of_tokens"] });
  assert.equal(page.all(".laser-token.mapped").length, 1);
  page.all(".laser-tokens .laser-token")[1].click();
  assert.equal(page.host.values.map_of_tokens, "7");
});

test("words mark the tokens that the run found for them", () => {
  const page = openLooked({ map_of_tokens: "dog" }, { asked: "dog", span: [1, 2] });
  assert.deepEqual(
    page.all(".laser-token.mapped").map(({ textContent }) => textContent),
    [" dog"],
  );
  assert.match(page.text(".laser-token-title"), /« dog»/);
});

test("maps that are gone are said to be gone", async () => {
  const page = openLooked({ map_of_tokens: "1" }, {}, { files: { "levels.json": null } });
  await settled();
  assert.match(page.text(".laser-looked-at"), /maps are gone/);
});

test("LASER Answer lays a token's map over its window's picture", async () => {
  const looked = { ...lookedAt(), asked: "", span: [0, 0] };
  const pictures = [{ windows: windows(), tokens: answer([token("a", 1)]), looked }];
  const options = { files: { "levels.json": LEVELS } };
  const page = open("LaserAnswer", pictures, { map_of_tokens: "" }, options);
  const heat = page.find(".laser-heat image");
  const own = heat.getAttribute("href");
  page.all(".laser-tokens .laser-token")[0].click();
  await settled();
  assert.match(heat.getAttribute("href"), /^data:image\/png/);
  assert.equal(page.find(".laser-heat").style.left, "50%");
  page.all(".laser-tokens .laser-token")[0].click();
  assert.equal(heat.getAttribute("href"), own);
});
