/** Arithmetic of windows, what a workflow keeps, texts. */

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";
import { averaged, spanOf, spanText } from "../../web/views/looked.js";
import { modelLine, modelsOf } from "../../web/views/model.js";
import { fileQuery, kept, picturesOf, restored } from "../../web/views/payload.js";
import { fillIn, presetsOf } from "../../web/views/presets.js";
import { choiceNamer, translator } from "../../web/views/strings.js";
import { moved, onPicture, parsed, resized, written } from "../../web/views/window.js";
import { answer, fakeHost, texts, token, windows } from "./page.mjs";

const SIZE = [400, 200];
const WINDOW = { x: 100, y: 50, width: 200, height: 100 };

test("a preset writes its settings into the widgets that hold them, and tells them", () => {
  const told = [];
  const widget = (name, value) => ({ name, value, callback: (to) => told.push([name, to]) });
  const widgets = [
    widget("preset", "paper"),
    widget("scale", 0.5),
    widget("beta", 0.5),
    { name: "alpha", value: 0 },
  ];
  fillIn(widgets, { scale: 0.5, beta: 0, alpha: 1, rule: "argmax" });
  assert.deepEqual(
    widgets.map(({ value }) => value),
    ["paper", 0.5, 0, 1],
  );
  assert.deepEqual(told, [["beta", 0]]); // only what has changed
});

test("the presets come with the definition of a node, where it has any", () => {
  const presets = { paper: { beta: 0 } };
  assert.equal(presetsOf({ input: { optional: { preset: [["paper"], { presets }] } } }), presets);
  for (const input of [undefined, {}, { optional: { scale: ["FLOAT", {}] } }]) {
    assert.equal(presetsOf({ input }), undefined);
  }
});

const MODELS = {
  demo: { bundled: true },
  "LLM/torn": { lacks: "model-2.safetensors" },
  "Qwen/four": {
    description: "Qwen3-VL 4B",
    size: "8.9 GB",
    precision: "16-bit",
    here: false,
    memory: "8 GB",
    needs: {
      none: { size: "10 GB", fits: false },
      "8-bit": { size: "7 GB", fits: true },
      "4-bit": { size: "5 GB", fits: true },
    },
  },
  "LLM/small": {
    description: "qwen3_vl",
    size: "4.3 GB",
    precision: "",
    here: true,
    memory: "8 GB",
    needs: { none: { size: "6 GB", fits: true } },
  },
  "LLM/vast": {
    description: "llava",
    size: "90 GB",
    precision: "awq",
    here: true,
    memory: "8 GB",
    needs: { none: { size: "95 GB", fits: false } },
  },
  "LLM/unknown": { description: "llava", size: "9 GB", precision: "new", here: true, needs: {} },
};
const lineOf = (values, options) =>
  modelLine(
    MODELS,
    fakeHost(
      { custom_model: "", device: "auto", precision: "auto", quantization: "none", ...values },
      options,
    ),
  );

test("the line about a model says what it is, whether it is here and whether it fits", () => {
  const lines = {
    demo: "Part of this pack: needs no download and no GPU.",
    "LLM/torn": "Complete its folder, or choose another model: it lacks model-2.safetensors.",
    "Qwen/four":
      "Qwen3-VL 4B, 8.9 GB, 16-bit. Downloaded on first use. Too large: takes about 10 GB, and " +
      "the device has 8 GB. Fits with quantization 8-bit.",
    "LLM/small": "qwen3_vl, 4.3 GB. Fits: takes about 6 GB of 8 GB.",
    "LLM/vast": "llava, 90 GB, awq. Too large: takes about 95 GB, and the device has 8 GB.",
    "LLM/unknown": "llava, 9 GB, new.",
    "LLM/gone": "Choose another model: this one is not here.",
    constructor: "Choose another model: this one is not here.",
  };
  for (const [model, line] of Object.entries(lines)) assert.equal(lineOf({ model }), line);
});

test("the line about a model follows the quantization, and is silent on another device", () => {
  const model = "Qwen/four";
  assert.match(lineOf({ model, quantization: "4-bit" }), /use\. Fits: takes about 5 GB of 8 GB\.$/);
  for (const other of [{ device: "cpu" }, { precision: "fp32" }])
    assert.match(lineOf({ model, ...other }), /Downloaded on first use\.$/);
});

