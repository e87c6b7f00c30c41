"""Held-out items of the demo world, and the one place to import the world from.

    from tools.demo_model.world import held_out_items, oracle_window
    items = held_out_items("test", 1050)
    items[0].picture, items[0].question, items[0].answer, items[0].evidence_boxes

Splits never share a scene with each other or with training: every scene has its own random
generator, seeded with the split's name.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from .questions import (
    EXIST_KINDS,
    GENERIC_PROMPTS,
    INSTRUCTION,
    QUESTION_TYPES,
    VOCABULARY,
    Question,
    ask,
    caption,
    encode,
)
from .scenes import (
    COLOUR_PRIOR,
    DIGIT_PRIOR,
    MODEL_SIDE_PX,
    SCENE_SIDE_PX,
    SIZE_RANGES_PX,
    Scene,
    SceneObject,
    render,
    sample_scene,
    seen_objects,
)

__all__ = [
    "EVALUATED_TYPES",
    "EXIST_KINDS",
    "GENERIC_PROMPTS",
    "INSTRUCTION",
    "MODEL_SIDE_PX",
    "QUESTION_TYPES",
    "SCENE_SIDE_PX",
    "SPLITS",
    "VOCABULARY",
    "HeldOutItem",
    "Question",
    "ask",
    "caption",
    "encode",
    "held_out_items",
    "oracle_window",
    "prior_items",
    "scene_generator",
]

SPLITS = ("train", "dev", "test")
EVALUATED_TYPES = QUESTION_TYPES[:7]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class HeldOutItem:
    """One question on one picture.

    picture: RGB, `SCENE_SIDE_PX` a side.
    question: without the answer-format instruction, e.g. "what digit is on the red star ?".
    answer: one word.
    type: one of `EVALUATED_TYPES`.
    size_class: of the object asked about: "small", "medium", "large"; "none" where it is absent.
    evidence_boxes: (x1, y1, x2, y2) in picture pixels: the object asked about, then, for
        relations, the anchor it is described by; empty where the object is absent.
    conflict: the answer goes against the world's prior (True), with it (False), or has none (None).
    exist_kind: POPE's kind of a "no" question: "random", "popular", "adversarial"; else None.
    scene_index: which scene of the split, for grouping items of one picture.
    """

    picture: Image.Image
    question: str
    answer: str
    type: str
    size_class: str
    evidence_boxes: tuple[Box, ...]
    conflict: bool | None
    exist_kind: str | None
    scene_index: int


def scene_generator(split: str, seed: int, index: int) -> random.Random:
    """The random generator of one scene of a split: no two splits or seeds share one."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}: use one of {', '.join(SPLITS)}")
    return random.Random(f"{split}/{seed}/{index}")


def held_out_items(
    split: str, n: int, seed: int = 0, types: tuple[str, ...] = EVALUATED_TYPES
) -> list[HeldOutItem]:
    """`n` items (one picture holds two at most), balanced over type x size class.

    Existence questions are half "no", spread over POPE's three kinds. The same arguments give the
    same items; 1,050 divides evenly. Raises ValueError on an unknown split or type.
    """
    unknown = set(types) - set(QUESTION_TYPES)
    if unknown:
        raise ValueError(f"types holds {sorted(unknown)}: use {', '.join(QUESTION_TYPES)}")
    wanted = _quotas(n, types)
    items: list[HeldOutItem] = []
    for index, rng, scene in _scenes(split, seed):
        if not wanted:
            break
        picture = None
        taken = 0
        cells = [cell for cell, left in wanted.items() if left > 0]
        rng.shuffle(cells)
        for cell in cells:
            question = _ask_cell(scene, cell, rng)
            if question is None:
                continue
            picture = picture or render(scene)
            items.append(_item(picture, scene, question, index))
            wanted[cell] -= 1
            taken += 1
            if taken == 2:
                break
        wanted = {cell: left for cell, left in wanted.items() if left > 0}
    random.Random(seed).shuffle(items)
    return items


