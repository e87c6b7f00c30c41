"""From a heat map to what other tools take: a cleaned mask, its box, points on it and off it.

Knows pixels only: no model, no evidence and no file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..geometry import Window

Point = tuple[int, int]
"""(x, y) of a whole pixel."""

SORTED_SIDE = 512  # pixels per side that a threshold is worked out on: it hardly moves beyond
LEAST_PEAK = 0.5  # a further point is at least this strong, 1 the strongest


def cleaned_mask(heat: torch.Tensor, share: float) -> torch.Tensor:
    """(H, W) bool: the fewest pixels that hold `share` of the heat; its main part, holes filled.

    heat: (H, W) float >= 0. The main part is the connected one (4 neighbours) that holds most.
    All False where nothing is warm.
    """
    level = level_of(heat, share)
    hot = (heat >= level) & (heat > 0)
    if not hot.any():
        return hot
    parts = connected_parts(hot.numpy())
    held = np.bincount(parts.ravel(), heat.double().numpy().ravel())
    held[0] = -1.0  # what is no part
    return torch.from_numpy(_filled(parts == held.argmax()))


def level_of(heat: torch.Tensor, share: float) -> float:
    """The highest level at or above which the pixels hold `share` of the heat (0 to 1)."""
    step = max(1, *(side // SORTED_SIDE for side in heat.shape))
    values = heat[::step, ::step].flatten().double().sort(descending=True).values
    held = values.cumsum(0)
    index = int(torch.searchsorted(held, share * float(held[-1])))
    return float(values[min(index, len(values) - 1)])


def box_of(mask: torch.Tensor) -> Window | None:
    """The smallest window that holds a mask (H, W); None for an empty one."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    if not len(rows):
        return None
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def peaks(
    heat: torch.Tensor, within: torch.Tensor, count: int, apart_px: float, least: float = LEAST_PEAK
) -> tuple[Point, ...]:
    """At most `count` strongest pixels of `within` (H, W) bool, strongest first.

    Two lie `apart_px` or more from each other. Further ones are at least `least` as strong as the
    first.
    """
    left = torch.where(within, heat, 0.0)
    ys, xs = (torch.arange(side) for side in heat.shape)
    found: list[Point] = []
    strongest = float(left.max())
    while len(found) < count and left.max() > 0 and left.max() >= least * strongest:
        y, x = divmod(int(left.argmax()), heat.shape[1])
        found.append((x, y))
        near = (ys - y)[:, None] ** 2 + (xs - x)[None] ** 2 < apart_px**2
        left = torch.where(near, 0.0, left)
    return tuple(found)


def points_json(points: Sequence[Point]) -> str:
    """Points as segmenters of ComfyUI take them: '[{"x": 1, "y": 2}]'."""
    return "[" + ", ".join(f'{{"x": {x}, "y": {y}}}' for x, y in points) + "]"


def connected_parts(mask: np.ndarray) -> np.ndarray:
    """(H, W) int: 0 where `mask` is False, and a number for each connected part (4 neighbours)."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)  # of runs, in reading order
    _, stops = np.nonzero(steps == -1)
    joined = list(range(len(rows)))

    def root(run: int) -> int:
        while joined[run] != run:
            joined[run] = run = joined[joined[run]]
        return run

    above = 0  # the first run of the row above that may still touch
    for run, row in enumerate(rows):
        while rows[above] < row - 1 or (rows[above] == row - 1 and stops[above] <= starts[run]):
            above += 1
        other = above
        while other < run and rows[other] == row - 1 and starts[other] < stops[run]:
            joined[root(run)] = root(other)
            other += 1
    parts = np.zeros(mask.shape, np.int64)
    for run, (row, start, stop) in enumerate(zip(rows, starts, stops, strict=True)):
        parts[row, start:stop] = root(run) + 1
    return parts


def _filled(mask: np.ndarray) -> np.ndarray:
    """The mask with what it encloses."""
    outside = connected_parts(np.pad(~mask, 1, constant_values=True))
    return (outside != outside[0, 0])[1:-1, 1:-1]
