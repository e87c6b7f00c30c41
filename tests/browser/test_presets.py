"""Presets in a real ComfyUI: what is chosen is seen, and what is seen runs."""

import json

import pytest

from laser_core.settings import preset_values

from .on_the_canvas import Node, prompt_of, put_on_canvas, undo, workflow


@pytest.fixture
def nodes(canvas):
    """(page, choose, LASER Answer, LASER Settings)"""
    page, renderer = canvas
    put_on_canvas(page, workflow("8 Describe many pictures"))

    def choose(node, preset):
        node.choose(renderer, "preset", preset)

    return page, choose, Node(page, "LaserAnswer"), Node(page, "LaserSettings")


def shown(node, preset):
    """The node's widgets that hold a setting of the preset."""
    names = node.page.evaluate(
        "id => window.app.graph.getNodeById(id).widgets.map(widget => widget.name)", node.id
    )
    return {name: node.widget(name) for name in preset_values(preset) if name in names}


def test_a_chosen_preset_is_written_into_the_widgets_of_its_node_alone(nodes):
    _, choose, answer, settings = nodes
    before = shown(answer, "default")
    for preset in ("paper", "fast", "default"):
        choose(settings, preset)
        assert settings.widget("preset") == preset
        assert shown(settings, preset).items() <= preset_values(preset).items()
        # One of both nodes has each
        assert {*shown(settings, preset), *before} == {*preset_values(preset)}
        assert shown(answer, preset) == before
    choose(answer, "paper")
    assert shown(answer, "paper") == {"answer_input": "crop", "scale": 0.5}


def test_what_is_changed_after_choosing_is_what_the_server_is_sent(nodes):
    page, choose, _, settings = nodes
    choose(settings, "paper")
    page.evaluate(
        "id => { window.app.graph.getNodeById(id).widgets"
        ".find(widget => widget.name === 'beta').value = 0.25; }",
        settings.id,
    )
    sent = prompt_of(page)[str(settings.id)]["inputs"]
    assert sent["preset"] == "paper"
    assert sent["beta"] == 0.25
    assert sent["rule"] == "argmax"


def test_a_saved_workflow_comes_back_as_it_was_left(nodes):
    page, choose, _, settings = nodes
    choose(settings, "paper")
    page.evaluate(
        "id => { window.app.graph.getNodeById(id).widgets"
        ".find(widget => widget.name === 'beta').value = 0.25; }",
        settings.id,
    )
    put_on_canvas(page, json.loads(json.dumps(page.evaluate("() => window.app.graph.serialize()"))))
    again = Node(page, "LaserSettings")
    assert (again.widget("preset"), again.widget("beta")) == ("paper", 0.25)


def test_undo_takes_a_preset_back_as_one_step(nodes):
    page, choose, _, settings = nodes
    before = shown(settings, "default")
    choose(settings, "paper")
    undo(page)
    again = Node(page, "LaserSettings")
    assert again.widget("preset") == "default"
    assert shown(again, "default") == before
