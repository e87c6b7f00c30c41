"""Between ComfyUI's batches and the core's single pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..laser_core.geometry import Window
    from ..laser_core.results import Evidence, Finding, Placement

# Load Image reads a WebP's full opacity as 254/255, which must not mask the whole picture
LEAK = 1.5 / 255
HALF_A_LEVEL = 0.5001 / 255


def batch_of(image: torch.Tensor, name: str = "image") -> torch.Tensor:
    """IMAGE (B, H, W, C) or (H, W, C) -> (B, H, W, C). Raises ValueError where it holds none."""
    batch = image if image.ndim == 4 else image[None]
    if 0 in batch.shape:
        raise ValueError(f"connect at least one picture: {name} is of shape {tuple(image.shape)}")
    return batch


def size_of(batch: torch.Tensor) -> tuple[int, int]:
    """(width, height) of every picture of an IMAGE."""
    return batch.shape[2], batch.shape[1]


def pictures_of(image: torch.Tensor, name: str = "image") -> Iterator[Image.Image]:
    """IMAGE -> B pictures, one at a time: of a video they would be a quarter of its bytes.

    Alpha is laid on white. Raises ValueError for B = 0.
    """
    from ..laser_core.pictures import to_picture

    return map(to_picture, batch_of(image, name))


def on_white(image: torch.Tensor) -> torch.Tensor:
    """(..., 1|3|4) -> (..., 3) float32 on the CPU, alpha laid on white.

    Whole numbers go up to the largest of their type. What is so already is not copied.
    """
    import torch

    image = image.detach().cpu()
    if not image.is_floating_point():
        image = image.float() / torch.iinfo(image.dtype).max
    image = image.float()
    if image.shape[-1] == 4:
        colour, alpha = image[..., :3], image[..., 3:]
        return colour * alpha + (1 - alpha)
    return image.expand(*image.shape[:-1], 3)


def cut_out(picture: torch.Tensor, window: Window) -> torch.Tensor:
    """(H, W, C) -> (h, w, 3): what a window shows, with the picture's own values."""
    return on_white(picture[window.y1 : window.y2, window.x1 : window.x2])


def crops_of(batch: torch.Tensor, windows: Sequence[Sequence[Window]]) -> torch.Tensor:
    """IMAGE of what the windows, a list per picture, show.

    Of unequal sizes, all become as wide as the widest and as high as the highest: a batch has one
    size, and enlarging loses no detail.
    """
    import torch

    each = [(picture, one) for picture, own in zip(batch, windows, strict=True) for one in own]
    size = max(one.height for _, one in each), max(one.width for _, one in each)
    crops = torch.empty(len(each), *size, 3)
    for crop, (picture, window) in zip(crops, each, strict=True):
        crop.copy_(resized(cut_out(picture, window), *size))
    return crops


