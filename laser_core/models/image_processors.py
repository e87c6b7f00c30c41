"""The library's image processors: how they are loaded, their colour and their limits.

Knows transformers' image processors (4.57 and 5.x, without torchvision) and no model family;
where a processed picture lies is in `layouts`.
"""

from __future__ import annotations

from typing import Any


def load_image_processor(path: str, **kwargs: Any) -> Any:
    """The image processor of a model folder or hub id, on Pillow even if torchvision is installed.

    Pillow and torchvision resample differently. Using only Pillow gives the same pixels on every
    machine. kwargs go to `AutoImageProcessor.from_pretrained` (revision, cache_dir, ...).
    """
    from transformers import AutoImageProcessor

    choice: dict[str, Any]
    try:  # 5.x chooses a backend; 4.57 a "fast" class or its counterpart on Pillow
        from transformers.image_processing_backends import PilBackend  # noqa: F401

        choice = {"backend": "pil"}
    except ImportError:
        choice = {"use_fast": False}
    processor = AutoImageProcessor.from_pretrained(path, **choice, **kwargs)
    if hasattr(processor, "max_pixels"):
        _restore_size(processor, path, kwargs)
    return processor


def _restore_size(processor: Any, path: str, kwargs: dict[str, Any]) -> None:
    """4.57's class for Qwen on Pillow puts its own default in place of the folder's `size`."""
    stored = {**processor.get_image_processor_dict(path, **kwargs)[0], **kwargs}
    size = dict(stored.get("size") or {})
    lowest = stored.get("min_pixels") or size.get("shortest_edge") or processor.min_pixels
    highest = stored.get("max_pixels") or size.get("longest_edge") or processor.max_pixels
    _set_pixel_limits(processor, lowest, highest)


def mean_colour(image_processor: Any) -> tuple[int, int, int]:
    """The mean the processor subtracts, as an 8-bit RGB colour, rounded down as LLaVA does."""
    mean = getattr(image_processor, "image_mean", None)
    if mean is None:
        mean = 0.5
    red, green, blue = mean if isinstance(mean, (list, tuple)) else (mean,) * 3
    return int(red * 255), int(green * 255), int(blue * 255)


def token_side_px(image_processor: Any) -> int:
    """Width and height in pixels that one visual token covers (native resolution only)."""
    return image_processor.patch_size * image_processor.merge_size


def set_token_range(image_processor: Any, minimum: int, maximum: int) -> None:
    """Bound the visual tokens of a picture (native resolution only).

    The processor rounds to whole tokens: a picture more elongated than `maximum` : 1 gets a
    token per column and exceeds `maximum`. Raises ValueError unless 1 <= minimum <= maximum.
    """
    if not 1 <= minimum <= maximum:
        raise ValueError(
            f"choose 1 or more visual tokens, the minimum at most the maximum: they are {minimum} "
            f"and {maximum}"
        )
    area = token_side_px(image_processor) ** 2
    _set_pixel_limits(image_processor, minimum * area, maximum * area)


def _set_pixel_limits(image_processor: Any, lowest: int, highest: int) -> None:
    image_processor.size = type(image_processor.size)(shortest_edge=lowest, longest_edge=highest)
    for name, value in (("min_pixels", lowest), ("max_pixels", highest)):
        if hasattr(image_processor, name):  # 4.57 reads these two and ignores `size`
            setattr(image_processor, name, value)
