"""Where tokens of an answer looked, as evidence and as heat on the whole picture (docs/method.md).

Steps 3-6 for each token, then one grid for all pictures that the answer was read from. Knows no
model: the rows are noted elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange

from ..geometry import Box, Grid, whole_picture
from ..results import Answer, AttentionMaps, Evidence, LaserAnswer, TokenMaps, TokenRecord
from ..settings import LaserSettings
from ..steps.vaq import contrast, make_evidence, select_layer
from .heat import heat_map, levels_of

MOST_CELLS = 64
"""Rows and columns of the grid that joins those of several pictures, at most."""

_NUMBERS = re.compile(r"\s*(\d+)\s*(-\s*(\d+)?)?\s*")


def token_map(
    result: LaserAnswer | Answer,
    tokens: range | str = "1-",
    settings: LaserSettings | None = None,
) -> torch.Tensor:
    """Where tokens of an answer looked: (H, W) float32 at picture size, 0..1, as `heat_map`.

    tokens: indices into the answer's tokens, or a text as `span_of` takes it; several tokens are
    averaged. All zero where they looked nowhere or are not there. settings: how layers are compared
    and chosen; by default as the evidence's were. Raises ValueError for an answer without maps.
    """
    if isinstance(result, LaserAnswer):
        settings = settings or result.location.settings
        result = result.answer
    if result.maps is None:
        raise ValueError(
            "answer with token_maps=True: where this answer's tokens looked is unknown"
        )
    asked = span_of(result, tokens) if isinstance(tokens, str) else tokens
    count = len(result.maps.rows)
    span = [index for index in asked if -count <= index < count]
    evidence = token_evidence(result.maps, settings or LaserSettings(), span)
    return heat_map(joined_evidence(evidence, result.maps))


def token_evidence(
    maps: TokenMaps,
    settings: LaserSettings = LaserSettings(),
    span: Sequence[int] | None = None,
) -> list[Evidence]:
    """Steps 3-6 of each token of a span, or of all: where it looked, all on one grid.

    A layer has one map here, the mean of its heads. Attention on a crop is spread over the window
    that it shows: the grid holds how much falls on each part of the picture, whatever showed it.
    """
    grid = _common_grid(maps)
    line = Grid(1, maps.rows.shape[-1], grid.view)
    free = rearrange(maps.without_query, "l n -> l 1 1 n")
    placed = _placed(maps, grid)
    found = []
    for index in range(len(maps.rows)) if span is None else span:
        row = rearrange(maps.rows[index], "l n -> l 1 1 n")
        both = AttentionMaps(row, free, line, maps.picture_size)
        added = contrast(both, settings.contrast)
        choice = select_layer(added, settings.layer, maps.band)
        cells = make_evidence(added, choice, both).map[0]
        parts = cells.split([one.rows * one.columns for one in maps.grids])
        shown = [
            down @ rearrange(part, "(gh gw) -> gh gw", gh=one.rows) @ across.T
            for part, one, (down, across) in zip(parts, maps.grids, placed, strict=True)
        ]
        found.append(Evidence(torch.stack(shown).sum(0), grid, maps.picture_size, choice))
    return found


def joined_evidence(evidence: Sequence[Evidence], maps: TokenMaps) -> Evidence:
    """The mean of several tokens' maps, each by its own sum; of those that looked somewhere."""
    grid, size = _common_grid(maps), maps.picture_size
    shares = [one.map / one.map.sum() for one in evidence if not one.degenerate]
    cells = torch.stack(shares).mean(0) if shares else torch.zeros(grid.rows, grid.columns)
    return Evidence(cells, grid, size)


def token_levels(
    answer: Answer, maps: TokenMaps, settings: LaserSettings, most_cells: int
) -> tuple[torch.Tensor, Box]:
    """Levels (T, rows, columns) uint8 of the written tokens' maps, and their box: `levels_of`."""
    evidence = token_evidence(maps, settings, range(len(answer.written)))
    cells = torch.stack([one.map for one in evidence])
    levels, _, box = levels_of(cells, evidence[0].grid, maps.picture_size, most_cells)
    return levels, box


def check_span(text: str) -> None:
    """Raise ValueError for numbers that are no tokens of any answer."""
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        return
    first, last = int(numbers[1]), numbers[3]
    if first < 1 or (last is not None and int(last) < first):
        raise ValueError(
            "write tokens as '3', '3-5' or '3-', counted from 1, or the words of the answer: "
            f"they are {text.strip()!r}"
        )


def span_of(answer: Answer, text: str) -> range:
    """Indices of the tokens that a text names; none where the answer has no such tokens.

    text: '3', '3-5' or '3-' by number, counted from 1; else words of the answer, in quotes where
    they are numbers. Of words that are there twice, the first. Raises ValueError as `check_span`.
    """
    check_span(text)
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        return _said(answer.written, text.strip().strip("\"'\u201c\u201d"), answer.thought_tokens)
    first, open_end = int(numbers[1]), bool(numbers[2])
    last = int(numbers[3]) if numbers[3] else len(answer.written) if open_end else first
    return range(first - 1, min(last, len(answer.written)))


def _said(tokens: Sequence[TokenRecord], words: str, first: int) -> range:
    """The tokens from index `first` on that write these words, as whole words where they are."""
    starts = [0]
    for token in tokens[first:]:
        starts.append(starts[-1] + len(token.text))
    text, wanted = "".join(token.text for token in tokens[first:]), re.escape(words)
    for pattern in (rf"(?<!\w){wanted}(?!\w)", wanted):
        found = re.search(pattern, text, re.IGNORECASE) if words else None
        if found:
            holding = [
                first + index
                for index, (start, stop) in enumerate(pairwise(starts))
                if start < found.end() and found.start() < stop
            ]
            return range(holding[0], holding[-1] + 1)
    return range(0)


def _common_grid(maps: TokenMaps) -> Grid:
    """The grid of the one picture that was read, or one as fine as the finest of several."""
    if len(maps.grids) == 1:
        return maps.grids[0]
    width, height = maps.picture_size
    across, down = (
        min(sides) for sides in zip(*(one.cell_size for one in maps.grids), strict=True)
    )
    rows, columns = (min(MOST_CELLS, math.ceil(s)) for s in (height / down, width / across))
    return Grid(rows, columns, Box(*whole_picture(maps.picture_size)))


def _placed(maps: TokenMaps, grid: Grid) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each picture, (rows, its rows) and (columns, its columns): shares of its cells.

    What lies in the padding around a crop is left out, for it would lie on the picture.
    """
    whole, placed = whole_picture(maps.picture_size), []
    for one, window in zip(maps.grids, maps.windows, strict=True):
        seen = one.view if window == whole else Box(*window)
        cells = [grid.cell_box(row, 0).intersect(seen) for row in range(grid.rows)]
        down = [one.shares_inside(cell)[0] for cell in cells]
        cells = [grid.cell_box(0, column).intersect(seen) for column in range(grid.columns)]
        across = [one.shares_inside(cell)[1] for cell in cells]
        placed.append((torch.tensor(down), torch.tensor(across)))
    return placed
