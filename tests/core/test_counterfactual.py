"""Step 8 against loops over patches and pixels."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from laser_core.geometry import Box, Grid, Window
from laser_core.results import Evidence, LayerChoice
from laser_core.settings import CounterfactualSettings
from laser_core.steps.counterfactual import block, mask_patches, select_patches
from laser_core.steps.vaq import make_evidence_of_mask

CHOICE = LayerChoice(
    0, torch.ones(1), torch.zeros(1, 1, dtype=torch.int64), {0: 1.0}, "", (0,), count=1
)
PIXEL_FILLS = ("mean", "blur", "noise")
MEAN_COLOUR = (122, 116, 104)


def evidence_of(values, picture_size=None, view=None):
    values = torch.as_tensor(values, dtype=torch.float32)
    rows, columns = values.shape
    picture_size = picture_size or (10 * columns, 10 * rows)
    grid = Grid(rows, columns, view or Box(0, 0, *picture_size))
    return Evidence(values, grid, picture_size, CHOICE)


def patches_taken(settings, evidence, windows=()):
    """The set of (row, column) taken."""
    taken = select_patches(evidence, settings, windows)
    assert (taken.dtype, taken.shape) == (torch.bool, evidence.map.shape)
    return {tuple(cell) for cell in taken.nonzero().tolist()}


def strongest(count, evidence, windows=()):
    """The set of (row, column) taken where the amount is so many patches."""
    share = min(count / evidence.map.numel(), 1.0)
    return patches_taken(CounterfactualSettings(amount=share), evidence, windows)


@st.composite
def evidences(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    width, height = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    edge = st.integers(-12, 12).map(lambda thirds: thirds / 3)
    view = Box(draw(edge), draw(edge), width + draw(edge), height + draw(edge))
    assume(view.width >= 1 and view.height >= 1)
    values = draw(st.lists(st.integers(0, 3), min_size=rows * columns, max_size=rows * columns))
    evidence = evidence_of(np.reshape(values, (rows, columns)), (width, height), view)
    assume(not evidence.degenerate)
    return evidence


@st.composite
def windows_on(draw, picture_size):
    sides = []
    for side in picture_size:
        start = draw(st.integers(0, side - 1))
        sides.append((start, draw(st.integers(start + 1, side))))
    (x1, x2), (y1, y2) = sides
    return Window(x1, y1, x2, y2)


def cells_of(evidence):
    """{(row, column): the patch's rectangle on the picture}, without those beyond it."""
    grid, picture = evidence.grid, Box(0, 0, *evidence.picture_size)
    boxes = {
        cell: grid.cell_box(*cell).intersect(picture)
        for cell in itertools.product(range(grid.rows), range(grid.columns))
    }
    return {cell: box for cell, box in boxes.items() if box.area > 1e-9}


# Patches


@given(evidences(), st.integers(0, 30), st.data())
def test_the_strongest_patches_that_count_are_taken(evidence, count, data):
    windows = data.draw(st.lists(windows_on(evidence.picture_size), max_size=2))
    boxes = {c: b for c, b in cells_of(evidence).items() if evidence.map[c] > 0}
    if windows:
        inside = {c: max(b.intersect(Box(*w)).area for w in windows) for c, b in boxes.items()}
        mostly = {c for c, area in inside.items() if area > boxes[c].area / 2 + 1e-6}
        touching = {c for c, area in inside.items() if area > 1e-9}
        counting = mostly or touching
    else:
        counting = set(boxes)
    ranked = sorted(counting, key=lambda cell: (-float(evidence.map[cell]), cell))
    expected = set(ranked[: max(1, count)])
    assert strongest(count, evidence, windows) == expected


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 1), (0.05, 5), (0.104, 10), (1.0, 100)])
def test_a_fraction_is_a_share_of_all_patches_but_at_least_one(fraction, count):
    evidence = evidence_of(torch.arange(1, 101).reshape(10, 10))
    assert len(patches_taken(CounterfactualSettings(amount=fraction), evidence)) == count


def test_a_fraction_counts_patches_beyond_the_picture_too():
    evidence = evidence_of(torch.ones(10, 10), (100, 50), Box(0, -25, 100, 75))
    assert len(patches_taken(CounterfactualSettings(amount=0.1), evidence)) == 10


def test_patches_without_evidence_are_never_taken():
    evidence = evidence_of([[0, 2], [1, 0]])
    assert strongest(4, evidence) == {(0, 1), (1, 0)}


def test_of_equal_patches_the_first_in_reading_order_are_taken():
    first = {divmod(index, 24) for index in range(30)}
    assert strongest(30, evidence_of(torch.ones(24, 24))) == first


def test_a_patch_entirely_on_the_padding_is_never_taken():
    evidence = evidence_of([[9, 9], [1, 2]], (20, 10), Box(0, -10, 20, 10))
    assert strongest(4, evidence) == {(1, 0), (1, 1)}


