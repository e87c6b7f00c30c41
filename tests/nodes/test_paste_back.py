"""Paste Back: exact outside the window, exact inside for an unscaled crop, blended at its edges."""

from __future__ import annotations

import pytest
import torch

from .graphs import pictures_batch
from .pack import run


def region(*windows, size=(60, 90)):
    masks = torch.zeros(len(windows), *size)
    for mask, (x1, y1, x2, y2) in zip(masks, windows, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def to_bytes(image):
    return (image * 255).round().to(torch.uint8)


WINDOW = (20, 10, 60, 40)


@pytest.mark.parametrize("factor", [0.5, 1, 2.5, 4])
@pytest.mark.parametrize("feather_px", [0, 5, 100])
def test_outside_the_window_nothing_changes(factor, feather_px):
    image = torch.rand(1, 60, 90, 3)  # floats that are no bytes
    crop = torch.rand(1, round(30 * factor), round(40 * factor), 3)
    result = run(
        "LaserPasteBack", image=image, crop=crop, region=region(WINDOW), feather_px=feather_px
    ).image
    outside = region(WINDOW)[0] == 0
    assert torch.equal(result[0][outside], image[0][outside])
    assert torch.equal(to_bytes(result)[0][outside], to_bytes(image)[0][outside])
    assert not torch.equal(result, image)


def test_an_unscaled_crop_is_put_back_exactly():
    image, crop = torch.rand(1, 60, 90, 3), torch.rand(1, 30, 40, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    assert torch.equal(result[0, 10:40, 20:60], crop[0])


def test_the_crop_of_con_vicrop_goes_back_where_it_was():
    image = pictures_batch(2)
    cut = run("LaserConViCrop", image=image, override="7, 5, 33, 21")
    result = run("LaserPasteBack", image=image, crop=cut.crop, region=cut.region).image
    assert torch.equal(result, image)


def test_an_upscaled_flat_crop_stays_flat():
    image = torch.rand(1, 60, 90, 3)
    crop = torch.full((1, 240, 320, 3), 0.25)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    torch.testing.assert_close(result[0, 10:40, 20:60], torch.full((30, 40, 3), 0.25))


def test_feathering_rises_from_the_edges_and_not_from_the_pictures_own():
    image, crop = torch.zeros(1, 60, 90, 3), torch.ones(1, 30, 40, 3)
    result = run(
        "LaserPasteBack", image=image, crop=crop, region=region((0, 10, 40, 40)), feather_px=3
    ).image[0, ..., 0]
    row, column = result[25], result[:, 20]
    assert row[0] == 1  # the picture's own edge
    torch.testing.assert_close(row[36:40], torch.tensor([1.0, 0.75, 0.5, 0.25]))
    torch.testing.assert_close(column[10:14], torch.tensor([0.25, 0.5, 0.75, 1.0]))


def test_partial_mask_values_blend():
    image, crop = torch.zeros(1, 60, 90, 3), torch.ones(1, 30, 40, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW) * 0.25).image
    torch.testing.assert_close(result[0, 20, 30], torch.full((3,), 0.25))


def test_two_windows_of_one_picture_are_both_pasted():
    image, crops = torch.zeros(1, 60, 90, 3), torch.ones(2, 10, 10, 3)
    places = region((0, 0, 10, 10), (50, 50, 60, 60))
    result = run("LaserPasteBack", image=image, crop=crops, region=places).image
    assert result.shape == image.shape
    assert result.sum() == 2 * 10 * 10 * 3


@pytest.mark.parametrize(
    ("pictures", "crops", "regions", "results"),
    [(3, 3, 3, 3), (3, 3, 1, 3), (1, 4, 1, 4), (3, 1, 1, 3), (2, 4, 4, 2)],
)
def test_batches(pictures, crops, regions, results):
    image = torch.zeros(pictures, 60, 90, 3)
    crop = torch.ones(crops, 30, 40, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(*[WINDOW] * regions)).image
    assert len(result) == results
    assert all(picture.sum() > 0 for picture in result)


def test_a_picture_with_alpha_keeps_it_outside():
    image, crop = torch.rand(1, 60, 90, 4), torch.rand(1, 30, 40, 4)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    outside = region(WINDOW)[0] == 0
    assert torch.equal(result[0][outside], image[0][outside])
    assert (result[0, 10:40, 20:60, 3] == 1).all()


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"region": torch.zeros(1, 64, 64)}, "connect the region of this very picture"),
        ({"region": torch.zeros(1, 60, 90)}, "connect a region that marks a place"),
        ({"region": region(*[WINDOW] * 2)}, "connect one region for each crop"),
    ],
)
def test_a_wrong_region_is_explained(given, remedy):
    image, crop = torch.zeros(1, 60, 90, 3), torch.ones(3, 30, 40, 3)
    with pytest.raises(ValueError, match=f"^{remedy}"):
        run("LaserPasteBack", **{"image": image, "crop": crop, **given})
