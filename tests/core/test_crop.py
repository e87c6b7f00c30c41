"""Step 7 against a brute force over every whole-pixel position of small pictures.

The reference computes a window's mass from the overlap of rectangles, with no integral image and
no breakpoints. Grids lie on pictures exactly, with padding beyond them, or on a part of them, and
patches are cut by pixels (thirds) or not. Map values are small whole numbers, so that ties abound.
"""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from laser_core.geometry import Box, Grid, Window
from laser_core.results import Evidence, Placement
from laser_core.settings import CropSettings
from laser_core.steps import crop
from laser_core.steps.crop import ADAPTIVE_RATIOS, place_windows

PLACEMENTS = ("most mass", "peak", "top patches box", "adaptive")


def evidence_of(values, picture_size=None, view=None):
    values = torch.as_tensor(values, dtype=torch.float32)
    rows, columns = values.shape
    picture_size = picture_size or (10 * columns, 10 * rows)
    grid = Grid(rows, columns, view or Box(0, 0, *picture_size))
    return Evidence(values, grid, picture_size)


@st.composite
def evidences(draw):
    """Maps on pictures of up to 17 x 17 pixels; views begin and end at thirds of pixels."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    width, height = draw(st.integers(2, 17)), draw(st.integers(2, 17))
    edge = st.integers(-12, 12).map(lambda thirds: thirds / 3)
    view = Box(draw(edge), draw(edge), width + draw(edge), height + draw(edge))
    assume(view.width >= 1 and view.height >= 1)
    values = draw(st.lists(st.integers(0, 3), min_size=rows * columns, max_size=rows * columns))
    evidence = evidence_of(np.reshape(values, (rows, columns)), (width, height), view)
    assume(not evidence.degenerate)
    return evidence


@st.composite
def crops(draw, placements=("most mass",), windows=(1,)):
    return CropSettings(
        scale=draw(st.sampled_from([0.1, 0.3, 0.5, 0.75, 1.0])),
        min_side_px=draw(st.integers(1, 6)),
        placement=draw(st.sampled_from(placements)),
        windows=draw(st.sampled_from(windows)),
        margin=draw(st.sampled_from([0.0, 0.1, 0.2, 0.4])),
    )


class Reference:
    """What a patch holds and where, patch by patch."""

    def __init__(self, evidence):
        self.evidence, (self.width, self.height) = evidence, evidence.picture_size
        self.picture = Box(0, 0, self.width, self.height)
        grid = evidence.grid
        self.values = evidence.map.double().numpy()
        self.visible = {
            (row, column): grid.cell_box(row, column).intersect(self.picture)
            for row, column in itertools.product(range(grid.rows), range(grid.columns))
        }
        self.patch_area = grid.cell_box(0, 0).area
        self.held = {
            cell: self.values[cell] * b.area / self.patch_area for cell, b in self.visible.items()
        }
        self.total = sum(self.held.values())

    def mass(self, box):
        grid = self.evidence.grid
        inside_x = [
            max(0, min(box.x2, grid.cell_box(0, c).x2) - max(box.x1, grid.cell_box(0, c).x1))
            for c in range(grid.columns)
        ]
        inside_y = [
            max(0, min(box.y2, grid.cell_box(r, 0).y2) - max(box.y1, grid.cell_box(r, 0).y1))
            for r in range(grid.rows)
        ]
        return float(inside_y @ self.values @ inside_x) / self.patch_area

    @property
    def centroid(self):
        centres = {cell: self.visible[cell].centre for cell in self.held}
        return tuple(
            sum(self.held[cell] * centres[cell][axis] for cell in self.held) / self.total
            for axis in (0, 1)
        )

    def positions(self, width, height):
        for y, x in itertools.product(
            range(self.height - height + 1), range(self.width - width + 1)
        ):
            yield Window(x, y, x + width, y + height)

    def inside(self, size, margin):
        """Every place of the window's inside, and the window around it."""
        margins = [int(margin * side + 1e-6) for side in size]
        inner = [side - 2 * cut for side, cut in zip(size, margins, strict=True)]
        limits = self.width - size[0], self.height - size[1]
        for inside in self.positions(*inner):
            x, y = (
                min(max(start - cut, 0), limit)
                for start, cut, limit in zip(inside[:2], margins, limits, strict=True)
            )
            yield inside, Window(x, y, x + size[0], y + size[1])

    def best(self, size, margin, taken=()):
        """The window whose inside has most mass, of these the nearest, of these the first."""
        free = {
            inside: window
            for inside, window in self.inside(size, margin)
            if not any(window.overlaps(other) for other in taken)
        }
        if not free:
            return None
        masses = {inside: self.mass(inside) for inside in free}
        most = max(masses.values())
        if most <= 1e-12 * self.total:
            return None
        tied = [inside for inside, mass in masses.items() if mass >= most * (1 - 1e-9)]
        return free[self.nearest(tied, self.centroid)]

    @staticmethod
    def nearest(windows, point):
        distances = [squared_distance(window, point) for window in windows]
        least = min(distances)
        return next(w for w, d in zip(windows, distances, strict=True) if d <= least + 1e-6)


