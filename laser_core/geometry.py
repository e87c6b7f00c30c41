"""Rectangles, windows and patch grids: how a model's patches lie on the picture.

Knows coordinates only: no model, no tensor of attention. Positions are float pixels of the
original picture, x to the right, y down, (0, 0) the picture's top left corner.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple


class Box(NamedTuple):
    """A half-open rectangle (x1, y1, x2, y2), float pixels."""

    x1: float
    y1: float
    x2: float
    y2: float

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x1 + self.x2) / 2, (self.y1 + self.y2) / 2

    def intersect(self, other: Box) -> Box:
        """The common rectangle; its area is 0 where there is none."""
        return Box(
            max(self.x1, other.x1),
            max(self.y1, other.y1),
            min(self.x2, other.x2),
            min(self.y2, other.y2),
        )

    def shift(self, dx: float, dy: float) -> Box:
        return Box(self.x1 + dx, self.y1 + dy, self.x2 + dx, self.y2 + dy)


class Window(NamedTuple):
    """A half-open rectangle (x1, y1, x2, y2) in whole pixels of the original picture."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def width(self) -> int:
        return self.x2 - self.x1

    @property
    def height(self) -> int:
        return self.y2 - self.y1

    def overlaps(self, other: Window) -> bool:
        return (
            self.x1 < other.x2 and other.x1 < self.x2 and self.y1 < other.y2 and other.y1 < self.y2
        )


class Grid(NamedTuple):
    """Patches in rows and columns over `view`, the part of the picture plane the model was fed.

    `view` may reach beyond the picture (padding) or cover only part of it (a centre crop). All
    patches have the same size, so a cell and its rectangle determine each other.
    """

    rows: int
    columns: int
    view: Box

    @property
    def cell_size(self) -> tuple[float, float]:
        """Width and height of a patch in float pixels of the picture."""
        return self.view.width / self.columns, self.view.height / self.rows

    def cell_box(self, row: int, column: int) -> Box:
        """The rectangle of a patch. Raises IndexError outside the grid."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"({row}, {column}) is outside a {self.rows} x {self.columns} grid")
        width, height = self.cell_size
        x1, y1 = self.view.x1 + column * width, self.view.y1 + row * height
        return Box(x1, y1, x1 + width, y1 + height)

    def cell_at(self, x: float, y: float) -> tuple[int, int]:
        """(row, column) of the patch that holds a point; points outside go to the nearest patch."""
        width, height = self.cell_size
        row = math.floor((y - self.view.y1) / height)
        column = math.floor((x - self.view.x1) / width)
        return min(max(row, 0), self.rows - 1), min(max(column, 0), self.columns - 1)

    @property
    def x_edges(self) -> list[float]:
        """The columns' edges from left to right, columns + 1 float pixels."""
        width, _ = self.cell_size
        return [self.view.x1 + column * width for column in range(self.columns + 1)]

    @property
    def y_edges(self) -> list[float]:
        """The rows' edges from top to bottom, rows + 1 float pixels."""
        _, height = self.cell_size
        return [self.view.y1 + row * height for row in range(self.rows + 1)]

    def shares_inside(self, box: Box | Window) -> tuple[list[float], list[float]]:
        """How much of every row's height and of every column's width lies in `box`, 0..1.

        The share of patch (row, column) inside the box is the product of the two.
        """
        return (
            _overlap_shares(self.y_edges, box.y1, box.y2),
            _overlap_shares(self.x_edges, box.x1, box.x2),
        )

    def within(self, window: Window, size: tuple[int, int]) -> Grid:
        """This grid, of a (width, height) picture, where that fills a window of another one."""
        across, down = window.width / size[0], window.height / size[1]
        view = Box(
            self.view.x1 * across, self.view.y1 * down, self.view.x2 * across, self.view.y2 * down
        )
        return self._replace(view=view.shift(window.x1, window.y1))

    def unseen_share(self, picture_size: tuple[int, int]) -> float:
        """Share of a (width, height) picture that lies outside the view: pixels never fed."""
        picture = Box(0, 0, *picture_size)
        return 1 - picture.intersect(self.view).area / picture.area


def _overlap_shares(edges: list[float], low: float, high: float) -> list[float]:
    """The share of each interval between neighbouring edges that lies in [low, high]."""
    shares = []
    for start, end in pairwise(edges):
        share = max(min(end, high) - max(start, low), 0.0) / (end - start)
        # Rounding must not make one of two whole, equal patches the stronger one.
        shares.append(float(round(share)) if abs(share - round(share)) < 1e-9 else share)
    return shares


def whole_picture(size: tuple[int, int]) -> Window:
    """The window that is the whole (width, height) picture."""
    return Window(0, 0, *size)
