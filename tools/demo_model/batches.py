"""What one training step sees: patch labels, and questions laid out as token rows.

Turns `Views` (numpy, on disk order) into tensors. Knows nothing of the model's weights.
"""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange

from .dataset import NO_QUESTION, QUESTIONS_PER_VIEW, VIEWS_PER_SCENE, Views
from .network import GRID, PATCH_PX
from .questions import GENERIC_PROMPTS, INSTRUCTION, QUESTION_TYPES, VOCABULARY, encode
from .scenes import DIGIT_PRIOR, MODEL_SIDE_PX, SHAPES

IGNORED = -100
NO_DIGIT = 10
CAPTION_TYPE = len(QUESTION_TYPES)

_INSTRUCTION_IDS = encode(INSTRUCTION)
_END = [VOCABULARY["</s>"]]
_GENERIC_IDS = [encode(prompt) for prompt in GENERIC_PROMPTS]
_RELATIONS = [QUESTION_TYPES.index(kind) for kind in ("rel", "reldigit", "where")]

_INSTRUCTED_SHARE = 0.7
_UNPUNCTUATED_SHARE = 0.06  # questions typed without their last mark
_CAPTION_WEIGHT = 0.35
_END_WEIGHT = 0.2


def patch_labels(objects: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(B, objects, 8) of `Views` -> shape, colour, digit labels, each (B, patches) int64.

    Shape 0 is background; digit `NO_DIGIT` is none; `IGNORED` where it cannot be known: colour
    and digit off the objects, everything on objects mostly outside the view.
    """
    batch = len(objects)
    shape = np.zeros((batch, GRID, GRID), np.int64)
    colour = np.full((batch, GRID, GRID), IGNORED)
    digit = np.full((batch, GRID, GRID), IGNORED)
    for slot in range(objects.shape[1]):
        box, looks, visible = np.split(objects[:, slot], (4, 7), axis=1)
        visible = visible[:, 0]
        body = _covered(box, 0.72) & (visible > 0.02)[:, None, None]
        core = _covered(box, 0.45) & (visible > 0.02)[:, None, None]
        looks = looks.astype(np.int64)
        known = visible >= 0.4
        number = np.where(looks[:, 2] < 0, NO_DIGIT, looks[:, 2])
        for labels, value, where in (
            (shape, np.where(known, looks[:, 0] + 1, IGNORED), body),
            (colour, np.where(known, looks[:, 1], IGNORED), body),
            (digit, np.where(visible >= 0.8, number, IGNORED), core),
        ):
            np.copyto(labels, value[:, None, None], where=where)
    return tuple(torch.from_numpy(labels.reshape(batch, -1)) for labels in (shape, colour, digit))


def _covered(box: np.ndarray, share: float) -> np.ndarray:
    """(B, 4) boxes in view fractions -> (B, grid, grid): patches near the middle of each box."""
    centres = np.arange(GRID) + 0.5
    near = []
    for axis in (1, 0):  # rows are y
        middle = (box[:, axis] + box[:, axis + 2]) / 2 * GRID
        reach = (box[:, axis + 2] - box[:, axis]) / 2 * GRID * share
        # Never less than half a patch: the smallest objects still own the patch they lie in.
        near.append(np.abs(centres - middle[:, None]) <= np.maximum(reach, 0.501)[:, None])
    rows, columns = near
    return rows[:, :, None] & columns[:, None, :]


class MosaicMaker:
    """Pictures pieced together from tiles that each show one object of readable size.

    An ordinary view holds two or three digits that can be read; a mosaic holds nine, so the tower
    learns to read from a third of the pictures. Tiles keep to the patch grid: labels move with
    them.
    """

    tile = 4  # patches a side
    sides_px = (12.0, 29.0)  # of the objects picked

    def __init__(self, views: Views) -> None:
        self.views = views
        boxes, visible = views.objects[..., :4], views.objects[..., 7]
        # The outline's box is 1.2 sides wide.
        sides = (boxes[..., 2] - boxes[..., 0]) / 1.2 * MODEL_SIDE_PX
        low, high = self.sides_px
        picked = (visible > 0.99) & (sides > low) & (sides < high)
        # Most digits that the shape gives away are left out: they can be guessed without reading.
        looks = views.objects[..., 4:7].astype(int)
        usual = np.array([DIGIT_PRIOR.get(shape, (-2, 0))[0] for shape in SHAPES])
        given_away = usual[looks[..., 0]] == looks[..., 2]
        keep = np.random.default_rng(0).random(picked.shape) < 0.25
        self.rows, self.slots = np.nonzero(picked & (keep | ~given_away))

    def __call__(
        self, rng: np.random.Generator, count: int
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """(count, 96, 96, 3) uint8 pictures and their `patch_labels`."""
        across = GRID // self.tile
        picks = rng.integers(len(self.rows), size=count * across**2)
        rows, slots = self.rows[picks], self.slots[picks]
        boxes = self.views.objects[rows, slots, :4]
        corners = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2 * GRID - self.tile / 2
        corners = np.rint(corners + rng.uniform(-0.6, 0.6, corners.shape)).astype(int)
        corners = corners.clip(0, GRID - self.tile)
        labels = [
            rearrange(y, "b (gh gw) -> b gh gw", gh=GRID)
            for y in patch_labels(self.views.objects[rows])
        ]
        tiles, tile_labels = [], [[], [], []]
        for row, index, (top, left) in zip(rows, range(len(rows)), corners, strict=True):
            there = slice(top, top + self.tile), slice(left, left + self.tile)
            pixels = tuple(slice(s.start * PATCH_PX, s.stop * PATCH_PX) for s in there)
            tiles.append(self.views.pictures[row][pixels])
            for kept, known in zip(tile_labels, labels, strict=True):
                kept.append(known[index][there])
        pictures = rearrange(
            torch.from_numpy(np.stack(tiles)),
            "(b th tw) h w c -> b (th h) (tw w) c",
            th=across,
            tw=across,
        )
        joined = tuple(
            rearrange(torch.stack(kept), "(b th tw) h w -> b (th h tw w)", th=across, tw=across)
            for kept in tile_labels
        )
        return pictures, joined


@dataclass(frozen=True)
class Segments:
    """Questions of a batch, (B, Q, T) each: input ids, labels (`IGNORED` elsewhere), weights.

    kinds: the question type at the first answer position (`CAPTION_TYPE` for captions), else -1.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    kinds: torch.Tensor


def ask_views(
    views: Views,
    rows: np.ndarray,
    rng: np.random.Generator,
    per_view: int,
    length: int,
    answer_opening: tuple[int, ...],
    crops: np.ndarray | None = None,
    relations_first: float = 0.5,
) -> Segments:
    """`per_view` segments of at most `length` tokens for each view.

    `answer_opening` are the token ids between question and answer.
    `crops` are the rows of the second pictures: questions on what they show come first.
    `relations_first` is the share of views whose relation questions come before the others;
    where it is negative, the share whose relation questions come last.
    """
    shape = (len(rows), per_view, length)
    tokens = np.full(shape, VOCABULARY["<pad>"])
    labels = np.full(shape, IGNORED)
    weights = np.zeros(shape, np.float32)
    kinds = np.full(shape, -1)
    length -= len(answer_opening)
    for b, row in enumerate(rows):
        segments = _captions(views, row, rng, length)
        order = _order(views, row, rng, None if crops is None else crops[b], relations_first)
        for slot in order:
            if len(segments) == per_view:
                break
            segment = _question(views, row, slot, rng, length)
            if segment is not None:
                segments.append(segment)
        for s, (prompt, answer, weight, kind) in enumerate(segments[:per_view]):
            prompt = [*prompt, *answer_opening]
            words = prompt + answer
            first, last = len(prompt) - 1, len(words) - 1
            tokens[b, s, : len(words)] = words
            labels[b, s, first : last + 1] = answer + _END
            weights[b, s, first:last] = weight
            weights[b, s, last] = min(weight, _END_WEIGHT)
            kinds[b, s, first] = kind
    arrays = (tokens, labels, weights, kinds)
    return Segments(*(torch.from_numpy(array) for array in arrays))


def _order(
    views: Views, row: int, rng: np.random.Generator, crop: int | None, relations_first: float
) -> np.ndarray:
    slots = np.flatnonzero(views.types[row] != NO_QUESTION)
    rank = rng.random(len(slots))
    if rng.random() < abs(relations_first):
        rank -= np.sign(relations_first) * np.isin(views.types[row, slots], _RELATIONS)
    if crop is not None:
        target = views.evidence[row, slots, 0]
        shown = (target < 0) | (views.objects[crop, target, 7] >= 0.8)
        rank -= 2 * (shown & (rng.random(len(slots)) < 0.8))
    return slots[np.argsort(rank)]


def _question(
    views: Views, row: int, slot: int, rng: np.random.Generator, length: int
) -> tuple[list[int], list[int], float, int] | None:
    """(question, answer, weight, kind), or None where it does not fit in `length` tokens."""
    words = views.questions[row, slot, : views.question_lengths[row, slot]].tolist()
    answer = views.answers[row, slot, : views.answer_lengths[row, slot]].tolist()
    if rng.random() < _UNPUNCTUATED_SHARE:
        words = words[:-1]
    spare = length - len(words) - len(answer)
    if spare < 0:
        return None
    if spare >= len(_INSTRUCTION_IDS) and rng.random() < _INSTRUCTED_SHARE:
        words = words + _INSTRUCTION_IDS
    return words, answer, 1.0, int(views.types[row, slot])


def _captions(
    views: Views, row: int, rng: np.random.Generator, length: int
) -> list[tuple[list[int], list[int], float, int]]:
    """The query-free prompts: instruction alone, nothing, a generic request."""
    full = views.captions[row, : views.caption_lengths[row]].tolist()
    short = full[: views.short_lengths[row]]
    pairs = []
    if rng.random() < 0.5:
        pairs.append((_INSTRUCTION_IDS, short))
    if rng.random() < 0.3:
        pairs.append(([], full))
    generic = _GENERIC_IDS[rng.integers(len(_GENERIC_IDS))]
    if rng.random() < 0.5:
        pairs.append((generic, full) if rng.random() < 0.6 else (generic + _INSTRUCTION_IDS, short))
    return [
        (prompt, answer, _CAPTION_WEIGHT, CAPTION_TYPE)
        for prompt, answer in pairs
        if len(prompt) + len(answer) <= length
    ]


def sample_rows(
    views: Views,
    rng: np.random.Generator,
    count: int,
    whole_share: float,
    easy_share: float | None = None,
) -> np.ndarray:
    """Rows of `count` random views; `easy_share` of them from easy scenes (None: as they come)."""
    if easy_share is None:
        scenes = rng.integers(len(views) // VIEWS_PER_SCENE, size=count)
    else:
        easy = views.easy[::VIEWS_PER_SCENE]
        pools = np.flatnonzero(~easy), np.flatnonzero(easy)
        picks = rng.random(count) < easy_share
        scenes = np.array([rng.choice(pools[int(pick)]) for pick in picks])
    view = np.where(rng.random(count) < whole_share, 0, rng.integers(1, VIEWS_PER_SCENE, count))
    return scenes * VIEWS_PER_SCENE + view


assert QUESTIONS_PER_VIEW < NO_QUESTION