def prior_items(split: str, n: int, seed: int = 1) -> list[HeldOutItem]:
    """`n` digit and colour questions on shapes with a prior, half of them against it."""
    wanted = {True: n // 2, False: n - n // 2}
    items: list[HeldOutItem] = []
    for index, rng, scene in _scenes(split, seed):
        if not any(wanted.values()):
            break
        kind, priors = rng.choice((("digit", DIGIT_PRIOR), ("colour", COLOUR_PRIOR)))
        seen = seen_objects(scene)
        targets = [s for s in seen if s.thing.shape in priors]
        question = ask(kind, seen, rng, target=rng.choice(targets)) if targets else None
        if question is None:
            continue
        conflict = _conflict(scene.objects[question.evidence[0]], question)
        if wanted[conflict]:
            items.append(_item(render(scene), scene, question, index))
            wanted[conflict] -= 1
    return items


def oracle_window(
    item: HeldOutItem, side_px: int = SCENE_SIDE_PX // 2, margin_px: int = 12
) -> tuple[int, int, int, int] | None:
    """The square window (x1, y1, x2, y2), whole pixels, centred on all of the item's evidence.

    `side_px` a side, more where the evidence needs it, kept inside the picture; None without
    evidence.
    """
    if not item.evidence_boxes:
        return None
    x1s, y1s, x2s, y2s = zip(*item.evidence_boxes, strict=True)
    x1, y1, x2, y2 = min(x1s), min(y1s), max(x2s), max(y2s)
    width, height = item.picture.size
    side = max(side_px, x2 - x1 + 2 * margin_px, y2 - y1 + 2 * margin_px)
    side = int(min(side, width, height))
    left = round(min(max(0.0, (x1 + x2 - side) / 2), width - side))
    top = round(min(max(0.0, (y1 + y2 - side) / 2), height - side))
    return left, top, left + side, top + side


def _scenes(split: str, seed: int) -> Iterator[tuple[int, random.Random, Scene]]:
    index = 0
    while True:
        rng = scene_generator(split, seed, index)
        yield index, rng, sample_scene(rng)
        index += 1


def _quotas(n: int, types: tuple[str, ...]) -> dict[tuple[str, str], int]:
    """How many items each (type, size class or existence kind) cell gets; they sum to `n`."""
    cells: list[tuple[str, str]] = []
    for kind in types:
        sizes = [(kind, size) for size in SIZE_RANGES_PX]
        # Half of the existence questions are "no": give every cell twice, then the "no" kinds.
        cells += sizes + ([(kind, k) for k in EXIST_KINDS] if kind == "exist" else sizes)
    quotas = dict.fromkeys(cells, 0)
    for i in range(n):
        # Spread a remainder evenly instead of giving it to the first types.
        quotas[cells[i * len(cells) // n if n < len(cells) else i % len(cells)]] += 1
    return quotas


def _ask_cell(scene: Scene, cell: tuple[str, str], rng: random.Random) -> Question | None:
    """A one-word question for a cell, or None where the scene has none."""
    kind, group = cell
    seen = seen_objects(scene)
    if group in EXIST_KINDS:
        return ask(kind, seen, rng, exist_kind=group)
    targets = [s for s in seen if s.thing.size_class == group]
    if not targets:
        return None
    for _ in range(8):
        question = ask(kind, seen, rng, target=rng.choice(targets))
        if question and " " not in question.answer:
            return question
    return None


def _item(picture: Image.Image, scene: Scene, question: Question, index: int) -> HeldOutItem:
    evidence = [scene.objects[i] for i in question.evidence]
    return HeldOutItem(
        picture=picture,
        question=question.text,
        answer=question.answer,
        type=question.type,
        size_class=evidence[0].size_class if evidence else "none",
        evidence_boxes=tuple(thing.box for thing in evidence),
        conflict=_conflict(evidence[0], question) if evidence else None,
        exist_kind=question.exist_kind,
        scene_index=index,
    )


def _conflict(thing: SceneObject, question: Question) -> bool | None:
    if question.type == "digit" and thing.shape in DIGIT_PRIOR:
        return question.answer != str(DIGIT_PRIOR[thing.shape][0])
    if question.type == "colour" and thing.shape in COLOUR_PRIOR:
        return question.answer != COLOUR_PRIOR[thing.shape][0]
    return None
