"""Pictures: the heat map lies where the model looked, and drawings show what they claim."""

from __future__ import annotations

import dataclasses
import gc
import math
import sys
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from matplotlib.backends import backend_agg
from matplotlib.colors import to_rgb
from PIL import Image

from laser_core.geometry import Box, Grid, Window, whole_picture
from laser_core.output.drawing import (
    CHOSEN_COLOUR,
    FUSED_COLOUR,
    WINDOW_COLOUR,
    at_drawn_size,
    drawing,
    overlay,
    vaq_chart,
)
from laser_core.output.heat import heat_colours, heat_map
from laser_core.output.layer_sheet import layer_sheet
from laser_core.results import AttentionMaps, Evidence, LayerChoice, Location, Placement
from laser_core.settings import CropSettings, LaserSettings
from laser_core.steps.crop import place_windows
from laser_core.steps.vaq import make_evidence_of_mask
from tools.testbed.lvlms import noise_picture

MARGIN_PX = 14  # of the drawing around the picture


def evidence_of(cells, size=(96, 64), view=None):
    cells = torch.as_tensor(cells, dtype=torch.float32)
    view = view or Box(0, 0, *size)
    return Evidence(cells, Grid(*cells.shape, view), size)


def random_cells(rows=4, columns=6, seed=0):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) + 0.01


def choice_of(vaq, layer=0, weights=None):
    vaq = torch.as_tensor(vaq, dtype=torch.float32)
    heads = torch.zeros(len(vaq), 1, dtype=torch.long)
    weights, numbers = weights or {layer: 1.0}, tuple(range(len(vaq)))
    return LayerChoice(
        layer, vaq, heads, weights, f"layer {layer}: because", numbers, count=len(vaq)
    )


def location_of(evidence, windows=(), colour=(128, 128, 128)):
    size = evidence.picture_size
    windows = tuple(windows) or (whole_picture(size),)
    evidence = dataclasses.replace(evidence, choice=choice_of([0.1, 0.2], 1))
    maps = AttentionMaps(*torch.zeros(2, 2, 1, *evidence.map.shape), evidence.grid, size)
    placement = Placement(windows, tuple(0.5 for _ in windows))
    return Location(
        picture=Image.new("RGB", size, colour),
        inputs=None,
        question="",
        settings=LaserSettings(),
        maps=maps,
        evidence=evidence,
        placement=placement,
    )


def slow_heat(evidence):
    """Bilinear between cell centres, pixel by pixel, and nothing outside the view."""
    width, height = evidence.picture_size
    grid, view = evidence.grid, evidence.grid.view
    cell_width, cell_height = grid.cell_size
    heat = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            if not (view.x1 <= x + 0.5 < view.x2 and view.y1 <= y + 0.5 < view.y2):
                continue
            column = min(max((x + 0.5 - view.x1) / cell_width - 0.5, 0), grid.columns - 1)
            row = min(max((y + 0.5 - view.y1) / cell_height - 0.5, 0), grid.rows - 1)
            for r in (math.floor(row), math.ceil(row)):
                for c in (math.floor(column), math.ceil(column)):
                    weight_r = 1 if row == math.floor(row) else 1 - abs(row - r)
                    weight_c = 1 if column == math.floor(column) else 1 - abs(column - c)
                    twice = (row == math.floor(row)) + (column == math.floor(column))
                    heat[y, x] += weight_r * weight_c * float(evidence.map[r, c]) / 2**twice
    return heat / heat.max()


@pytest.mark.parametrize(
    "size, view",
    [((96, 64), None), ((33, 77), None), ((60, 40), Box(10, 0, 50, 40)), ((7, 50), None)],
)
def test_heat_map_equals_a_pixelwise_reference(size, view):
    evidence = evidence_of(random_cells(), size, view)
    torch.testing.assert_close(
        heat_map(evidence).numpy(), slow_heat(evidence).astype(np.float32), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(96, 64), (1, 2000), (2000, 1), (5, 3), (1, 1)])
def test_heat_map_has_the_pictures_size_and_maximum_1(size):
    heat = heat_map(evidence_of(random_cells(), size))
    assert heat.shape == (size[1], size[0])
    assert heat.dtype == torch.float32
    assert heat.min() >= 0
    assert float(heat.max()) == 1


def test_heat_map_is_zero_where_the_model_saw_nothing():
    heat = heat_map(evidence_of(random_cells(), (100, 50), Box(25, 0, 75, 50)))
    assert not heat[:, :25].any()
    assert not heat[:, 75:].any()
    assert heat[:, 25:75].all()


