"""Between ComfyUI's batches and the core's single pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..laser_core.geometry import Window
    from ..laser_core.results import Evidence, Placement

# Load Image reads a WebP's full opacity as 254/255, which must not mask the whole picture
LEAK = 1.5 / 255


def batch_of(image: torch.Tensor, name: str = "image") -> torch.Tensor:
    """IMAGE (B, H, W, C) or (H, W, C) -> (B, H, W, C). Raises ValueError where it holds none."""
    batch = image if image.ndim == 4 else image[None]
    if 0 in batch.shape:
        raise ValueError(f"connect at least one picture: {name} is of shape {tuple(image.shape)}")
    return batch


def pictures_of(image: torch.Tensor, name: str = "image") -> list[Image.Image]:
    """IMAGE -> B pictures; alpha is laid on white. Raises ValueError for B = 0."""
    from ..laser_core.pictures import to_picture

    return [to_picture(picture) for picture in batch_of(image, name)]


def image_of(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures -> IMAGE. A batch has one size: pictures of different sizes are enlarged to the
    largest width and height, which loses no detail."""
    import torch

    from ..laser_core.pictures import to_tensor

    size = max(p.width for p in pictures), max(p.height for p in pictures)
    return torch.cat([to_tensor(resized(picture, size)) for picture in pictures])


def unchanged(crop: Image.Image, own: Image.Image) -> bool:
    """True if `crop` is `own`, at its own size or at its batch's (`image_of`)."""
    return resized(own, crop.size).tobytes() == crop.tobytes()


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at (width, height); itself where it has that size."""
    from PIL import Image

    return picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)


def mask_batch(mask: torch.Tensor) -> torch.Tensor:
    """MASK (B, H, W), (H, W) or, as some packs send it, (B, 1, H, W) -> (B, H, W)."""
    if mask.ndim == 4 and mask.shape[1] == 1:
        return mask[:, 0]
    return mask[None] if mask.ndim == 2 else mask


def masks_of(mask: torch.Tensor, pictures: Sequence[Image.Image]) -> list[torch.Tensor]:
    """MASK -> an (H, W) float32 mask 0..1 for every picture.

    One mask serves all pictures. An empty mask of the picture's size means that nothing was found.
    Raises ValueError for another size, such as the empty 64 x 64 that Load Image gives for a
    picture without transparency.
    """
    import torch

    from ..laser_core.pictures import to_mask

    chosen = spread(list(mask_batch(mask)), len(pictures), "mask")
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
        from ..laser_core.steps.vaq import make_evidence_of_mask

        return [make_evidence_of_mask(one) for one in masks_of(mask, pictures)]
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


def box_lists(boxes: Any, count: int | None = None) -> list[list[dict]]:
    """BOUNDING_BOX -> a list of boxes for each of `count` pictures; one list serves all.

    Without `count`, for as many pictures as there are lists.
    """
    if isinstance(boxes, dict):
        boxes = [[boxes]]
    elif isinstance(boxes, (list, tuple)) and boxes and isinstance(boxes[0], dict):
        boxes = [boxes]
    nested = isinstance(boxes, (list, tuple)) and all(isinstance(o, (list, tuple)) for o in boxes)
    if not nested or not all(isinstance(box, dict) for one in boxes for box in one):
        raise ValueError(
            "connect boxes of type BOUNDING_BOX: these are not records of x, y, width, height"
        )
    lists = [list(one) for one in boxes]
    return lists if count is None else spread(lists, count, "list of boxes")


def windows_of(boxes: Any, pictures: Sequence[Image.Image]) -> list[list[Window]]:
    """BOUNDING_BOX -> windows on each picture, cut to it; a picture with no box gets it whole.

    Raises ValueError for another shape or count, or for a box that lies outside its picture.
    """
    from ..laser_core.geometry import whole_picture

    lists = box_lists(boxes, len(pictures))
    return [
        [window_on(box, picture.size) for box in one] or [whole_picture(picture.size)]
        for one, picture in zip(lists, pictures, strict=True)
    ]


def window_on(box: dict[str, Any], size: tuple[int, int]) -> Window:
    """A box record as the window of a picture of (width, height), cut to it.

    Raises ValueError if nothing is left.
    """
    from ..laser_core.geometry import Window

    across, down = size

    x, y, width, height = (round(number) for number in box_numbers(box))
    window = Window(max(x, 0), max(y, 0), min(x + width, across), min(y + height, down))
    if window.width <= 0 or window.height <= 0:
        raise ValueError(
            f"connect a box that lies on the picture: {width}x{height} at ({x}, {y}) lies outside "
            f"a picture of {across}x{down}"
        )
    return window


def box_numbers(box: Any) -> tuple[float, ...]:
    """(x, y, width, height) of a box record. ValueError where they are missing or not finite."""
    try:
        numbers = tuple(float(box[name]) for name in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"connect boxes of x, y, width and height: one is {box!r}") from error
    return finite(numbers, box)


def finite(numbers: tuple[float, ...], box: Any) -> tuple[float, ...]:
    """The numbers of a box as they are. ValueError for NaN or infinity."""
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"give boxes finite numbers: one is {box!r}")
    return numbers


def shared_out(sizes: Sequence[int], crops: int) -> None:
    """ValueError unless windows, `sizes` of them per picture, are as many as there are crops."""
    if sum(sizes) != crops:
        raise ValueError(
            "connect the boxes that the crops were cut by: "
            f"there are {sum(sizes)} for {crops} crops"
        )


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
