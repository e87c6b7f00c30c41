"""Box Pick: every shape boxes come in, and never a guess between corners and sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .pack import node, part, run

RECORDS, CORNERS, SIZES = part("nodes.box_pick").FORMATS
RECORD = {"x": 3, "y": 4, "width": 10, "height": 20, "score": 0.5, "label": "evidence"}
OTHER = {"x": 0, "y": 0, "width": 1, "height": 2}


@pytest.mark.parametrize(
    ("boxes", "format"),
    [
        (RECORD, RECORDS),
        ([RECORD, OTHER], RECORDS),
        ([[RECORD, OTHER], []], RECORDS),
        ([3, 4, 13, 24], CORNERS),
        ([[3, 4, 13, 24], [0, 0, 1, 2]], CORNERS),
        ([[[3, 4, 13, 24], [0, 0, 1, 2]], []], CORNERS),
        (([3.2, 3.9, 13.1, 24.2, 0.9],), CORNERS),
        (torch.tensor([[[3.0, 4.0, 13.0, 24.0]]]), CORNERS),
        ([np.array([[3, 4, 10, 20]])], SIZES),
        ([3, 4, 10, 20], SIZES),
    ],
    ids=str,
)
def test_one_box_out_of_every_shape(boxes, format):
    picked = run("LaserBoxPick", boxes=boxes, format=format)
    assert (picked.x, picked.y, picked.width, picked.height) == (3, 4, 10, 20)
    assert picked.box == {"x": 3, "y": 4, "width": 10, "height": 20}
    assert all(type(value) is int for value in picked.box.values())


def test_picture_and_box_are_counted_from_zero():
    boxes = [[RECORD], [RECORD, OTHER]]
    assert run("LaserBoxPick", boxes=boxes, image_index=1, box_index=1).height == 2


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"boxes": []}, "connect boxes"),
        ({"boxes": [[RECORD]], "image_index": 1}, "choose image_index 0 to 0"),
        ({"boxes": [[RECORD], [OTHER]], "image_index": -1}, "choose image_index 0 to 1"),
        ({"boxes": [[RECORD]], "box_index": 2}, "choose box_index 0 to 0"),
        ({"boxes": [[RECORD]], "box_index": -5}, "choose box_index 0 to 0"),
        ({"boxes": [[], [RECORD]]}, "choose another image_index"),
        ({"boxes": [[[3, 4, 13, 24]]]}, "choose the format the boxes have"),
        ({"boxes": [[RECORD]], "format": CORNERS}, "choose the format the boxes have"),
        ({"boxes": [[[30, 40, 13, 24]]], "format": CORNERS}, "choose the other format"),
        ({"boxes": "none"}, "connect boxes"),
        ({"boxes": [[{**RECORD, "x": None}]]}, "connect boxes of x, y, width and height"),
        ({"boxes": [[{**RECORD, "width": float("nan")}]]}, "give boxes finite numbers"),
        ({"boxes": [[[3, 4, float("inf"), 24]]], "format": CORNERS}, "give boxes finite numbers"),
        ({"boxes": [[[0.1, 0.2, 0.5, 0.6]]], "format": CORNERS}, "multiply the boxes by the pict"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_explained(given, remedy):
    with pytest.raises(ValueError, match=f"^{remedy}"):
        run("LaserBoxPick", **given)


def test_it_takes_both_box_types():
    assert node("LaserBoxPick").INPUT_TYPES()["required"]["boxes"][0] == "BOUNDING_BOX,BBOX"
