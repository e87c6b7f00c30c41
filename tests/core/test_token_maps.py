"""Where each token of an answer looked: rows against the library's eager attention, maps against
loops over pixels. Knows neither nodes nor views."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import laser_core
from laser_core import pipeline
from laser_core.engine import few_calls, fixed_step
from laser_core.engine.last_rows import read_last_row
from laser_core.geometry import Box, Grid, Window
from laser_core.models.chat import Stream
from laser_core.output.report import report
from laser_core.output.token_maps import (
    check_span,
    joined_evidence,
    span_of,
    token_evidence,
    token_map,
)
from laser_core.results import Answer, Band, Evidence, TokenMaps, TokenRecord
from laser_core.settings import DecodeSettings, LaserSettings
from laser_core.steps.answer_input import make_positive_stream, make_watch
from laser_core.steps.decode import decode
from tools.testbed.counting import forwards
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_maps
from tools.testbed.tiny import REPRESENTATIVES, WITH_MASKS, WITH_SLICES, WITH_STATES

QUESTION = "what colour is the square ?"
PICTURE = noise_picture((300, 200))
SETTINGS = LaserSettings.of(adaptive=0.0, max_tokens=5, min_side_px=60)


@cache
def answered(model_type, answer_input="picture + crop"):
    """(model, prompt, answer) with maps, from a window of the picture and both streams."""
    lvlm = lvlm_of(model_type)
    answer = dataclasses.replace(SETTINGS.answer, answer_input=answer_input)
    settings = dataclasses.replace(SETTINGS, answer=answer)
    found = pipeline.locate(lvlm, PICTURE, QUESTION, settings)
    result = pipeline.answer_from(lvlm, found, token_maps=True)
    return lvlm, make_positive_stream(lvlm, found).prompt, result


def ids(answer):
    return [token.token_id for token in answer.tokens]


def difference(lvlm, prompt, answer):
    """The largest one of an answer's rows to eager attention over prompt and answer."""
    oracle = eager_maps(lvlm, prompt, ids(answer)[:-1])[-len(answer.tokens) :]
    return float((answer.maps.rows - oracle.mean(2)).abs().max())


@pytest.mark.parametrize(
    "model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS, *WITH_SLICES, "glm4v"]
)
def test_each_tokens_row_is_eager_attentions_at_the_step_that_wrote_it(model_type):
    lvlm, prompt, result = answered(model_type)
    assert result.answer.contrasted and len(prompt.pictures) == 2
    assert len(result.answer.maps.rows) == len(result.answer.tokens) > 1
    assert difference(lvlm, prompt, result.answer) <= 1e-5


@pytest.mark.parametrize(("attn", "window"), [("eager", None), ("sdpa", 24)])
def test_rows_equal_eager_attentions_in_a_padded_row_and_with_a_sliding_window(attn, window):
    lvlm = lvlm_of("llava", attn=attn, sliding_window=window)
    inputs = lvlm.encode(PICTURE)
    short, long = (lvlm.prompt([inputs], text) for text in (QUESTION, f"{QUESTION} left or right"))
    watch = make_watch(lvlm, short, (), PICTURE.size, SETTINGS)
    chosen = DecodeSettings(max_tokens=4, adaptive=0.0)
    answer = decode(lvlm, Stream(short, True), Stream(long, True), chosen, watch=watch)
    assert difference(lvlm, short, answer) <= 1e-5


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_the_prompt_without_the_question_is_read_to_eager_attention(model_type):
    lvlm, prompt, result = answered(model_type)
    watch = make_watch(lvlm, prompt, result.location.windows, PICTURE.size, SETTINGS)
    oracle = eager_maps(lvlm, watch.free)[-1].mean(1)
    assert float((result.answer.maps.without_query - oracle).abs().max()) <= 1e-5
    assert QUESTION not in lvlm.tokenizer.decode(watch.free.input_ids[0])


