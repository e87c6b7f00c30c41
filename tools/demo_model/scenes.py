"""Scenes: things of three sizes on a background, most with a number on a tag; and views of them.

Coordinates are shares of the picture's side, x to the right, y down; boxes are (x1, y1, x2, y2).
Knows neither questions nor how things are drawn.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .textures import TAG_STYLES, opaque_boxes
from .things import (
    COLOURS,
    COMPANION,
    COMPANION_SHARE,
    USUAL_COLOUR,
    USUAL_NUMBER,
    USUAL_NUMBER_SHARE,
    random_name,
    usual_colour,
)

Box = tuple[float, float, float, float]
View = tuple[float, float, float]
"""A square part of the picture: left, top, side."""

WHOLE: View = (0.0, 0.0, 1.0)
SIZES = {"large": (0.28, 0.39), "medium": (0.16, 0.235), "small": (0.075, 0.115)}
"""Sides of things. At 224 pixels: 63-87, 36-53 and 17-26."""
# Sides of tags; digits are half as high. At 224 pixels about 11, 6.5 and 3.8: the smallest cannot
# be read there, and can after a crop of half the sides.
_TAG_SIDES = {"large": (0.085, 0.11), "medium": (0.052, 0.066), "small": (0.030, 0.038)}
MOST_THINGS = 8
BACKGROUNDS = 24  # textures of `drawing`
_TAG_SHARE = 0.72  # of the things


@dataclass(frozen=True, slots=True)
class Tag:
    """A number on a thing: which style of tag, its centre, side and box."""

    number: int
    style: int
    x: float
    y: float
    side: float
    box: Box


@dataclass(frozen=True, slots=True)
class Thing:
    """turn: in radians. flipped: left for right. box: of what is opaque, without the tag."""

    name: str
    colour: str | None
    size: str
    x: float
    y: float
    side: float
    turn: float
    flipped: bool
    box: Box
    tag: Tag | None = None

    @property
    def boxes(self) -> list[Box]:
        return [self.box] if self.tag is None else [self.box, self.tag.box]


@dataclass(frozen=True)
class Scene:
    """Things in painting order, and the numbers that `drawing.paint_background` takes."""

    things: tuple[Thing, ...]
    background: tuple[float, ...]


def sample_scene(rng: random.Random, easy: bool = False) -> Scene:
    """4 to 8 things; `easy` ones have 2 to 4, none of them small. No two share name and colour."""
    count = rng.randint(2, 4) if easy else rng.choice((4, 5, 5, 6, 6, 7, 7, 8))
    looks: list[tuple[str, str | None]] = []
    while len(looks) < count:
        look = _another(looks, rng)
        if look is not None:
            looks.append(look)
    # The largest first: what comes later must find room.
    sizes = sorted((_size(rng, easy) for _ in looks), key=list(SIZES).index)
    rng.shuffle(looks)
    things: list[Thing] = []
    for look, size in zip(looks, sizes, strict=True):
        thing = _placed(*look, size, things, rng)
        if thing is not None:
            things.append(thing)
    return Scene(_tagged(things, rng), sample_background(rng))


def _size(rng: random.Random, easy: bool) -> str:
    if easy:
        return rng.choice(("large", "large", "medium"))
    return rng.choice(("large", "medium", "medium", "small", "small", "small"))


def _another(
    looks: Sequence[tuple[str, str | None]], rng: random.Random
) -> tuple[str, str | None] | None:
    """A thing beside those there, often the companion of the last, seldom one in a new colour."""
    last = looks[-1][0] if looks else None
    if last in COMPANION and rng.random() < COMPANION_SHARE:
        name = COMPANION[last]
    else:
        name = random_name(rng)
    worn = [colour for other, colour in looks if other == name]
    if not worn:
        return name, usual_colour(name, rng)
    if name not in USUAL_COLOUR or rng.random() < 0.35:
        return None
    return name, rng.choice([colour for colour in COLOURS if colour not in worn])


def _placed(
    name: str, colour: str | None, size: str, others: Sequence[Thing], rng: random.Random
) -> Thing | None:
    """The thing where it touches no other; None where 30 tries found no room."""
    x1, y1, x2, y2 = opaque_boxes()[name]
    for _ in range(30):
        side = rng.uniform(*SIZES[size])
        x, y = (rng.uniform(side / 2, 1 - side / 2) for _ in range(2))
        flipped = rng.random() < 0.5
        left, right = (1 - x2, 1 - x1) if flipped else (x1, x2)
        box = (
            x + (left - 0.5) * side,
            y + (y1 - 0.5) * side,
            x + (right - 0.5) * side,
            y + (y2 - 0.5) * side,
        )
        if not any(_touch(box, other.box, 0.012) for other in others):
            turn = rng.uniform(-0.2, 0.2)
            return Thing(name, colour, size, x, y, side, turn, flipped, box)
    return None


def _touch(a: Box, b: Box, gap: float) -> bool:
    return a[0] - gap < b[2] and b[0] - gap < a[2] and a[1] - gap < b[3] and b[1] - gap < a[3]


def _tagged(things: Sequence[Thing], rng: random.Random) -> tuple[Thing, ...]:
    """Most things with a number, none twice."""
    used: set[int] = set()
    found = []
    for thing in things:
        if rng.random() < _TAG_SHARE:
            number = _number(thing.name, rng)
            if number not in used:
                used.add(number)
                thing = _with_tag(thing, number, rng)
        found.append(thing)
    return tuple(found)


def _number(name: str, rng: random.Random) -> int:
    if name in USUAL_NUMBER and rng.random() < USUAL_NUMBER_SHARE:
        return USUAL_NUMBER[name]
    return rng.randint(1, 9) if rng.random() < 0.4 else rng.randint(1, 99)


def _with_tag(thing: Thing, number: int, rng: random.Random) -> Thing:
    """The tag hangs low or high on the thing, a little over its edge, inside the picture."""
    side = rng.uniform(*_TAG_SIDES[thing.size])
    width, height = tag_extent(number, side)
    x1, y1, x2, y2 = thing.box
    x = x1 + rng.choice((0.2, 0.5, 0.5, 0.8)) * (x2 - x1)
    y = y1 + rng.choice((0.85, 0.85, 0.85, 0.2)) * (y2 - y1)
    x = min(max(x, width / 2 + 0.004), 1 - width / 2 - 0.004)
    y = min(max(y, height / 2 + 0.004), 1 - height / 2 - 0.004)
    box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return replace(thing, tag=Tag(number, rng.randrange(TAG_STYLES), x, y, side, box))


def tag_extent(number: int, side: float) -> tuple[float, float]:
    """Width and height of what is opaque of a tag's texture of this side."""
    return (0.98 if number > 9 else 0.66) * side, 0.68 * side


