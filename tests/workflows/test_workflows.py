"""Example workflows against the nodes they use, without ComfyUI."""

import json
import re

import pytest
from PIL import Image

from tools.build import build_workflows
from tools.build.pack_schema import CORE, ROOT, own_ids, schema

FOLDER = ROOT / "workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))
NOTES = {"MarkdownNote", "Note"}


def read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text("utf-8"))


def nodes_of(workflow: dict) -> list[dict]:
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def complaints(workflow: dict) -> list[str]:
    """Everything that is wrong with a workflow in the canvas's format."""
    found = []
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    if len(nodes) != len(workflow["nodes"]) or len(links) != len(workflow["links"]):
        found.append("an id is used twice")
    for node in nodes_of(workflow):
        where = f"{node['type']} {node['id']}"
        if node["type"] not in CORE and node["type"] not in own_ids():
            found.append(f"{where}: unknown node")
            continue
        spec = schema(node["type"])
        inputs = {entry.name: entry for entry in spec.inputs}
        found += [f"{where}: {text}" for text in _wrong_inputs(node, inputs, links)]
        found += [f"{where}: {text}" for text in _wrong_widgets(node, spec)]
        outputs = [(output["name"], output["type"]) for output in node["outputs"]]
        if outputs != [(output.name, output.type) for output in spec.outputs]:
            found.append(f"{where}: outputs are {outputs}")
    for number, source, slot, target, index, kind in workflow["links"]:
        if source not in nodes or target not in nodes:
            found.append(f"link {number} has a loose end")
            continue
        output = nodes[source]["outputs"][slot]
        entry = nodes[target]["inputs"][index]
        if number not in output["links"] or entry["link"] != number:
            found.append(f"link {number} is not known to its nodes")
        accepted = entry["type"].split(",")
        if kind != output["type"] or not ("*" in (kind, *accepted) or kind in accepted):
            found.append(f"link {number} joins {output['type']} to {entry['type']}")
    return found


def _wrong_inputs(node: dict, inputs: dict, links: dict) -> list[str]:
    found = []
    linked = {entry["name"] for entry in node["inputs"] if entry["link"] is not None}
    for entry in node["inputs"]:
        if entry["name"] not in inputs:
            found.append(f"has no input {entry['name']}")
        elif entry["type"] != inputs[entry["name"]].type:
            found.append(f"{entry['name']} is of type {entry['type']}")
        if entry["link"] is not None and entry["link"] not in links:
            found.append(f"{entry['name']} hangs on a link that is not there")
    for name, entry in inputs.items():
        if entry.required and not entry.is_widget and name not in linked:
            found.append(f"{name} is not connected")
    return found


def _wrong_widgets(node: dict, spec) -> list[str]:
    values, widgets = node["widgets_values"], spec.widgets
    if len(values) != len(widgets):
        return [f"{len(values)} values for {len(widgets)} widgets"]
    linked = {entry["name"] for entry in node["inputs"] if entry["link"] is not None}
    found = []
    for value, (name, entry) in zip(values, widgets, strict=True):
        if entry is None or name in linked:
            continue
        options, kinds = entry.options, _KINDS[entry.type]
        if type(value) not in kinds:
            found.append(f"{name} is {value!r}")
        elif options.get("values") and value not in options["values"]:
            found.append(f"{name} is {value!r}, which is no choice")
        elif "min" in options and not options["min"] <= value <= options["max"]:
            found.append(f"{name} is {value}, out of range")
    return found


_KINDS = {
    "INT": (int,),
    "FLOAT": (int, float),
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "COMBO": (str,),
}


def test_they_are_numbered_from_the_easiest_on():
    assert sorted(int(name.split()[0]) for name in NAMES) == [*range(1, len(NAMES) + 1)]