test("the line about a model is that of the custom one, where there is any", () => {
  assert.match(lineOf({ model: "demo", custom_model: " LLM/small " }), /^qwen3_vl/);
  assert.equal(lineOf({ model: "demo", custom_model: "/a/path" }), "custom_model is loaded.");
  for (const name of ["model", "custom_model"])
    assert.equal(lineOf({ model: "demo" }, { locked: [name] }), "The connected input sets it.");
});

test("the models come with the definition of Load LVLM, and no other node has any", () => {
  const about = { demo: { bundled: true } };
  assert.equal(modelsOf({ input: { optional: { model: [["demo"], { about }] } } }), about);
  for (const input of [undefined, {}, { required: { model: ["MODEL"] } }])
    assert.equal(modelsOf({ input }), undefined);
});

test("an override is read and written as the node reads it", () => {
  assert.deepEqual(parsed(" 1, 2,3  4 "), { x: 1, y: 2, width: 3, height: 4 });
  assert.equal(written({ x: 1.4, y: 2.6, width: 3, height: 4 }), "1, 3, 3, 4");
  for (const text of ["", "1, 2, 3", "a, b, c, d", "1 2 3 4 5", null])
    assert.equal(parsed(text), null);
});

test("a moved window keeps its size and stays on the picture", () => {
  assert.deepEqual(moved(WINDOW, 10.4, -5, SIZE), { ...WINDOW, x: 110, y: 45 });
  assert.deepEqual(moved(WINDOW, 1e6, 1e6, SIZE), { ...WINDOW, x: 200, y: 100 });
  assert.deepEqual(moved(WINDOW, -1e6, -1e6, SIZE), { ...WINDOW, x: 0, y: 0 });
});

test("each handle moves its own edges and no other", () => {
  const right = WINDOW.x + WINDOW.width;
  const bottom = WINDOW.y + WINDOW.height;
  for (const edges of ["nw", "n", "ne", "e", "se", "s", "sw", "w"]) {
    const found = resized(WINDOW, edges, 10, 20, SIZE);
    assert.equal(found.x, WINDOW.x + (edges.includes("w") ? 10 : 0), edges);
    assert.equal(found.y, WINDOW.y + (edges.includes("n") ? 20 : 0), edges);
    assert.equal(found.x + found.width, right + (edges.includes("e") ? 10 : 0), edges);
    assert.equal(found.y + found.height, bottom + (edges.includes("s") ? 20 : 0), edges);
  }
});

test("a resized window neither leaves the picture nor vanishes", () => {
  for (const edges of ["nw", "se", "ne", "sw"]) {
    for (const by of [-1e6, 1e6]) {
      const found = resized(WINDOW, edges, by, by, SIZE);
      assert.deepEqual(onPicture(found, SIZE), found);
      assert.ok(found.width >= 8 && found.height >= 8);
    }
  }
  assert.deepEqual(resized({ x: 0, y: 0, width: 3, height: 3 }, "se", -9, -9, [3, 3]).width, 3);
});

test("a window is cut to the picture, or lies outside it", () => {
  assert.deepEqual(onPicture({ x: -10, y: 190, width: 50, height: 50 }, SIZE), {
    x: 0,
    y: 190,
    width: 40,
    height: 10,
  });
  assert.equal(onPicture({ x: 400, y: 0, width: 10, height: 10 }, SIZE), null);
});

test("an output is sorted out by picture, whatever the node sends", () => {
  assert.equal(picturesOf({ text: ["a"], images: [{}] }), null);
  assert.equal(picturesOf(undefined), null);
  assert.deepEqual(picturesOf({ laser_tokens: [1, 2], laser_plain: ["a"] }), [
    { tokens: 1, plain: "a" },
    { tokens: 2, plain: null },
  ]);
});

test("a workflow keeps the first pictures up to its limit, and how many there were", () => {
  const pictures = Array.from({ length: 16 }, () => ({ windows: "x".repeat(3000) }));
  const result = kept(pictures);
  assert.equal(result.of, 16);
  assert.equal(result.pictures.length, 10);
  assert.ok(JSON.stringify(result).length < 32_100);
  assert.deepEqual(restored(JSON.parse(JSON.stringify(result))), result);
});

