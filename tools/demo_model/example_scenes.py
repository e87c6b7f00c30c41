"""Paints the example pictures: scenes of a theme each, composed by hand.

    python -m tools.demo_model.example_scenes

Writes pictures/scene_*.jpg. Knows no model: that the shipped one misreads some numbers here on the
whole picture and reads them on a crop, tests/tools/test_example_scenes.py holds.
"""

import io
import math
from pathlib import Path
from typing import NamedTuple

from .drawing import picture
from .scenes import SIZES, Scene, Tag, Thing, tag_extent
from .textures import opaque_boxes

FOLDER = Path(__file__).resolve().parents[2] / "pictures"
SIDE_PX = 1024
QUALITY = 90
_TAG_SIDES = {"large": 0.105, "medium": 0.064, "small": 0.037}
# `scenes.paint_background`'s textures
CLOUDS, WOOD, GRASS, TILES, SAND = 0, 1, 2, 3, 7


class Ground(NamedTuple):
    """The background: its upper and lower colour, and how strong which texture shows."""

    upper: tuple[float, float, float]
    lower: tuple[float, float, float]
    texture: int
    strength: float = 0.06
    scale: float = 0.8

    @property
    def numbers(self) -> tuple[float, ...]:
        """As `drawing.paint_background` takes them."""
        place = (self.texture, self.scale, 0.3, 0.4, 0.0, self.strength)
        return (*self.upper, *self.lower, 0.0, 0.0, 0.0, math.pi / 2, *place)


class Put(NamedTuple):
    """A thing centred at (x, y), `side` wide; its number, if it has one, on a tag of a style.

    hangs: where the tag is, as shares of the thing's box.
    """

    name: str
    x: float
    y: float
    side: float
    number: int | None = None
    style: int = 0
    colour: str | None = None
    hangs: tuple[float, float] = (0.5, 0.85)


