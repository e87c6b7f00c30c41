"""Methods by name against the published codes' own output and against formulas by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from laser_core.evaluation.faithfulness import Likelihood, area, curves, patches_in_order
from laser_core.evaluation.methods import (
    CARVE_LAYERS,
    METHODS,
    VICROP_LAYER,
    carve_mask,
    read_for_methods,
    vicrop_window,
)
from laser_core.evaluation.metrics import mass_in, peak, points_at
from laser_core.geometry import Box, Grid, Window
from laser_core.output.masks import box_of
from laser_core.pipeline import locate
from laser_core.recipes.high_resolution import blocks_of, read_finely
from laser_core.results import Evidence
from laser_core.settings import CropSettings, LaserSettings, PromptSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, next_logits

QUESTION = "What color is the square?"
SMALL = replace(LaserSettings(), crop=CropSettings(min_side_px=20))
GENERIC_TEXT = "generic question"
GENERIC = PromptSettings(query_free=GENERIC_TEXT)


def cells(rows, columns, seed):
    return np.random.default_rng(seed).random((rows, columns)) ** 4


def smooth(height, width, seed):
    """Random strengths with regions: a box filter of nine, twice along each axis."""
    values, kernel = np.random.default_rng(seed).random((height, width)), np.ones(9) / 9
    for _ in range(2):
        for axis in (0, 1):
            values = np.apply_along_axis(np.convolve, axis, values, kernel, "same")
    return values


# ---- the published codes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "size", "side", "published"),
    [
        ((24, 24, 0), (672, 672), 336, (28, 0, 364, 336)),
        ((24, 24, 1), (1000, 700), 336, (664, 167, 1000, 503)),
        ((24, 24, 2), (300, 260), 336, (0, 0, 300, 260)),
        ((17, 30, 3), (1680, 952), 224, (168, 224, 392, 448)),
        ((30, 12, 4), (600, 1500), 224, (88, 688, 312, 912)),
        ((24, 24, 5), (2250, 1500), 336, (722, 675, 1058, 1011)),
    ],
)
def test_vicrops_window_is_that_of_its_published_code(shape, size, side, published):
    """What bbox_from_att_image_adaptive of saccharomycetes/mllms_know gives for these maps."""
    assert vicrop_window(cells(*shape), size, side) == Window(*published)


@pytest.mark.parametrize(
    ("shape", "box", "pixels"),
    [
        ((60, 90, 0), (9, 5, 84, 55), 941),
        ((48, 48, 1), (7, 7, 42, 42), 461),
        ((200, 64, 2), (7, 31, 56, 156), 1244),
    ],
)
def test_carves_regions_are_those_of_its_published_code(shape, box, pixels):
    """What create_attention_mask of YuyaoGe/CARVE keeps of these maps."""
    mask = carve_mask(smooth(*shape))
    assert box_of(torch.from_numpy(mask)) == Window(*box)
    assert mask.sum() == pixels


@pytest.mark.parametrize(
    ("size", "down", "across"),
    [((2250, 1500), 2, 3), ((1690, 1500), 2, 2), ((5759, 1440), 2, 7), ((1000, 700), 1, 1)],
)
def test_a_picture_is_cut_into_as_many_blocks_as_vicrop_cuts(size, down, across):
    blocks = blocks_of(size)
    assert (len(blocks), len(blocks[0])) == (down, across)
    covered = np.zeros(size[::-1], int)
    for line in blocks:
        for block in line:
            covered[block.y1 : block.y2, block.x1 : block.x2] += 1
    assert (covered == 1).all()


# ---- maps --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lvlm():
    return lvlm_of("llava", layers=5)


@pytest.fixture(scope="module")
def picture():
    return noise_picture((80, 80))


@pytest.fixture(scope="module")
def reading(lvlm, picture):
    return read_for_methods(lvlm, picture, QUESTION, SMALL, item="1")


def test_ratios_of_both_published_methods_are_those_of_eager_attention(lvlm, reading):
    asked, generic = (
        eager_rows(lvlm, reading.prompts[index]).mean(dim=1).unflatten(-1, (6, 6))
        for index in (0, 2)
    )
    ratios = asked / generic
    vicrop = METHODS["vicrop"].find(reading).evidence.map
    layer = round(VICROP_LAYER[0] * 4 / 31)
    torch.testing.assert_close(vicrop, ratios[layer], rtol=1e-4, atol=1e-6)
    first, last = (round(layer * 4 / 31) for layer in CARVE_LAYERS)
    carve = METHODS["carve"].find(reading).evidence.map
    torch.testing.assert_close(carve, ratios[first : last + 1].sum(0), rtol=1e-4, atol=1e-6)


def test_one_reading_gives_what_laser_reads_alone(lvlm, picture, reading):
    found = locate(lvlm, picture, QUESTION, SMALL)
    laser = METHODS["laser"].find(reading)
    torch.testing.assert_close(laser.evidence.map, found.evidence.map, rtol=1e-4, atol=1e-7)
    assert laser.window == found.windows[0]
    maps = read_attention(lvlm, picture, QUESTION, GENERIC)
    torch.testing.assert_close(reading.rows[2], maps.without_query, rtol=1e-4, atol=1e-7)


def test_read_at_moves_the_reading_of_all_methods_to_a_drafts_end(lvlm, picture, reading):
    later = replace(SMALL, prompt=PromptSettings(read_at="last token"))
    drafted = read_for_methods(lvlm, picture, QUESTION, later)
    for index, prompt in ((1, later.prompt), (2, replace(later.prompt, query_free=GENERIC_TEXT))):
        maps = read_attention(lvlm, picture, QUESTION, prompt)
        torch.testing.assert_close(drafted.rows[0], maps.with_query, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(drafted.rows[index], maps.without_query, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(drafted.rows[0], reading.rows[0])


def test_max_takes_the_largest_share_of_any_layer(reading):
    layers = torch.relu(reading.rows[0] - reading.rows[1]).mean(dim=1)
    shares = layers / layers.sum((1, 2), keepdim=True)
    torch.testing.assert_close(METHODS["max"].find(reading).evidence.map, shares.amax(0))


def test_carve_shows_nothing_but_its_regions(picture, reading):
    found = METHODS["carve"].find(reading)
    shown, there = np.asarray(found.crop), np.asarray(picture.crop(found.window))
    black = (shown == 0).all(-1)
    assert 0 < black.mean() < 1
    assert (shown[~black] == there[~black]).all()


def test_what_is_drawn_at_random_is_the_same_for_the_same_item(reading):
    one, same = (METHODS["random"].find(reading) for _ in range(2))
    other = METHODS["random"].find(replace(reading, item="2"))
    assert one.window == same.window and torch.equal(one.evidence.map, same.evidence.map)
    assert not torch.equal(one.evidence.map, other.evidence.map)
    assert (one.window.width, one.window.height) == (40, 40)


def test_the_centre_is_the_middle_of_the_picture_and_not_of_its_padding(lvlm):
    found = METHODS["centre"].find(
        read_for_methods(lvlm, noise_picture((120, 60)), QUESTION, SMALL)
    )
    assert found.window == Window(30, 15, 90, 45)
    x, y = peak(found.evidence)
    assert abs(x - 60) <= 20 and abs(y - 30) <= 20


# ---- high resolution ---------------------------------------------------------------------------


def test_blocks_are_stitched_in_their_places(lvlm, monkeypatch):
    monkeypatch.setattr("laser_core.recipes.high_resolution.BLOCK_PX", 40)
    picture = noise_picture((80, 80))
    maps = read_finely(picture)(lvlm, picture, QUESTION)
    assert maps.grid == Grid(12, 12, Box(0, 0, 80, 80))
    for row, column in ((0, 1), (1, 0)):
        block = picture.crop((40 * column, 40 * row, 40 * column + 40, 40 * row + 40))
        own = read_attention(lvlm, block, QUESTION)
        part = maps.with_query[:, :, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6]
        torch.testing.assert_close(part, own.with_query)


def test_a_blocks_padding_is_left_out_and_the_rest_keeps_its_mass(lvlm, monkeypatch):
    """Blocks of 3 to 2 on a square of 6 x 6 patches: a patch above and below is padding."""
    monkeypatch.setattr("laser_core.recipes.high_resolution.BLOCK_PX", 40)
    picture = noise_picture((60, 80))  # two blocks of 60 x 40, one above the other
    maps = read_finely(picture)(lvlm, picture, QUESTION)
    own = read_attention(lvlm, picture.crop((0, 0, 60, 40)), QUESTION).with_query
    upper = maps.with_query[:, :, :6]
    torch.testing.assert_close(upper.sum((-2, -1)), own[:, :, 1:5].sum((-2, -1)))
    torch.testing.assert_close(upper[:, :, 0], own[:, :, 1] * 2 / 3)


@pytest.mark.parametrize("size", [(90, 60), (61, 90), (200, 50)])
def test_tiles_lie_where_their_pixels_come_from(size):
    """A picture whose colours are its coordinates, as the library's processor lays it on tiles."""
    lvlm = lvlm_of("llava_next")
    width, height = size
    ys, xs = np.mgrid[:height, :width]
    ramp = np.stack([xs * 255 / (width - 1), ys * 255 / (height - 1), 0 * xs], -1)
    inputs = lvlm.encode(ramp.round().astype(np.uint8))
    tokens, grid = inputs.tiles
    processor, config = lvlm.image_processor, lvlm.model.config
    tile = config.vision_config.image_size
    tiles = inputs.tensors["pixel_values"][
        0, 1:
    ].float()  # (n, 3, tile, tile), after the whole view
    values = tiles * torch.tensor(processor.image_std)[:, None, None]
    values = (values + torch.tensor(processor.image_mean)[:, None, None]).clamp(0, 1)
    from transformers.image_processing_utils import select_best_resolution

    best = select_best_resolution(size[::-1], config.image_grid_pinpoints)
    down, across = best[0] // tile, best[1] // tile
    whole = values.unflatten(0, (down, across)).permute(2, 0, 3, 1, 4).reshape(3, *best)
    patch = config.vision_config.patch_size
    means = torch.nn.functional.avg_pool2d(whole, patch)
    cut_y, cut_x = (means.shape[1] - grid.rows) // 2, (means.shape[2] - grid.columns) // 2
    inside = means[:, cut_y : cut_y + grid.rows, cut_x : cut_x + grid.columns]
    assert tokens.stop - tokens.start == grid.rows * (grid.columns + 1)
    row, column = grid.rows // 2, grid.columns // 2  # not at an edge, where padding mixes in
    x, y = grid.cell_box(row, column).centre
    cell_width, cell_height = grid.cell_size
    assert float(inside[0, row, column]) * (width - 1) + 0.5 == pytest.approx(x, abs=cell_width / 4)
    assert float(inside[1, row, column]) * (height - 1) + 0.5 == pytest.approx(
        y, abs=cell_height / 4
    )


