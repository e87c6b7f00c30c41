"""Boxes that models write, as they were recorded or are documented, laid on the picture."""

from __future__ import annotations

import pytest

from laser_core.geometry import Box, Grid, Window
from laser_core.models.families import FAMILIES
from laser_core.models.grounding import (
    FED_PIXELS,
    THOUSANDTHS,
    Grounding,
    boxes_on_picture,
    read_boxes,
)
from laser_core.models.image_processors import token_side_px
from laser_core.pictures import PictureInputs
from tools.testbed.lvlms import lvlm_of, noise_picture

JSON = """```json
[
\t{"bbox_2d": [10, 20, 110, 220], "label": "red \\"cake\\""},
\t{"label": "cup", "bbox_2d": [300, 20, 400.5, 90]}
]
```"""
ANSWERS = {
    "Qwen2.5-VL and Qwen3-VL": (JSON, [(10, 20, 110, 220), (300, 20, 400.5, 90)]),
    "cut in the middle of a box": (JSON[: JSON.index("400.5")], [(10, 20, 110, 220)]),
    "Qwen2-VL": (
        "<|object_ref_start|>a cup<|object_ref_end|><|box_start|>(10,20),(110,220)<|box_end|>",
        [(10, 20, 110, 220)],
    ),
    "Qwen2-VL without its marks": ("a cup(10, 20),(110, 220)", [(10, 20, 110, 220)]),
    "InternVL": ("<ref>cup</ref><box>[[10, 20, 110, 220]]</box>", [(10, 20, 110, 220)]),
    "no JSON": ("There are none.", []),
    "three numbers": ("[1, 2, 3]", []),
    "points": ('[{"point_2d": [1, 2], "label": "cup"}]', []),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_every_complete_box_of_an_answer_is_read(kind):
    answer, expected = ANSWERS[kind]
    assert [box.numbers for box in read_boxes(answer)] == expected


def test_a_box_has_the_label_of_its_own_record():
    assert [box.label for box in read_boxes(JSON)] == ['red "cake"', "cup"]


def inputs_of(size=(200, 100), view=Box(0, 0, 200, 100), rows=5, columns=10):
    return PictureInputs({}, rows * columns, slice(0, None), Grid(rows, columns, view), size, "")


def placed(answer, unit, **picture):
    return [
        box for box, _ in boxes_on_picture(answer, Grounding("{}", unit), inputs_of(**picture), 28)
    ]


def test_thousandths_are_shares_of_what_the_model_was_shown():
    assert placed("[250, 500, 500, 1000]", THOUSANDTHS) == [(50, 50, 100, 100)]
    padded = {"view": Box(0, -50, 200, 150)}  # to a square
    assert placed("[250, 500, 500, 1000]", THOUSANDTHS, **padded) == [(50, 50, 100, 100)]
    assert placed("[250, 250, 500, 750]", THOUSANDTHS, **padded) == [(50, 0, 100, 100)]


def test_pixels_are_those_of_the_picture_as_fed():
    # 10 x 5 tokens of 28 pixels: the picture was fed at 280 x 140
    assert placed("[70, 70, 140, 140]", FED_PIXELS) == [(50, 50, 100, 100)]


def test_numbers_out_of_range_doubled_boxes_and_swapped_corners_are_put_right():
    assert placed("[-90, 500, 2000, 1000]", THOUSANDTHS) == [(0, 50, 200, 100)]
    assert placed("[500, 1000, 250, 500]", THOUSANDTHS) == [(50, 50, 100, 100)]
    assert placed("[250, 500, 500, 1000], [251, 500, 500, 1000]", THOUSANDTHS) == [
        (50, 50, 100, 100)
    ]
    assert placed("[1200, 0, 1500, 900] [3, 3, 3, 9]", THOUSANDTHS) == []


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_the_corners_of_what_was_fed_are_the_pictures(model_type):
    lvlm, size = lvlm_of(model_type), (131, 77)
    inputs, side = lvlm.encode(noise_picture(size)), token_side_px(lvlm.image_processor)
    grounding = FAMILIES[model_type].grounding
    fed = inputs.tensors["image_grid_thw"][0, 1:].flip(0) * lvlm.image_processor.patch_size
    far = (1000, 1000) if grounding.unit == THOUSANDTHS else fed.tolist()
    boxes = boxes_on_picture(f"[0, 0, {far[0]}, {far[1]}]", grounding, inputs, side)
    assert boxes == [(Window(0, 0, *size), "")]


@pytest.mark.parametrize("model_type", ["llava", "llava_next", "qwen3_5"])
def test_a_family_whose_numbers_are_disputed_or_untold_has_no_record(model_type):
    assert FAMILIES[model_type].grounding is None
