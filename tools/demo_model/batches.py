"""What a training step sees: views of fresh scenes with many questions each, as arrays.

NumPy only, for worker processes. Knows nothing of the model but what comes between question and
answer.
"""

import random
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from .drawing import MOST_LAYERS, layers_of
from .questions import INSTRUCTION, VOCABULARY, Asker, Question, encode
from .scenes import MOST_THINGS, WHOLE, Thing, View, sample_scene, seen, window_around
from .things import COLOURS, NAMES
from .world import scene_generator

QUESTIONS = 11  # per view, besides the caption
_QUESTION_ROOM, _CAPTION_ROOM = 17, 23  # tokens, without what comes before the answer
# How often each kind is asked, and how often one is tried that few scenes allow.
_SHARES = {"number": 2.8, "owner": 1.3, "colour": 0.9, "exist": 1.8, "rel": 2.4, "bigger": 0.6}
_TRIES = {"rel": 6, "bigger": 3, "number": 2}
_CAPTION_WEIGHT, _END_WEIGHT = 0.35, 0.2  # in the loss, of captions and of the answers' ends
_BARE_SHARE = 0.08  # of the questions come without the instruction
_BOX_NUMBERS = 11


def slot_lengths(opening: tuple[int, ...]) -> tuple[int, ...]:
    """Tokens of the caption's slot, then of the questions'."""
    room = len(opening)
    return _CAPTION_ROOM + room, *[_QUESTION_ROOM + room] * QUESTIONS


class Batches(IterableDataset):
    """Endless batches; every one has a random generator of its own.

    A batch: tokens (B, N) and their weights in the loss, in slots; layers, backgrounds and views
    (B, 1 or 2, 3) for `drawing.draw`; boxes (B, things, 11) for `patch_labels`. With two views the
    second is a crop of the whole picture. easy, paired: shares of easy scenes and of batches with
    two views, which the training may change.
    """

    def __init__(self, seed: int, size: int, opening: tuple[int, ...]) -> None:
        self.seed, self.size, self.opening = seed, size, opening
        self.easy, self.paired = torch.zeros(2).share_memory_().unbind()

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        index, step = (worker.id, worker.num_workers) if worker else (0, 1)
        while True:
            rng = scene_generator("train", self.seed, index)
            index += step
            pair = rng.random() < float(self.paired)
            yield make_batch(
                rng, self.size // 2 if pair else self.size, pair, self.opening, float(self.easy)
            )


def make_batch(
    rng: random.Random, size: int, pair: bool, opening: tuple[int, ...], easy: float
) -> dict[str, np.ndarray]:
    """See `Batches`."""
    lengths = slot_lengths(opening)
    batch = {
        "tokens": np.zeros((size, sum(lengths)), np.int64),
        "weights": np.zeros((size, sum(lengths)), np.float32),
        "layers": np.zeros((size, MOST_LAYERS, 6), np.float32),
        "backgrounds": np.zeros((size, 16), np.float32),
        "views": np.zeros((size, 1 + pair, 3), np.float32),
        "boxes": np.full((size, MOST_THINGS, _BOX_NUMBERS), -1, np.float32),
    }
    for row in range(size):
        scene = sample_scene(rng, rng.random() < easy)
        layers = layers_of(scene)
        batch["layers"][row, : len(layers)] = layers
        batch["backgrounds"][row] = scene.background
        batch["boxes"][row, : len(scene.things)] = [_boxes(thing) for thing in scene.things]
        view = _crop(rng, scene.things) if pair else _view(rng, scene.things)
        batch["views"][row] = (WHOLE, view) if pair else (view,)
        shown, cut = seen(scene.things, view)
        asker = Asker(rng, scene.things) if pair or view == WHOLE else Asker(rng, shown, cut)
        start = 0
        for slot, length in enumerate(lengths):
            asked = asker.caption() if slot == 0 else some_question(asker)
            if slot and pair and rng.random() < 0.75:
                asked = _about_the_crop(asker, asked, shown)
            if asked is not None:
                place = slice(start, start + length)
                _write(
                    asked, rng, opening, batch["tokens"][row, place], batch["weights"][row, place]
                )
            start += length
    return batch


def _boxes(thing: Thing) -> tuple[float, ...]:
    """thing, its box, number or -1, the tag's box, colour or -1."""
    tag = (-1.0,) * 5 if thing.tag is None else (thing.tag.number, *thing.tag.box)
    colour = COLOURS.index(thing.colour) if thing.colour else -1
    return NAMES.index(thing.name), *thing.box, *tag, colour


def _view(rng: random.Random, things: tuple[Thing, ...]) -> View:
    kind = rng.random()
    if kind < 0.45:
        return WHOLE
    if kind < 0.80:
        return window_around([rng.choice(things).box], 0.5, rng, 0.15)
    return _anywhere(rng, rng.uniform(0.35, 0.8))


def _crop(rng: random.Random, things: tuple[Thing, ...]) -> View:
    kind = rng.random()
    if kind < 0.68:
        return window_around([rng.choice(things).box], 0.5, rng, 0.2)
    return _anywhere(rng, rng.uniform(0.35, 0.7) if kind < 0.8 else 0.5)


def _anywhere(rng: random.Random, side: float) -> View:
    return rng.uniform(0, 1 - side), rng.uniform(0, 1 - side), side


def some_question(asker: Asker) -> Question | None:
    """One of a random kind, None where six tries found none."""
    for _ in range(6):
        kind = asker.rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        for _ in range(_TRIES.get(kind, 1)):
            asked = asker.ask(kind)
            if asked is not None:
                return asked
    return None


def _about_the_crop(asker: Asker, asked: Question | None, shown: list[Thing]) -> Question | None:
    """The question, or another one where it is about things that the crop does not show."""
    for _ in range(6):
        if asked is not None and all(thing in shown for thing in asked.named):
            break
        asked = some_question(asker)
    return asked


def _write(
    asked: Question,
    rng: random.Random,
    opening: tuple[int, ...],
    tokens: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Question, opening and answer into a slot; left empty where they do not fit."""
    text = f"{asked.text} {INSTRUCTION}"
    if asked.kind == "free":
        text = INSTRUCTION if rng.random() < 0.7 else ""
    elif rng.random() < (0.3 if asked.kind == "caption" else _BARE_SHARE):
        text = asked.text
    prompt = [*encode(text), *opening]
    answer = [*encode(asked.answer), VOCABULARY["</s>"]]
    end = len(prompt) + len(answer)
    if end <= len(tokens):
        tokens[:end] = prompt + answer
        weight = _CAPTION_WEIGHT if asked.kind in ("caption", "free") else 1.0
        weights[len(prompt) : end] = weight
        weights[end - 1] = weight * _END_WEIGHT