def test_tiles_are_read_without_the_tokens_that_end_their_rows():
    lvlm, picture = lvlm_of("llava_next"), noise_picture()
    tokens, grid = lvlm.encode(picture).tiles
    maps = read_finely(picture)(lvlm, picture, QUESTION)
    inputs = lvlm.encode(picture)
    whole = replace(inputs, map_tokens=tokens)
    asked = lvlm.branch_prompts(whole, QUESTION, PromptSettings())[0]
    rows = eager_rows(lvlm, asked).unflatten(-1, (grid.rows, grid.columns + 1))[..., :-1]
    torch.testing.assert_close(maps.with_query, rows, rtol=1e-4, atol=1e-6)
    assert maps.grid == grid


# ---- what they are worth -----------------------------------------------------------------------


def test_mass_in_boxes_that_overlap_is_that_of_painted_pixels():
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.random((4, 5)), dtype=torch.float32)
    found = Evidence(values, Grid(4, 5, Box(0, 0, 50, 40)), (50, 40))
    pixels = np.kron(values.double().numpy(), np.ones((10, 10)))
    boxes = [Box(3, 4, 27, 31), Box(20, 10, 45, 22)]
    painted = np.zeros(pixels.shape, bool)
    for x1, y1, x2, y2 in boxes:
        painted[int(y1) : int(y2), int(x1) : int(x2)] = True
    assert mass_in(found, boxes) == pytest.approx(pixels[painted].sum() / pixels.sum())


