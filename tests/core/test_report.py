"""The report: strict JSON that says what happened, and files written completely or not at all."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laser_core import pipeline
from laser_core.files import to_json, to_plain, write_atomically
from laser_core.geometry import Window
from laser_core.output.report import report, summary
from laser_core.settings import (
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LoadSettings,
)
from tools.testbed.lvlms import lvlm_of, noise_picture

QUESTION = "what colour is the square ?"
SETTINGS = LaserSettings(
    crop=CropSettings(min_side_px=20, scale=0.3, windows=2), decode=DecodeSettings(max_tokens=3)
)


def refuse(constant):
    raise AssertionError(f"{constant} is not JSON")


def strict(text):
    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def lvlm():
    return lvlm_of("llava", layers=3)


@pytest.fixture(scope="module")
def result(lvlm):
    return pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS, with_plain=True)


@pytest.fixture(scope="module")
def content(result, lvlm):
    return report(result, lvlm, load=LoadSettings(), files=["crop.png"])


def changed(result, **of_location):
    location = dataclasses.replace(result.location, **of_location)
    return dataclasses.replace(result, location=location)


def test_a_report_is_strict_json_and_survives_the_round_trip(content):
    assert strict(to_json(content)) == content


def test_a_report_says_what_was_found(content, result):
    location = result.location
    assert (content["schema"], content["version"]) == ("laser-report", 2)
    assert content["question"] == QUESTION
    assert content["answer"] == result.answer.text
    assert content["plain"] == result.plain.text
    assert content["layer"]["index"] == location.evidence.choice.layer
    assert content["layer"]["count"] == len(content["layer"]["vaq"]) == 3
    assert content["layer"]["numbers"] == [0, 1, 2]
    assert content["layer"]["reason"] == location.evidence.choice.reason
    assert [tuple(w["box"]) for w in content["windows"]] == list(location.placement.windows)
    assert content["picture"] == {"width": 90, "height": 60, "unseen_share": 0}
    assert content["model"]["family"] == "LLaVA-1.5"
    assert content["files"] == ["crop.png"]
    np.testing.assert_allclose(content["evidence"]["map"], location.evidence.map, rtol=1e-6)


def test_a_report_says_with_which_words_was_located_and_answered(lvlm, result):
    def asked(instruction, **of_location):
        chosen = dataclasses.replace(SETTINGS, answer=AnswerSettings(instruction=instruction))
        return report(changed(result, settings=chosen, **of_location), lvlm)["asked"]

    locating = f"{QUESTION}\nAnswer the question using a single word or phrase."
    assert asked("") == {"locating": locating, "answering": QUESTION}
    assert asked("Read it.") == {"locating": locating, "answering": f"{QUESTION}\nRead it."}
    assert asked("", maps=None) == {"locating": None, "answering": QUESTION}  # a mask
    assert report(result.location, lvlm)["asked"] == {"locating": locating, "answering": None}


def test_token_records_have_both_streams_and_their_difference(content, result):
    tokens = content["generated"]["answer"]["tokens"]
    assert len(tokens) == len(result.answer.tokens)
    for token in tokens:
        difference = token["logit_with"] - token["logit_without"]
        assert token["vat"] == pytest.approx(difference, abs=1e-4)
        assert token["alternatives"]
    assert content["generated"]["plain"]["tokens"][0]["vat"] is None


def test_every_setting_is_in_the_report(content):
    others = {"load": LoadSettings().to_dict(), **SETTINGS.to_dict()}
    assert content["settings"] == {"preset": SETTINGS.preset, **others}


def test_the_same_run_gives_the_same_bytes(lvlm, result, content):
    again = pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS, with_plain=True)
    assert again.answer.seconds_decoding != result.answer.seconds_decoding
    second = report(again, lvlm, load=LoadSettings(), files=["crop.png"])
    assert to_json(second) == to_json(content)


def test_a_location_makes_a_report_without_an_answer(lvlm, result):
    content = report(result.location, lvlm)
    assert content["answer"] is None
    assert content["windows"]
    assert strict(to_json(content)) == content


def test_a_mask_as_evidence_makes_a_report_without_a_layer(lvlm):
    mask = torch.zeros(60, 90)
    mask[10:30, 40:60] = 1
    location = pipeline.locate(lvlm, noise_picture(), QUESTION, SETTINGS, mask=mask)
    answer = pipeline.answer_from(lvlm, location)
    content = report(answer, lvlm)
    assert content["layer"] is None
    assert summary(content)[1].startswith("window ")
    assert strict(to_json(content)) == content


def test_scores_that_are_not_finite_become_null(lvlm, result):
    vaq = torch.tensor([math.nan, math.inf, 0.5])
    choice = dataclasses.replace(result.location.evidence.choice, vaq=vaq)
    evidence = dataclasses.replace(result.location.evidence, choice=choice)
    content = report(changed(result, evidence=evidence), lvlm)
    assert content["layer"]["vaq"] == [None, None, 0.5]
    strict(to_json(content))


def test_a_degenerate_map_is_said_aloud(lvlm, result):
    evidence = dataclasses.replace(result.location.evidence, map=torch.full((6, 6), torch.nan))
    content = report(changed(result, evidence=evidence), lvlm)
    assert content["evidence"]["degenerate"]
    assert content["windows"] == []
    assert "nothing found, answered on the whole picture" in content["notes"]
    strict(to_json(content))


def test_pixels_that_the_model_did_not_see_are_said_aloud(lvlm, result):
    grid = result.location.evidence.grid
    view = grid.view._replace(x1=0, x2=45, y1=0, y2=60)
    evidence = dataclasses.replace(result.location.evidence, grid=grid._replace(view=view))
    content = report(changed(result, evidence=evidence), lvlm)
    assert content["picture"]["unseen_share"] == 0.5
    assert any("did not see 50.0% of the picture" in note for note in content["notes"])


@pytest.mark.parametrize("stop_reason, said", [("max tokens", True), ("end of answer", False)])
def test_an_answer_that_was_cut_off_is_said_aloud(stop_reason, said, lvlm, result):
    answer = dataclasses.replace(result.answer, stop_reason=stop_reason)
    content = report(dataclasses.replace(result, answer=answer), lvlm)
    assert any("cut off after 3 tokens" in note for note in content["notes"]) == said
    assert any(f"stopped at {stop_reason}" in line for line in summary(content))


def test_the_summary_begins_with_the_answer(content):
    lines = summary({**content, "answer": "a red square"})
    assert lines[0] == "a red square"
    assert lines[1].startswith("plain model: ")
    assert lines[2] == content["layer"]["reason"]
    assert sum(line.startswith("window ") for line in lines) == len(content["windows"])


@pytest.mark.parametrize(
    "value, plain",
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (True, True),
        (None, None),
        (math.nan, None),
        (-math.inf, None),
        (np.float64("nan"), None),
        (2**63 - 1, 2**63 - 1),
        (0.1 + 0.2, 0.3),
        (torch.tensor([[1.0, torch.nan]]), [[1.0, None]]),
        (torch.tensor(2), 2),
        (np.arange(2), [0, 1]),
        (Window(1, 2, 3, 4), [1, 2, 3, 4]),
        ({3: (1, 2.0)}, {"3": [1, 2.0]}),
        (CropSettings(), CropSettings().to_dict()),
        ("naïve 星 \udcff", "naïve 星 ?"),
    ],
)
def test_to_plain(value, plain):
    found = to_plain(value)
    assert found == plain
    assert type(found) is type(plain)


@pytest.mark.parametrize("value", [object(), {1, 2}, Path("x"), CropSettings, 1j])
def test_to_plain_refuses_what_has_no_plain_form(value):
    with pytest.raises(TypeError, match="no plain form"):
        to_plain(value)


def test_lists_of_numbers_take_one_line_and_strings_stay():
    content = {
        "map": [[1, -2.5e-7], [0, 3]],
        "text": "[\n 1,\n 2 ]",
        "empty": [],
        "mixed": [1, "a"],
    }
    text = to_json(content)
    assert "[1, -2.5e-07]" in text
    assert json.loads(text) == content


# ---- files -------------------------------------------------------------------------------------


def test_files_are_written_with_their_content(tmp_path):
    picture = noise_picture()
    write_atomically(tmp_path / "a.png", picture)
    write_atomically(tmp_path / "b.json", "{}é")
    write_atomically(str(tmp_path / "c"), b"\x00")
    assert Image.open(tmp_path / "a.png").tobytes() == picture.tobytes()
    assert (tmp_path / "b.json").read_text("utf-8") == "{}é"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.json", "c"]


def test_a_file_has_the_rights_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "a", "x")
    (tmp_path / "b").write_text("x")
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode


class BreaksOff(Image.Image):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def save(self, file, format):
        file.write(b"half")
        raise self.error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_the_old_file_and_no_other(error, tmp_path):
    (tmp_path / "a.png").write_text("old")
    with pytest.raises(type(error)):
        write_atomically(tmp_path / "a.png", BreaksOff(error))
    assert (tmp_path / "a.png").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_take_its_place_leaves_nothing(tmp_path, monkeypatch):
    def refuse_to_replace(source, target):
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "replace", refuse_to_replace)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "a.txt", "new")
    assert list(tmp_path.iterdir()) == []