def test_maps_change_no_token_and_leave_nothing_hooked():
    lvlm, _, result = answered("qwen2_5_vl")
    function, hooks = ALL_ATTENTION_FUNCTIONS["sdpa"], len(lvlm.model._forward_hooks)
    bare = pipeline.answer(lvlm, PICTURE, QUESTION, SETTINGS)
    assert ids(bare.answer) == ids(result.answer)
    assert bare.answer.maps is None

    def stop(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.answer(lvlm, PICTURE, QUESTION, SETTINGS, token_maps=True, on_text=stop)
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is function
    assert len(lvlm.model._forward_hooks) == hooks


@pytest.mark.parametrize("answer_input", ["crop", "picture + crop"])
def test_no_picture_is_read_again_for_the_maps(answer_input):
    lvlm = lvlm_of("qwen2_5_vl")
    settings = LaserSettings.of(answer_input=answer_input, adaptive=0.0, max_tokens=2)
    counts = []
    for token_maps in (False, True):
        lvlm.release()
        with forwards(lvlm) as counted:
            pipeline.answer(lvlm, PICTURE, QUESTION, settings, token_maps=token_maps)
        counts.append(counted)
    bare, with_maps = counts
    assert with_maps["tower"] == bare["tower"]
    assert with_maps["decoder"] == bare["decoder"] + 1


def test_a_run_may_be_interrupted_before_each_forward():
    lvlm = lvlm_of("llava")
    prompt = lvlm.prompt([lvlm.encode(PICTURE)], QUESTION)
    watch = make_watch(lvlm, prompt, (), PICTURE.size, SETTINGS)
    read = [0]
    with forwards(lvlm) as counts:
        decode(
            lvlm,
            Stream(prompt),
            progress=lambda *_: read.append(counts["decoder"]),
            settings=SETTINGS.decode,
            watch=watch,
        )
    assert read[-1] > 2
    assert max(later - earlier for earlier, later in pairwise(read)) == 1


def test_a_prompt_of_several_pictures_may_be_left_before_each():
    lvlm = lvlm_of("llava")
    picture = lvlm.encode(PICTURE)
    prompt = lvlm.prompt([picture, picture], QUESTION)
    checked = []
    with forwards(lvlm) as counts:
        read_last_row(lvlm, prompt, slice(None), check=lambda: checked.append(counts["decoder"]))
    assert checked == [0, 1] and counts["decoder"] == 2


def test_no_step_is_a_graph_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(few_calls, "has_graphs", lambda lvlm: True)
    monkeypatch.setattr(fixed_step.FixedStep, "__call__", lambda *_: pytest.fail("a step in place"))
    lvlm = lvlm_of("llava", fresh=True)
    result = pipeline.answer(lvlm, PICTURE, QUESTION, SETTINGS, token_maps=True)
    assert not lvlm.steps
    said = report(result, lvlm)["notes"]
    assert [note for note in said if "leave the tokens' maps out" in note]
    assert not [note for note in answered("llava")[2].answer.notes if "maps" in note]  # on a CPU


# ---- from rows to the picture


def one_hot(maps, patch):
    """The maps of a single token that looked at one patch alone."""
    rows = torch.zeros(1, 1, maps.rows.shape[-1])
    rows[..., patch] = 1.0
    return dataclasses.replace(
        maps, rows=rows, without_query=torch.zeros_like(rows[0]), band=Band()
    )


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("answer_input", ["crop", "picture + crop"])
def test_a_look_at_a_patch_of_the_crop_lies_where_the_patch_shows_the_picture(
    model_type, answer_input
):
    """LLaVA's crops are padded to a square: a patch is placed by what it shows, not by its row."""
    _, prompt, result = answered(model_type, answer_input)
    crop, [window] = prompt.pictures[-1], result.location.windows
    before = sum(picture.grid.rows * picture.grid.columns for picture in prompt.pictures[:-1])
    row, column = crop.grid.rows // 2, crop.grid.columns - 1
    maps = one_hot(result.answer.maps, before + row * crop.grid.columns + column)
    [found] = token_evidence(maps)
    cell = crop.grid.cell_box(row, column).shift(window.x1, window.y1).intersect(Box(*window))
    # Of several pictures, all is laid on the cells of one grid: up to a cell around
    reach = max(found.grid.cell_size) if answer_input == "picture + crop" else 0.0
    around = Box(cell.x1 - reach, cell.y1 - reach, cell.x2 + reach, cell.y2 + reach)
    assert found.share_in(around) == pytest.approx(1.0)
    assert around.area < 0.2 * PICTURE.width * PICTURE.height


def test_pictures_are_joined_by_how_much_attention_falls_on_each_pixel():
    whole, window = Window(0, 0, 48, 48), Window(8, 16, 32, 40)
    grids = Grid(2, 2, Box(*whole)), Grid(3, 3, Box(*window))
    rows = torch.rand(1, 1, 13, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 13)
    maps = TokenMaps(rows, nothing, grids, (whole, window), (48, 48), Band())
    [found] = token_evidence(maps, LaserSettings.of(kind="raw", rule="argmax"))
    pixels = np.zeros((48, 48))
    values = iter(rows.flatten().tolist())
    for grid in grids:
        for row in range(grid.rows):
            for column in range(grid.columns):
                x1, y1, x2, y2 = map(int, grid.cell_box(row, column))
                pixels[y1:y2, x1:x2] += next(values) / ((y2 - y1) * (x2 - x1))
    assert (found.grid.rows, found.grid.columns) == (6, 6)  # as fine as the crop's
    expected = pixels.reshape(6, 8, 6, 8).sum((1, 3))
    assert found.map.numpy() == pytest.approx(expected, abs=1e-6)


def test_the_first_tokens_map_is_the_evidence_of_its_heads_mean():
    lvlm = lvlm_of("qwen2_5_vl")
    settings = LaserSettings.of(instruction=lvlm.locate_instruction, adaptive=0.001, max_tokens=2)
    found = pipeline.locate(lvlm, PICTURE, QUESTION, settings)
    result = pipeline.answer_from(lvlm, found, token_maps=True)
    assert not result.looked_closer
    means = [one.mean(1, keepdim=True) for one in (found.maps.with_query, found.maps.without_query)]
    mean = dataclasses.replace(found.maps, with_query=means[0], without_query=means[1])
    same = pipeline.locate(lvlm, PICTURE, QUESTION, settings, read=lambda *_: mean).evidence
    first = token_evidence(result.answer.maps, settings)[0]
    assert first.grid == same.grid
    assert torch.allclose(first.map, same.map, atol=1e-5)


def evidence(cells):
    grid = Grid(1, 2, Box(0, 0, 4, 2))
    return Evidence(torch.tensor([cells]), grid, (4, 2))


def test_a_span_is_the_mean_of_its_maps_each_by_its_own_sum():
    maps = dataclasses.replace(
        answered("llava")[2].answer.maps, grids=(Grid(1, 2, Box(0, 0, 4, 2)),)
    )
    joined = joined_evidence(
        [evidence([9.0, 0.0]), evidence([0.1, 0.1]), evidence([0.0, 0.0])], maps
    )
    assert joined.map.tolist() == [[0.75, 0.25]]
    assert joined_evidence([evidence([0.0, 0.0])], maps).degenerate


# ---- which tokens are meant


def words(*texts, thoughts=0):
    tokens = [TokenRecord(text, 1, 0.0, None, 1.0, 1.0, None, ()) for text in (*texts, "</s>")]
    return Answer("".join(texts), tuple(tokens), "end of answer", thought_tokens=thoughts)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("2", [1]),
        (" 2 - 4 ", [1, 2, 3]),
        ("3-", [2, 3, 4, 5]),  # without the token that ends the answer
        ("4-99", [3, 4, 5]),
        ("99", []),
        ("dog", [2, 3]),
        ("A red", [4, 5]),
        ("re", [5]),  # no whole word
        ("cat", []),
        ('"3"', []),
        ("", []),
    ],
)
def test_tokens_are_named_by_number_or_by_words(asked, expected):
    answer = words("a", " cat's", " do", "g", " a", " red")
    assert list(span_of(words("the", " small", " do", "g", " a", " red"), asked)) == expected
    assert list(span_of(answer, "cat")) == [1]


def test_words_are_looked_for_after_the_thoughts():
    assert list(span_of(words("dog", "!", " dog", thoughts=2), "dog")) == [2]


@pytest.mark.parametrize("asked", ["0", "5-3", "0-2"])
def test_numbers_of_no_token_are_refused(asked):
    with pytest.raises(ValueError, match="write tokens as '3', '3-5' or '3-', counted from 1"):
        check_span(asked)


def test_a_token_map_has_the_pictures_size_and_an_answer_without_maps_says_what_to_do():
    result = answered("llava")[2]
    heat = laser_core.token_map(result, range(1, 3))
    assert heat.shape == (200, 300)
    assert float(heat.max()) == 1.0
    assert not token_map(result, "no such words").any()
    assert not token_map(result, range(50, 60)).any()
    with pytest.raises(ValueError, match="answer with token_maps=True"):
        token_map(words("a"))
