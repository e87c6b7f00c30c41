"""The library's image processors: how they are loaded, their colour and their limits.

Knows transformers' image processors (4.57 and 5.x, without torchvision) and no model family;
where a processed picture lies is in `layouts`.
"""

from __future__ import annotations

from typing import Any

OF_TOWER = {
    "clip_vision_model": "CLIPImageProcessor",
    "siglip_vision_model": "SiglipImageProcessor",
}
"""The image processor that comes with a vision tower, for folders that name none."""

# Their limits count the pixels of all frames that a picture is repeated to
_COUNT_FRAMES = ("Glm4vImageProcessor", "Glm46VImageProcessor")
BUDGETS = 70, 140, 280, 560, 1120
"""The visual tokens that Gemma 4 was trained with, a picture."""

FOR_THE_TEXT = ("num_crops", "num_soft_tokens_per_image")
"""What image processors count for the prompt's text alone; no model takes it."""

# How pictures are cut up further, which is this package's own work
_SWITCHED_OFF = {"Gemma3ImageProcessor": {"do_pan_and_scan": False}}

# What development versions called a class that never had that name in a release
_RENAMED = {"Qwen2_5_VLImageProcessor": "Qwen2VLImageProcessor"}


def load_image_processor(path: str, usual: str = "", **kwargs: Any) -> Any:
    """The image processor of a model folder or hub id, as `image_processor_of` makes it.

    usual: the class where the folder names none. kwargs say where to look (revision, cache_dir,
    ...).
    """
    import transformers

    stored, _ = transformers.ImageProcessingMixin.get_image_processor_dict(path, **kwargs)
    return image_processor_of(stored, usual)


def image_processor_of(stored: dict[str, Any], usual: str) -> Any:
    """An image processor from what its file holds, on Pillow even if torchvision is installed.

    Pillow and torchvision resample differently. Using only Pillow gives the same pixels on every
    machine. usual: the class where it names none. Raises ValueError for a class that this
    transformers lacks.
    """
    import transformers

    old = str(stored.get("feature_extractor_type") or "").replace("Feature", "Image")
    named = stored.get("image_processor_type") or old.replace("Extractor", "Processor") or usual
    name = str(named).removesuffix("Fast").removesuffix("Pil")
    name = _RENAMED.get(name, name)
    # 5.x calls it by a name of its own, 4.57 by the plain one
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name, None)
    if kind is None:
        raise ValueError(
            f"choose another model, or update transformers: its image processor is a {named}, "
            f"which {transformers.__version__} does not have"
        )
    if name != "Qwen2VLImageProcessor":
        return kind.from_dict({**stored, **_SWITCHED_OFF.get(name, {})})
    low, high = _pixel_limits(stored)
    processor = kind.from_dict({**stored, "size": {"shortest_edge": low, "longest_edge": high}})
    _set_pixel_limits(processor, low, high)
    return processor


def _pixel_limits(stored: dict[str, Any]) -> tuple[int, int]:
    """The least and most pixels of a picture, in whichever of three places the file has them."""
    size = stored.get("size") or {}
    # The last are those of files that 4.45 to 4.48 saved
    low = stored.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels")
    high = stored.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels")
    return low or 56 * 56, high or 1280 * 28 * 28  # the library's own


def mean_colour(image_processor: Any) -> tuple[int, int, int]:
    """The mean the processor subtracts, as an 8-bit RGB colour, rounded down as LLaVA does.

    Grey where it subtracts none: Gemma 4's model does that itself.
    """
    mean = getattr(image_processor, "image_mean", None)
    if mean is None or getattr(image_processor, "do_normalize", True) is False:
        mean = 0.5
    red, green, blue = mean if isinstance(mean, (list, tuple)) else (mean,) * 3
    return int(red * 255), int(green * 255), int(blue * 255)


def token_side_px(image_processor: Any) -> int:
    """Width and height in pixels that one visual token covers (native resolution only)."""
    merged = getattr(image_processor, "pooling_kernel_size", None)
    return image_processor.patch_size * (merged or image_processor.merge_size)


def own_token_range(image_processor: Any) -> tuple[int, int] | None:
    """The visual tokens of a picture, where its makers set them to one of a few numbers."""
    budget = getattr(image_processor, "max_soft_tokens", None)
    return None if budget is None else (1, budget)


def least_side_px(image_processor: Any) -> int:
    """The least side in pixels of a picture: 4.57 refuses GLM a smaller one, 5.x enlarges it."""
    return token_side_px(image_processor) if _counts_frames(image_processor) else 1


def _counts_frames(image_processor: Any) -> bool:
    return type(image_processor).__name__.removesuffix("Pil") in _COUNT_FRAMES


def set_token_range(image_processor: Any, minimum: int, maximum: int) -> None:
    """Bound the visual tokens of a picture (native resolution only).

    The processor rounds to whole tokens: a picture more elongated than `maximum` : 1 gets a
    token per column and exceeds `maximum`. Gemma 4's takes one of BUDGETS and enlarges any picture
    to it. Raises ValueError unless 1 <= minimum <= maximum, and for a maximum below all budgets.
    """
    if not 1 <= minimum <= maximum:
        raise ValueError(
            f"choose 1 or more visual tokens, the minimum at most the maximum: they are {minimum} "
            f"and {maximum}"
        )
    if own_token_range(image_processor):
        fitting = [budget for budget in BUDGETS if budget <= maximum]
        if not fitting:
            raise ValueError(
                f"raise max_visual_tokens to {BUDGETS[0]} or more, the fewest that this model "
                f"takes a picture as: it is {maximum}"
            )
        image_processor.max_soft_tokens = fitting[-1]
        return
    area = token_side_px(image_processor) ** 2
    if _counts_frames(image_processor):
        area *= image_processor.temporal_patch_size
    _set_pixel_limits(image_processor, minimum * area, maximum * area)


def _set_pixel_limits(image_processor: Any, lowest: int, highest: int) -> None:
    image_processor.size = type(image_processor.size)(shortest_edge=lowest, longest_edge=highest)
    for name, value in (("min_pixels", lowest), ("max_pixels", highest)):
        if hasattr(image_processor, name):  # 4.57 reads these two and ignores `size`
            setattr(image_processor, name, value)
