"""Writes the blueprints of the pack: subgraphs that stand in the node library as one node each.

    python -m tools.build.build_blueprints

ComfyUI serves subgraphs/*.json of a pack under /global_subgraphs. They load the demo model until
another one is chosen on them.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from tools.build.pack_schema import ROOT, schema

FOLDER = ROOT / "subgraphs"
COLUMN_PX, WIDTH_PX, HEIGHT_PX = 380, 320, 420
INPUT, OUTPUT = -10, -20  # ids of a subgraph's own ends


@dataclass
class Blueprint:
    """A subgraph under construction, its nodes in a row."""

    name: str
    description: str
    nodes: list[dict] = field(default_factory=list)
    links: list[dict] = field(default_factory=list)
    inputs: list[dict] = field(default_factory=list)
    outputs: list[dict] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)

    def add(self, kind: str, **given: Any) -> int:
        """A node's id. given: values of its widgets, or (node, output's name) to link from."""
        spec, number = schema(kind), len(self.nodes) + 1
        values = []
        for name, entry in spec.widgets:
            default = None if entry is None else entry.options.get("default")
            values.append("fixed" if entry is None else given.get(name, default))
        node = {
            "id": number,
            "type": kind,
            "pos": [COLUMN_PX * (number - 1), 0],
            "size": [WIDTH_PX, HEIGHT_PX],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": [
                {"name": entry.name, "type": entry.type, "link": None}
                | ({"widget": {"name": entry.name}} if entry.is_widget else {})
                for entry in spec.inputs
            ],
            "outputs": [
                {"name": output.name, "type": output.type, "links": []} for output in spec.outputs
            ],
            "properties": {"Node name for S&R": kind},
            "widgets_values": values,
        }
        self.nodes.append(node)
        for name, source in given.items():
            if isinstance(source, tuple):
                origin, output = source
                slot = _index(self._node(origin)["outputs"], output)
                self._link(origin, slot, number, _index(node["inputs"], name))
        return number

    def take(self, name: str, *targets: tuple[int, str]) -> None:
        """An input of the blueprint, linked to inputs of its nodes."""
        slot = len(self.inputs)
        end = self._end(name, self._input(*targets[0])["type"])
        self.inputs.append(end)
        for number, entry in targets:
            place = _index(self._node(number)["inputs"], entry)
            end["linkIds"].append(self._link(INPUT, slot, number, place, end["type"]))

    def give(self, number: int, name: str) -> None:
        """An output of a node as one of the blueprint."""
        slot = _index(self._node(number)["outputs"], name)
        end = self._end(name, self._node(number)["outputs"][slot]["type"])
        end["linkIds"].append(self._link(number, slot, OUTPUT, len(self.outputs), end["type"]))
        self.outputs.append(end)

    def show(self, number: int, *widgets: str) -> None:
        """Widgets of a node that are set on the blueprint itself."""
        self.shown += [[str(number), widget] for widget in widgets]

    def save(self) -> None:
        """Writes the blueprint as the canvas saves it."""
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"laser-lvlm/{self.name}"))
        subgraph = {
            "id": identity,
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(self.nodes),
                "lastLinkId": len(self.links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "inputNode": {"id": INPUT, "bounding": [-240, 0, 120, 100]},
            "outputNode": {
                "id": OUTPUT,
                "bounding": [COLUMN_PX * len(self.nodes) + 60, 0, 120, 200],
            },
            "inputs": self.inputs,
            "outputs": self.outputs,
            "widgets": [],
            "nodes": self.nodes,
            "groups": [],
            "links": self.links,
            "extra": {},
            "category": "LASER",
            "description": self.description,
        }
        node = {
            "id": 1,
            "type": identity,
            "pos": [0, 0],
            "size": [340, 400],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [{"name": e["name"], "type": e["type"], "link": None} for e in self.inputs],
            "outputs": [{"name": e["name"], "type": e["type"], "links": []} for e in self.outputs],
            "properties": {"proxyWidgets": self.shown},
            "widgets_values": [],
            "title": self.name,
        }
        content = {
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [node],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [subgraph]},
            "extra": {},
        }
        FOLDER.mkdir(exist_ok=True)
        text = json.dumps(content, indent=1, ensure_ascii=False)
        (FOLDER / f"{self.name}.json").write_text(text + "\n", "utf-8")

    def _node(self, number: int) -> dict:
        return self.nodes[number - 1]

    def _input(self, number: int, name: str) -> dict:
        entries = self._node(number)["inputs"]
        return entries[_index(entries, name)]

    def _end(self, name: str, kind: str) -> dict:
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"laser-lvlm/{self.name}/{kind}/{name}")
        return {"id": str(identity), "name": name, "type": kind, "linkIds": []}

    def _link(self, origin: int, slot: int, target: int, place: int, kind: str = "") -> int:
        """The id of a new link, which is noted on both ends."""
        number = len(self.links) + 1
        if origin != INPUT:
            output = self._node(origin)["outputs"][slot]
            output["links"].append(number)
            kind = kind or output["type"]
        if target != OUTPUT:
            self._node(target)["inputs"][place]["link"] = number
        self.links.append(
            {
                "id": number,
                "origin_id": origin,
                "origin_slot": slot,
                "target_id": target,
                "target_slot": place,
                "type": kind,
            }
        )
        return number


def _index(entries: list[dict], name: str) -> int:
    return [entry["name"] for entry in entries].index(name)


def find() -> Blueprint:
    made = Blueprint("LASER Find", "Picture and words in; masks, boxes and points out.")
    model = made.add("LaserLoadLVLM")
    found = made.add("LaserFind", lvlm=(model, "lvlm"), phrases="dog")
    made.take("image", (found, "image"))
    made.show(found, "phrases", "finder", "mask_share")
    made.show(model, "model")
    for name in ("masks", "boxes", "points", "negative_points", "found", "overlay"):
        made.give(found, name)
    return made


def ask() -> Blueprint:
    made = Blueprint("LASER Ask", "Picture and question in; the answer and where it looked out.")
    model = made.add("LaserLoadLVLM")
    said = made.add("LaserAnswer", lvlm=(model, "lvlm"), question="what number is on the dog?")
    made.take("image", (said, "image"))
    made.show(said, "question", "task", "instruction")
    made.show(model, "model")
    for name in ("answer", "plain_answer", "crop", "heat_map", "boxes"):
        made.give(said, name)
    return made


def detail() -> Blueprint:
    made = Blueprint(
        "LASER Detail",
        "Finds the one thing you name, enlarges its window, edits it and puts it back. Open it and "
        "put your own edit in the place of Image Sharpen. Where nothing is found, 'found' is false "
        "and the whole picture is edited.",
    )
    model = made.add("LaserLoadLVLM")
    found = made.add("LaserFind", lvlm=(model, "lvlm"), phrases="dog")
    cut = made.add("LaserConViCrop", mask=(found, "masks"), scale=0.3)
    larger = made.add("ImageScaleBy", image=(cut, "crop"), upscale_method="lanczos", scale_by=2.0)
    edited = made.add(
        "ImageSharpen", image=(larger, "IMAGE"), sharpen_radius=1, sigma=1.0, alpha=1.0
    )
    pasted = made.add("LaserPasteBack", crop=(edited, "IMAGE"), region=(cut, "region"))
    made.take("image", (found, "image"), (cut, "image"), (pasted, "image"))
    made.show(found, "phrases")
    made.show(cut, "scale")
    made.show(model, "model")
    made.give(pasted, "image")
    made.give(cut, "crop")
    made.give(cut, "region")
    made.give(found, "found")
    return made


BLUEPRINTS = (find, ask, detail)


def main() -> None:
    for make in BLUEPRINTS:
        make().save()


if __name__ == "__main__":
    main()
