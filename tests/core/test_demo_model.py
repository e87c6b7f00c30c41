"""The shipped demo model: the same answers everywhere, and it says what it is and knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from laser_core import pipeline
from laser_core.models.loading import DEMO, load_lvlm
from laser_core.output.report import report, report_answer, summary
from laser_core.settings import DecodeSettings, LaserSettings, LoadSettings
from tools.testbed.lvlms import lvlm_of

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "pictures/scene_picnic.jpg"
QUESTION = "what number is on the bee?"  # a 6
# (with LASER, without the evidence, plain): logits of the first token that each says
LOGITS = (9.6136, 4.4033, 4.4296)


@pytest.fixture(scope="module")
def lvlm():
    return load_lvlm(DEMO, LoadSettings(precision="fp32"))


def test_the_logits_are_the_same_on_every_version_of_the_libraries(lvlm):
    picture = Image.open(PICTURE)
    both_streams = LaserSettings(decode=DecodeSettings(alpha=1.0, adaptive=1.0))
    result = pipeline.answer(lvlm, picture, QUESTION, both_streams, with_plain=True)
    said, plain = result.answer.tokens[0], result.plain.tokens[0]
    assert (result.answer.text, result.plain.text) == ("6", "9")
    measured = said.logit_with, said.logit_without, plain.logit_with
    assert measured == pytest.approx(LOGITS, abs=2e-3)


def test_what_is_read_together_is_known_and_other_words_are_named_without_their_marks(lvlm):
    picture, settings = lvlm.encode(Image.open(PICTURE)), LaserSettings()
    lvlm.answer_prompt([picture], "What's on the dog? Is there any ORANGE cap?", settings)
    with pytest.raises(ValueError, match='does not know "unicorn", "smile"'):
        lvlm.answer_prompt([picture], "does the unicorn, or the dog, smile?", settings)


def test_a_picture_in_which_the_model_sees_nothing_gives_no_example(lvlm):
    white = Image.new("RGB", (300, 300), "white")
    with pytest.raises(ValueError, match=r'^use other words: this model does not know "doing"'):
        pipeline.answer(lvlm, white, "what is the dog doing?")


def test_each_report_of_the_demo_model_says_what_it_is_and_that_of_another_does_not(lvlm):
    picture = Image.open(PICTURE)
    answered = pipeline.answer(lvlm, picture, QUESTION)
    step = report_answer(answered.answer, QUESTION, lvlm, LaserSettings(), LoadSettings())
    reports = report(answered, lvlm), report(answered.location, lvlm), step
    for content in reports:
        assert content["notes"].count(lvlm.notice) == 1
        assert summary(content).count(f"note: {lvlm.notice}") == 1
    assert re.search("demo model.* 96 .*choose another model", lvlm.notice)
    assert lvlm_of("llava").notice == ""
