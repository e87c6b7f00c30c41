"""Con-ViCrop: where on the picture the window lies (step 7 of docs/method.md, arXiv 2602.04304).

Knows the evidence map and how its grid lies on the picture; knows no model and no attention. The
map is read as a density, uniform inside each patch, so that windows may lie at any pixel and cut
through patches. What the grid holds beyond the picture (padding) does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..geometry import Box, Window, whole_picture
from ..results import Evidence, Location, Placement
from ..settings import CropSettings

# Masses that differ by less than this share of the larger one count as equal: it is rounding.
EQUAL_MASS = 1e-9
# A smaller share of the map is no evidence but the rounding of subtractions.
NO_MASS = 1e-12
# Squared distances in pixels closer than this are equal.
EQUAL_DISTANCE = 1e-6

LOOK_SHRINKS = 0.7
LEAST_SCALE = 0.1  # that CropSettings takes

ADAPTIVE_RATIOS = (1.0, 1.2, 1.4, 1.6, 1.8, 2.0)
TOP_FRACTION = 0.05  # of all patches, that placement 'top patches box' encloses


def place_windows(evidence: Evidence, settings: CropSettings) -> Placement:
    """Windows on the picture and the share of the map's mass on the picture that each holds.

    A window's side is `scale` of the picture's, at least `min_side_px`, at most the picture's, and
    the next multiple of `multiple_of` up, or the largest on the picture where that has one.
    No window crosses the picture's edge. `placement` says where the first one lies:

    most mass: where its inside holds the most, of all whole-pixel positions (exact). The inside is
        the window less `margin` of its side at each edge; at the picture's edges it may reach into
        the margin. Among equals: nearest to the map's centroid, then topmost, then leftmost.
    peak: centred on the map's strongest patch.
    top patches box: the bounding box of the strongest TOP_FRACTION of all patches, widened evenly
        to at least the window's sides.
    adaptive: windows of 1 to 2 times the size are placed by mass; the one that stands out most from
        its surroundings is taken (ViCrop's ratio search, arXiv 2502.17422,
        bbox_from_att_image_adaptive of github.com/saccharomycetes/mllms_know).

    Each further window has the normal size, overlaps none before it and holds the most of what is
    left, by the same margin. There are fewer than asked for when none fits or nothing is left.
    For a degenerate map the only window is the whole picture, with a share of 0.
    """
    if evidence.degenerate:
        return Placement((whole_picture(evidence.picture_size),), (0.0,))
    density = _Density(evidence)
    size = _window_size(evidence.picture_size, settings)
    windows = [_PLACEMENTS[settings.placement](density, size, settings)]
    while len(windows) < settings.windows:
        further = _best_window(density, size, windows, settings.margin)
        if further is None:
            break
        windows.append(further)
    return Placement(tuple(windows), tuple(evidence.share_in(window) for window in windows))


def given(evidence: Evidence, window: Window) -> Placement:
    """A window set by hand, and the share of the map's mass that it holds."""
    return Placement((window,), (0.0 if evidence.degenerate else evidence.share_in(window),))


def closer_looks(found: Location) -> Iterator[Location]:
    """What to read while the model is unsure, one after the other (step 9, our addition).

    A look's windows have LOOK_SHRINKS of the sides of those before, all placed on the same map.
    There are fewer than `looks` where the least side stops that, one where the window was set by
    hand, none where nothing was found.
    """
    if found.nothing_found:
        return
    yield found
    if found.by_hand:
        return
    placement, crop = found.placement, found.settings.crop
    for _ in range(1, found.settings.answer.looks):
        crop = replace(crop, scale=max(LOOK_SHRINKS * crop.scale, LEAST_SCALE))
        before, placement = placement, place_windows(found.evidence, crop)
        if placement == before:
            return
        yield replace(found, placement=placement)


