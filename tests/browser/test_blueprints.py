"""The pack's blueprints in a real ComfyUI: served, put on the canvas, run; views inside them."""

from __future__ import annotations

import json

import pytest

from .comfy_server import PACK_FOLDER, ROOT
from .test_workflows_on_the_canvas import put_on_canvas

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
# The blueprint's node gets a picture, its outputs a look each; the prompt is what would be queued
WIRED = """async () => { const {app, LiteGraph} = window;
  const node = app.graph.nodes.find(node => node.subgraph);
  const image = LiteGraph.createNode('LoadImage');
  image.pos = [-400, 0];
  app.graph.add(image);
  image.widgets[0].value = 'laser_scene_picnic.jpg';
  image.connect(0, node, 0);
  const looks = node.outputs.map((output, slot) => {
    const look = LiteGraph.createNode('TestLook');
    look.pos = [600, 120 * slot];
    app.graph.add(look);
    node.connect(slot, look, 0);
    return [output.name, String(look.id)];
  });
  await new Promise(done => setTimeout(done, 500));
  return Object.fromEntries(looks);
}"""
PROMPT = "async () => (await window.app.graphToPrompt()).output"
INSIDE = """async () => { const {app} = window;
  const node = app.graph.nodes.find(node => node.subgraph);
  app.canvas.openSubgraph(node.subgraph, node);
  await new Promise(done => setTimeout(done, 2500));
}"""


def test_blueprints_are_served_as_the_packs_own(comfyui):
    served = [
        entry
        for entry in comfyui.get("/global_subgraphs").values()
        if entry["info"]["node_pack"] == f"custom_nodes.{PACK_FOLDER}"
    ]
    assert {entry["name"] for entry in served} == {path.stem for path in FILES}


def seen(output: dict):
    return json.loads(output["seen"][0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_blueprint_runs_and_shows_its_nodes_inside(canvas, comfyui, shots, path):
    page, renderer = canvas
    put_on_canvas(page, json.loads(path.read_text("utf-8")))
    looks = page.evaluate(WIRED)
    client = page.evaluate("window.app.api.clientId")
    outputs = comfyui.run(page.evaluate(PROMPT), client=client)
    page.wait_for_timeout(1500)
    page.screenshot(path=str(shots / f"blueprint {path.stem} {renderer}.png"))
    said = {name: seen(outputs[look]) for name, look in looks.items()}
    if path.stem == "LASER Find":
        assert said["masks"]["shape"] == [1, 1024, 1024] and said["masks"]["sum"] > 0
        assert said["found"] is True and said["boxes"][0][0]["label"] == "dog"
    elif path.stem == "LASER Ask":
        assert said["answer"] and said["plain_answer"]
    else:
        assert said["image"]["shape"] == [1, 1024, 1024, 3]
    page.evaluate(INSIDE)
    page.screenshot(path=str(shots / f"blueprint {path.stem} inside {renderer}.png"))
    if path.stem == "LASER Ask":  # its view holds the answer
        shown = page.locator(".laser-view .laser-said").first
        assert shown.inner_text() == said["answer"]
    page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph ?? window.app.graph)")