EXAMPLES: dict[str, tuple[Ground, tuple[Put, ...]]] = {
    "picnic": (
        Ground((0.55, 0.80, 0.98), (0.40, 0.72, 0.22), GRASS, 0.03),
        (
            Put("tree", 0.19, 0.25, 0.38, 12, 1, hangs=(0.5, 0.55)),
            Put("watermelon", 0.412, 0.689, 0.2, 15, 2),
            Put("dog", 0.78, 0.62, 0.3, 9, 2),
            Put("cake", 0.166, 0.78, 0.21, 28, 2),
            Put("apple", 0.602, 0.862, 0.095, 24, 0, colour="red"),
            Put("bee", 0.52, 0.2, 0.095, 6, 4),
            Put("butterfly", 0.8, 0.167, 0.105, 8, 3),
            Put("cheese", 0.4, 0.9, 0.1, 4, 2),
        ),
    ),
    "farm": (
        Ground((0.62, 0.84, 0.99), (0.86, 0.74, 0.30), GRASS, 0.03),
        (
            Put("house", 0.211, 0.253, 0.36, 75, 1),
            Put("tractor", 0.74, 0.34, 0.3, 8, 1),
            Put("cow", 0.338, 0.704, 0.23, 12, 3),
            Put("horse", 0.7, 0.72, 0.235),
            Put("sunflower", 0.108, 0.622, 0.11, 20, 2),
            Put("sheep", 0.9, 0.574, 0.11, 23, 0),
            Put("carrot", 0.49, 0.899, 0.095, 34, 3),
            Put("bucket", 0.14, 0.88, 0.1, 52, 0, colour="blue"),
        ),
    ),
    "toys": (
        Ground((0.99, 0.93, 0.82), (0.90, 0.70, 0.52), TILES, 0.02),
        (
            Put("panda", 0.24, 0.3, 0.35, 18, 0),
            Put("rocket", 0.76, 0.27, 0.3, 44, 1),
            Put("train", 0.34, 0.74, 0.23, 7, 2),
            Put("kite", 0.513, 0.141, 0.11, 16, 3),
            Put("ball", 0.609, 0.591, 0.1, 9, 0),
            Put("dice", 0.101, 0.623, 0.095, 4, 2),
            Put("drum", 0.8, 0.76, 0.2),
            Put("duck", 0.6, 0.88, 0.105, 82, 0),
        ),
    ),
    "street": (
        Ground((0.62, 0.82, 0.98), (0.66, 0.66, 0.70), CLOUDS, 0.03),
        (
            Put("house", 0.22, 0.3, 0.37, 24, 1),
            Put("bus", 0.725, 0.629, 0.31, 4, 3),
            Put("car", 0.331, 0.752, 0.22, 15, 2, colour="blue"),
            Put("tree", 0.8, 0.22, 0.23),
            Put("bicycle", 0.531, 0.847, 0.11, 97, 2),
            Put("cat", 0.102, 0.602, 0.1, 92, 2),
            Put("airplane", 0.557, 0.108, 0.11, 6, 2),
            Put("umbrella", 0.485, 0.443, 0.105, 47, 3, colour="red"),
        ),
    ),
    "beach": (
        Ground((0.40, 0.78, 0.95), (0.99, 0.88, 0.60), SAND, 0.025),
        (
            Put("whale", 0.24, 0.24, 0.34, 33, 0),
            Put("boat", 0.74, 0.26, 0.28, 6, 1),
            Put("turtle", 0.28, 0.72, 0.23, 85, 2),
            Put("ball", 0.64, 0.7, 0.2),
            Put("crab", 0.49, 0.89, 0.105, 37, 4),
            Put("hat", 0.893, 0.561, 0.105, 20, 2),
            Put("bucket", 0.852, 0.834, 0.1, 23, 2, colour="red"),
            Put("glasses", 0.509, 0.508, 0.1, 2, 2),
        ),
    ),
    "music": (
        Ground((0.80, 0.76, 0.93), (0.62, 0.44, 0.56), WOOD, 0.03),
        (
            Put("guitar", 0.21, 0.323, 0.37, 4, 4),
            Put("sofa", 0.72, 0.66, 0.32, 7, 1, colour="blue"),
            Put("drum", 0.276, 0.768, 0.23, 9, 3),
            Put("clock", 0.6, 0.16, 0.11, 22, 3),
            Put("candle", 0.46, 0.52, 0.1, 3, 4),
            Put("parrot", 0.84, 0.3, 0.21),
            Put("book", 0.518, 0.871, 0.1, 2, 1, colour="blue"),
            Put("hat", 0.86, 0.9, 0.105, 65, 1),
        ),
    ),
}


def example_scene(name: str) -> Scene:
    """The scene of an example, in painting order."""
    ground, things = EXAMPLES[name]
    return Scene(tuple(_placed(put) for put in things), ground.numbers)


def _placed(put: Put) -> Thing:
    """The thing upright, with its boxes."""
    x1, y1, x2, y2 = opaque_boxes()[put.name]
    left, top = put.x - put.side / 2, put.y - put.side / 2
    box = (left + x1 * put.side, top + y1 * put.side, left + x2 * put.side, top + y2 * put.side)
    size = next(size for size, (least, _) in SIZES.items() if put.side >= least)
    tag = None
    if put.number is not None:
        side = _TAG_SIDES[size]
        x = box[0] + put.hangs[0] * (box[2] - box[0])
        y = box[1] + put.hangs[1] * (box[3] - box[1])
        width, height = tag_extent(put.number, side)
        edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        tag = Tag(put.number, put.style, x, y, side, edges)
    return Thing(put.name, put.colour, size, put.x, put.y, put.side, 0.0, False, box, tag)


def paint_example(name: str) -> bytes:
    """The example as a JPEG file."""
    written = io.BytesIO()
    drawn = picture(example_scene(name), SIDE_PX)
    drawn.save(written, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    return written.getvalue()


def main() -> None:
    for name in EXAMPLES:
        path = FOLDER / f"scene_{name}.jpg"
        path.write_bytes(paint_example(name))
        print(f"written: {path}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
