"""Paste Back: an edited crop, back in its place on the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from .batches import (
    batch_of,
    box_lists,
    grouped,
    mask_batch,
    shared_out,
    unchanged,
    window_on,
)
from .widgets import BOUNDING_BOX, CATEGORY

if TYPE_CHECKING:
    import torch

    from ..laser_core.geometry import Window


class PasteBack:
    DESCRIPTION = (
        "Puts an edited crop of any size back where Con-ViCrop cut it out. Outside the region the "
        "picture does not change at all."
    )
    SEARCH_ALIASES = ("laser", "uncrop", "stitch", "composite", "paste crop", "inpaint stitch")
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
                                "region. Transparent parts become white."},
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

        pictures, crops = batch_of(image), _on_white(batch_of(crop, "crop"))
        regions = mask_batch(region)
        _check_values(image=pictures, crop=crops, region=regions)
        if pictures.shape[-1] not in (3, 4):
            raise ValueError(f"connect pictures of 3 or 4 channels: these have {image.shape[-1]}")
        counts = len(pictures), len(crops), len(regions)
        parts = _evenly(*counts) if boxes is None else _by_boxes(*counts, boxes)
        result = []
        for index, pieces in enumerate(parts):
            picture = pictures[index if len(pictures) > 1 else 0].clone()
            for piece in pieces:
                _paste(picture, crops[piece.crop], regions[piece.region], piece.box, feather_px)
            result.append(picture)
        return (torch.stack(result),)


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
    """Blend crop (h, w, 3) into picture (H, W, C) where region (H, W) is above zero, in place."""
    import torch

    height, width, channels = picture.shape
    if tuple(region.shape) != (height, width):
        raise ValueError(
            f"connect the region of this very picture: it is {region.shape[-1]}x"
            f"{region.shape[-2]} but the picture is {width}x{height}"
        )
    window = _window_of(region) if box is None else window_on(box, (width, height))
    if _untouched(picture, crop, window):
        return
    down = _ramp(window.y1, window.y2, height, feather_px)
    across = _ramp(window.x1, window.x2, width, feather_px)
    weight = torch.minimum(down[:, None], across[None])  # hw
    inside = slice(window.y1, window.y2), slice(window.x1, window.x2)
    weight = weight * region[inside].float().clamp(0, 1).cpu()
    patch = _resized(crop, window.height, window.width)
    if channels == 4:  # a crop has no transparency to bring back
        patch = torch.cat([patch, torch.ones_like(patch[..., :1])], dim=-1)
    weight = weight[..., None].to(picture)  # hw -> hw1
    under = picture[inside]
    blended = torch.where(
        weight == 1, patch.to(picture), under + weight * (patch.to(picture) - under)
    )
    picture[inside] = torch.where(weight == 0, under, blended)


def _window_of(region: Any) -> Window:
    """The window that encloses what a region (H, W) marks."""
    from ..laser_core.geometry import Window

    rows, columns = (region > 0).any(1).nonzero(), (region > 0).any(0).nonzero()
    if not len(rows):
        raise ValueError("connect a region that marks a place: this one is empty")
    return Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _untouched(picture: torch.Tensor, crop: torch.Tensor, window: Window) -> bool:
    """True for the picture's own crop at its batch's size: pasting it would only blur."""
    from ..laser_core.pictures import to_picture

    if crop.shape[:2] == (window.height, window.width):
        return False
    return unchanged(to_picture(crop), to_picture(picture).crop(window))


def _ramp(start: int, end: int, side: int, feather_px: int) -> torch.Tensor:
    """Weights of the pixels from `start` to `end`, rising from both ends that are not the edge."""
    import torch

    position = torch.arange(start, end, dtype=torch.float32)
    weights = torch.ones_like(position)
    if start > 0:
        weights = torch.minimum(weights, (position - start + 1) / (feather_px + 1))
    if end < side:
        weights = torch.minimum(weights, (end - position) / (feather_px + 1))
    return weights


def _resized(crop: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(h, w, 3) -> (height, width, 3); a crop of that size stays exactly as it is."""
    import torch

    if crop.shape[:2] == (height, width):
        return crop
    image = crop.float().movedim(-1, 0)[None]  # hwc -> 1chw
    image = torch.nn.functional.interpolate(
        image, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return image[0].movedim(0, -1).clamp(0, 1)


def _on_white(crop: torch.Tensor) -> torch.Tensor:
    """(B, h, w, 3) from 1, 3 or 4 channels."""
    channels = crop.shape[-1]
    if channels not in (1, 3, 4):
        raise ValueError(f"connect crops of 1, 3 or 4 channels: these have {channels}")
    if channels == 4:
        colour, alpha = crop[..., :3], crop[..., 3:]
        return colour * alpha + (1 - alpha)
    return crop.expand(*crop.shape[:-1], 3)