def test_a_patch_that_rounding_leaves_a_sliver_of_the_picture_is_never_taken():
    # The last column begins at 2, the picture's edge, which comes out as 1.9999999999999996.
    evidence = evidence_of([[0, 1, 9]], (2, 1), Box(-10 / 3, 0, 4.666666666666666, 1))
    assert evidence.grid.x_edges[2] < 2
    assert strongest(2, evidence) == {(0, 1)}


def test_a_patch_partly_on_the_padding_counts_by_its_part_on_the_picture():
    # Patches 10 pixels high, of which the upper row has 4 on the picture, all in the window.
    evidence = evidence_of([[3], [1]], (10, 14), Box(0, -6, 10, 14))
    assert strongest(1, evidence, [Window(0, 0, 10, 6)]) == {(0, 0)}


def test_patches_outside_the_window_are_not_taken_however_strong():
    evidence = evidence_of([[9, 1, 2, 9]])
    assert strongest(4, evidence, [Window(10, 0, 30, 10)]) == {(0, 1), (0, 2)}


def test_a_patch_of_which_the_smaller_part_lies_inside_is_left_out():
    evidence = evidence_of([[1, 9]])
    assert strongest(2, evidence, [Window(0, 0, 14, 10)]) == {(0, 0)}
    assert strongest(2, evidence, [Window(0, 0, 16, 10)]) == {(0, 0), (0, 1)}


def test_a_patch_cut_in_equal_halves_is_left_out():
    evidence = evidence_of([[1, 9]])
    assert strongest(2, evidence, [Window(0, 0, 15, 10)]) == {(0, 0)}


def test_a_patch_that_only_touches_the_window_is_taken_where_none_lies_inside():
    evidence = evidence_of([[0, 9]])
    assert strongest(2, evidence, [Window(0, 0, 14, 10)]) == {(0, 1)}


def test_patches_in_any_of_several_windows_are_taken():
    evidence = evidence_of([[1, 9, 1]])
    windows = [Window(0, 0, 10, 10), Window(20, 0, 30, 10)]
    assert strongest(3, evidence, windows) == {(0, 0), (0, 2)}


def test_a_window_without_evidence_gives_no_patches():
    assert not strongest(3, evidence_of([[0, 0, 9]]), [Window(0, 0, 10, 10)])


def test_a_mask_is_taken_whole_whatever_the_amount():
    mask = torch.zeros(6, 8)
    mask[2:5, 3:7] = 0.5
    evidence = make_evidence_of_mask(mask)
    settings = CounterfactualSettings(amount=0.0)
    assert torch.equal(select_patches(evidence, settings), mask > 0)
    inside = select_patches(evidence, settings, [Window(0, 0, 5, 6)])
    assert torch.equal(inside.nonzero()[:, 1].unique(), torch.tensor([3, 4]))


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_degenerate_map_is_refused_with_the_remedy(value):
    with pytest.raises(ValueError, match="answer without a counterfactual"):
        select_patches(evidence_of([[value, 0]]), CounterfactualSettings())


# Mask


def reference_mask(patches, evidence):
    """Pixel by pixel: 1 on a patch, its edges rounded."""
    width, height = evidence.picture_size
    mask = np.zeros((height, width))
    for cell, box in cells_of(evidence).items():
        if not patches[cell]:
            continue
        x1, y1, x2, y2 = (math.floor(edge + 0.5 + 1e-6) for edge in box)
        if x1 == x2:
            x1 = min(math.floor((box.x1 + box.x2) / 2 + 1e-6), width - 1)
            x2 = x1 + 1
        if y1 == y2:
            y1 = min(math.floor((box.y1 + box.y2) / 2 + 1e-6), height - 1)
            y2 = y1 + 1
        for y, x in itertools.product(range(height), range(width)):
            if x1 <= x < x2 and y1 <= y < y2:
                mask[y, x] = 1
    return mask


@given(evidences(), st.data())
def test_the_mask_covers_the_patches_and_nothing_else(evidence, data):
    count = evidence.map.numel()
    chosen = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    patches = torch.tensor(chosen).reshape(evidence.map.shape)
    mask = mask_patches(patches, evidence)
    assert mask.dtype == torch.float32
    np.testing.assert_array_equal(mask.numpy(), reference_mask(patches, evidence))


def test_neighbouring_patches_leave_no_gap_and_no_overlap():
    evidence = evidence_of(torch.ones(7, 9), (100, 100))
    covered = torch.zeros(100, 100)
    for cell in itertools.product(range(7), range(9)):
        patches = torch.zeros(7, 9, dtype=torch.bool)
        patches[cell] = True
        covered += mask_patches(patches, evidence)
    assert torch.equal(covered, torch.ones(100, 100))


def test_a_patch_smaller_than_a_pixel_blocks_one():
    evidence = evidence_of(torch.ones(24, 24), (5, 5))
    for cell in itertools.product(range(24), range(24)):
        patches = torch.zeros(24, 24, dtype=torch.bool)
        patches[cell] = True
        assert mask_patches(patches, evidence).sum() == 1