def test_patches_in_the_padding_do_not_shine_into_the_picture():
    cells = random_cells(4, 4)
    padded = Box(0, -32, 64, 32)  # the upper two rows lie above a 64 x 32 picture
    bright = cells.clone()
    bright[:2] = 100.0
    heats = [heat_map(evidence_of(map_, (64, 32), padded)) for map_ in (cells, bright)]
    assert torch.equal(*heats)


@pytest.mark.parametrize("cells", [torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
def test_a_degenerate_heat_map_is_zero(cells):
    assert not heat_map(evidence_of(cells)).any()


def near(pixels, colour, tolerance=40):
    """(H, W) bool: pixels of this colour."""
    target = np.array(to_rgb(colour)) * 255
    return np.abs(np.asarray(pixels, dtype=float) - target).max(-1) <= tolerance


@pytest.mark.parametrize("size", [(640, 480), (100, 80), (3000, 2000)])
def test_the_window_is_outlined_at_its_place(size):
    width, height = size
    window = Window(width // 4, height // 5, width // 2, height // 2)
    drawing = overlay(location_of(evidence_of(random_cells(), size), [window]))
    scale = min(max(width, 560), 1024) / width
    rows, columns = np.nonzero(near(drawing, WINDOW_COLOUR))
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = [MARGIN_PX + scale * edge for edge in window]
    assert np.abs(np.array(found) - expected).max() < 5


@pytest.mark.parametrize("row, column", [(0, 0), (1, 4), (3, 5)])
def test_the_hottest_place_of_the_overlay_is_the_strongest_patch(row, column):
    cells = torch.zeros(4, 6)
    cells[row, column] = 1
    location = location_of(evidence_of(cells, (600, 400)), [Window(0, 0, 600, 400)], (0, 0, 0))
    drawing = np.asarray(overlay(location), dtype=int)[: MARGIN_PX + 400, : MARGIN_PX + 600]
    drawing = drawing[MARGIN_PX:, MARGIN_PX:].copy()
    drawing[near(drawing, WINDOW_COLOUR, 120)] = 0
    y, x = np.unravel_index(drawing[..., 0].argmax(), drawing.shape[:2])
    assert (y // 100, x // 100) == (row, column)


@pytest.mark.parametrize(
    "size", [(1, 2000), (2000, 1), (1600, 100), (33, 77), (4000, 3000), (1, 1)]
)
def test_any_shape_of_picture_is_drawn_legibly(size):
    drawing = overlay(location_of(evidence_of(random_cells(), size)))
    assert drawing.mode == "RGB"
    assert 460 <= drawing.width <= 1400
    assert drawing.height <= 1600


def test_a_degenerate_map_leaves_the_picture_as_it_is():
    location = location_of(evidence_of(torch.zeros(3, 3), (600, 400)), colour=(10, 200, 90))
    drawing = np.asarray(overlay(location))
    picture = drawing[MARGIN_PX : MARGIN_PX + 400, MARGIN_PX : MARGIN_PX + 600]
    assert (picture == (10, 200, 90)).all()


def test_what_the_model_did_not_see_is_striped():
    evidence = evidence_of(random_cells(), (600, 400), Box(100, 0, 500, 400))
    location = location_of(evidence, [Window(200, 100, 400, 300)], (255, 255, 255))
    drawing = np.asarray(overlay(location))[MARGIN_PX : MARGIN_PX + 400]
    unseen, seen = drawing[:, MARGIN_PX : MARGIN_PX + 99], drawing[:, MARGIN_PX + 101 :][:, :90]
    assert set(np.unique(unseen)) == {40, 110}
    assert seen.min() > 110


@pytest.mark.parametrize("layers", [1, 8, 32, 64])
def test_the_chart_has_a_bar_per_layer_and_marks_the_chosen_one(layers):
    vaq = torch.rand(layers, generator=torch.Generator().manual_seed(layers)) + 0.2
    chosen = int(vaq.argmax())
    chart = np.asarray(vaq_chart(choice_of(vaq, chosen)))
    above_the_axis = chart[364, 95:]  # right of the spine
    inked = np.flatnonzero(np.diff((above_the_axis < 250).any(-1), prepend=False, append=False))
    middles = (inked[::2] + inked[1::2]) // 2  # a bar's edges come in pairs
    assert len(middles) == layers
    marked = near(above_the_axis[middles], CHOSEN_COLOUR)
    assert np.flatnonzero(marked).tolist() == [chosen]


def test_fused_layers_have_a_colour_of_their_own():
    chart = vaq_chart(choice_of([0.3, 0.2, 0.1], 0, {0: 0.6, 1: 0.4}))
    assert near(chart, FUSED_COLOUR).sum() > 1000
    assert near(vaq_chart(choice_of([0.3, 0.2, 0.1])), FUSED_COLOUR).sum() < 100


@pytest.mark.parametrize("vaq", [[0.0, 0.0], [math.nan, 0.1], [math.inf, math.nan]])
def test_the_chart_survives_scores_that_are_zero_or_not_finite(vaq):
    assert vaq_chart(choice_of(vaq)).width == 900


def test_drawing_uses_no_global_state_of_matplotlib():
    vaq_chart(choice_of([0.1, 0.2]))
    assert "matplotlib.pyplot" not in sys.modules


# ---- what stands alone -------------------------------------------------------------------------


def framed(sheet: Image.Image) -> tuple[int, int]:
    """(row, column) among 2 x 2 quarters of the sheet, of the frame's colour."""
    pixels = np.asarray(sheet).astype(int)
    marked = np.abs(pixels - (np.array(to_rgb(CHOSEN_COLOUR)) * 255).round()).sum(-1) < 6
    rows, columns = np.nonzero(marked)
    return int(rows.mean() > sheet.height / 2), int(columns.mean() > sheet.width / 2)


@pytest.mark.parametrize("best", range(4))
def test_the_sheet_frames_the_layer_of_the_highest_vaq(best):
    vaq = [0.1, 0.2, 0.3, math.nan]
    vaq[best] = 0.9
    grid = Grid(4, 6, Box(0, 0, 96, 96))
    sheet = layer_sheet(
        Image.new("RGB", (96, 96), "grey"), torch.rand(4, 4, 6), grid, vaq, range(4)
    )
    assert framed(sheet) == divmod(best, 2)


@pytest.mark.parametrize("size, layers", [((900, 600), 64), ((50, 2000), 3), ((1, 1), 1)])
def test_the_sheet_has_room_for_every_tile_and_label(size, layers):
    maps = torch.rand(layers, 3, 3)
    maps[0] = math.nan
    grid = Grid(3, 3, Box(0, 0, *size))
    sheet = layer_sheet(Image.new("RGB", size), maps, grid, [math.nan] * layers, range(layers))
    assert 400 < sheet.width < 3000
    assert sheet.height < 3000


def test_a_drawing_of_a_window_without_evidence_has_the_window_and_no_colour_bar():
    picture = Image.new("RGB", (600, 400), "grey")
    window = Window(100, 100, 300, 300)
    plain = drawing(picture)
    drawn = drawing(picture, None, Placement((window,), (0.0,)))
    cyan = np.array(to_rgb(WINDOW_COLOUR)) * 255
    near = [np.abs(np.asarray(one).astype(int) - cyan).sum(-1).min() for one in (plain, drawn)]
    assert near[0] > 100 > 12 > near[1]
    evidence = evidence_of(random_cells(), (600, 400))
    assert drawing(picture, evidence).height > plain.height


def test_a_picture_at_its_drawn_size_is_drawn_alike():
    pixels = np.random.default_rng(1).integers(0, 256, (1500, 2100, 3), dtype=np.uint8)
    picture, evidence = Image.fromarray(pixels), evidence_of(random_cells(), (2100, 1500))
    small = at_drawn_size(picture)
    assert max(small.size) == 1024
    whole, again = (np.asarray(drawing(one, evidence), dtype=int) for one in (picture, small))
    assert np.abs(whole - again).max() <= 1  # of the colour bar, on the picture's mean grey
    assert at_drawn_size(Image.new("RGB", (90, 60))).size == (90, 60)


def test_the_palette_covers_more_the_hotter_it_is():
    colours, cover = heat_colours()
    assert len(colours) == 3 * 256
    assert list(cover) == sorted(cover)
    assert 0 < cover[0] < cover[255] < 255


def wide_drawing():
    """What a drawing is made of whose picture has the pixels of 720p video."""
    mask = torch.zeros(720, 1280)
    mask[200:300, 400:600] = 1
    found = make_evidence_of_mask(mask)
    return noise_picture((1280, 720)), found, place_windows(found, CropSettings())


def test_a_drawing_takes_at_most_ten_times_its_bytes_while_it_is_made():
    given = wide_drawing()
    own = np.asarray(drawing(*given)).nbytes
    tracemalloc.start()
    try:
        drawing(*given)
        assert tracemalloc.get_traced_memory()[1] <= 10 * own
    finally:
        tracemalloc.stop()


def test_a_drawings_pixels_are_freed_without_garbage_collection(monkeypatch):
    """Counted, not weighed: a process also grows by what its allocator keeps."""
    made, make = [], backend_agg._RendererAgg

    def remembered(*size):
        pixels = make(*size)
        made.append(weakref.ref(pixels))
        return pixels

    monkeypatch.setattr(backend_agg, "_RendererAgg", remembered)
    gc.disable()
    try:
        drawing(*wide_drawing())
        assert made
        assert not [held for held in made if held()]
    finally:
        gc.enable()