@pytest.mark.parametrize("name", NAMES)
def test_a_note_says_what_it_is_what_it_does_and_what_it_needs(name):
    (note,) = (node for node in read(name)["nodes"] if node["type"] == "MarkdownNote")
    title, *texts, needs = note["widgets_values"][0].split("\n\n")
    assert title == f"## {name.split(maxsplit=1)[1]}" and texts and all(texts)
    assert re.fullmatch(r"Needs ComfyUI \d+\.\d+ or newer\.", needs)


@pytest.mark.parametrize("name", NAMES)
def test_workflow_fits_its_nodes(name):
    assert complaints(read(name)) == []


@pytest.mark.parametrize("name", NAMES)
def test_workflow_starts_with_the_model_that_its_note_names_and_fixed_seeds(name):
    downloads = name == "10 First real picture"
    for node in nodes_of(read(name)):
        widgets = dict(
            zip((n for n, _ in schema(node["type"]).widgets), node["widgets_values"], strict=True)
        )
        if node["type"] == "LaserLoadLVLM":
            model = build_workflows.SMALLEST
            note = next(each for each in read(name)["nodes"] if each["type"] == "MarkdownNote")
            assert widgets["model"] == model.value or not downloads
            assert widgets["model"].startswith("demo") or downloads
            assert (model.size in note["widgets_values"][0]) == downloads
            assert widgets["custom_model"] == ""
        assert all(value == "fixed" for key, value in widgets.items() if key.endswith(" control"))


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_offered_by_the_pack(name):
    examples = {f"laser_{path.name}" for path in (ROOT / "pictures").glob("scene*.*")}
    for node in nodes_of(read(name)):
        if node["type"] == "LoadImage":
            assert node["widgets_values"][0] in examples


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap(name):
    boxes = [(*node["pos"], *node["size"]) for node in read(name)["nodes"]]
    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            beside = x + width <= other_x or other_x + other_width <= x
            assert beside or y + height <= other_y or other_y + other_height <= y


@pytest.mark.parametrize("name", NAMES)
def test_thumbnail_is_square(name):
    with Image.open(FOLDER / f"{name}.jpg") as thumbnail:
        assert thumbnail.width == thumbnail.height >= 256


def test_every_node_of_the_pack_is_shown_in_a_template_or_a_blueprint():
    used = {node["type"] for name in NAMES for node in read(name)["nodes"]}
    for path in (ROOT / "subgraphs").glob("*.json"):
        [subgraph] = json.loads(path.read_text("utf-8"))["definitions"]["subgraphs"]
        used |= {node["type"] for node in subgraph["nodes"]}
    # These two join what comes from elsewhere, and what follows: a segmenter's masks, a switch
    assert set(own_ids()) - used == {"LaserPick", "LaserCheck"}


def test_files_are_what_the_builder_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(build_workflows, "FOLDER", tmp_path)
    build_workflows.main()
    for name in NAMES:
        assert json.loads((tmp_path / f"{name}.json").read_text("utf-8")) == read(name)


def broken(change) -> list[str]:
    workflow = read("2 See every step")
    nodes = {node["type"]: node for node in workflow["nodes"]}
    change(workflow, nodes)
    return complaints(workflow)


@pytest.mark.parametrize(
    "change",
    [
        lambda flow, nodes: nodes["LaserVATDecode"]["widgets_values"].pop(),
        lambda flow, nodes: nodes["LaserConViCrop"]["widgets_values"].reverse(),
        lambda flow, nodes: nodes["LaserConViCrop"]["inputs"][0].update(link=None),
        lambda flow, nodes: nodes["LaserVAQLayerSelect"]["inputs"][0].update(name="maps"),
        lambda flow, nodes: nodes["LaserVAQLayerSelect"].update(type="LaserNothing"),
        lambda flow, nodes: flow["links"].pop(),
        lambda flow, nodes: flow["links"][0].__setitem__(5, "LATENT"),
    ],
)
def test_the_check_finds_a_broken_workflow(change):
    assert broken(change)
