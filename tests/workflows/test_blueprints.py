"""Blueprints: what the generator writes, and whole: every link joins two ends of one type."""

from __future__ import annotations

import json

import pytest

from tools.build.build_blueprints import BLUEPRINTS, FOLDER, INPUT, OUTPUT
from tools.build.pack_schema import schema

FILES = sorted(FOLDER.glob("*.json"))
files = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def graph_of(path) -> tuple[dict, dict]:
    """(the node that stands for it, the subgraph)"""
    content = json.loads(path.read_text("utf-8"))
    [node], [subgraph] = content["nodes"], content["definitions"]["subgraphs"]
    return node, subgraph


def test_files_are_up_to_date(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.build.build_blueprints.FOLDER", tmp_path)
    for make in BLUEPRINTS:
        make().save()
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text("utf-8") for path in FILES}, (
        "run: python -m tools.build.build_blueprints"
    )


@files
def test_the_node_stands_for_its_subgraph(path):
    node, subgraph = graph_of(path)
    assert node["type"] == subgraph["id"]
    assert node["title"] == subgraph["name"] == path.stem
    for ends in ("inputs", "outputs"):
        assert [e["name"] for e in node[ends]] == [e["name"] for e in subgraph[ends]]
    inner = {str(each["id"]): each["type"] for each in subgraph["nodes"]}
    for number, widget in node["properties"]["proxyWidgets"]:
        assert widget in {name for name, _ in schema(inner[number]).widgets}


@files
def test_every_link_joins_an_output_and_an_input_of_one_type(path):
    _, subgraph = graph_of(path)
    nodes = {node["id"]: node for node in subgraph["nodes"]}
    for link in subgraph["links"]:
        origin, target = (
            subgraph["inputs"] if link["origin_id"] == INPUT
            else nodes[link["origin_id"]]["outputs"],
            subgraph["outputs"] if link["target_id"] == OUTPUT
            else nodes[link["target_id"]]["inputs"],
        )  # fmt: skip
        one, other = origin[link["origin_slot"]], target[link["target_slot"]]
        assert one["type"] == other["type"] == link["type"]
        assert link["id"] in one.get("links", one.get("linkIds", []))
        assert link["id"] in (other.get("linkIds") or [other.get("link")])


@files
def test_every_socket_that_is_required_is_linked(path):
    _, subgraph = graph_of(path)
    for node in subgraph["nodes"]:
        linked = {entry["name"] for entry in node["inputs"] if entry["link"] is not None}
        for entry in schema(node["type"]).inputs:
            if entry.required and not entry.is_widget:
                assert entry.name in linked
