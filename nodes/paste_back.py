"""Paste Back: an edited crop, back in its place on the picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from .batches import (
    batch_of,
    box_lists,
    cut_out,
    grouped,
    mask_batch,
    on_white,
    resized,
    shared_out,
    unchanged,
    window_on,
)
from .vae_cut import uncut
from .widgets import BOUNDING_BOX, CATEGORY

if TYPE_CHECKING:
    import torch

    from ..laser_core.geometry import Window


class PasteBack:
    DESCRIPTION = (
        "Puts an edited crop of any size back where Con-ViCrop cut it out. Outside the region the "
        "picture does not change at all."
    )
    SEARCH_ALIASES = (
        "laser", "uncrop", "stitch", "composite", "paste crop", "inpaint stitch", "detailer",
        "貼り戻し", "貼り付け", "ディテーラー", "贴回", "粘贴", "细节修复",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "paste"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    OUTPUT_TOOLTIPS = ("The picture with the crop in its place.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "image": (
                    "IMAGE",
                    {"tooltip": "The picture or pictures that the crop was cut from."},
                ),
                "crop": (
                    "IMAGE",
                    {"tooltip": "The edited crop. It may have any size and is resized to the "
                                "region, or put back where VAE Encode cut it to multiples of 8. "
                                "A crop without transparency takes the picture's."},
                ),
                "region": (
                    "MASK",
                    {"tooltip": "Where the crop was cut out: Con-ViCrop's region, one per crop. "
                                "Values between 0 and 1 blend."},
                ),
            },
            "optional": {
                "feather_px": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1024,
                        "step": 1,
                        "tooltip": "Blend the crop in over this many pixels inside the window's "
                        "edges. Edges that lie on the picture's own edge are not blended.",
                    },
                ),
                "boxes": (
                    BOUNDING_BOX,
                    {"tooltip": "Con-ViCrop's windows. They tell which crops belong to which "
                                "picture, and where a crop was cut out if you changed its region. "
                                "Needed when several pictures have several crops each.",
                     "forceInput": True},  # or the canvas makes it an editor of one box
                ),
            },
        }  # fmt: skip

    def paste(self, image: Any, crop: Any, region: Any, feather_px: int = 0, boxes: Any = None):
        import torch

        pictures, crops = batch_of(image), batch_of(crop, "crop")
        regions = mask_batch(region)
        _check_values(image=pictures, crop=crops, region=regions)
        if pictures.shape[-1] not in (3, 4):
            raise ValueError(f"connect pictures of 3 or 4 channels: these have {image.shape[-1]}")
        if crops.shape[-1] not in (1, 3, 4):
            raise ValueError(f"connect crops of 1, 3 or 4 channels: these have {crop.shape[-1]}")
        counts = len(pictures), len(crops), len(regions)
        parts = _evenly(*counts) if boxes is None else _by_boxes(*counts, boxes)
        result = torch.empty(len(parts), *pictures.shape[1:], dtype=pictures.dtype)
        for index, (picture, pieces) in enumerate(zip(result, parts, strict=True)):
            picture.copy_(pictures[index if len(pictures) > 1 else 0])
            for piece in pieces:
                _paste(picture, crops[piece.crop], regions[piece.region], piece.box, feather_px)
        return (result,)


def _check_values(**given: torch.Tensor) -> None:
    """ValueError for pixels that are not finite, or not floats (they may go from 0 to 255)."""
    for name, values in given.items():
        if name != "region" and not values.is_floating_point():
            raise ValueError(f"convert {name} to floats from 0 to 1: its values are {values.dtype}")
        if not values.isfinite().all():
            raise ValueError(f"fix {name}: it holds NaN or infinity")


class Piece(NamedTuple):
    """One paste: which crop, in which region, and the box it was cut by, if known."""

    crop: int
    region: int
    box: dict | None = None


def _evenly(pictures: int, crops: int, regions: int) -> list[list[Piece]]:
    """What to paste into each resulting picture, by numbers alone.

    One crop for each picture, or all crops into one picture. With one region: the same place in
    every picture, or one version of the picture for every crop.
    """
    if regions == crops and pictures in (1, crops):
        each = crops // pictures
        return [[Piece(i, i) for i in range(p * each, (p + 1) * each)] for p in range(pictures)]
    if regions == 1 and (pictures in (1, crops) or crops == 1):
        return [[Piece(min(i, crops - 1), 0)] for i in range(max(pictures, crops))]
    if regions == crops and crops > pictures:
        raise ValueError(
            f"connect Con-ViCrop's boxes too: they tell which of the {crops} crops belong to which "
            f"of the {pictures} pictures"
        )
    raise ValueError(
        f"connect one region for each crop, and a picture for each crop or one for all: there are "
        f"{pictures} pictures, {crops} crops and {regions} regions"
    )


def _by_boxes(pictures: int, crops: int, regions: int, boxes: Any) -> list[list[Piece]]:
    """What to paste into each picture, as the boxes share the crops out."""
    lists = box_lists(boxes, pictures)
    sizes = [max(len(one), 1) for one in lists]  # a picture without a box was taken whole
    shared_out(sizes, crops)
    if regions not in (1, crops):
        raise ValueError(
            f"connect one region for each crop, or one for all: there are {regions} for {crops}"
        )
    indices = grouped(range(crops), sizes)
    return [
        [Piece(i, min(i, regions - 1), box) for i, box in zip(own, one or [None], strict=True)]
        for own, one in zip(indices, lists, strict=True)
    ]


def _paste(
    picture: torch.Tensor, crop: torch.Tensor, region: Any, box: dict | None, feather_px: int
) -> None:
    """Blend crop (h, w, c) into picture (H, W, C) where region (H, W) is above zero, in place."""
    import torch

    height, width = picture.shape[:2]
    if tuple(region.shape) != (height, width):
        raise ValueError(
            f"connect the region of this very picture: it is {region.shape[-1]}x"
            f"{region.shape[-2]} but the picture is {width}x{height}"
        )
    window = _window_of(region) if box is None else window_on(box, (width, height))
    if _untouched(picture, crop, window):
        return
    patch, rows, columns = _in_place(crop, window)
    down = _ramp(window.y1, window.height, *rows, height, feather_px)
    across = _ramp(window.x1, window.width, *columns, width, feather_px)
    weight = torch.minimum(down[:, None], across[None])  # hw
    inside = slice(window.y1, window.y2), slice(window.x1, window.x2)
    weight = weight * region[inside].float().clamp(0, 1).cpu()
    weight = weight[..., None].to(picture)  # hw -> hw1
    under = picture[inside]
    patch = _of_channels(patch, under).to(picture)
    blended = torch.where(weight == 1, patch, under + weight * (patch - under))
    picture[inside] = torch.where(weight == 0, under, blended)


def _in_place(
    crop: torch.Tensor, window: Window
) -> tuple[torch.Tensor, tuple[float, float], tuple[float, float]]:
    """The crop at the window's size, and from where to where it has rows and columns there.

    Of a crop that VAE Encode cut, what lies beyond its edges repeats them and is not its own.
    """
    import torch

    part, whole = uncut(tuple(crop.shape[:2]), (window.height, window.width))
    top, left = ((full - side) // 2 for full, side in zip(whole, part, strict=True))
    bottom, right = top + part[0], left + part[1]
    around = left, whole[1] - right, top, whole[0] - bottom
    planes = resized(crop, *part).float().movedim(-1, 0)[None]  # hwc -> 1chw
    patch = torch.nn.functional.pad(planes, around, mode="replicate")[0].movedim(0, -1)
    down, across = window.height / whole[0], window.width / whole[1]
    rows, columns = (top * down, bottom * down), (left * across, right * across)
    return resized(patch, window.height, window.width), rows, columns


def _of_channels(patch: torch.Tensor, under: torch.Tensor) -> torch.Tensor:
    """The patch (h, w, c) with the channels of the picture under it (h, w, C).

    On a transparent picture, a patch without alpha is what lies on white: the colours are those
    that look like it there, under the picture's own alpha.
    """
    import torch

    if under.shape[-1] == 3:
        return on_white(patch)
    if patch.shape[-1] == 4:
        return patch
    colour, alpha = under[..., :3], under[..., 3:]
    seen = (on_white(patch).to(under) - (1 - alpha)) / alpha
    return torch.cat([torch.where(alpha > 0, seen.clamp(0, 1), colour), alpha], dim=-1)


def _window_of(region: Any) -> Window:
    """The window that encloses what a region (H, W) marks."""
    from ..laser_core.geometry import Window

    rows, columns = (region > 0).any(1).nonzero(), (region > 0).any(0).nonzero()
    if not len(rows):
        raise ValueError("connect a region that marks a place: this one is empty")
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _untouched(picture: torch.Tensor, crop: torch.Tensor, window: Window) -> bool:
    """True for the picture's own crop at the size of its batch: pasting it would only blur."""
    if crop.shape[:2] == (window.height, window.width):
        return False
    return unchanged(on_white(crop), cut_out(picture, window))


def _ramp(
    start: int, length: int, low: float, high: float, side: int, feather_px: int
) -> torch.Tensor:
    """Weights of `length` pixels from `start`, of which the crop covers those from low to high.

    They rise over feather_px from both ends that are not the picture's edge, of this side.
    """
    import torch

    position = torch.arange(length, dtype=torch.float32)
    weights = (position + 1).clamp(max=high) - position.clamp(min=low)  # the share covered
    if start + low > 0:
        weights = torch.minimum(weights, (position - math.floor(low) + 1) / (feather_px + 1))
    if start + high < side:
        weights = torch.minimum(weights, (math.ceil(high) - position) / (feather_px + 1))
    return weights.clamp(min=0)
