"""What a map and a window are worth against true boxes. Knows no model and no file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ..geometry import Box, Window
from ..results import Evidence

HELD_SHARE = 0.9  # of a box, from which a window holds it


def holds(window: Window, box: Box) -> bool:
    """Whether a window holds a box."""
    return box.intersect(Box(*window)).area >= HELD_SHARE * box.area


def mass_in(evidence: Evidence, boxes: Sequence[Box]) -> float:
    """The share of a map's mass that lies in any of the boxes, 0..1; NaN for a degenerate map."""
    xs = sorted({edge for box in boxes for edge in (box.x1, box.x2)})
    ys = sorted({edge for box in boxes for edge in (box.y1, box.y2)})
    pieces = (Box(x1, y1, x2, y2) for x1, x2 in pairwise(xs) for y1, y2 in pairwise(ys))
    inside = [piece for piece in pieces if any(piece.intersect(box) == piece for box in boxes)]
    return sum(evidence.share_in(piece) for piece in inside)


def points_at(evidence: Evidence, boxes: Sequence[Box]) -> bool:
    """The pointing game: the centre of the strongest patch on the picture lies in a box."""
    x, y = peak(evidence)
    return any(box.x1 <= x < box.x2 and box.y1 <= y < box.y2 for box in boxes)


def peak(evidence: Evidence) -> tuple[float, float]:
    """(x, y) of the strongest patch's centre; of a patch that the edge cuts, the part inside."""
    grid, (width, height) = evidence.grid, evidence.picture_size
    rows, columns = grid.shares_inside(Window(0, 0, width, height))
    seen = np.outer(rows, columns) > 0
    cells = np.where(seen, evidence.map.double().cpu().numpy(), -np.inf)
    box = grid.cell_box(*divmod(int(cells.argmax()), grid.columns))
    return box.intersect(Box(0, 0, width, height)).centre
