"""Held-out items of the demo world, and the one place to import the world from.

    from tools.demo_model.world import held_out_items, oracle_window
    items = held_out_items("test", 1050)
    items[0].picture, items[0].question, items[0].answer, items[0].evidence_boxes

Splits never share a scene with each other or with training: every scene has its own random
generator, seeded with the split's name. torch is imported when a picture is drawn.
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from .questions import EXIST_KINDS, INSTRUCTION, KINDS, VOCABULARY, Asker, Question
from .scenes import SIZES, WHOLE, Scene, Thing, View, sample_scene, window_around

__all__ = [
    "EXIST_KINDS",
    "INSTRUCTION",
    "KINDS",
    "PICTURE_SIDE_PX",
    "SPLITS",
    "VOCABULARY",
    "HeldOutItem",
    "draw_scene",
    "held_out_items",
    "oracle_window",
    "prior_items",
    "scene_generator",
]

SPLITS = ("train", "dev", "test")
PICTURE_SIDE_PX = 896
"""Of an item's picture: four times what the models see."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class HeldOutItem:
    """A scene and a question about it."""

    scene: Scene
    asked: Question
    scene_index: int

    @property
    def picture(self) -> Image.Image:
        """RGB, `PICTURE_SIDE_PX` a side; drawn when it is asked for, the last few are kept."""
        return _drawn(self.scene)

    @property
    def question(self) -> str:
        """Without the answer-format instruction, e.g. "what number is on the dog ?"."""
        return self.asked.text

    @property
    def answer(self) -> str:
        """One word."""
        return self.asked.answer

    @property
    def type(self) -> str:
        """One of `KINDS`."""
        return self.asked.kind

    @property
    def size_class(self) -> str:
        """Of what is asked about: "large", "medium", "small"; "none" where it is absent."""
        return "none" if self.asked.asked is None else self.asked.asked.size

    @property
    def evidence_boxes(self) -> tuple[Box, ...]:
        """(x1, y1, x2, y2) in pixels, tags included: what is asked about, then what else is named.

        None where it is absent.
        """
        return tuple(_pixels(thing) for thing in self.asked.named)

    @property
    def conflict(self) -> bool | None:
        """The answer goes against the world's prior (True), with it (False), or has none (None)."""
        return self.asked.against_prior

    @property
    def exist_kind(self) -> str | None:
        """POPE's kind of a "no" question, one of `EXIST_KINDS`; else None."""
        return self.asked.exist_kind

    @property
    def window(self) -> View:
        """The true window, half the picture's side or more around all evidence; else the whole."""
        boxes = [box for thing in self.asked.named for box in thing.boxes]
        return window_around(boxes) if boxes else WHOLE


def _pixels(thing: Thing) -> Box:
    x1s, y1s, x2s, y2s = zip(*thing.boxes, strict=True)
    box = min(x1s), min(y1s), max(x2s), max(y2s)
    return tuple(PICTURE_SIDE_PX * share for share in box)


@functools.lru_cache(maxsize=8)
def _drawn(scene: Scene) -> Image.Image:
    return draw_scene(scene, PICTURE_SIDE_PX)


def draw_scene(scene: Scene, side: int) -> Image.Image:
    """The scene as an RGB picture of this many pixels a side; the same picture at any size."""
    from .drawing import picture

    return picture(scene, side)


def scene_generator(split: str, seed: int, index: int) -> random.Random:
    """The random generator of one scene of a split: no two splits or seeds share one."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: use one of {', '.join(SPLITS)}")
    return random.Random(f"{split}/{seed}/{index}")


def held_out_items(
    split: str, n: int, seed: int = 0, types: tuple[str, ...] = KINDS
) -> list[HeldOutItem]:
    """`n` items on a picture each, balanced over type x size of what is asked about.

    Existence questions are half "no", spread over POPE's three kinds. The same arguments give the
    same items; six times the number of types divides evenly. Raises ValueError on an unknown
    split or type.
    """
    unknown = set(types) - set(KINDS)
    if unknown:
        raise ValueError(f"types holds {sorted(unknown)}: use {', '.join(KINDS)}")
    return _items(split, n, seed, _cells(types), ("size_class", "exist_kind"))


def prior_items(split: str, n: int, seed: int = 1) -> list[HeldOutItem]:
    """`n` questions for numbers, their owners and colours that have a usual answer.

    Half of them have another one.
    """
    cells = [(kind, against) for kind in ("number", "owner", "colour") for against in (True, False)]
    return _items(split, n, seed, cells, ("conflict",))


def _items(
    split: str, n: int, seed: int, cells: Sequence[tuple], properties: tuple[str, ...]
) -> list[HeldOutItem]:
    """Items for the cells (type, value) in turn; one of the properties has the value."""
    items: list[HeldOutItem] = []
    index = -1
    while len(items) < n:
        index += 1
        kind, value = cells[len(items) % len(cells)]
        rng = scene_generator(split, seed, index)
        scene = sample_scene(rng)
        asker = Asker(rng, scene.things)
        for _ in range(10):
            asked = asker.ask(kind)
            item = asked and HeldOutItem(scene, asked, index)
            if item and value in (getattr(item, name) for name in properties):
                items.append(item)
                break
    return items


def _cells(types: tuple[str, ...]) -> list[tuple[str, str]]:
    """(type, size or kind of existence): any first ones are spread over types and sizes."""
    sizes = list(SIZES)
    cells = []
    for turn in range(2 * len(sizes)):
        for place, kind in enumerate(types):
            groups = sizes if kind != "exist" or turn % 2 == 0 else EXIST_KINDS
            nth = turn // 2 if kind == "exist" else turn + place
            cells.append((kind, groups[nth % len(groups)]))
    return cells


def oracle_window(item: HeldOutItem) -> tuple[int, int, int, int] | None:
    """`item.window` as (x1, y1, x2, y2) in pixels of `item.picture`; None without evidence."""
    if not item.evidence_boxes:
        return None
    left, top, side = (round(share * PICTURE_SIDE_PX) for share in item.window)
    left, top = (min(edge, PICTURE_SIDE_PX - side) for edge in (left, top))
    return left, top, left + side, top + side
