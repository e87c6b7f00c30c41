"""Which settings a prompt runs with: what arrived, LASER Settings, a preset, in this order."""

from __future__ import annotations

import json

import pytest
import torch

from .graphs import QUESTION, handle_of, pictures_batch, tiny_lvlm
from .pack import inputs_of, node, part, run

PRESETS = ("default", "paper", "fast")


@pytest.fixture(autouse=True)
def one_token(monkeypatch):
    """The model ends every answer at once, whatever the settings allow."""
    model = tiny_lvlm("llava").model
    every = list(range(model.config.get_text_config().vocab_size))
    monkeypatch.setattr(model.generation_config, "eos_token_id", every)


def prompt(node_id, **inputs):
    """A node run as ComfyUI runs a stored prompt: inputs that are not there are not passed."""
    kind = node(node_id)
    with torch.inference_mode():
        result = getattr(kind(), kind.FUNCTION)(**inputs)
    return result["result"] if isinstance(result, dict) else result


def used(**inputs) -> dict:
    """The settings, by name, that LASER Answer reports for these inputs."""
    asked = {"lvlm": handle_of(), "image": pictures_batch(1), "question": QUESTION}
    reported = json.loads(prompt("LaserAnswer", **asked, **inputs)[6][0])["settings"]
    groups = (reported[name] for name in reported if name not in ("preset", "load"))
    return {name: value for group in groups for name, value in group.items()}


def expected(preset="default", **given) -> dict:
    return part("laser_core.settings").LaserSettings.of(preset, **given).by_name


def test_a_prompt_from_before_any_setting_existed_runs_with_the_defaults():
    assert used() == expected()


def test_a_node_fresh_on_the_canvas_runs_with_the_defaults():
    widgets = {
        name: spec[1]["default"]
        for name, spec in inputs_of("LaserAnswer").items()
        if "default" in spec[1] and name != "question"
    }
    assert used(**widgets) == expected()


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_what_did_not_arrive_and_nothing_else(preset):
    assert used(preset=preset) == expected(preset)
    arrived = {"answer_input": "picture + crop", "scale": 0.7, "max_tokens": 3}
    assert used(preset=preset, **arrived) == expected(preset, **arrived)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("other", PRESETS)
def test_laser_settings_decides_what_laser_answer_does_not_carry(preset, other):
    (settings,) = prompt("LaserSettings", preset=other, beta=0.3)
    found, carried = used(preset=preset, settings=settings), set(inputs_of("LaserAnswer"))
    assert {n: v for n, v in found.items() if n in carried} == {
        n: v for n, v in expected(preset).items() if n in carried
    }
    assert {n: v for n, v in found.items() if n not in carried} == {
        n: v for n, v in expected(other, beta=0.3).items() if n not in carried
    }


def test_laser_settings_can_be_read():
    (settings,) = prompt("LaserSettings", preset="paper", fill="blur")
    lines = str(settings).splitlines()
    assert len(lines) == len(inputs_of("LaserSettings")) - 1  # all but the preset
    assert {"rule: argmax", "beta: 0.0", "fill: blur", "system: (empty)"} <= set(lines)
    assert settings.get_ram_usage() > 0


@pytest.mark.parametrize("node_id", ["LaserAnswer", "LaserSettings"])
def test_the_page_is_sent_what_each_preset_fills_in(node_id):
    choices, options = inputs_of(node_id)["preset"]
    assert choices == list(PRESETS)
    for name in choices:
        assert options["presets"][name].items() <= expected(name).items()
    keys = {frozenset(values) for values in options["presets"].values()}
    assert len(keys) == 1  # choosing one undoes another


def test_widgets_filled_by_the_page_run_as_the_preset_alone():
    """What is seen is what runs."""
    for preset in PRESETS:
        filled = inputs_of("LaserAnswer")["preset"][1]["presets"][preset]
        own = {name: filled[name] for name in filled if name in inputs_of("LaserAnswer")}
        assert used(preset=preset, **own) == used(preset=preset)


def test_every_node_of_settings_runs_without_them():
    image = pictures_batch(1)
    mask = torch.zeros(1, 60, 90)
    mask[:, 10:30, 20:50] = 1
    boxes = [[{"x": 10, "y": 20, "width": 30, "height": 40}]]
    given = {
        "LaserConViCrop": {"image": image, "mask": mask},
        "LaserCounterfactualMask": {"image": image, "mask": mask},
        "LaserPasteBack": {"image": image, "crop": image, "region": mask},
        "LaserBoxPick": {"boxes": boxes},
        "LaserSettings": {},
    }
    for node_id, inputs in given.items():
        bare, full = prompt(node_id, **inputs), run(node_id, **inputs)
        for one, other in zip(bare, list(vars(full).values())[1:], strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"preset": "papers"}, "choose one of default, paper, fast: preset is 'papers'"),
        ({"scale": 3.0}, "choose a value from 0.1 to 1.0: scale is 3.0"),
    ],
)
def test_a_wrong_value_in_a_prompt_is_refused(inputs, message):
    with pytest.raises(ValueError) as error:
        used(**inputs)
    assert str(error.value) == message


def test_what_to_look_for_locates_and_the_question_is_answered():
    asked = {"lvlm": handle_of(), "image": pictures_batch(1), "question": QUESTION}
    reported = prompt("LaserAnswer", **asked, look_for="the small red thing")[6][0]
    texts = json.loads(reported)["asked"]
    assert texts["locating"].startswith("the small red thing\n")
    assert texts["answering"].startswith(QUESTION)
