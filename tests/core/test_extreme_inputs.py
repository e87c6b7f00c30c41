"""Any picture, mask and combination of settings gives a sound result or a remedy, never a crash."""

from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from laser_core import pipeline
from laser_core.pictures import to_mask, to_picture, to_tensor
from laser_core.settings import (
    AnswerSettings,
    ContrastSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LayerSettings,
    PromptSettings,
)
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES

QUESTION = "what colour is the square ?"
SHORT = LaserSettings(decode=DecodeSettings(max_tokens=2), crop=CropSettings(min_side_px=8))
LONGEST_PX = 8000

sides = st.integers(0, 13).flatmap(lambda power: st.integers(1, min(2**power, LONGEST_PX)))
sizes = st.tuples(sides, sides)
few = settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])


def grey(size):
    return Image.new("RGB", size, (90, 120, 150))


# ---- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@few
@example(size=(1, 1))
@example(size=(LONGEST_PX, 1))
@example(size=(1, LONGEST_PX))
@example(size=(LONGEST_PX, 250))  # 32 : 1, the longest that Qwen-VL is fed without padding
@example(size=(LONGEST_PX, 249))
@given(size=sizes.filter(lambda size: size[0] * size[1] <= 4_000_000))
def test_a_picture_of_any_size_is_encoded_whole(model_type, size):
    lvlm = lvlm_of(model_type)
    inputs = lvlm.encode(grey(size))
    view, cells = inputs.grid.view, inputs.grid.rows * inputs.grid.columns
    assert inputs.map_tokens.stop - inputs.map_tokens.start == cells
    assert cells <= inputs.token_count <= 400  # of the tiny models' limits
    assert inputs.grid.unseen_share(size) < 1e-6
    assert view.area >= size[0] * size[1] * (1 - 1e-6)
    assert inputs.picture_size == size


@few
@given(model_type=st.sampled_from(AVAILABLE), size=st.tuples(*[st.integers(1, 500)] * 2))
def test_windows_and_masks_fit_a_picture_of_any_size(model_type, size):
    width, height = size
    result = pipeline.answer(lvlm_of(model_type), noise_picture(size), QUESTION, SHORT)
    for x1, y1, x2, y2 in result.location.placement.windows:
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    assert result.location.evidence.map.isfinite().all()
    hidden = result.counterfactual
    assert hidden is None or hidden.mask.shape == (height, width)


dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
values = st.floats(-100, 100, width=32) | st.sampled_from([0.0, 1.0, -0.0, 60000.0, -60000.0])


@given(value=values, dtype=dtypes, channels=st.sampled_from([1, 3, 4]))
def test_a_tensor_of_any_finite_value_is_clamped(value, dtype, channels):
    image = torch.full((1, 2, 3, channels), value, dtype=dtype)
    pixel = to_picture(image).getpixel((0, 0))
    level = min(max(float(image[0, 0, 0, 0]), 0.0), 1.0)
    expected = level * level + 1 - level if channels == 4 else level
    assert pixel == (pytest.approx(expected * 255, abs=1),) * 3


@given(
    place=st.tuples(st.integers(0, 1499), st.integers(0, 999), st.integers(0, 2)),
    broken=st.sampled_from([torch.nan, torch.inf, -torch.inf]),
)
@settings(max_examples=10)
def test_one_broken_value_anywhere_is_found(place, broken):
    image = torch.zeros(1, 1500, 1000, 3)
    image[(0, *place)] = broken
    with pytest.raises(ValueError, match=r"^fix the picture"):
        to_picture(image)


def test_blocks_of_rows_give_what_the_whole_array_gives():
    array = np.random.default_rng(0).random((1037, 1501, 3), dtype=np.float32)
    expected = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    assert np.array_equal(np.asarray(to_picture(array)), expected)


@pytest.mark.parametrize(
    "convert", [to_picture, lambda image: to_mask(image[0, ..., 0], (2000, 2000))]
)
def test_conversions_stay_within_a_few_times_their_input(convert):
    image = torch.ones(1, 2000, 2000, 3)
    tracemalloc.start()
    try:
        convert(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * image.nbytes


@given(size=st.tuples(st.integers(1, 40), st.integers(1, 40)), seed=st.integers(0, 9))
def test_a_picture_of_any_size_survives_the_way_through_a_tensor(size, seed):
    picture = noise_picture(size, seed)
    assert to_picture(to_tensor(picture)).tobytes() == picture.tobytes()


# ---- settings ----------------------------------------------------------------------------------


def group(kind, **fixed):
    """A strategy for settings: every number at a bound or its default, every choice."""
    options = {}
    for spec in dataclasses.fields(kind):
        meta = spec.metadata
        if spec.name in fixed:
            options[spec.name] = st.just(fixed[spec.name])
        elif meta["choices"]:
            options[spec.name] = st.sampled_from(meta["choices"])
        elif meta["low"] is not None:
            options[spec.name] = st.sampled_from([meta["low"], spec.default, meta["high"]])
        else:
            options[spec.name] = st.sampled_from([spec.default, "", "what is it ?"])

    def make(values):
        try:
            return kind(**values)
        except ValueError:  # one setting bounds another
            return kind(**fixed)

    return st.fixed_dictionaries(options).map(make)


all_settings = st.builds(
    LaserSettings,
    prompt=group(PromptSettings),
    contrast=group(ContrastSettings),
    layer=group(LayerSettings),
    crop=group(CropSettings),
    counterfactual=group(CounterfactualSettings),
    answer=group(AnswerSettings),
    decode=group(DecodeSettings, max_tokens=2),
)
REMEDIES = ("choose ", "widen ", "shorten ", "use ", "raise ", "lower ")


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(
    model_type=st.sampled_from(["llava", "llava_next", "qwen2_5_vl"]),
    chosen=all_settings,
    size=st.sampled_from([(90, 60), (1, 1), (30, 300)]),
)
def test_settings_at_their_bounds_answer_or_name_the_remedy(model_type, chosen, size):
    try:
        result = pipeline.answer(lvlm_of(model_type), noise_picture(size), QUESTION, chosen)
    except ValueError as error:
        assert str(error).startswith(REMEDIES)
    else:
        assert result.answer.tokens
        for token in result.answer.tokens:
            assert np.isfinite(token.logit_with)