def squared_distance(window, point):
    return sum((c - p) ** 2 for c, p in zip(Box(*window).centre, point, strict=True))


def with_top_fraction(fraction):
    """Inside, placement 'top patches box' encloses this share of the patches."""
    return mock.patch.object(crop, "TOP_FRACTION", fraction)


def normal_size(evidence, settings):
    return tuple(
        max(round(settings.scale * side), min(settings.min_side_px, side))
        for side in evidence.picture_size
    )


# Size


@pytest.mark.parametrize(
    ("picture_size", "scale", "min_side_px", "expected"),
    [
        ((1000, 800), 0.5, 224, (500, 400)),
        ((1000, 400), 0.5, 224, (500, 224)),
        ((300, 200), 0.5, 224, (224, 200)),
        ((100, 100), 0.1, 1, (10, 10)),
        ((3, 3), 0.1, 1, (1, 1)),
        ((640, 480), 1.0, 1, (640, 480)),
        ((640, 480), 0.5, 8192, (640, 480)),
    ],
)
@pytest.mark.parametrize("placement", ["most mass", "peak"])
def test_a_windows_sides_are_a_share_of_the_pictures_but_never_too_small_or_too_large(
    picture_size, scale, min_side_px, expected, placement
):
    evidence = evidence_of([[0, 1], [2, 1]], picture_size)
    settings = CropSettings(scale, min_side_px, placement)
    window = place_windows(evidence, settings).windows[0]
    assert (window.width, window.height) == expected


# Most mass


@given(evidences(), crops())
def test_the_windows_inside_holds_the_most_mass_of_all_positions(evidence, settings):
    expected = Reference(evidence).best(normal_size(evidence, settings), settings.margin)
    assert place_windows(evidence, settings).windows == (expected,)


@given(st.data())
def test_the_window_holds_the_most_of_maps_of_any_numbers(data):
    evidence = data.draw(evidences())
    shape = evidence.map.shape
    number = st.floats(0, 1, width=32)
    values = data.draw(st.lists(number, min_size=shape.numel(), max_size=shape.numel()))
    evidence = evidence_of(np.reshape(values, shape), evidence.picture_size, evidence.grid.view)
    assume(not evidence.degenerate)
    settings = data.draw(crops())
    reference = Reference(evidence)
    window = place_windows(evidence, settings).windows[0]
    places = list(reference.inside(normal_size(evidence, settings), settings.margin))
    most = max(reference.mass(inside) for inside, _ in places)
    held = max(reference.mass(inside) for inside, around in places if around == window)
    assert held == pytest.approx(most, rel=1e-9, abs=1e-12 * reference.total)


def test_a_thing_on_the_windows_edge_is_moved_inside_by_the_margin():
    # A thing of 3 x 3 patches, strongest in its corner, and a speck just within a window's reach.
    values = torch.zeros(8, 8)
    values[2:5, 2:5], values[4, 4], values[7, 7] = 0.5, 20, 5
    thing = Box(20, 20, 50, 50)
    inside = {}
    for margin in (0.0, 0.2):
        settings = CropSettings(min_side_px=1, margin=margin)
        window = Box(*place_windows(evidence_of(values), settings).windows[0])
        inside[margin] = window.intersect(thing).area / thing.area
    assert inside[0.0] < 0.5
    assert inside[0.2] == 1


def test_no_margin_is_kept_from_the_pictures_own_edge():
    evidence = evidence_of([[1, 0, 0, 0]] * 4)
    window = place_windows(evidence, CropSettings(min_side_px=1, margin=0.4)).windows[0]
    assert window.x1 == 0


