"""Every example workflow in a real ComfyUI: loaded, converted and shown by the page itself."""

from typing import NamedTuple

import pytest

from .on_the_canvas import (
    DETAILER,
    SMALL_LAPTOP,
    TEMPLATES,
    WORKFLOWS,
    open_templates,
    prompt_of,
    put_on_canvas,
    workflow,
)

FILES = "9 Captions as text files"
SHOW = {"PreviewImage": "images", "MaskPreview": "images", "PreviewAny": "text"}
SHOW |= {"ImageCompare": "b_images", "LaserAnswer": "text", "LaserVATDecode": "text"}


def ends(graph: dict) -> list[tuple]:
    """(from node, output, to node) of every link: the canvas may renumber inputs."""
    return sorted((source, slot, target) for _, source, slot, target, *_ in graph["links"])


OPEN = """async ([graph, title]) => {
  await window.app.loadGraphData(graph, true, true, title, {openSource: 'template'});
  await new Promise(done => setTimeout(done, 1500));
  return window.app.canvas.ds.scale; }"""
# Where each node lies on the canvas, and how wide each group and its title are
PLACES = """() => { const {app, LiteGraph} = window, {scale} = app.canvas.ds;
  const nodes = app.graph.nodes.map(node => {
    const [x, y, width, height] = node.boundingRect;
    const drawn = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    return LiteGraph.vueNodesMode ? [x, y, drawn.width / scale, drawn.height / scale]
      : [x, y, width, height]; });
  const pen = document.createElement('canvas').getContext('2d');
  const groups = app.graph.groups.map(group => {
    pen.font = `${group.font_size}px ${LiteGraph.GROUP_FONT ?? 'Inter'}, sans-serif`;
    return [group.title, pen.measureText(group.title).width + 8, group.size[0]]; });
  return {nodes, groups}; }"""


class Ran(NamedTuple):
    """A template, opened and run by the page: what came back, and how the page shows it.

    found: what ComfyUI said of the prompt.
    """

    workflow: dict
    found: dict
    outputs: dict
    scale: float
    places: dict


@pytest.fixture(scope="module", params=WORKFLOWS)
def ran(request, canvas, comfyui, shots) -> Ran:
    page, renderer = canvas
    graph = workflow(request.param)
    size = page.viewport_size
    page.set_viewport_size(SMALL_LAPTOP)
    try:
        scale = page.evaluate(OPEN, [graph, request.param])
        # With the page's own id, so that the page shows what comes back
        client = page.evaluate("window.app.api.clientId")
        found = comfyui.post(prompt_of(page), client)
        outputs = comfyui.wait(found["prompt_id"])
        page.wait_for_timeout(1500)
        page.screenshot(path=shots / f"{request.param}-{renderer}.png")
        return Ran(graph, found, outputs, scale, page.evaluate(PLACES))
    finally:
        page.set_viewport_size(size)


@pytest.mark.parametrize("ran", [name for name in WORKFLOWS if name != DETAILER], indirect=True)
def test_every_node_that_shows_something_does(ran, comfyui):
    shown = {str(node["id"]): SHOW.get(node["type"]) for node in ran.workflow["nodes"]}
    assert any(shown.values())
    for node_id, what in shown.items():
        if what == "text":
            assert all(text.strip() for text in ran.outputs[node_id]["text"])
        elif what:
            assert all(comfyui.picture(image) for image in ran.outputs[node_id][what])


def test_the_first_screen_of_a_small_laptop_shows_it_legibly_and_nothing_hides_anything(ran):
    assert ran.scale >= 0.572  # below, the classic renderer leaves the texts out
    boxes = ran.places["nodes"]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            beside = x + width <= other_x or other_x + other_width <= x
            assert beside or y + height <= other_y or other_y + other_height <= y
    for title, needed, width in ran.places["groups"]:
        assert needed <= width, title


@pytest.mark.parametrize("ran", [FILES], indirect=True)
def test_captions_are_saved_beside_their_pictures(ran, comfyui):
    (answer,) = (node for node in ran.workflow["nodes"] if node["type"] == "LaserAnswer")
    said = [one["text"] for one in ran.outputs[str(answer["id"])]["laser_tokens"]]
    folder = comfyui.base / "output" / "laser_captions"
    assert [path.read_text("utf-8") for path in sorted(folder.glob("*.txt"))] == said
    assert [path.stem for path in sorted(folder.glob("*.png"))] == [
        path.stem for path in sorted(folder.glob("*.txt"))
    ]
    assert len(said) == 2


@pytest.mark.parametrize("ran", [DETAILER], indirect=True)
def test_the_detailer_lacks_nothing_but_a_checkpoint_and_finds_in_multiples_of_8(ran):
    wrong = [
        (error["class_type"], one["type"], one["extra_info"]["input_name"])
        for error in ran.found["node_errors"].values()
        for one in error["errors"]
    ]
    assert wrong == [("CheckpointLoaderSimple", "value_not_in_list", "ckpt_name")]
    nodes = {node["type"]: str(node["id"]) for node in ran.workflow["nodes"]}
    (windows,) = ran.outputs[nodes["LaserConViCrop"]]["laser_windows"]
    ((x1, y1, x2, y2),) = windows["windows"]
    assert (x2 - x1) % 8 == (y2 - y1) % 8 == 0


TITLES = """() => [...document.querySelectorAll('[data-testid^="template-workflow-"] h3')]
  .map(title => title.textContent.trim())"""


def test_the_templates_are_titled_and_sorted_by_name_from_the_easiest_on(canvas, shots):
    page, renderer = canvas
    open_templates(page)
    assert sorted(page.evaluate(TITLES)) == TEMPLATES
    page.screenshot(path=shots / f"templates-{renderer}.png")
    page.keyboard.press("Escape")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_values_survive_the_canvas(name, canvas):
    page, _ = canvas
    graph = workflow(name)
    put_on_canvas(page, graph)
    saved = page.evaluate("() => window.app.graph.serialize()")
    before = {node["id"]: node["widgets_values"] for node in graph["nodes"]}
    for node in saved["nodes"]:
        if node["type"].startswith("Laser"):
            assert node.get("widgets_values", []) == before[node["id"]], node["type"]
    assert ends(saved) == ends(graph)
