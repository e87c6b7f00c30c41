"""A text of its own that locates, beside the question that is answered."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from laser_core.command_line import cli
from laser_core.evaluation.answerer import Answerer, read_arguments
from laser_core.models.lvlm import Lvlm
from laser_core.output.report import report
from laser_core.pipeline import answer, locate
from laser_core.settings import AnswerSettings, CropSettings, LaserSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import next_logits

QUESTION, SIGN = "What color is the square?", "the sign above the door"
SMALL = replace(LaserSettings(), crop=CropSettings(min_side_px=20))


def test_it_locates_in_place_of_the_question():
    lvlm, picture = lvlm_of("llava"), noise_picture()
    found = locate(lvlm, picture, QUESTION, SMALL, look_for=f" {SIGN} ")
    maps = read_attention(lvlm, picture, SIGN)
    assert torch.equal(found.maps.with_query, maps.with_query)
    other = locate(lvlm, picture, QUESTION, SMALL)
    assert not torch.equal(found.maps.with_query, other.maps.with_query)


def test_the_question_is_what_is_answered_and_its_own_certainty_decides():
    lvlm, picture = lvlm_of("llava"), noise_picture()
    # The prompt that would locate without it is the one that answers: its certainty is known then
    same = AnswerSettings(instruction=lvlm.locate_instruction)
    settings = replace(SMALL, answer=same)
    result = answer(lvlm, picture, QUESTION, settings, look_for=SIGN)
    prompt = lvlm.answer_prompt([lvlm.encode(picture)], QUESTION, settings)
    certainty = float(next_logits(lvlm, prompt, []).softmax(-1).max())
    assert result.looks[0].certainty == pytest.approx(certainty, rel=1e-4)
    asked = report(result, lvlm)["asked"]
    assert asked["locating"].startswith(SIGN) and asked["answering"].startswith(QUESTION)


def test_the_flag_of_ask_locates(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise_picture().save("picture.png")
    asked = ["ask", "picture.png", "what color is the dog ?", "--look-for", "what is the cat ?"]
    assert cli.main([*asked, "--json", "--adaptive", "0", "--alpha", "0"]) == 0
    asked = json.loads(capsys.readouterr().out)["asked"]
    assert asked["locating"].startswith("what is the cat ?\n")
    assert asked["answering"].startswith("what color is the dog ?")


def test_the_model_argument_takes_the_questions_first_line(monkeypatch):
    read, prompt = [], Lvlm.prompt

    def noted(self, pictures, text, system="", **options):
        read.append(text)
        return prompt(self, pictures, text, system, **options)

    monkeypatch.setattr(Lvlm, "prompt", noted)
    lvlm = lvlm_of("llava")
    ask = Answerer(read_arguments({"look_for": "where: {}", "min_side_px": 20}))
    ask(lvlm, f"{QUESTION}\n(A) red\n(B) blue", [noise_picture()], {"max_new_tokens": 1})
    assert read[0] == f"where: {QUESTION}\n{lvlm.locate_instruction}"
    assert f"{QUESTION}\n(A) red\n(B) blue" in read


def test_high_resolution_is_not_for_phrases(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    noise_picture().save("picture.png")
    assert cli.main(["locate", "picture.png", "dog", "cat", "--high-resolution"]) == 2
    assert capsys.readouterr().err.startswith("leave out --high-resolution: ")