def test_a_painted_mask_comes_back_as_it_was():
    mask = (torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    evidence = make_evidence_of_mask(mask)
    patches = select_patches(evidence, CounterfactualSettings())
    assert torch.equal(mask_patches(patches, evidence), mask)


# Fill


def picture_and_mask(seed=0):
    """A picture of noise, and a mask that is 1 in the middle and 0 elsewhere."""
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    mask = torch.zeros(40, 50)
    mask[10:30, 10:40] = 1
    return Image.fromarray(pixels), mask


def blocked_pixels(fill, mask=None):
    picture, standard_mask = picture_and_mask()
    mask = standard_mask if mask is None else mask
    return np.asarray(block(picture, mask, CounterfactualSettings(fill=fill), MEAN_COLOUR))


@pytest.mark.parametrize("fill", PIXEL_FILLS)
def test_pixels_outside_the_mask_stay_as_they_are(fill):
    picture, mask = picture_and_mask()
    outside = mask.numpy() == 0
    np.testing.assert_array_equal(blocked_pixels(fill)[outside], np.asarray(picture)[outside])


def test_the_mean_colour_replaces_what_is_blocked():
    _, mask = picture_and_mask()
    inside = blocked_pixels("mean")[mask.numpy() == 1]
    np.testing.assert_array_equal(inside, np.broadcast_to(MEAN_COLOUR, inside.shape))


def test_noise_is_the_same_every_time():
    np.testing.assert_array_equal(blocked_pixels("noise"), blocked_pixels("noise"))


def test_noise_takes_every_value_about_equally_often():
    picture = Image.new("RGB", (400, 400))
    settings = CounterfactualSettings(fill="noise")
    noise = np.asarray(block(picture, torch.ones(400, 400), settings, MEAN_COLOUR))
    counts = np.bincount(noise.ravel(), minlength=256) / noise.size * 256
    assert counts.min() > 0.85
    assert counts.max() < 1.15


def test_noise_leaves_the_global_generators_alone():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    blocked_pixels("noise")
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


@pytest.mark.parametrize("period", [2, 4, 8, 16, 32, 64])
def test_blur_leaves_under_one_percent_of_any_pattern_as_small_as_the_area(period):
    wave = 127.5 + 127.5 * np.sin(2 * np.pi * np.arange(512) / period + 0.3)
    picture = Image.fromarray(np.rint(np.broadcast_to(wave, (512, 512))).astype(np.uint8))
    picture = picture.convert("RGB")
    mask = torch.zeros(512, 512)
    mask[224:288, 224:288] = 1
    settings = CounterfactualSettings(fill="blur")
    blurred = np.asarray(block(picture, mask, settings, MEAN_COLOUR))[224:288, 224:288]
    one_percent, rounding = 2.55, 1
    assert int(blurred.max()) - int(blurred.min()) <= one_percent + rounding


def test_blur_hides_a_single_pixel():
    picture = Image.new("RGB", (31, 31))
    picture.putpixel((15, 15), (255, 255, 255))
    mask = torch.zeros(31, 31)
    mask[15, 15] = 1
    blurred = block(picture, mask, CounterfactualSettings(fill="blur"), MEAN_COLOUR)
    assert max(blurred.getpixel((15, 15))) <= 4


def test_blur_keeps_the_surroundings_colour():
    picture = Image.new("RGB", (60, 60), (200, 40, 90))
    mask = torch.zeros(60, 60)
    mask[20:40, 20:40] = 1
    blurred = block(picture, mask, CounterfactualSettings(fill="blur"), MEAN_COLOUR)
    np.testing.assert_allclose(np.asarray(blurred), np.asarray(picture), atol=1)


@pytest.mark.parametrize("fill", PIXEL_FILLS)
def test_the_picture_given_is_not_changed(fill):
    picture, mask = picture_and_mask()
    before = picture.tobytes()
    block(picture, mask, CounterfactualSettings(fill=fill), MEAN_COLOUR)
    assert picture.tobytes() == before


@pytest.mark.parametrize("fill", PIXEL_FILLS)
def test_an_empty_mask_gives_the_picture_itself(fill):
    picture, _ = picture_and_mask()
    result = blocked_pixels(fill, torch.zeros(40, 50))
    np.testing.assert_array_equal(result, np.asarray(picture))


def test_visual_tokens_fill_no_picture():
    picture, mask = picture_and_mask()
    with pytest.raises(ValueError, match=r"choose fill mean, blur or noise.*model's run"):
        block(picture, mask, CounterfactualSettings(fill="visual tokens"), MEAN_COLOUR)


def test_a_mask_of_another_size_is_refused_with_both_sizes():
    picture, _ = picture_and_mask()
    with pytest.raises(ValueError, match="it is 64x32 but the picture is 50x40"):
        block(picture, torch.zeros(32, 64), CounterfactualSettings(), MEAN_COLOUR)