def test_a_level_map_puts_the_window_in_the_middle():
    evidence = evidence_of(torch.ones(4, 4))
    settings = CropSettings(min_side_px=1)
    assert place_windows(evidence, settings).windows == (Window(10, 10, 30, 30),)


def test_of_two_windows_as_near_the_topmost_then_the_leftmost_is_taken():
    corners = evidence_of([[1, 0, 1], [0, 0, 0], [1, 0, 1]], (9, 9))
    settings = CropSettings(scale=0.33, min_side_px=1)
    assert place_windows(corners, settings).windows == (Window(0, 0, 3, 3),)
    right_and_below = evidence_of([[0, 0, 1], [0, 0, 0], [1, 0, 0]], (9, 9))
    assert place_windows(right_and_below, settings).windows == (Window(6, 0, 9, 3),)


@given(evidences(), crops(windows=(2, 3, 5)))
def test_further_windows_are_the_best_that_overlap_none_before_them(evidence, settings):
    reference, expected = Reference(evidence), []
    while len(expected) < settings.windows:
        size = normal_size(evidence, settings)
        window = reference.best(size, settings.margin, expected)
        if window is None:
            break
        expected.append(window)
    assert place_windows(evidence, settings).windows == tuple(expected)


def test_further_windows_keep_their_thing_off_their_edges_too():
    strengths = [[0.0] * 10 for _ in range(10)]
    strengths[1][1], strengths[7][7] = 9.0, 1.0
    settings = CropSettings(scale=0.3, min_side_px=1, windows=2, margin=0.2)
    further = place_windows(evidence_of(strengths, (100, 100)), settings).windows[1]
    thing = Window(70, 70, 80, 80)
    margins = (
        thing.x1 - further.x1,
        thing.y1 - further.y1,
        further.x2 - thing.x2,
        further.y2 - thing.y2,
    )
    assert min(margins) >= 0.2 * 30


def test_a_level_map_is_tiled_from_the_middle():
    evidence = evidence_of([[1]], (30, 6))
    windows = place_windows(evidence, CropSettings(0.2, 6, windows=8)).windows
    assert [window.x1 for window in windows] == [12, 6, 18, 0, 24]


def test_there_are_fewer_windows_where_none_fits():
    evidence = evidence_of([[0, 0, 0], [0, 1, 0], [0, 0, 0]], (90, 90))
    settings = CropSettings(min_side_px=1, windows=4)
    assert place_windows(evidence, settings).windows == (Window(22, 22, 67, 67),)


def test_there_are_fewer_windows_where_no_mass_is_left():
    evidence = evidence_of([[1, 0, 0, 1]], (40, 10))
    settings = CropSettings(scale=0.25, min_side_px=10, windows=4, margin=0.0)
    windows = place_windows(evidence, settings).windows
    assert windows == (Window(0, 0, 10, 10), Window(30, 0, 40, 10))


# Shares


@given(evidences(), crops(PLACEMENTS, windows=(1, 3)))
def test_shares_are_each_windows_part_of_the_mass_on_the_picture(evidence, settings):
    reference = Reference(evidence)
    placement = place_windows(evidence, settings)
    expected = [reference.mass(window) / reference.total for window in placement.windows]
    assert placement.shares == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(evidences(), crops(PLACEMENTS, windows=(1, 2, 4)))
def test_windows_lie_on_the_picture_and_do_not_overlap(evidence, settings):
    windows = place_windows(evidence, settings).windows
    width, height = evidence.picture_size
    assert 1 <= len(windows) <= settings.windows
    for window in windows:
        assert 0 <= window.x1 < window.x2 <= width
        assert 0 <= window.y1 < window.y2 <= height
        assert all(type(side) is int for side in window)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(windows, 2))


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_mass_on_the_padding_attracts_no_window(placement):
    # 20 x 10 pixels in a square of 20: the rows of patches above and below are padding.
    values = [[9, 9, 9, 9], [0, 0, 0, 1], [0, 0, 0, 1], [9, 9, 9, 9]]
    evidence = evidence_of(values, (20, 10), Box(0, -5, 20, 15))
    settings = CropSettings(scale=0.25, min_side_px=5, placement=placement)
    placement = place_windows(evidence, settings)
    assert placement.windows[0].x2 == 20
    assert placement.shares[0] == pytest.approx(0.5)


