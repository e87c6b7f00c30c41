"""The line about a model on Load LVLM in a real ComfyUI: what is chosen is described."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tools.testbed.encoders import build_encoder, stored_as, write, write_gemma

from .on_the_canvas import (
    DOWNLOADS,
    MIDDLE,
    SET,
    Node,
    prompt_of,
    put_on_canvas,
    run,
    undo,
    workflow,
)

BUNDLED = "Part of this pack"


def test_the_line_follows_the_chosen_model_and_comes_back_with_undo(canvas):
    page, renderer = canvas
    put_on_canvas(page, workflow("1 Ask a question"))
    node = Node(page, "LaserLoadLVLM")
    line = node.find("p")
    assert line.is_visible() and line.text_content().startswith(BUNDLED)
    node.choose(renderer, "model", "Qwen/Qwen3-VL-4B-Instruct")
    assert node.text("p").startswith("Qwen3-VL 4B, 8.9 GB, 16-bit. Downloaded on first use.")
    assert prompt_of(page)[str(node.id)]["inputs"]["model"] == "Qwen/Qwen3-VL-4B-Instruct"
    undo(page)
    assert node.widget("model").startswith("demo")
    assert node.find("p").is_visible() and node.text("p").startswith(BUNDLED)


def test_a_folder_that_was_just_put_there_is_offered_and_described_after_a_refresh(canvas, comfyui):
    page, renderer = canvas
    put_on_canvas(page, workflow("1 Ask a question"))
    node = Node(page, "LaserLoadLVLM")
    folder = comfyui.base / "models" / "LLM" / "maker" / f"for {renderer}"
    folder.mkdir(parents=True)
    described = {"model_type": "llava", "text_config": {}, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(described))
    page.evaluate("() => window.app.refreshComboInNodes()")
    node.choose(renderer, "model", f"LLM/maker/for {renderer}")
    assert node.text("p").startswith("Complete its folder, or choose another model: it lacks ")
    shutil.rmtree(folder)
    page.evaluate("() => window.app.refreshComboInNodes()")
    assert node.text("p") == "Choose another model: this one is not here."


def test_the_line_is_no_part_of_a_saved_workflow(canvas):
    page, _ = canvas
    put_on_canvas(page, workflow("1 Ask a question"))
    node = Node(page, "LaserLoadLVLM")
    saved = page.evaluate("() => window.app.graph.serialize()")
    kept = next(each for each in saved["nodes"] if each["type"] == "LaserLoadLVLM")
    assert BUNDLED not in str(kept["widgets_values"])
    put_on_canvas(page, saved)
    assert node.widget("model").startswith("demo")
    assert node.widget("keep_loaded") is True


WHOLE = """() => { const {ds} = window.app.canvas;
  ds.scale = 0.8; ds.offset = [60, 120]; window.app.graph.setDirtyCanvas(true, true); }"""


def test_the_template_with_a_photograph_says_what_it_downloads_before_it_runs(canvas, shots):
    page, renderer = canvas
    put_on_canvas(page, workflow(DOWNLOADS))
    node = Node(page, "LaserLoadLVLM")
    assert node.text("p").startswith("Qwen3-VL 2B, 4.3 GB, 16-bit. Downloaded on first use.")
    page.evaluate(WHOLE)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"first-real-picture-{renderer}.png")


# A picture, a model, and the nodes that locate
LOCATE = """async () => { const {app, LiteGraph} = window;
  const types = ['LoadImage', 'LaserLoadLVLM', 'LaserContrastiveAttention', 'LaserVAQLayerSelect'];
  const [image, lvlm, read, select] = types.map((type, index) => {
    const node = LiteGraph.createNode(type);
    node.pos = [420 * index, 0];
    app.graph.add(node);
    return node;
  });
  image.widgets[0].value = 'laser_scene_picnic.jpg';
  lvlm.connect(0, read, 'lvlm');
  image.connect(0, read, 'image');
  read.connect(0, select, 'attention');
  await new Promise(done => setTimeout(done, 500));
}"""


@pytest.fixture(scope="module", params=["fp8", "nvfp4", "GGUF"])
def encoder(comfyui, request):
    """(value, description) of a small text encoder where image models have theirs.

    A Qwen2.5-VL in fp8 without its output, a Gemma 3 in nvfp4, which holds its tokenizer, and a
    Qwen2.5-VL as GGUF with its mmproj.
    """
    encoders = comfyui.base / "models" / "text_encoders"
    if request.param == "nvfp4":
        path = write_gemma(encoders / "gemma_3_12B_it_fp4_mixed.safetensors", "nvfp4 mixed")
        description = "Gemma 3, text encoder, "
    elif request.param == "fp8":
        tensors = stored_as(small_qwen(), "fp8 old")
        kept = {key: tensor for key, tensor in tensors.items() if not key.startswith("lm_head")}
        path = write(encoders / "qwen_2.5_vl_fp8_scaled.safetensors", kept)
        description = "Qwen2.5-VL, text encoder, locates only, "
    else:
        write_gguf = pytest.importorskip("tools.testbed.gguf_files").write_gguf
        path = write_gguf(encoders, small_qwen(), "Q8_0", name="Qwen2.5-VL-Q8_0")
        description = "Qwen2.5-VL, GGUF, "
    yield f"text_encoders/{path.name}", description
    for file in (path, path.with_name(f"mmproj-{path.name}")):
        file.unlink(missing_ok=True)


def small_qwen():
    """With the vocabulary of the tokenizer that ComfyUI has."""
    from transformers import Qwen2Tokenizer

    folder = Path(os.environ["COMFYUI_PATH"]) / "comfy" / "text_encoders" / "qwen25_tokenizer"
    if not folder.is_dir():
        pytest.skip("this ComfyUI has no tokenizer for Qwen's models")
    return build_encoder("qwen2_5_vl", tokenizer=Qwen2Tokenizer.from_pretrained(folder)).model


def test_a_text_encoder_is_offered_described_and_ends_in_a_heat_map(canvas, encoder, shots):
    value, description = encoder
    page, renderer = canvas
    put_on_canvas(page, {"nodes": [], "links": [], "version": 0.4})
    page.evaluate("() => window.app.refreshComboInNodes()")
    page.evaluate(LOCATE)
    node = Node(page, "LaserLoadLVLM")
    node.look()
    if renderer == "classic":
        page.mouse.click(*page.evaluate(MIDDLE, [node.id, "model"]))
        entry = page.locator(f".litemenu-entry[data-value='{value}']")
    else:
        page.locator(f'[data-node-id="{node.id}"]').get_by_role("combobox").first.click()
        entry = page.get_by_role("option", name=value, exact=True)
    page.wait_for_timeout(500)
    page.screenshot(path=shots / f"text-encoders-{Path(value).stem}-{renderer}.png")
    entry.click()
    page.wait_for_timeout(500)
    assert node.text("p").startswith(description)
    read, select = Node(page, "LaserContrastiveAttention"), Node(page, "LaserVAQLayerSelect")
    page.evaluate(SET, [node.id, {"max_visual_tokens": 64}])  # of a size to be seen
    page.evaluate(SET, [read.id, {"question": "What number is on the bee?"}])
    run(page)
    page.wait_for_timeout(1000)
    assert select.find("image, img").is_visible()
    page.evaluate(WHOLE)
    page.wait_for_timeout(1000)
    page.screenshot(path=shots / f"text-encoder-heat-map-{Path(value).stem}-{renderer}.png")
