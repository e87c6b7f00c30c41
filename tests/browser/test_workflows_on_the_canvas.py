"""Every example workflow in a real ComfyUI: loaded, converted and shown by the page itself."""

import json

import pytest

from .comfy_server import ROOT, model_folder

WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))
ANSWERS = {  # workflow -> titles of the Preview Any nodes that hold an answer
    "ask_with_laser": ["Answer"],
    "batch_captions": ["Captions"],
    "compare_plain_fixed_layer_laser": ["Plain", "Fixed layer", "LASER"],
    "evidence_from_a_hand_drawn_mask": ["Answer"],
    "one_node_answer": ["Answer with LASER", "Plain answer"],
}


def put_on_canvas(page, workflow: dict) -> None:
    page.evaluate("async graph => { await window.app.loadGraphData(graph); }", workflow)
    page.wait_for_timeout(500)


def ends(workflow: dict) -> list[tuple]:
    """(from node, output, to node) of every link: the canvas may renumber inputs."""
    return sorted((source, slot, target) for _, source, slot, target, *_ in workflow["links"])


def prompt_of(page) -> dict:
    prompt = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    folder = model_folder()
    for node in prompt.values():
        if node["class_type"] == "LaserLoadLVLM" and not folder.is_relative_to(ROOT):
            node["inputs"]["custom_model"] = str(folder)
    return prompt


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_runs_and_every_output_node_shows_something(name, canvas, comfyui, shots):
    page, renderer = canvas
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    put_on_canvas(page, workflow)
    prompt = prompt_of(page)
    real = {str(node["id"]) for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    assert set(prompt) == real

    # With the page's own id, so that the page shows what comes back
    client = page.evaluate("window.app.api.clientId")
    outputs = comfyui.run(prompt, client=client)
    shown = {
        str(node["id"]): node
        for node in workflow["nodes"]
        if node["type"] in ("PreviewImage", "PreviewAny", "MaskPreview")
    }
    assert set(shown) <= set(outputs)
    for node_id, node in shown.items():
        seen = outputs[node_id]
        if node["type"] == "PreviewAny":
            assert seen["text"], node
        else:
            assert all(comfyui.picture(image) for image in seen["images"]), node
    texts = {node.get("title"): outputs[key].get("text") for key, node in shown.items()}
    for title in ANSWERS.get(name, []):
        assert all(text.strip() for text in texts[title])
    if name == "batch_captions":
        assert len(texts["Captions"]) == 3

    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    page.screenshot(path=shots / f"{name}-{renderer}.png")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_values_survive_the_canvas(name, canvas):
    page, _ = canvas
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text())
    put_on_canvas(page, workflow)
    saved = page.evaluate("() => window.app.graph.serialize()")
    before = {node["id"]: node["widgets_values"] for node in workflow["nodes"]}
    for node in saved["nodes"]:
        if node["type"].startswith("Laser"):
            assert node.get("widgets_values", []) == before[node["id"]], node["type"]
    assert ends(saved) == ends(workflow)