def test_faint_evidence_is_found_beside_heavy_padding():
    evidence = evidence_of([[1e20, 1e20], [0, 1e-20]], (20, 10), Box(0, -10, 20, 10))
    settings = CropSettings(min_side_px=10)
    assert place_windows(evidence, settings).windows == (Window(10, 0, 20, 10),)


# Other placements


@given(evidences(), crops(["peak"]))
def test_no_window_lies_nearer_to_the_strongest_patch(evidence, settings):
    reference = Reference(evidence)
    strongest = max(reference.held.values())
    cell = next(cell for cell, held in reference.held.items() if held >= strongest * (1 - 1e-9))
    peak = reference.visible[cell].centre
    window = place_windows(evidence, settings).windows[0]
    positions = reference.positions(*normal_size(evidence, settings))
    nearest = min(squared_distance(other, peak) for other in positions)
    assert squared_distance(window, peak) == pytest.approx(nearest, abs=1e-6)


@pytest.mark.parametrize("placement", ["peak", "top patches box"])
def test_of_equal_patches_the_first_is_taken_in_spite_of_rounding(placement):
    # Both patches have 1 of their 3 2/3 rows on the picture, but 3 2/3 is no binary fraction.
    evidence = evidence_of([[1], [1]], (2, 2), Box(0, -8 / 3, 2, 2 + 8 / 3))
    with with_top_fraction(0.5):
        placed = place_windows(evidence, CropSettings(0.1, 1, placement))
    assert placed.windows[0].y1 == 0


def test_patches_without_evidence_are_not_among_the_strongest():
    values = torch.zeros(10, 10)
    values[4, 7] = 1
    with with_top_fraction(1.0):
        placed = place_windows(evidence_of(values), CropSettings(0.1, 1, "top patches box"))
    assert placed.windows == (Window(70, 40, 80, 50),)


@given(evidences(), crops(["top patches box"]), st.sampled_from([0.001, 0.05, 0.3, 1.0]))
def test_the_window_encloses_the_strongest_patches_as_tightly_as_its_sides_allow(
    evidence, settings, fraction
):
    reference = Reference(evidence)
    count = max(1, round(fraction * len(reference.held)))
    # Rounded, as patches whose parts on the picture are equal tie, and go by reading order.
    ranked = sorted(reference.held, key=lambda cell: (-round(reference.held[cell], 9), cell))
    boxes = [reference.visible[c] for c in ranked[:count] if reference.held[c] > 0]
    with with_top_fraction(fraction):
        window = place_windows(evidence, settings).windows[0]
    for axis, normal in enumerate(normal_size(evidence, settings)):
        low = np.floor(min(box[axis] for box in boxes) + 1e-6)
        high = np.ceil(max(box[axis + 2] for box in boxes) - 1e-6)
        assert window[axis] <= low
        assert window[axis + 2] >= high
        assert window[axis + 2] - window[axis] == max(normal, high - low)


def test_the_box_of_the_top_patches_is_widened_evenly():
    values = torch.zeros(10, 10)
    values[4, 4:6] = 1
    with with_top_fraction(0.02):
        placed = place_windows(evidence_of(values), CropSettings(0.5, 1, "top patches box"))
    assert placed.windows == (Window(25, 20, 75, 70),)


def test_a_twentieth_of_the_patches_is_enclosed():
    values = torch.ones(10, 10)
    values[3, 2:7] = 2
    placed = place_windows(evidence_of(values), CropSettings(0.1, 1, "top patches box"))
    assert placed.windows == (Window(20, 30, 70, 40),)


@given(evidences(), crops(["adaptive"]))
def test_the_adaptive_window_stands_out_most_of_all_sizes(evidence, settings):
    reference = Reference(evidence)
    width, height = normal_size(evidence, settings)
    sizes = [
        (min(round(ratio * width), reference.width), min(round(ratio * height), reference.height))
        for ratio in ADAPTIVE_RATIOS
    ]
    window = place_windows(evidence, settings).windows[0]
    scores = [prominence(reference, reference.best(size, 0.0)) for size in sizes]
    assert window == reference.best((window.width, window.height), 0.0)
    assert (window.width, window.height) in sizes
    if max(scores) > -np.inf:
        best = max(scores)
        assert prominence(reference, window) >= best - 1e-9 * reference.total
    else:
        assert (window.width, window.height) == sizes[0]


