"""Boxes that models write themselves: how they are asked for, read and laid on the picture.

Knows texts and numbers; knows no weights. What a family was trained to write stands in its record.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ..geometry import Box, Window, whole_picture
from ..pictures import PictureInputs

THOUSANDTHS, FED_PIXELS = "thousandths", "pixels of the picture as fed"

DOUBLED = 0.9  # intersection over union above which two boxes are one

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_BOX = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*,\s*\(){_NUMBER},{_NUMBER}[\])]")
_LABEL = re.compile(r'"label"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Grounding:
    """How a family writes boxes.

    prompt: asks for them, {} the phrase. unit: of its numbers, THOUSANDTHS or FED_PIXELS.
    """

    prompt: str
    unit: str


@dataclass(frozen=True)
class WrittenBox:
    """numbers: (x1, y1, x2, y2) as the model wrote them. label: its word for it, or ""."""

    numbers: tuple[float, float, float, float]
    label: str = ""


def read_boxes(answer: str) -> list[WrittenBox]:
    """Every complete box in an answer, in order, whatever stands around it.

    Takes `[x1, y1, x2, y2]` with or without JSON around it, and `(x1,y1),(x2,y2)`. A box that the
    answer's end cut off is left out.
    """
    boxes = []
    for part in re.split(r"(?=\{)", answer):  # a label belongs to the record it stands in
        label = _LABEL.search(part)
        name = _text(label[1]) if label else ""
        for found in _BOX.finditer(part):
            x1, y1, x2, y2 = map(float, found.groups())
            boxes.append(WrittenBox((x1, y1, x2, y2), name))
    return boxes


def boxes_on_picture(
    answer: str, grounding: Grounding, inputs: PictureInputs, token_side_px: int
) -> list[tuple[Window, str]]:
    """The answer's boxes in whole pixels of the original picture, with their labels.

    token_side_px: of the model's image processor. Corners may come in any order. What lies outside
    the picture is cut off; boxes with nothing left and doubled ones are left out.
    """
    grid, picture = inputs.grid, Box(*whole_picture(inputs.picture_size))
    if grounding.unit == THOUSANDTHS:
        across, down = 1000.0, 1000.0
    else:
        across, down = grid.columns * token_side_px, grid.rows * token_side_px
    scale_x, scale_y = grid.view.width / across, grid.view.height / down
    placed: list[tuple[Window, str]] = []
    for written in read_boxes(answer):
        x1, y1, x2, y2 = written.numbers
        xs = sorted(grid.view.x1 + x * scale_x for x in (x1, x2))
        ys = sorted(grid.view.y1 + y * scale_y for y in (y1, y2))
        inside = Box(xs[0], ys[0], xs[1], ys[1]).intersect(picture)
        window = Window(*(round(edge) for edge in inside))
        if window.width <= 0 or window.height <= 0:
            continue
        if all(overlap(window, other) <= DOUBLED for other, _ in placed):
            placed.append((window, written.label))
    return placed


def overlap(one: Window, other: Window) -> float:
    """Intersection over union of two windows, 0 to 1."""
    common = Box(*one).intersect(Box(*other)).area
    return common / (Box(*one).area + Box(*other).area - common)


def _text(quoted: str) -> str:
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:  # an escape that JSON does not know
        return quoted[1:-1]
