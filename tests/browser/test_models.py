"""The line about a model on Load LVLM in a real ComfyUI: what is chosen is described."""

import json
import shutil

from .on_the_canvas import Node, prompt_of, put_on_canvas, undo, workflow

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
