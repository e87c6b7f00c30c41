"""Paste Back: exact outside the window, exact inside for an unscaled crop, blended at its edges."""

from __future__ import annotations

import math

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
BOX = {"x": 20, "y": 10, "width": 40, "height": 30}


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
    [(3, 3, 3, 3), (3, 3, 1, 3), (1, 4, 1, 4), (3, 1, 1, 3), (1, 4, 4, 1)],
)
def test_batches(pictures, crops, regions, results):
    image = torch.zeros(pictures, 60, 90, 3)
    crop = torch.ones(crops, 30, 40, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(*[WINDOW] * regions)).image
    assert len(result) == results
    assert all(picture.sum() > 0 for picture in result)


def found_in_the_second(image):
    """Con-ViCrop's windows where a mask is empty on the first of two pictures."""
    mask = torch.zeros(2, 60, 90)
    mask[1, 5:12, 6:13] = mask[1, 30:37, 50:57] = mask[1, 45:52, 70:77] = 1
    crop = {"windows": 3, "scale": 0.1, "min_side_px": 12}
    return run("LaserConViCrop", image=image, mask=mask, **crop)


def test_boxes_share_out_crops_of_unequal_number():
    image = pictures_batch(2)
    cut = found_in_the_second(image)
    assert [len(boxes) for boxes in cut.boxes] == [1, 3]
    given = {"image": image, "region": cut.region, "boxes": cut.boxes}
    edited = torch.zeros_like(cut.crop)
    edited[0] = 1
    result = run("LaserPasteBack", crop=edited, **given).image
    assert torch.equal(result[0], torch.ones(60, 90, 3))
    inside = cut.region[1:].sum(0) > 0
    assert torch.equal(result[1][~inside], image[1][~inside])
    assert result[1][inside].sum() == 0
    with pytest.raises(ValueError, match=r"^connect Con-ViCrop's boxes too"):
        run("LaserPasteBack", **{**given, "crop": edited, "boxes": None})


def test_crops_that_only_their_batch_enlarged_change_nothing():
    image = pictures_batch(2)
    cut = found_in_the_second(image)
    assert cut.crop.shape[1:3] == (60, 90)  # as large as the first: the whole picture
    result = run(
        "LaserPasteBack", image=image, crop=cut.crop, region=cut.region, boxes=cut.boxes
    ).image
    assert torch.equal(result, image)


def test_a_grown_region_moves_nothing_when_the_boxes_are_connected():
    image = pictures_batch(1)
    cut = run("LaserConViCrop", image=image, override="20, 10, 40, 30")
    grown = region((18, 8, 62, 42))
    edited = 1 - cut.crop
    result = run("LaserPasteBack", image=image, crop=edited, region=grown, boxes=cut.boxes).image
    assert torch.equal(result[0, 10:40, 20:60], edited[0])
    outside = region(WINDOW)[0] == 0
    assert torch.equal(result[0][outside], image[0][outside])


def test_a_picture_alone_and_a_mask_with_a_channel_are_taken():
    image, crop = torch.rand(60, 90, 3), torch.rand(30, 40, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)[:, None]).image
    assert torch.equal(result[0, 10:40, 20:60], crop)


def test_a_crops_transparency_is_laid_on_white():
    image, crop = torch.zeros(1, 60, 90, 3), torch.zeros(1, 30, 40, 4)
    crop[..., 3] = 0.25
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    assert (result[0, 10:40, 20:60] == 0.75).all()


def test_a_crop_with_alpha_brings_its_own():
    image, crop = torch.rand(1, 60, 90, 4), torch.rand(1, 30, 40, 4)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    outside = region(WINDOW)[0] == 0
    assert torch.equal(result[0][outside], image[0][outside])
    assert torch.equal(result[0, 10:40, 20:60], crop[0])


@pytest.mark.parametrize("factor", [1, 2])
def test_under_a_crop_without_alpha_a_picture_keeps_its_own(factor):
    image, crop = torch.rand(1, 60, 90, 4), torch.rand(1, 30 * factor, 40 * factor, 3)
    image[0, :, :45, 3] = 1
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    assert torch.equal(result[..., 3], image[..., 3])
    if factor == 1:
        torch.testing.assert_close(result[0, 10:40, 20:45, :3], crop[0, :, :25])


