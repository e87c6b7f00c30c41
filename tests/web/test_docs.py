"""Help pages: one per node, with the tables the nodes would write today, and with their picture."""

import re

import pytest

from tools.build.help_pages import FOLDER, with_tables
from tools.build.pack_schema import own_ids, pack, schema


@pytest.mark.parametrize("node_id", own_ids())
def test_page_names_every_input_and_output_and_no_other(node_id):
    text = (FOLDER / f"{node_id}.md").read_text("utf-8")
    assert with_tables(text, node_id) == text, "run: python -m tools.build.help_pages"
    named = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    spec = schema(node_id)
    assert named == [entry.name for entry in (*spec.inputs, *spec.outputs)]


@pytest.mark.parametrize("node_id", own_ids())
def test_page_is_titled_like_the_node_and_shows_a_picture(node_id):
    text = (FOLDER / f"{node_id}.md").read_text("utf-8")
    assert text.startswith(f"# {pack().NODE_DISPLAY_NAME_MAPPINGS[node_id]}\n")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    assert all((FOLDER / name).is_file() for name in pictures)


def test_no_page_is_left_over():
    assert {path.stem for path in FOLDER.glob("*.md")} == set(own_ids())


@pytest.mark.parametrize("node_id", own_ids())
def test_inputs_that_the_canvas_would_turn_into_editors_are_sockets(node_id):
    """A BOUNDING_BOX input without forceInput becomes an editor of one box, and sends that box."""
    for entry in schema(node_id).inputs:
        if entry.type == "BOUNDING_BOX":
            assert entry.options.get("forceInput"), entry.name
