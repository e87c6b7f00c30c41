"""The line about a model on Load LVLM in a real ComfyUI: what is chosen is described."""

from .test_views import Node, undo, workflow
from .test_workflows_on_the_canvas import prompt_of, put_on_canvas

BUNDLED = "Part of this pack"


def test_the_line_follows_the_chosen_model_and_comes_back_with_undo(canvas):
    page, renderer = canvas
    put_on_canvas(page, workflow("one_node_answer"))
    node = Node(page, "LaserLoadLVLM")
    line = node.find("p")
    assert line.is_visible() and line.text_content().startswith(BUNDLED)
    node.choose(renderer, "Qwen/Qwen3-VL-4B-Instruct")
    assert node.text("p").startswith("Qwen3-VL 4B, 8.9 GB, 16-bit. Downloaded on first use.")
    assert prompt_of(page)[str(node.id)]["inputs"]["model"] == "Qwen/Qwen3-VL-4B-Instruct"
    undo(page)
    assert node.widget("model").startswith("demo")
    assert node.find("p").is_visible() and node.text("p").startswith(BUNDLED)


def test_the_line_is_no_part_of_a_saved_workflow(canvas):
    page, _ = canvas
    put_on_canvas(page, workflow("one_node_answer"))
    node = Node(page, "LaserLoadLVLM")
    saved = page.evaluate("() => window.app.graph.serialize()")
    kept = next(each for each in saved["nodes"] if each["type"] == "LaserLoadLVLM")
    assert BUNDLED not in str(kept["widgets_values"])
    put_on_canvas(page, saved)
    assert node.widget("model").startswith("demo")
    assert node.widget("keep_loaded") is True
