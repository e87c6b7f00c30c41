"""Figures with 95 % intervals from a bootstrap over pictures, not over questions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
LEAST_PICTURES = 5
"""Below it, resamples are too much alike: one picture's interval would have no width at all."""


@dataclass(frozen=True)
class Estimate:
    """An estimate, its 95 % interval, and the numbers of items and of pictures behind it."""

    value: float
    low: float
    high: float
    items: int
    pictures: int

    @property
    def resolved(self) -> bool:
        """Of a difference: the interval excludes zero, and enough pictures are behind it."""
        return _excludes_zero(vars(self))


def in_words(
    figure: Mapping[str, Any], of: int, sign: str = "", scale: float = 100, digits: int = 1
) -> str:
    """An estimate's fields in a few words: value, interval, and `n` if it is of not all `of` items.

    No interval where there are too few pictures. sign: "+" of a difference, with a star where it
    is resolved. scale: 100 for per cent. Empty where there is no item.
    """
    if not figure["items"]:
        return ""
    value, low, high = (
        f"{scale * figure[key]:{sign}.{digits}f}" for key in ("value", "low", "high")
    )
    interval = f" [{low}, {high}]" if figure["pictures"] >= LEAST_PICTURES else ""
    star = " *" if sign and _excludes_zero(figure) else ""
    count = f" (n {figure['items']})" if figure["items"] != of else ""
    return f"{value}{interval}{star}{count}"


def _excludes_zero(figure: Mapping[str, Any]) -> bool:
    enough = figure["pictures"] >= LEAST_PICTURES
    return enough and (figure["low"] > 0 or figure["high"] < 0)


class Bootstrap:
    """Resamples of pictures, the same for every figure, so that differences are paired.

    pictures: (items,) which picture each item is of. Intervals are percentiles of the resamples.
    """

    def __init__(self, pictures: Sequence[Hashable], seed: int = 0) -> None:
        _, self.group = np.unique(np.asarray(pictures), return_inverse=True)
        groups = int(self.group.max()) + 1
        rng = np.random.default_rng(seed)
        # (resamples, groups): how often each picture was drawn
        self.weights = rng.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)

    def mean(self, values: np.ndarray, chosen: np.ndarray | None = None) -> Estimate:
        """The mean of `values` over items that are chosen and not NaN."""
        return self.ratio(values, np.ones(len(values)), chosen)

    def ratio(
        self, above: np.ndarray, below: np.ndarray, chosen: np.ndarray | None = None
    ) -> Estimate:
        """The sum of `above` over that of `below`, over items that are chosen and not NaN."""
        kept = ~np.isnan(above) if chosen is None else chosen & ~np.isnan(above)
        return self.of(lambda sums: sums[0] / sums[1], [above, below], kept)

    def of(
        self, statistic: Callable[[np.ndarray], np.ndarray], columns: list, chosen: np.ndarray
    ) -> Estimate:
        """A statistic of the columns' sums over the chosen items; of no items where undefined."""
        sums = np.stack(
            [
                np.bincount(self.group, np.where(chosen, column, 0.0), len(self.weights[0]))
                for column in columns
            ]
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            value = float(statistic(sums.sum(axis=1)))
            draws = statistic(sums @ self.weights.T)
        if not np.isfinite(value):
            return Estimate(np.nan, np.nan, np.nan, 0, 0)
        low, high = np.nanpercentile(draws, (2.5, 97.5))
        pictures = len(np.unique(self.group[chosen]))
        return Estimate(value, float(low), float(high), int(chosen.sum()), pictures)
