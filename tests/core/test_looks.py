"""Looking closer only when unsure, and believing what makes the model surest: against plain loops.

Each reading's first token is asked of `decode` alone, and windows are placed by hand.
"""

import dataclasses

import pytest
import torch

from laser_core import pipeline
from laser_core.geometry import Box, Grid
from laser_core.results import Evidence, Location
from laser_core.settings import AnswerSettings, CropSettings, DecodeSettings, LaserSettings
from laser_core.steps.answer_input import make_plain_stream, make_positive_stream
from laser_core.steps.crop import closer_looks, place_windows
from laser_core.steps.decode import decode
from tools.benchmarks.speed.count import decoder_tokens
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import REPRESENTATIVES, WITH_SLICES, WITH_STATES

QUESTION = "what is in the picture ?"
CROP = CropSettings(min_side_px=20)
PLAIN = DecodeSettings(max_tokens=3, alpha=0.0, adaptive=0.0)


def located(lvlm, adaptive, looks=3, alpha=0.0, **answer):
    settings = LaserSettings(
        crop=CROP,
        answer=AnswerSettings(looks=looks, **answer),
        decode=dataclasses.replace(PLAIN, adaptive=adaptive, alpha=alpha),
    )
    return pipeline.locate(lvlm, noise_picture((90, 60)), QUESTION, settings)


def readings(lvlm, found):
    """(windows, certainty, token ids) of the plain reading and of every look, each on its own."""
    looks = [()]
    for scale in (0.5, 0.5 * 0.7, 0.5 * 0.7 * 0.7):
        looks.append(place_windows(found.evidence, dataclasses.replace(CROP, scale=scale)).windows)
    result = []
    for windows in looks:
        stream = make_plain_stream(lvlm, found.inputs, QUESTION, found.settings)
        if windows:
            placement = dataclasses.replace(found.placement, windows=windows)
            stream = make_positive_stream(lvlm, dataclasses.replace(found, placement=placement))
        said = decode(lvlm, stream, None, PLAIN)
        first = said.tokens[0].alternatives[0].probability_with
        result.append((windows, first, [token.token_id for token in said.tokens]))
    return result


@pytest.mark.parametrize("answer_input", ["picture + crop", "crop"])
@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_surest_of_all_readings_is_the_answer(model_type, answer_input):
    lvlm = lvlm_of(model_type)
    found = located(lvlm, 1.0, answer_input=answer_input)
    expected = readings(lvlm, found)
    result = pipeline.answer_from(lvlm, found)
    assert [look.windows for look in result.looks] == [windows for windows, *_ in expected]
    certainties = [look.certainty for look in result.looks]
    assert certainties == pytest.approx([first for _, first, _ in expected], abs=1e-5)
    assert result.believed == max(range(4), key=certainties.__getitem__)
    windows, _, token_ids = expected[result.believed]
    assert [token.token_id for token in result.answer.tokens] == token_ids
    assert result.location.windows == (windows or found.windows)
    assert result.looked_closer is bool(windows)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_it_looks_no_closer_once_it_is_sure_enough(model_type):
    lvlm = lvlm_of(model_type)
    expected = readings(lvlm, located(lvlm, 1.0))
    best = 0.0
    for count, (_, first, _) in enumerate(expected, 1):
        if first <= best:
            continue  # no threshold stops here and not before
        best = first
        result = pipeline.answer_from(lvlm, located(lvlm, first * 0.9999))
        assert len(result.looks) == count
        assert result.believed == count - 1