def sample_background(rng: random.Random) -> tuple[float, ...]:
    """Two colours (3 + 3), the texture's tint (3), the gradient's angle, which texture, its scale,
    place (2), angle and strength."""

    def colour() -> list[float]:
        base = rng.uniform(0.35, 0.95)
        return [min(1.0, max(0.05, base + rng.uniform(-0.22, 0.22))) for _ in range(3)]

    first = colour()
    second = [c + rng.uniform(-0.12, 0.12) for c in first] if rng.random() < 0.5 else colour()
    tint = [rng.uniform(-0.5, 0.5) for _ in range(3)]
    return (
        *first,
        *second,
        *tint,
        rng.uniform(0, 6.283),
        rng.randrange(BACKGROUNDS),
        rng.uniform(0.4, 1.4),
        rng.random(),
        rng.random(),
        rng.uniform(0, 6.283),
        rng.uniform(0.02, 0.16),
    )


# ---- views -------------------------------------------------------------------------------------


def window_around(
    boxes: Sequence[Box], side: float = 0.5, rng: random.Random | None = None, jitter: float = 0.0
) -> View:
    """A square of this side around the boxes, larger where they need it, within the picture."""
    x1s, y1s, x2s, y2s = zip(*boxes, strict=True)
    x1, y1, x2, y2 = min(x1s), min(y1s), max(x2s), max(y2s)
    side = min(1.0, max(side, 1.08 * max(x2 - x1, y2 - y1)))
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    if rng is not None:
        x += rng.uniform(-jitter, jitter) * side
        y += rng.uniform(-jitter, jitter) * side
    left, top = (min(max(centre - side / 2, 0.0), 1 - side) for centre in (x, y))
    return left, top, side


def seen(things: Sequence[Thing], view: View) -> tuple[list[Thing], list[Thing]]:
    """The things that a view shows whole, tag included, and those it cuts."""
    shown, cut = [], []
    for thing in things:
        tagged = thing.tag is None or _share_inside(thing.tag.box, view) >= 0.97
        share = _share_inside(thing.box, view)
        if tagged and share >= 0.88:
            shown.append(thing)
        elif share >= 0.03:
            cut.append(thing)
    return shown, cut


def _share_inside(box: Box, view: View) -> float:
    left, top, side = view
    width = max(0.0, min(box[2], left + side) - max(box[0], left))
    height = max(0.0, min(box[3], top + side) - max(box[1], top))
    return width * height / ((box[2] - box[0]) * (box[3] - box[1]))
