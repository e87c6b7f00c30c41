"""Box Pick: one box out of many, as numbers."""

from __future__ import annotations

from typing import Any

from .batches import box_numbers, finite
from .widgets import BBOX, BOUNDING_BOX, CATEGORY

FORMATS = ("BOUNDING_BOX", "BBOX x1 y1 x2 y2", "BBOX x y width height")


class BoxPick:
    DESCRIPTION = (
        "Picks one box from the boxes of this pack or another, as a box and as four numbers. "
        "Choose the format of the boxes: it is never guessed."
    )
    SEARCH_ALIASES = (
        "laser", "bounding box", "bbox", "select box", "box to numbers", "detect", "検出枠",
        "ボックス", "检测框", "边界框",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "pick"
    RETURN_TYPES = (BOUNDING_BOX, "INT", "INT", "INT", "INT")
    RETURN_NAMES = ("box", "x", "y", "width", "height")
    OUTPUT_TOOLTIPS = (
        "The box, for nodes that take a single one.",
        "Its left edge in pixels.",
        "Its top edge in pixels.",
        "Its width in pixels.",
        "Its height in pixels.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        whole = {"default": 0, "min": 0, "max": 4096, "step": 1}
        return {
            "required": {
                "boxes": (
                    f"{BOUNDING_BOX},{BBOX}",
                    {"tooltip": "The boxes, from Con-ViCrop, LASER Answer or another pack."},
                ),
            },
            "optional": {
                "format": (
                    list(FORMATS),
                    {
                        "default": FORMATS[0],
                        "tooltip": "How the boxes are written. BOUNDING_BOX: records with x, y, "
                        "width and height. BBOX: four numbers, either two corners (x1 y1 x2 y2) "
                        "or a corner and a size (x y width height).",
                    },
                ),
                "image_index": ("INT", {**whole, "tooltip": "Which picture, counted from 0."}),
                "box_index": (
                    "INT",
                    {**whole, "tooltip": "Which of that picture's boxes, counted from 0."},
                ),
            },
        }

    def pick(self, boxes: Any, format: str = FORMATS[0], image_index: int = 0, box_index: int = 0):
        lists = _per_picture(_plain(boxes), numbers=format != FORMATS[0])
        if not lists:
            raise ValueError("connect boxes: this list is empty")
        if not 0 <= image_index < len(lists):
            raise ValueError(
                f"choose image_index 0 to {len(lists) - 1}: it is {image_index}, and there are "
                f"boxes for {len(lists)} picture(s)"
            )
        one = lists[image_index]
        if not one:
            raise ValueError(f"choose another image_index: picture {image_index} has no box")
        if not 0 <= box_index < len(one):
            raise ValueError(
                f"choose box_index 0 to {len(one) - 1}: it is {box_index}, and picture "
                f"{image_index} has {len(one)} box(es)"
            )
        numbers = _numbers(one[box_index], format)
        if numbers[2] <= 0 or numbers[3] <= 0:
            raise ValueError(
                f"choose the other format: read as {format}, the box is "
                f"{numbers[2]:g}x{numbers[3]:g}"
            )
        x, y, width, height = map(round, numbers)
        if width == 0 or height == 0:
            raise ValueError(
                "multiply the boxes by the picture's width and height: this one is "
                f"{numbers[2]:g}x{numbers[3]:g}, less than a pixel"
            )
        box = {"x": x, "y": y, "width": width, "height": height}
        return box, x, y, width, height


def _plain(boxes: Any) -> Any:
    """Arrays and tensors, alone or inside lists, as lists."""
    if hasattr(boxes, "tolist"):
        return boxes.tolist()
    if isinstance(boxes, (list, tuple)):
        return [_plain(item) for item in boxes]
    return boxes


def _per_picture(boxes: Any, numbers: bool) -> list[list]:
    """Boxes as a list per picture: one box, a list of them, or lists of them may come in."""

    def is_box(value: Any) -> bool:
        if not numbers:
            return isinstance(value, dict)
        return isinstance(value, list) and bool(value) and not isinstance(value[0], (list, dict))

    if is_box(boxes):
        return [[boxes]]
    if not isinstance(boxes, list):
        raise ValueError(f"connect boxes: this is of type {type(boxes).__name__}")
    if boxes and all(is_box(item) for item in boxes):
        return [boxes]
    if not all(isinstance(item, list) and all(is_box(box) for box in item) for item in boxes):
        raise ValueError(
            "choose the format the boxes have: these are "
            + ("not lists of four numbers" if numbers else "not records of x, y, width, height")
        )
    return boxes


def _numbers(box: Any, format: str) -> tuple[float, ...]:
    """(x, y, width, height) of a box in one of FORMATS."""
    if format == FORMATS[0]:
        return box_numbers(box)
    try:
        first, second, third, fourth = (float(number) for number in box[:4])  # a score may follow
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"choose the format the box has: it is {box!r}") from error
    finite((first, second, third, fourth), box)
    if format == FORMATS[1]:
        return first, second, third - first, fourth - second
    return first, second, third, fourth