def prominence(reference, window):
    """ViCrop's: mass above the mean of the windows one patch to each side, per pixel."""
    step_x, step_y = reference.evidence.grid.cell_size
    masses = []
    for dx, dy in ((-step_x, 0), (step_x, 0), (0, -step_y), (0, step_y)):
        moved = Box(*window).shift(dx, dy)
        if moved.intersect(reference.picture) == moved:
            masses.append(reference.mass(moved))
    if not masses:
        return -np.inf
    return (reference.mass(window) - np.mean(masses)) / (window.width * window.height)


@pytest.mark.parametrize(("blob", "ratio"), [(4, 1.0), (6, 1.4), (8, 2.0)])
def test_the_adaptive_window_grows_with_the_evidence(blob, ratio):
    values = torch.zeros(20, 20)
    values[6 : 6 + blob, 6 : 6 + blob] = 1
    settings = CropSettings(0.2, 1, "adaptive")
    window = place_windows(evidence_of(values), settings).windows[0]
    assert (window.width, window.height) == (round(40 * ratio), round(40 * ratio))


def test_of_sizes_that_stand_out_equally_the_smallest_is_taken():
    evidence = evidence_of(torch.ones(10, 10))
    settings = CropSettings(0.2, 1, "adaptive")
    assert place_windows(evidence, settings).windows == (Window(40, 40, 60, 60),)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_of_a_degenerate_map_the_window_is_the_whole_picture(placement, value):
    evidence = evidence_of([[value, 0], [0, 0]])
    placed = place_windows(evidence, CropSettings(placement=placement, windows=3))
    assert placed == Placement((Window(0, 0, *evidence.picture_size),), (0.0,))


def test_a_map_on_the_padding_alone_is_degenerate():
    evidence = evidence_of([[1, 1], [0, 0]], (20, 10), Box(0, -10, 20, 10))
    placed = place_windows(evidence, CropSettings())
    assert placed == Placement((Window(0, 0, 20, 10),), (0.0,))


def test_the_window_is_found_as_well_in_a_large_map():
    """At a real size, where only some positions are tried, none of 500 at random holds more."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(24, 24, generator=generator) ** 6
    evidence = evidence_of(values, (1023, 683), Box(0, -170, 1023, 853))
    reference, settings = Reference(evidence), CropSettings(margin=0.0)
    window = place_windows(evidence, settings).windows[0]
    most = reference.mass(window)
    random = np.random.default_rng(0)
    for _ in range(500):
        x, y = random.integers(1023 - window.width + 1), random.integers(683 - window.height + 1)
        other = Window(x, y, x + window.width, y + window.height)
        assert reference.mass(other) <= most * (1 + 1e-9)


@pytest.mark.parametrize("placement", ["most mass", "peak", "top patches box", "adaptive"])
@pytest.mark.parametrize("multiple_of", [8, 16, 64])
@pytest.mark.parametrize("size", [(1020, 765), (640, 512), (70, 900)])
def test_windows_sides_are_multiples_no_smaller_than_asked(placement, multiple_of, size):
    values = np.random.default_rng(3).random((12, 16))
    for scale in (0.1, 0.37, 1.0):
        settings = CropSettings(scale, 50, placement, windows=2, multiple_of=multiple_of)
        plain = CropSettings(scale, 50, placement, windows=2)
        evidence = evidence_of(values, size)
        for window in place_windows(evidence, settings).windows:
            sides = window.width, window.height
            assert all(side % multiple_of == 0 for side in sides)
            assert window.x1 >= 0 and window.y1 >= 0
            assert window.x2 <= size[0] and window.y2 <= size[1]
        if placement in ("most mass", "peak"):
            asked = place_windows(evidence, plain).windows[0]
            pairs = zip((asked.width, asked.height), sides, size, strict=True)
            most = [side // multiple_of * multiple_of for side in size]
            for (least, side, _), limit in zip(pairs, most, strict=True):
                assert min(least, limit) <= side < least + multiple_of


def test_a_picture_smaller_than_the_multiple_is_taken_whole():
    settings = CropSettings(0.5, 10, multiple_of=64)
    window = place_windows(evidence_of([[1, 0], [0, 0]], (40, 200)), settings).windows[0]
    assert (window.width, window.height) == (40, 128)