class _Density:
    """The map's mass on the picture, of sum 1. An integral image gives the mass of any window."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, grid = evidence, evidence.grid
        self.picture = whole_picture(evidence.picture_size)
        self.patch_size = grid.cell_size
        # Patches end at the picture's edges, and those beyond it have no extent.
        self.x_edges = np.clip(grid.x_edges, 0, self.picture.width)
        self.y_edges = np.clip(grid.y_edges, 0, self.picture.height)
        self.x_centres = (self.x_edges[1:] + self.x_edges[:-1]) / 2
        self.y_centres = (self.y_edges[1:] + self.y_edges[:-1]) / 2
        cells = evidence.map.double().cpu().numpy() * np.outer(*grid.shares_inside(self.picture))
        self.cells = cells / cells.sum()  # (gh, gw)
        # (gh + 1, gw + 1): the mass above and left of every corner of a patch
        self.integral = np.pad(self.cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))

    def masses(self, xs: np.ndarray, ys: np.ndarray, width: int, height: int) -> np.ndarray:
        """(len(ys), len(xs)): masses of the windows with these left and top edges."""
        strips = self._rows_at(ys + height) - self._rows_at(ys)
        return self._columns_at(strips, xs + width) - self._columns_at(strips, xs)

    @property
    def strengths(self) -> np.ndarray:
        """(gh, gw): the patches' masses over the largest; rounded, so that equal ones are equal."""
        return np.round(self.cells / self.cells.max(), 9)

    @property
    def centroid(self) -> tuple[float, float]:
        """(x, y) of the centre of the mass."""
        columns, rows = self.cells.sum(axis=0), self.cells.sum(axis=1)
        return float(columns @ self.x_centres), float(rows @ self.y_centres)

    def _rows_at(self, ys: np.ndarray) -> np.ndarray:
        """The integral image's rows at these positions, (len(ys), gw + 1)."""
        index, part = _patch_and_part(self.y_edges, ys)
        part = part[:, None]
        return (1 - part) * self.integral[index] + part * self.integral[index + 1]

    def _columns_at(self, strips: np.ndarray, xs: np.ndarray) -> np.ndarray:
        """(rows, gw + 1) -> (rows, len(xs))"""
        index, part = _patch_and_part(self.x_edges, xs)
        return (1 - part) * strips[:, index] + part * strips[:, index + 1]