def test_a_look_that_is_not_taken_is_not_read():
    lvlm = lvlm_of("llava")
    tokens = {}
    for looks in (1, 2):
        found = located(lvlm, 1.0, looks=looks)
        with decoder_tokens(lvlm) as counted:
            result = pipeline.answer_from(lvlm, found)
        assert len(result.looks) == looks + 1
        tokens[looks] = sum(counted)
    crop = make_positive_stream(lvlm, found).prompt
    assert tokens[2] - tokens[1] == crop.suffix_length


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_the_comparison_is_with_the_evidence_of_the_look_that_is_believed(model_type):
    lvlm = lvlm_of(model_type)
    found = located(lvlm, 1.0, alpha=1.0)
    result = pipeline.answer_from(lvlm, found)
    if not result.looked_closer:
        assert not result.answer.contrasted
        return
    alone = dataclasses.replace(
        result.location, settings=dataclasses.replace(found.settings, decode=dataclasses.replace(
            PLAIN, alpha=1.0
        ), answer=AnswerSettings(looks=1)),
    )  # fmt: skip
    scale = result.location.windows[0].width / 90
    crop = dataclasses.replace(CROP, scale=min(1.0, scale))
    alone = dataclasses.replace(alone, settings=dataclasses.replace(alone.settings, crop=crop))
    expected = pipeline.answer_from(lvlm, alone)
    assert expected.location.windows == result.location.windows
    for one, other in zip(result.answer.tokens, expected.answer.tokens, strict=True):
        assert one.token_id == other.token_id
        assert one.logit_without == pytest.approx(other.logit_without, abs=1e-4)


def test_with_adaptive_off_the_first_look_is_believed_and_nothing_is_compared():
    lvlm = lvlm_of("llava")
    found = located(lvlm, 0.0)
    result = pipeline.answer_from(lvlm, found)
    assert [(look.windows, look.certainty) for look in result.looks] == [(found.windows, None)]
    assert result.looked_closer


def test_a_mask_from_elsewhere_is_believed_however_sure_the_model_is():
    lvlm = lvlm_of("llava")
    found = dataclasses.replace(located(lvlm, 1e-6), maps=None)
    result = pipeline.answer_from(lvlm, found)
    assert [(look.windows, look.certainty) for look in result.looks] == [(found.windows, None)]


@pytest.mark.parametrize("model_type", ["llava", *WITH_SLICES])
def test_what_a_look_left_out_for_want_of_room_is_said_of_the_answer(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    found = located(lvlm, 1.0, looks=1, instruction=lvlm.locate_instruction)
    found = dataclasses.replace(found, maps=dataclasses.replace(found.maps, certainty=0.0))
    longest = make_positive_stream(lvlm, found).prompt.length
    lvlm.release()
    lvlm.model.config.get_text_config().max_position_embeddings = longest + PLAIN.max_tokens - 1
    result = pipeline.answer_from(lvlm, found)
    assert result.looked_closer
    assert "answered from the crop alone" in result.answer.notes[0]


def location(size, crop, looks, rows=12, columns=16, strength=1.0):
    """What `closer_looks` goes by: evidence on a picture of this size, and settings."""
    generator = torch.Generator().manual_seed(3)
    values = strength * torch.rand(rows, columns, generator=generator)
    found = Evidence(values, Grid(rows, columns, Box(0, 0, *size)), size)
    settings = LaserSettings(crop=crop, answer=AnswerSettings(looks=looks))
    return Location(None, None, QUESTION, settings, None, found, place_windows(found, crop))


@pytest.mark.parametrize("windows", [1, 2])
def test_each_look_has_windows_of_seven_tenths_of_the_sides_placed_anew(windows):
    crop = CropSettings(scale=0.6, min_side_px=1, windows=windows)
    found = location((640, 480), crop, 3)
    expected = [
        place_windows(found.evidence, dataclasses.replace(crop, scale=scale))
        for scale in (0.6, 0.6 * 0.7, 0.6 * 0.7 * 0.7)
    ]
    assert [look.placement for look in closer_looks(found)] == expected


def test_there_are_no_looks_that_would_show_the_same_window_again():
    looks = list(closer_looks(location((500, 460), CropSettings(scale=0.5, min_side_px=224), 8)))
    sides = [(look.windows[0].width, look.windows[0].height) for look in looks]
    assert sides == [(250, 230), (224, 224)]


def test_a_picture_where_nothing_was_found_is_not_looked_at_closer():
    assert not list(closer_looks(location((64, 64), CropSettings(), 3, strength=0.0)))


def test_a_window_by_hand_is_the_only_look():
    found = dataclasses.replace(location((640, 480), CropSettings(), 3), by_hand=True)
    assert list(closer_looks(found)) == [found]
