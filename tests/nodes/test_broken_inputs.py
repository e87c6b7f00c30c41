"""Boxes, masks and batches as other packs may send them: used rightly, or refused with a remedy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ..core.test_leaks import live_bytes
from .graphs import QUESTION, SMALL, all_of, handle_of, pictures_batch
from .pack import part, run

batches = part("nodes.batches")
PICTURE = Image.new("RGB", (90, 60))
REMEDIES = ("connect ", "choose ", "write ", "give ", "multiply ")

anything = (
    st.none() | st.booleans() | st.text(max_size=3) | st.integers() | st.floats() | st.just([1])
)
numbers = st.integers(-200, 200) | st.floats(-200, 200)


def record(x, y, width, height):
    return {"x": x, "y": y, "width": width, "height": height}


@given(box=st.tuples(numbers, numbers, numbers, numbers))
def test_a_box_is_cut_to_its_picture_or_refused(box):
    x, y, width, height = map(round, box)
    right, bottom = min(x + width, 90), min(y + height, 60)
    expected = (max(x, 0), max(y, 0), right, bottom)
    try:
        window = batches.window_on(record(*box), PICTURE.size)
    except ValueError as error:
        assert str(error).startswith("connect a box that lies on the picture")
        assert right <= expected[0] or bottom <= expected[1]
    else:
        assert window == expected


NAMES = ("x", "y", "width", "height")
records = st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, anything))


@given(boxes=st.recursive(anything | records, st.lists, max_leaves=4))
def test_what_is_no_box_is_refused_in_our_words(boxes):
    try:
        windows = batches.windows_of(boxes, 1, PICTURE.size)
    except ValueError as error:
        assert str(error).startswith(REMEDIES)
    else:
        assert all(window.width > 0 and window.height > 0 for window in windows[0])


@given(boxes=st.recursive(anything, st.lists, max_leaves=8), format=st.integers(0, 2))
def test_box_pick_takes_a_box_or_names_the_remedy(boxes, format):
    formats = part("nodes.box_pick").FORMATS
    try:
        picked = run("LaserBoxPick", boxes=boxes, format=formats[format])
    except ValueError as error:
        assert str(error).startswith(REMEDIES)
    else:
        assert picked.width > 0 and picked.height > 0


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, None, "x"])
@pytest.mark.parametrize("name", ["x", "width"])
def test_a_box_that_is_not_finite_is_refused(wrong, name):
    box = {**record(1, 2, 3, 4), name: wrong}
    remedy = r"^(give boxes finite numbers|connect boxes of x, y, width and height)"
    with pytest.raises(ValueError, match=remedy):
        batches.window_on(box, PICTURE.size)
    with pytest.raises(ValueError, match=remedy):
        run("LaserBoxPick", boxes=[[box]])


@settings(max_examples=25)
@given(text=st.text(max_size=12) | st.sampled_from(["nan, 1, 2, 3", "inf 1 2 3", "1e999,1,1,1"]))
def test_a_window_by_hand_is_used_or_refused_in_our_words(text):
    try:
        cut = run("LaserConViCrop", image=pictures_batch(1), override=text)
    except ValueError as error:
        assert str(error).startswith(REMEDIES)
    else:
        assert cut.bbox[0][0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_masks_that_are_not_finite_are_refused(value, image):
    mask = torch.ones(1, 60, 90)
    mask[0, 5, 5] = value
    with pytest.raises(ValueError, match=r"^fix the mask, or leave it unconnected"):
        run("LaserConViCrop", image=image, mask=mask)


def test_a_full_mask_takes_the_whole_picture_at_full_scale(image):
    cut = run("LaserConViCrop", image=image, mask=torch.ones(1, 60, 90), scale=1.0)
    assert cut.bbox == [[[0, 0, 90, 60]]] * 3


@pytest.mark.parametrize("shape", [(0, 60, 90, 3), (1, 0, 90, 3), (1, 60, 0, 3)])
def test_empty_batches_and_pictures_are_refused(lvlm, shape):
    image = torch.zeros(shape)
    for node, given_inputs in {
        "LaserAnswer": {"lvlm": lvlm, "question": QUESTION},
        "LaserContrastiveAttention": {"lvlm": lvlm, "question": QUESTION},
        "LaserConViCrop": {"mask": torch.ones(1, 60, 90)},
    }.items():
        with pytest.raises(ValueError, match=r"^(connect at least one picture|pass a picture)"):
            run(node, image=image, **given_inputs)


def test_memory_that_ran_out_in_numpy_is_explained(lvlm, image, monkeypatch):
    import numpy as np

    def out_of_memory(*args, **options):
        raise np._core._exceptions._ArrayMemoryError((8000, 8000), np.dtype("float64"))

    monkeypatch.setattr(part("laser_core.pipeline"), "answer_from", out_of_memory)
    with pytest.raises(MemoryError, match=r"^free memory \(Unload LVLM"):
        run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL))


def test_nothing_of_a_run_that_ran_out_of_memory_is_kept(image):
    lvlm = handle_of("llava")

    def fail(*args):
        raise torch.cuda.OutOfMemoryError("out of memory")

    def answer():
        run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL))

    answer()
    lvlm.release()
    kept = live_bytes()
    hook = lvlm._lvlm.model.lm_head.register_forward_pre_hook(fail)
    try:
        answer()
        pytest.fail("the hook must be called")
    except torch.cuda.OutOfMemoryError as error:  # pytest.raises would keep it, and its frames
        assert str(error).startswith("free memory (Unload LVLM")
    finally:
        hook.remove()
    assert live_bytes() <= kept
