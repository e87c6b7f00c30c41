"""Training views on disk: pictures at the model's resolution, their objects, questions, captions.

    python -m tools.demo_model.dataset --out FOLDER --shards 12 --scenes 2000

Each scene gives three views: the whole picture, a window of half its side, and a window of any
side. About 2.2 GB and four minutes on two cores for 24,000 scenes. Knows nothing of the model.
"""

import argparse
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .questions import (
    MAX_QUESTION_WORDS,
    QUESTION_TYPES,
    TRAINING_SHARES,
    ask,
    caption,
    encode,
)
from .scenes import (
    COLOURS,
    MODEL_SIDE_PX,
    SCENE_SIDE_PX,
    SHAPES,
    WHOLE,
    SeenObject,
    cut_view,
    render,
    sample_scene,
    sample_window,
    seen_objects,
)
from .world import scene_generator

VIEWS_PER_SCENE = 3
QUESTIONS_PER_VIEW = 24
MAX_OBJECTS = 7
MAX_ANSWER_WORDS = 2
MAX_CAPTION_WORDS = 11
EASY_SHARE = 0.3
NO_QUESTION = 255
_ATTEMPTS = {"rel": 4, "reldigit": 4}
_COLOUR_NAMES = tuple(COLOURS)


@dataclass
class Views:
    """Training views, view-first arrays; a scene's views are 3k (whole), 3k+1 (half), 3k+2 (any).

    pictures (N, 96, 96, 3) uint8. objects (N, 7, 8) float32: box in view fractions, shape, colour,
    digit (-1 none), visible share (-1 where there is no such object). questions (N, Q, words)
    uint8 ids with `question_lengths` (N, Q); answers likewise; `types` (N, Q), 255 where empty;
    `evidence` (N, Q, 2) int8 object indices, -1 where none; captions (N, words) with lengths;
    `short_lengths` (N,): words of the caption's first object; easy (N,) bool.
    """

    pictures: np.ndarray
    objects: np.ndarray
    questions: np.ndarray
    question_lengths: np.ndarray
    answers: np.ndarray
    answer_lengths: np.ndarray
    types: np.ndarray
    evidence: np.ndarray
    captions: np.ndarray
    caption_lengths: np.ndarray
    short_lengths: np.ndarray
    easy: np.ndarray

    def __len__(self) -> int:
        return len(self.pictures)


def _empty_views(count: int) -> Views:
    side, per_view = MODEL_SIDE_PX, QUESTIONS_PER_VIEW
    byte = np.uint8
    return Views(
        pictures=np.zeros((count, side, side, 3), byte),
        objects=np.full((count, MAX_OBJECTS, 8), -1, np.float32),
        questions=np.zeros((count, per_view, MAX_QUESTION_WORDS), byte),
        question_lengths=np.zeros((count, per_view), byte),
        answers=np.zeros((count, per_view, MAX_ANSWER_WORDS), byte),
        answer_lengths=np.zeros((count, per_view), byte),
        types=np.full((count, per_view), NO_QUESTION, byte),
        evidence=np.full((count, per_view, 2), -1, np.int8),
        captions=np.zeros((count, MAX_CAPTION_WORDS), byte),
        caption_lengths=np.zeros(count, byte),
        short_lengths=np.zeros(count, byte),
        easy=np.zeros(count, bool),
    )


def make_shard(seed: int, scenes: int, split: str = "train") -> Views:
    """The views of `scenes` scenes; the same arguments give the same arrays."""
    views = _empty_views(scenes * VIEWS_PER_SCENE)
    for index in range(scenes):
        rng = scene_generator(split, seed, index)
        easy = rng.random() < EASY_SHARE
        scene = sample_scene(rng, easy)
        picture = render(scene)
        windows = (
            WHOLE,
            sample_window(rng, scene, SCENE_SIDE_PX // 2),
            sample_window(rng, scene, rng.uniform(SCENE_SIDE_PX // 4, SCENE_SIDE_PX * 3 // 4)),
        )
        for offset, window in enumerate(windows):
            row = index * VIEWS_PER_SCENE + offset
            views.pictures[row] = np.asarray(cut_view(picture, window))
            views.easy[row] = easy
            seen = seen_objects(scene, window)
            _write_objects(views, row, seen)
            _write_questions(views, row, seen, rng)
            _write_captions(views, row, seen)
    return views


def _write_objects(views: Views, row: int, seen: list[SeenObject]) -> None:
    for slot, s in enumerate(seen):
        looks = (
            SHAPES.index(s.thing.shape),
            _COLOUR_NAMES.index(s.thing.colour),
            -1 if s.thing.digit is None else s.thing.digit,
        )
        views.objects[row, slot] = (*s.box, *looks, s.visible)


def _write_questions(views: Views, row: int, seen: list[SeenObject], rng: random.Random) -> None:
    texts: set[str] = set()
    for _ in range(3 * QUESTIONS_PER_VIEW):
        if len(texts) == QUESTIONS_PER_VIEW:
            break
        kind = rng.choices(QUESTION_TYPES, TRAINING_SHARES)[0]
        # Most draws of a relation find no clear pair: try again, or they become rare.
        attempts = (ask(kind, seen, rng) for _ in range(_ATTEMPTS.get(kind, 1)))
        question = next(filter(None, attempts), None)
        if question is None or question.text in texts:
            continue
        slot = len(texts)
        texts.add(question.text)
        words, answer = encode(question.text), encode(question.answer)
        views.questions[row, slot, : len(words)] = words
        views.question_lengths[row, slot] = len(words)
        views.answers[row, slot, : len(answer)] = answer
        views.answer_lengths[row, slot] = len(answer)
        views.types[row, slot] = QUESTION_TYPES.index(kind)
        views.evidence[row, slot, : len(question.evidence)] = question.evidence


def _write_captions(views: Views, row: int, seen: list[SeenObject]) -> None:
    words = encode(caption(seen))
    views.captions[row, : len(words)] = words
    views.caption_lengths[row] = len(words)
    views.short_lengths[row] = len(caption(seen, objects=1).split())


def load_views(folder: Path) -> Views:
    """All finished shards of a folder, joined (2.2 GB in memory for 24,000 scenes)."""
    names = sorted(folder.glob("shard_*.npz"))
    if not names:
        raise ValueError(f"no shard_*.npz in {folder}: run tools.demo_model.dataset first")
    shards = [dict(np.load(name)) for name in names]
    return Views(**{key: np.concatenate([s[key] for s in shards]) for key in shards[0]})


def _save_shard(job: tuple[int, int, Path]) -> None:
    seed, scenes, out = job
    name = out / f"shard_{seed:03d}.npz"
    if name.exists():
        return
    partial = out / f"partial_{seed:03d}.npz"
    np.savez(partial, **vars(make_shard(seed, scenes)))
    partial.rename(name)  # a reader never sees half a shard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--scenes", type=int, default=2000, help="scenes per shard")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, options.scenes, options.out) for seed in range(options.shards)]
    with multiprocessing.Pool(options.workers) as pool:
        for _ in pool.imap_unordered(_save_shard, jobs):
            pass


if __name__ == "__main__":
    main()