def test_an_unedited_cut_out_on_a_transparent_ground_stays_as_it_was():
    image = torch.rand(1, 60, 90, 4)
    image[0, :20] = 0
    cut = run("LaserConViCrop", image=image, override="20, 10, 40, 30")
    result = run("LaserPasteBack", image=image, crop=cut.crop, region=cut.region).image
    assert torch.equal(result[..., 3], image[..., 3])
    visible = image[..., 3] > 0.05  # rounding grows where hardly anything is seen
    torch.testing.assert_close(result[visible], image[visible], atol=1e-4, rtol=0)


def cut_by_vae_encode(pixels):
    """comfy.sd.VAE.vae_encode_crop_pixels, for blocks of 8."""
    height, width = pixels.shape[1:3]
    top, left = height % 8 // 2, width % 8 // 2
    return pixels[:, top : top + height // 8 * 8, left : left + width // 8 * 8]


def scaled(pixels, scale):
    """As ImageScaleBy: what changes evenly over the picture keeps its values."""
    height, width = (round(side * scale) for side in pixels.shape[1:3])
    planes = torch.nn.functional.interpolate(
        pixels.movedim(-1, 1), (height, width), mode="bilinear", align_corners=False
    )
    return planes.movedim(1, -1)


@pytest.mark.parametrize("size", [(101, 140), (127, 129), (96, 104), (103, 103)])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 2), (1.5, 1), (1, 1.5), (4, 1)])
def test_a_crop_that_a_vae_cut_goes_back_to_the_pixel(size, before, after):
    height, width = size
    x, y = torch.meshgrid(torch.arange(200.0), torch.arange(160.0), indexing="xy")
    image = torch.stack([x / 200, y / 160, (x + y) / 360], dim=-1)[None]  # a value for each place
    place = {"x": 20, "y": 10, "width": width, "height": height}
    where = region((20, 10, 20 + width, 10 + height), size=(160, 200))
    crop = image[:, 10 : 10 + height, 20 : 20 + width]
    edited = scaled(cut_by_vae_encode(scaled(crop, before)), after)
    result = run("LaserPasteBack", image=image, crop=edited, region=where, boxes=[[place]]).image
    step = 1 / 200  # between two pixels
    assert (result - image).abs().amax() < (1e-6 if before == after == 1 else step / 2)


def test_a_crop_resized_to_other_sides_is_stretched_to_the_window():
    image, crop = torch.zeros(1, 60, 90, 3), torch.ones(1, 64, 64, 3)
    result = run("LaserPasteBack", image=image, crop=crop, region=region(WINDOW)).image
    assert torch.equal(result[..., 0] > 0, region(WINDOW) > 0)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"region": torch.zeros(1, 64, 64)}, "connect the region of this very picture"),
        ({"region": torch.zeros(1, 60, 90)}, "connect a region that marks a place"),
        ({"region": region(*[WINDOW] * 2)}, "connect one region for each crop"),
        ({"image": torch.zeros(0, 60, 90, 3)}, "connect at least one picture: image"),
        ({"crop": torch.zeros(0, 30, 40, 3)}, "connect at least one picture: crop"),
        ({"crop": torch.zeros(1, 30, 40, 2)}, "connect crops of 1, 3 or 4 channels"),
        ({"image": torch.zeros(1, 60, 90, 2)}, "connect pictures of 3 or 4 channels"),
        ({"image": torch.zeros(1, 60, 90, 3, dtype=torch.uint8)}, "convert image to floats from 0"),
        ({"crop": torch.ones(3, 30, 40, 3, dtype=torch.uint8)}, "convert crop to floats from 0"),
        ({"crop": torch.full((3, 30, 40, 3), math.nan)}, "fix crop: it holds NaN or infinity"),
        ({"image": torch.full((1, 60, 90, 3), math.inf)}, "fix image: it holds NaN or infinity"),
        ({"region": region(WINDOW).log()}, "fix region: it holds NaN or infinity"),
        (
            {"boxes": [[BOX]]},
            "connect the boxes that the crops were cut by: there are 1 for 3 crops",
        ),
        ({"boxes": [[BOX] * 3], "region": region(WINDOW, WINDOW)}, "connect one region for each"),
    ],
)
def test_wrong_input_is_explained(given, remedy):
    image, crop = torch.zeros(1, 60, 90, 3), torch.ones(3, 30, 40, 3)
    with pytest.raises(ValueError, match=f"^{remedy}"):
        run("LaserPasteBack", **{"image": image, "crop": crop, "region": region(WINDOW), **given})
