"""Between ComfyUI's batches and the core's single pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..laser_core.geometry import Window
    from ..laser_core.results import Evidence, Placement

# Load Image reads full opacity of a WebP as 254/255: that is no mask over the whole picture
LEAK = 1.5 / 255


def pictures_of(image: torch.Tensor, name: str = "image") -> list[Image.Image]:
    """IMAGE (B, H, W, C) -> B pictures; alpha is laid on white. Raises ValueError for B = 0."""
    from ..laser_core.pictures import to_picture

    batch = image if image.ndim == 4 else image[None]
    if batch.shape[0] == 0:
        raise ValueError(f"connect at least one picture: {name} is an empty batch")
    return [to_picture(picture) for picture in batch]


def image_of(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures -> IMAGE; those of another size are resized to the first's, as core nodes do."""
    import torch
    from PIL import Image

    from ..laser_core.pictures import to_tensor

    size = pictures[0].size
    same = [p if p.size == size else p.resize(size, Image.Resampling.BICUBIC) for p in pictures]
    return torch.cat([to_tensor(picture) for picture in same])


def masks_of(mask: torch.Tensor, pictures: Sequence[Image.Image]) -> list[torch.Tensor]:
    """MASK (B, H, W) or (H, W) -> an (H, W) float32 mask 0..1 for every picture.

    One mask serves all pictures. An empty mask of the picture's size means that nothing was
    found there. Raises ValueError for another size: Load Image gives an empty mask of 64 x 64 for
    a picture without transparency.
    """
    import torch

    from ..laser_core.pictures import to_mask

    masks = mask[None] if mask.ndim == 2 else mask
    if masks.ndim == 4 and masks.shape[1] == 1:  # some packs send B1HW
        masks = masks[:, 0]
    chosen = spread(list(masks), len(pictures), "mask")
    result = []
    for one, picture in zip(chosen, pictures, strict=True):
        one = one.where(~one.isfinite() | (one > LEAK), 0.0)
        empty = not bool((one > 0).any()) and bool(one.isfinite().all())
        if empty and one.shape == (picture.height, picture.width):
            result.append(torch.zeros(picture.height, picture.width))
        elif empty:
            raise ValueError(
                "paint a mask on the picture (right-click: Open in MaskEditor), or leave the mask "
                f"unconnected: this one is an empty {one.shape[-1]}x{one.shape[-2]}, which Load "
                "Image gives for a picture without transparency"
            )
        else:
            result.append(to_mask(one, picture.size))
    return result


def evidence_of(
    pictures: Sequence[Image.Image], evidence: Any | None, mask: torch.Tensor | None
) -> list[Evidence]:
    """Evidence for every picture, from a LASER_EVIDENCE or from any MASK; a mask wins.

    A single mask or evidence serves all pictures. Raises ValueError if neither is connected, or
    if counts or sizes do not match.
    """
    if mask is not None:
        from ..laser_core.vaq import evidence_of_mask

        return [evidence_of_mask(one) for one in masks_of(mask, pictures)]
    if evidence is None:
        raise ValueError("connect evidence or a mask: there is nothing that says where to look")
    chosen = spread(evidence.items, len(pictures), "evidence")
    for item, picture in zip(chosen, pictures, strict=True):
        if item.picture_size != picture.size:
            raise ValueError(
                f"connect the picture the evidence was found in: it was "
                f"{item.picture_size[0]}x{item.picture_size[1]}, this one is "
                f"{picture.width}x{picture.height}"
            )
    return chosen


def spread(items: list, count: int, name: str) -> list:
    """One item for each of `count` pictures; a single one serves all."""
    if len(items) == count:
        return items
    if len(items) == 1:
        return items * count
    raise ValueError(
        f"connect one {name} for all pictures or one for each: there are {len(items)} for {count}"
    )


def boxes_of(placements: Sequence[Placement]) -> tuple[list, list]:
    """(BOUNDING_BOX, BBOX) in whole pixels of the original pictures, a list per picture."""
    bounding = [
        [
            {
                "x": window.x1,
                "y": window.y1,
                "width": window.width,
                "height": window.height,
                "score": float(share),
                "label": "evidence",
            }
            for window, share in zip(placement.windows, placement.shares, strict=True)
        ]
        for placement in placements
    ]
    corners = [[list(window) for window in placement.windows] for placement in placements]
    return bounding, corners


def box_lists(boxes: Any, count: int) -> list[list[dict]]:
    """BOUNDING_BOX -> a list of boxes for each of `count` pictures; one list serves all."""
    if isinstance(boxes, dict):
        boxes = [[boxes]]
    elif isinstance(boxes, (list, tuple)) and boxes and isinstance(boxes[0], dict):
        boxes = [boxes]
    nested = isinstance(boxes, (list, tuple)) and all(isinstance(o, (list, tuple)) for o in boxes)
    if not nested or not all(isinstance(box, dict) for one in boxes for box in one):
        raise ValueError("connect boxes of type BOUNDING_BOX: these are not records of x, y, ...")
    return spread([list(one) for one in boxes], count, "list of boxes")


def windows_of(boxes: Any, pictures: Sequence[Image.Image]) -> list[list[Window]]:
    """BOUNDING_BOX -> windows on each picture, cut to it; a picture with no box gets it whole.

    Raises ValueError for another shape or count, or for a box that lies beside its picture.
    """
    from ..laser_core.geometry import whole_picture

    lists = box_lists(boxes, len(pictures))
    return [
        [window_on(box, picture) for box in one] or [whole_picture(picture.size)]
        for one, picture in zip(lists, pictures, strict=True)
    ]


def window_on(box: dict[str, Any], picture: Image.Image) -> Window:
    """A box record as the window of a picture, cut to it. ValueError if nothing is left."""
    from ..laser_core.geometry import Window

    try:
        x, y, width, height = (round(float(box[name])) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"connect a box with the whole numbers x, y, width and height: this one is {box!r}"
        ) from error
    window = Window(
        max(x, 0), max(y, 0), min(x + width, picture.width), min(y + height, picture.height)
    )
    if window.width <= 0 or window.height <= 0:
        raise ValueError(
            f"connect a box that lies on the picture: {width}x{height} at ({x}, {y}) has no part "
            f"of a picture of {picture.width}x{picture.height}"
        )
    return window


def grouped(items: Sequence, sizes: Sequence[int]) -> list[list]:
    """Neighbouring items in groups of these sizes."""
    remaining = iter(items)
    return [list(islice(remaining, size)) for size in sizes]


def mask_of(windows: Sequence[Window], picture: Image.Image) -> torch.Tensor:
    """(H, W) float32: 1 inside the windows."""
    import torch

    mask = torch.zeros(picture.height, picture.width)
    for window in windows:
        mask[window.y1 : window.y2, window.x1 : window.x2] = 1.0
    return mask