def test_a_peak_in_the_padding_does_not_count():
    values = torch.tensor([[9.0, 1.0], [2.0, 3.0]])
    found = Evidence(values, Grid(2, 2, Box(-10, 0, 10, 20)), (10, 20))
    assert peak(found) == (5, 15)
    assert points_at(found, [Box(0, 10, 10, 20)]) and not points_at(found, [Box(0, 0, 10, 10)])


def test_an_answers_likelihood_is_that_of_the_blocked_picture_read_from_scratch(lvlm, picture):
    likelihood = Likelihood(lvlm, picture, QUESTION, "red", SMALL)
    mask = torch.zeros(80, 80)
    mask[10:50, 30:] = 1
    pixels = np.asarray(picture).copy()
    pixels[10:50, 30:] = lvlm.mean_colour
    prompt = lvlm.answer_prompt([lvlm.encode(pixels)], QUESTION, SMALL)
    ids = lvlm.chat.answer_ids(1, lvlm.answering_text(QUESTION, SMALL.answer), "red")
    expected = 0.0
    for index in range(len(ids) + 1):
        scores = next_logits(lvlm, prompt, ids[:index]).double().log_softmax(-1)
        ends = lvlm.model.generation_config.eos_token_id
        expected += float(scores[ids[index] if index < len(ids) else ends])
    assert likelihood(mask) == pytest.approx(expected, abs=1e-3)


def test_patches_go_strongest_first_and_come_in_the_same_order():
    """A likelihood that counts what is seen: both curves by hand."""
    values = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    found = Evidence(values, Grid(2, 2, Box(0, 0, 20, 20)), (20, 20))
    assert list(patches_in_order(found)) == [(0, 1), (1, 0), (1, 1), (0, 0)]
    worth = torch.kron(values, torch.ones(10, 10)) / 100
    traced = curves(found, lambda mask: float((worth * (1 - mask)).sum()), steps=4)
    np.testing.assert_allclose(traced.deletion, [10, 6, 3, 1, 0], atol=1e-5)
    np.testing.assert_allclose(traced.insertion, [0, 4, 7, 9, 10], atol=1e-5)
    assert area(traced.deletion) == pytest.approx((10 / 2 + 6 + 3 + 1) / 4)