test("a result too long for the workflow is kept without alternatives and with cut texts", () => {
  const tokens = Array.from({ length: 64 }, (_, index) =>
    token(`t${index} `, 1, { alternatives: Array(20).fill(["x".repeat(40), 0.1, 0.2]) }),
  );
  const long = "a".repeat(40_000);
  const whole = {
    windows: windows(),
    tokens: answer(tokens, { text: `${long}b` }),
    plain: `${long}c`,
  };
  const result = kept([whole, { windows: windows() }]);
  assert.ok(JSON.stringify(result).length < 32_100);
  assert.equal(result.pictures.length, 2);
  const [first] = result.pictures;
  assert.deepEqual(first.windows, whole.windows);
  assert.equal(first.tokens.tokens.length, 64);
  assert.equal(first.tokens.tokens[3].with, 0.8);
  assert.ok(first.plain.endsWith("a …"));
  assert.equal(first.tokens.same, false); // though both texts begin alike
  assert.equal(whole.tokens.tokens[0].alternatives.length, 20); // what is on show is left as it is
  assert.equal(kept([{ ...whole, plain: whole.tokens.text }]).pictures[0].tokens.same, true);
});

test("what is no saved result is not taken for one", () => {
  for (const value of [null, undefined, 3, "x", [], {}, { pictures: 3 }, { pictures: [null] }]) {
    assert.equal(restored(value), null);
  }
  assert.equal(restored({ pictures: [{}], of: "many" }).of, 1);
});

test("a saved result can only name files of the temp folder", () => {
  const query = fileQuery({ filename: "a b&type=output.png", subfolder: "../..", type: "input" });
  assert.deepEqual(Object.fromEntries(new URLSearchParams(query.split("?")[1])), {
    filename: "a b&type=output.png",
    subfolder: "",
    type: "temp",
  });
  assert.equal(fileQuery({ url: "https://example.org" }), null);
});

test("a text comes in the set language, the near one, or English", () => {
  const all = { en: { laserViews: { a: "A {n}", b: "B" } }, zh: { laserViews: { a: "甲 {n}" } } };
  const in_ = (language) =>
    translator(
      () => all,
      () => language,
    );
  assert.equal(in_("zh")("a", { n: 3 }), "甲 3");
  assert.equal(in_("zh-TW")("a", { n: 3 }), "甲 3");
  assert.equal(in_("fr")("a", { n: 3 }), "A 3");
  assert.equal(in_("zh")("b"), "B");
});

test("a choice has its name in the language that is set before it, if there is one", () => {
  const named = { ja: { laserChoices: { crop: "切り抜き" } } };
  const in_ = (language) =>
    choiceNamer(
      () => named,
      () => language,
    );
  assert.equal(in_("ja")("crop"), "切り抜き (crop)");
  assert.equal(in_("ja")("some model"), "some model");
  assert.equal(in_("en")("crop"), "crop");
  assert.equal(in_("ja")(null), "");
});

test("every language has the same texts with the same blanks", () => {
  const blanks = (text) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
  const english = texts.en.laserViews;
  for (const { laserViews } of Object.values(texts)) {
    assert.deepEqual(Object.keys(laserViews), Object.keys(english));
    for (const [key, text] of Object.entries(laserViews)) {
      assert.ok(text.trim(), key);
      assert.deepEqual(blanks(text), blanks(english[key]), key);
    }
  }
});

test("the views use every text there is and no other", () => {
  const folder = new URL("../../web/views/", import.meta.url);
  const code = readdirSync(folder)
    .map((name) => readFileSync(new URL(name, folder), "utf-8"))
    .join("\n");
  const quoted = new Set([...code.matchAll(/"(\w+)"/g)].map(([, name]) => name));
  const known = Object.keys(texts.en.laserViews);
  for (const key of known) {
    const composed = /^(vat|legend)_/.test(key); // put together from what a token is
    assert.ok(composed || quoted.has(key), `unused: ${key}`);
  }
  for (const [, key] of code.matchAll(/\bt\("(\w+)"/g))
    assert.ok(known.includes(key), `missing: ${key}`);
});

test("maps of several tokens are averaged, each by its own sum; an empty one is left out", () => {
  const levels = Uint8Array.from([255, 0, 255, 255, 0, 0]);
  assert.deepEqual([...averaged({ levels }, 2, [0, 3])], [255, 85]);
  assert.deepEqual([...averaged({ levels }, 2, [2, 3])], [0, 0]);
});

test("tokens by number are read as Python reads them, and written so", () => {
  const read = ["1", " 2-4 ", "3-", "9-12", "11", "0", "4-2", "dog", ""].map((text) =>
    spanOf(text, 10),
  );
  assert.deepEqual(read, [[0, 1], [1, 4], [2, 10], [8, 10], null, null, null, null, null]);
  assert.deepEqual([spanText([2, 3]), spanText([2, 5])], ["3", "3-5"]);
});
