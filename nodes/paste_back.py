"""Paste Back: an edited crop, back in its place on the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .widgets import CATEGORY

if TYPE_CHECKING:
    import torch


class PasteBack:
    DESCRIPTION = (
        "Puts an edited crop, of any size, back where Con-ViCrop cut it out. Outside the region "
        "not a single value of the picture changes."
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
                    {"tooltip": "The picture, or pictures, that the crop was cut from."},
                ),
                "crop": (
                    "IMAGE",
                    {"tooltip": "The crop after editing: it may be larger or smaller than the "
                                "region, and is resized to it. Transparency is laid on white."},
                ),
                "region": (
                    "MASK",
                    {"tooltip": "Where the crop was cut out: Con-ViCrop's region, one per crop. "
                                "Partial values blend."},
                ),
                "feather_px": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 1024,
                        "step": 1,
                        "tooltip": "Blend the crop in over this many pixels inside the edges of "
                        "the region's window, except along the picture's own.",
                    },
                ),
            }
        }  # fmt: skip

    def paste(self, image: torch.Tensor, crop: torch.Tensor, region: Any, feather_px: int):
        import torch

        crops = _on_white(crop)
        regions = region[None] if region.ndim == 2 else region
        result = []
        for index, parts in enumerate(_pairs(len(image), len(crops), len(regions))):
            picture = image[index if len(image) > 1 else 0].clone()
            for crop_index, region_index in parts:
                _paste(picture, crops[crop_index], regions[region_index], feather_px)
            result.append(picture)
        return (torch.stack(result),)


def _pairs(pictures: int, crops: int, regions: int) -> list[list[tuple[int, int]]]:
    """(crop, region) indices to paste, for each resulting picture.

    As many regions as crops: shared evenly among the pictures. One region: the same place in
    every picture, or every crop another version of the one picture.
    """
    if regions == crops and crops % pictures == 0:
        each = crops // pictures
        return [[(i, i) for i in range(p * each, (p + 1) * each)] for p in range(pictures)]
    if regions == 1 and (pictures in (1, crops) or crops == 1):
        return [[(min(i, crops - 1), 0)] for i in range(max(pictures, crops))]
    raise ValueError(
        f"connect one region for each crop, and the same number of crops for each picture: there "
        f"are {pictures} pictures, {crops} crops and {regions} regions"
    )


def _paste(picture: torch.Tensor, crop: torch.Tensor, region: Any, feather_px: int) -> None:
    """Blend crop (h, w, 3) into picture (H, W, C) where region (H, W) is above zero, in place."""
    import torch

    height, width, channels = picture.shape
    if tuple(region.shape) != (height, width):
        raise ValueError(
            f"connect the region of this very picture: it is {region.shape[1]}x{region.shape[0]} "
            f"but the picture is {width}x{height}"
        )
    rows, columns = (region > 0).any(1).nonzero(), (region > 0).any(0).nonzero()
    if not len(rows):
        raise ValueError("connect a region that marks a place: this one is empty")
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    down = _ramp(top, bottom, height, feather_px)
    across = _ramp(left, right, width, feather_px)
    weight = torch.minimum(down[:, None], across[None])  # hw
    weight = weight * region[top:bottom, left:right].float().clamp(0, 1).cpu()
    patch = _resized(crop, bottom - top, right - left)
    if channels == 4:
        patch = torch.cat([patch, torch.ones_like(patch[..., :1])], dim=-1)
    elif channels != 3:
        raise ValueError(f"connect a picture with 3 or 4 channels: it has {channels}")
    weight = weight[..., None].to(picture)  # hw -> hw1
    window = picture[top:bottom, left:right]
    blended = torch.where(
        weight == 1, patch.to(picture), window + weight * (patch.to(picture) - window)
    )
    picture[top:bottom, left:right] = torch.where(weight == 0, window, blended)


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


def _on_white(image: torch.Tensor) -> torch.Tensor:
    """(B, h, w, 3) from 1, 3 or 4 channels."""
    batch = image if image.ndim == 4 else image[None]
    if batch.shape[-1] == 4:
        colour, alpha = batch[..., :3], batch[..., 3:]
        return colour * alpha + (1 - alpha)
    return batch.expand(*batch.shape[:-1], 3)
