"""Patch grids: a cell and its rectangle determine each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laser_core.geometry import Box, Grid, Window, whole_picture

sides = st.integers(1, 60)
corners = st.floats(-5000, 5000, allow_nan=False)
lengths = st.floats(0.25, 20000, allow_nan=False)
grids = st.builds(
    lambda rows, columns, x, y, width, height: Grid(
        rows, columns, Box(x, y, x + width, y + height)
    ),
    sides, sides, corners, corners, lengths, lengths,
)  # fmt: skip


@given(grids, st.data())
def test_cell_to_box_to_cell_is_the_identity(grid, data):
    row = data.draw(st.integers(0, grid.rows - 1))
    column = data.draw(st.integers(0, grid.columns - 1))
    assert grid.cell_at(*grid.cell_box(row, column).centre) == (row, column)


@given(grids, st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_point_of_the_view_lies_in_the_box_of_its_cell(grid, right, down):
    x = grid.view.x1 + right * grid.view.width
    y = grid.view.y1 + down * grid.view.height
    box = grid.cell_box(*grid.cell_at(x, y))
    slack = 1e-9 * (1 + max(map(abs, grid.view)))
    assert box.x1 - slack <= x <= box.x2 + slack
    assert box.y1 - slack <= y <= box.y2 + slack


@given(grids)
def test_cells_tile_the_view(grid):
    width, height = grid.cell_size
    assert width * grid.columns == pytest.approx(grid.view.width)
    assert height * grid.rows == pytest.approx(grid.view.height)
    last = grid.cell_box(grid.rows - 1, grid.columns - 1)
    assert grid.cell_box(0, 0)[:2] == grid.view[:2]
    assert last[2:] == pytest.approx(grid.view[2:])


@pytest.mark.parametrize(
    ("point", "cell"), [((-100, 5), (0, 0)), ((1e9, 5), (0, 3)), ((20, 1e9), (1, 2))]
)
def test_points_outside_go_to_the_nearest_cell(point, cell):
    assert Grid(2, 4, Box(0, 0, 32, 16)).cell_at(*point) == cell


@pytest.mark.parametrize("cell", [(-1, 0), (0, -1), (2, 0), (0, 4)])
def test_a_cell_outside_the_grid_is_an_error(cell):
    with pytest.raises(IndexError, match="outside a 2 x 4 grid"):
        Grid(2, 4, Box(0, 0, 32, 16)).cell_box(*cell)


@pytest.mark.parametrize(
    ("view", "share"),
    [
        (Box(0, 0, 200, 100), 0.0),  # the whole picture
        (Box(0, -50, 200, 150), 0.0),  # padded
        (Box(50, 0, 150, 100), 0.5),  # centre crop
        (Box(50, -50, 150, 150), 0.5),
    ],
)
def test_unseen_share_is_what_the_view_leaves_out(view, share):
    assert Grid(3, 3, view).unseen_share((200, 100)) == pytest.approx(share)


def test_intersection_of_boxes_apart_has_no_area():
    assert Box(0, 0, 2, 2).intersect(Box(3, 3, 5, 5)).area == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [(Window(9, 9, 20, 20), True), (Window(10, 0, 20, 10), False), (Window(0, 10, 5, 12), False)],
)
def test_windows_that_only_touch_do_not_overlap(other, expected):
    window = whole_picture((10, 10))
    assert window.overlaps(other) is expected
    assert other.overlaps(window) is expected