def unchanged(crop: torch.Tensor, own: torch.Tensor) -> bool:
    """True where crop (H, W, 3) is `own` at its own size or its batch's, to within 8 bits."""
    return bool(((resized(own, *crop.shape[:2]) - crop).abs() <= HALF_A_LEVEL).all())


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(h, w, C) -> (height, width, C); itself where it has that size."""
    import torch

    if image.shape[:2] == (height, width):
        return image
    planes = image.float().movedim(-1, 0)[None]  # hwc -> 1chw
    planes = torch.nn.functional.interpolate(
        planes, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return planes[0].movedim(0, -1).clamp(0, 1)


class Drawings:
    """IMAGE of `count` drawings, unscaled, on white canvases of one size.

    Each is put there as it comes: kept aside, those of a video would fragment the memory.
    """

    def __init__(self, count: int) -> None:
        import torch

        self.batch, self._done = torch.empty(count, 0, 0, 3), 0

    def add(self, drawing: Image.Image) -> None:
        import torch

        from ..laser_core.pictures import to_tensor

        count, height, width, _ = self.batch.shape
        if drawing.height > height or drawing.width > width:
            before = self.batch[: self._done]
            size = max(drawing.height, height), max(drawing.width, width)
            self.batch = torch.empty(count, *size, 3)
            self.batch[: self._done] = 1.0
            self.batch[: self._done, :height, :width] = before
        canvas = self.batch[self._done]
        canvas[:] = 1.0
        canvas[: drawing.height, : drawing.width] = to_tensor(drawing)[0]
        self._done += 1


def mask_batch(mask: torch.Tensor) -> torch.Tensor:
    """MASK (B, H, W), (H, W) or, as some packs send it, (B, 1, H, W) -> (B, H, W)."""
    if mask.ndim == 4 and mask.shape[1] == 1:
        return mask[:, 0]
    return mask[None] if mask.ndim == 2 else mask


def masks_of(mask: torch.Tensor, count: int, size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """MASK -> an (H, W) float32 mask 0..1 for each of `count` pictures of (width, height).

    One mask serves all pictures. An empty mask of the picture's size means that nothing was found.
    Raises ValueError for another size, such as the empty 64 x 64 that Load Image gives for a
    picture without transparency.
    """
    given = mask_batch(mask)
    if len(given) == 1:
        return repeat(_mask(given[0], size), count)
    return (_mask(one, size) for one in spread(list(given), count, "mask"))


def _mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    import torch

    from ..laser_core.pictures import to_mask

    mask = mask.where(~mask.isfinite() | (mask > LEAK), 0.0)
    width, height = size
    if bool((mask > 0).any()) or not bool(mask.isfinite().all()):
        return to_mask(mask, size)
    if mask.shape == (height, width):
        return torch.zeros(height, width)
    raise ValueError(
        "paint a mask on the picture (right-click: Open in MaskEditor), or leave the mask "
        f"unconnected: this one is an empty {mask.shape[-1]}x{mask.shape[-2]}, which Load "
        "Image gives for a picture without transparency"
    )


def evidence_of(
    count: int, size: tuple[int, int], evidence: Any | None, mask: torch.Tensor | None
) -> Iterator[Evidence]:
    """Evidence for each of `count` pictures of (width, height), from a LASER_EVIDENCE or any MASK.

    A mask wins. A single mask or evidence serves all pictures. Raises ValueError if neither is
    connected, or if counts or sizes do not match.
    """
    if mask is not None:
        from ..laser_core.steps.vaq import make_evidence_of_mask

        return map(make_evidence_of_mask, masks_of(mask, count, size))
    if evidence is None:
        raise ValueError("connect evidence or a mask: there is nothing that says where to look")
    chosen = spread(evidence.items, count, "evidence")
    for item in chosen:
        if item.picture_size != size:
            raise ValueError(
                f"connect the picture the evidence was found in: it was "
                f"{item.picture_size[0]}x{item.picture_size[1]}, this one is {size[0]}x{size[1]}"
            )
    return iter(chosen)


def spread(items: list, count: int, name: str) -> list:
    """One item for each of `count` pictures; a single one serves all."""
    if len(items) == count:
        return items
    if len(items) == 1:
        return items * count
    raise ValueError(
        f"connect one {name} for all pictures or one for each: there are {len(items)} for {count}"
    )


def boxes_of(placements: Sequence[Placement], label: str) -> tuple[list, list]:
    """(BOUNDING_BOX, BBOX) in whole pixels of the original pictures, a list per picture.

    label: of every box, what was asked.
    """
    bounding = [
        [
            {
                **_corner_and_size(window),
                "score": float(share),
                "label": label,
            }
            for window, share in zip(placement.windows, placement.shares, strict=True)
        ]
        for placement in placements
    ]
    corners = [[list(window) for window in placement.windows] for placement in placements]
    return bounding, corners


POINTS = 3  # of a picture, at most


def points_of(evidence: Evidence | None, placement: Placement) -> str:
    """JSON of the evidence's peaks in the windows, for SAM nodes and points editors."""
    from ..laser_core.output.heat import heat_map
    from ..laser_core.output.masks import peaks, points_json

    if evidence is None or evidence.degenerate:
        return points_json(())
    inside = regions_of([placement.windows], evidence.picture_size).amax(0) > 0
    apart = max(evidence.grid.cell_size)
    return points_json(peaks(heat_map(evidence), inside, POINTS, apart))


def labelled_boxes(found: Sequence[Sequence[Finding]]) -> tuple[list, list]:
    """(BOUNDING_BOX, BBOX) of what was found on each picture, labelled by phrase."""
    bounding = [
        [
            {**_corner_and_size(box), "score": float(one.score), "label": one.phrase}
            for one in things
            for box in one.boxes
        ]
        for things in found
    ]
    corners = [[list(box) for one in things for box in one.boxes] for things in found]
    return bounding, corners


def _corner_and_size(box: Window) -> dict[str, int]:
    return {"x": box.x1, "y": box.y1, "width": box.width, "height": box.height}


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


def windows_of(boxes: Any, count: int, size: tuple[int, int]) -> list[list[Window]]:
    """BOUNDING_BOX -> windows on each of `count` pictures of (width, height), cut to it.

    A picture with no box gets it whole. Raises ValueError for another shape or count, or for a
    box that lies beside its picture.
    """
    from ..laser_core.geometry import whole_picture

    lists = box_lists(boxes, count)
    return [[window_on(box, size) for box in one] or [whole_picture(size)] for one in lists]


def window_by_hand(text: str, size: tuple[int, int]) -> Window | None:
    """'x, y, width, height' as the window of a picture of (width, height); None for no text.

    Raises ValueError for another text, and as `window_on`.
    """
    if not text.strip():
        return None
    try:
        x, y, width, height = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ValueError(
            f"write override as four numbers, 'x, y, width, height', or leave it empty: it is "
            f"{text!r}"
        ) from error
    return window_on({"x": x, "y": y, "width": width, "height": height}, size)


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


def regions_of(windows: Sequence[Sequence[Window]], size: tuple[int, int]) -> torch.Tensor:
    """MASK, one per window of pictures of (width, height): 1 inside it."""
    import torch

    each = [one for own in windows for one in own]
    masks = torch.zeros(len(each), size[1], size[0])
    for mask, window in zip(masks, each, strict=True):
        mask[window.y1 : window.y2, window.x1 : window.x2] = 1.0
    return masks
