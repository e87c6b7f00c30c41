"""Presets against a table written by hand, and what is given over them, wherever it is given."""

from __future__ import annotations

import argparse

import pytest

from laser_core import pipeline
from laser_core.evaluation.answerer import read_arguments
from laser_core.output.report import report
from laser_core.settings import (
    PRESETS,
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LayerSettings,
    preset_values,
)
from laser_core.settings_text import add_flags, read_flags
from tools.testbed.lvlms import lvlm_of, noise_picture

PAPER = LaserSettings(
    layer=LayerSettings(rule="argmax", first_depth=0.0, last_depth=1.0, layer=-1),
    crop=CropSettings(scale=0.5, min_side_px=224, placement="most mass", margin=0.0, windows=1),
    answer=AnswerSettings(answer_input="crop", crop_budget=1.0),
    decode=DecodeSettings(alpha=1.0, beta=0.0, adaptive=0.0),
)
FAST = LaserSettings(
    answer=AnswerSettings(crop_budget=0.4, looks=1), decode=DecodeSettings(alpha=0.0)
)
EXPECTED = {"default": LaserSettings(), "paper": PAPER, "fast": FAST}
presets = pytest.mark.parametrize("preset", EXPECTED)


def from_flags(*arguments):
    parser = argparse.ArgumentParser()
    add_flags(parser, ["preset", "layer", "crop", "answer", "decode"])
    return read_flags(parser.parse_args(arguments))[1]


def test_there_are_no_other_presets():
    assert list(PRESETS) == list(EXPECTED)


@presets
def test_a_preset_is_the_same_settings_in_python_on_the_command_line_and_as_a_model_argument(
    preset,
):
    assert LaserSettings.of(preset) == EXPECTED[preset]
    assert from_flags("--preset", preset) == EXPECTED[preset]
    assert read_arguments({"preset": preset}).settings == EXPECTED[preset]


@presets
def test_what_is_given_wins_over_the_preset_in_python_on_the_command_line_and_as_an_argument(
    preset,
):
    given = {"rule": "fuse", "margin": 0.2, "beta": 0.3, "alpha": 0.7, "crop_budget": 0.9}
    chosen = LaserSettings.of(preset, **given)
    assert given.items() <= chosen.by_name.items()
    untouched = EXPECTED[preset].by_name.items() - given.items()
    assert {pair for pair in untouched if pair[0] not in given} <= chosen.by_name.items()
    texts = [text for n, v in given.items() for text in (f"--{n.replace('_', '-')}", str(v))]
    assert (
        from_flags(*texts, "--preset", preset) == from_flags("--preset", preset, *texts) == chosen
    )
    assert read_arguments({**given, "preset": preset}).settings == chosen


@presets
def test_the_default_given_by_hand_wins_too(preset):
    assert LaserSettings.of(preset, alpha=1.0, beta=0.5).decode.beta == 0.5
    assert from_flags("--preset", preset, "--beta", "0.5").decode.beta == 0.5


@presets
def test_every_preset_says_a_value_for_what_any_of_them_sets(preset):
    """So that choosing one undoes another."""
    names = {name for values in PRESETS.values() for name in values}
    assert preset_values(preset).keys() == names
    assert preset_values(preset).items() <= EXPECTED[preset].by_name.items()


@presets
def test_settings_know_the_preset_they_are(preset):
    assert LaserSettings.of(preset).preset == preset
    assert LaserSettings.of(preset, max_tokens=3, seed=9).preset == preset  # no preset sets these
    assert LaserSettings.of(preset, beta=0.25).preset is None


def test_the_report_names_the_preset():
    lvlm, chosen = lvlm_of("llava"), LaserSettings.of("fast", max_tokens=2)
    result = pipeline.answer(lvlm, noise_picture(), "what is it ?", chosen)
    assert report(result, lvlm)["settings"]["preset"] == "fast"


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: LaserSettings.of("papr"), "choose one of default, paper, fast: preset is 'papr'"),
        (
            lambda: from_flags("--preset", "x"),
            "choose one of default, paper, fast: --preset is 'x'",
        ),
        (
            lambda: read_arguments({"preset": "x"}),
            "choose one of default, paper, fast: preset is 'x'",
        ),
        (lambda: LaserSettings.of(aplha=1.0), "leave out aplha: it is no setting of the method"),
        (
            lambda: LaserSettings.of(beams=2),
            "removed: use temperature and seed for other answers instead of beams",
        ),
    ],
)
def test_what_there_is_not_is_refused(ask, message):
    with pytest.raises(ValueError) as error:
        ask()
    assert str(error.value) == message