def _patch_and_part(edges: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row or column that holds each position and how far into it that is, clamped to 0..1."""
    index = np.clip(np.searchsorted(edges, positions, side="right") - 1, 0, len(edges) - 2)
    extent = edges[index + 1] - edges[index]
    part = (positions - edges[index]) / np.where(extent > 0, extent, 1.0)
    return index, np.clip(part, 0.0, 1.0)


def _window_size(picture_size: tuple[int, int], settings: CropSettings) -> tuple[int, int]:
    """(width, height) of the normal window."""
    size = (
        max(round(settings.scale * side), min(settings.min_side_px, side)) for side in picture_size
    )
    return _in_multiples(size, picture_size, settings.multiple_of)


def _in_multiples(
    size: Iterable[int], picture_size: Iterable[int], multiple_of: int
) -> tuple[int, int]:
    """The sides as multiples, none smaller while the picture holds it."""
    width, height = (
        min(-(-side // multiple_of), limit // multiple_of) * multiple_of or limit
        for side, limit in zip(size, picture_size, strict=True)
    )
    return width, height


def _best_window(
    density: _Density,
    size: tuple[int, int],
    taken: Sequence[Window] = (),
    margin: float = 0.0,
) -> Window | None:
    """The window of this size whose inside holds most, overlapping no `taken`; None without any.

    The inside is the window without `margin` of its sides at each edge. It may lie anywhere on the
    picture; the window is centred on it as nearly as the picture allows.

    Exact without trying every pixel. A breakpoint is a position at which an edge of the window
    meets an edge of a patch. Between two breakpoints the mass is linear in x and in y. So it is
    largest at the first or the last whole pixel between them: the ceiling and floor of the
    breakpoints.
    Positions flush against a taken window bound what is allowed, so they are candidates too.
    Where the mass is constant between breakpoints, the position nearest to the centroid may lie
    between them, so the pixels next to the centred position are candidates too.
    """
    (width, height), picture = size, density.picture
    # The slack: 0.3 * 10 must not count as 2.9999999.
    margin_x, margin_y = (int(margin * side + EQUAL_DISTANCE) for side in size)
    inner = width - 2 * margin_x, height - 2 * margin_y
    centre_x, centre_y = density.centroid
    flush_x = [x + margin_x for window in taken for x in (window.x1 - width, window.x2)]
    flush_y = [y + margin_y for window in taken for y in (window.y1 - height, window.y2)]
    xs = _candidates(density.x_edges, inner[0], picture.width, centre_x, flush_x)
    ys = _candidates(density.y_edges, inner[1], picture.height, centre_y, flush_y)
    lefts = np.clip(xs - margin_x, 0, picture.width - width)
    tops = np.clip(ys - margin_y, 0, picture.height - height)

    masses = density.masses(xs, ys, *inner)
    for window in taken:
        rows = (tops < window.y2) & (tops + height > window.y1)
        columns = (lefts < window.x2) & (lefts + width > window.x1)
        masses[np.ix_(rows, columns)] = -np.inf
    most = masses.max()
    if not most > NO_MASS:
        return None
    middle_x, middle_y = xs + inner[0] / 2, ys + inner[1] / 2
    distances = (middle_y - centre_y)[:, None] ** 2 + (middle_x - centre_x) ** 2
    distances[masses < most * (1 - EQUAL_MASS)] = np.inf
    nearest = distances <= distances.min() + EQUAL_DISTANCE
    row, column = np.argwhere(nearest)[0]  # in reading order: the topmost, then the leftmost
    return _window_at(lefts[column], tops[row], size)


def _fullest_window(density: _Density, size: tuple[int, int], margin: float = 0.0) -> Window:
    """`_best_window` where none is taken: the masses sum to 1, so there is one."""
    window = _best_window(density, size, margin=margin)
    assert window is not None
    return window


def _candidates(
    edges: np.ndarray, window_side: int, picture_side: int, centre: float, flush: list[int]
) -> np.ndarray:
    """Sorted whole-pixel positions along one axis among which the best one is."""
    breakpoints = np.concatenate([edges, edges - window_side, [centre - window_side / 2]])
    last = picture_side - window_side
    positions = np.concatenate([np.floor(breakpoints), np.ceil(breakpoints), flush, [0, last]])
    return np.unique(np.clip(positions, 0, last).astype(int))


def _window_at(x: int, y: int, size: tuple[int, int]) -> Window:
    return Window(int(x), int(y), int(x) + size[0], int(y) + size[1])


def _centred(x: float, y: float, size: tuple[int, int], picture: Window) -> Window:
    """The window of this size centred as nearly on (x, y) as the picture's edges allow."""
    width, height = size
    x1 = min(max(round(x - width / 2), 0), picture.width - width)
    y1 = min(max(round(y - height / 2), 0), picture.height - height)
    return _window_at(x1, y1, size)


def _most_mass(density: _Density, size: tuple[int, int], settings: CropSettings) -> Window:
    return _fullest_window(density, size, settings.margin)


def _around_peak(density: _Density, size: tuple[int, int], settings: CropSettings) -> Window:
    row, column = np.unravel_index(density.strengths.argmax(), density.cells.shape)
    return _centred(density.x_centres[column], density.y_centres[row], size, density.picture)


def _around_top_patches(density: _Density, size: tuple[int, int], settings: CropSettings) -> Window:
    cells = density.cells.ravel()
    count = max(1, round(TOP_FRACTION * cells.size))
    # stable: the first ones in reading order on ties
    strongest = np.argsort(-density.strengths.ravel(), kind="stable")[:count]
    strongest = strongest[cells[strongest] > 0]
    rows, columns = np.unravel_index(strongest, density.cells.shape)
    x1, x2 = _enclosing(density.x_edges, columns)
    y1, y2 = _enclosing(density.y_edges, rows)
    widened = max(x2 - x1, size[0]), max(y2 - y1, size[1])
    widened = _in_multiples(widened, density.evidence.picture_size, settings.multiple_of)
    return _centred((x1 + x2) / 2, (y1 + y2) / 2, widened, density.picture)


def _enclosing(edges: np.ndarray, cells: np.ndarray) -> tuple[int, int]:
    """The whole pixels that enclose these rows or columns of the grid."""
    low, high = edges[cells.min()], edges[cells.max() + 1]
    # The slack: an edge at 24, rounded to 24.0000001, must not be enclosed at 25.
    return int(np.floor(low + 1e-6)), int(np.ceil(high - 1e-6))


def _adaptive(density: _Density, size: tuple[int, int], settings: CropSettings) -> Window:
    """ViCrop's ratio search, in pixels instead of whole patches."""
    windows, limits = [], density.evidence.picture_size
    for ratio in ADAPTIVE_RATIOS:
        larger = [min(round(ratio * side), most) for side, most in zip(size, limits, strict=True)]
        sides = _in_multiples(larger, limits, settings.multiple_of)
        windows.append(_fullest_window(density, sides))
    scores = [_prominence(density, window) for window in windows]
    best = 0
    for later, score in enumerate(scores):
        # A larger ratio wins only if it is better by more than rounding.
        if score > scores[best] + NO_MASS / (size[0] * size[1]):
            best = later
    return windows[best]


def _prominence(density: _Density, window: Window) -> float:
    """Mass per pixel above the mean of the windows one patch to each side; -inf if none fits."""
    share_in, box, picture = density.evidence.share_in, Box(*window), Box(*density.picture)
    step_x, step_y = density.patch_size
    steps = ((-step_x, 0), (step_x, 0), (0, -step_y), (0, step_y))
    shifted = [box.shift(*step) for step in steps]
    neighbours = [share_in(each) for each in shifted if each.intersect(picture) == each]
    if not neighbours:
        return -np.inf
    return (share_in(box) - float(np.mean(neighbours))) / box.area


_PLACEMENTS = {
    "most mass": _most_mass,
    "peak": _around_peak,
    "top patches box": _around_top_patches,
    "adaptive": _adaptive,
}
