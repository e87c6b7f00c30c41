"""Where visual tokens lie on a picture: one rule per way of cutting it up.

A rule is called as `rule(tensors, image_processor, config, fed_size)` after the image processor
has run on a picture of fed_size (width, height) and returned `tensors`. It repeats the
arithmetic of the library's image processor and model; tests compare it with both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from ..geometry import Box


class Tiles(NamedTuple):
    """A finer grid: which tokens of the picture, row by row, a further one ending each row."""

    tokens: slice
    rows: int
    columns: int
    view: Box


class Layout(NamedTuple):
    """token_count: visual tokens of the picture; map_tokens: those that form the grid, row by row.

    view: the part of the fed picture the grid covers, in its pixels; may reach beyond it.
    tiles: the same at a higher resolution, where the model reads one beside it. written: the
    picture in a prompt, where that is more than a placeholder for each token; {index} stands for
    its number in the prompt.
    """

    token_count: int
    map_tokens: slice
    rows: int
    columns: int
    view: Box
    tiles: Tiles | None = None
    written: str = ""


LayoutRule = Callable[[dict[str, torch.Tensor], Any, Any, tuple[int, int]], Layout]

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Tokens that a LLaVA's vision tower puts before its patches. Other towers are laid out otherwise
(Pixtral's has row breaks)."""


def one_view(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """LLaVA-1.5 (arXiv 2310.03744): one square, by shortest-edge resize and centre crop."""
    rows, columns, count, patches = _tower_grid(tensors, config)
    if getattr(processor, "do_pad", False) and hasattr(processor, "pad_to_square"):
        # LlavaImageProcessor may pad before it resizes
        side = max(fed_size)
        left, top = (side - fed_size[0]) // 2, (side - fed_size[1]) // 2
        view = _kept(processor, (side, side), tensors, config).shift(-left, -top)
    else:
        view = _kept(processor, fed_size, tensors, config)
    return Layout(count, patches, rows, columns, view)


def base_view_and_tiles(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """LLaVA-NeXT: the whole picture squashed into a square comes first and forms the grid.

    Tiles at a higher resolution follow, without their padding and with a newline token per row:
    transformers' LlavaNextModel.pack_image_features and unpad_image.
    """
    from transformers.image_processing_utils import select_best_resolution

    rows, columns, base, patches = _tower_grid(tensors, config)
    if base != rows * columns:
        raise ValueError(
            "set vision_feature_select_strategy to 'default' in the model's config.json: with "
            f"{config.vision_feature_select_strategy!r} its tiles would hold class tokens"
        )
    width, height = fed_size
    tile = config.vision_config.image_size
    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    all_rows, all_columns = best[0] // tile * rows, best[1] // tile * columns
    tile_rows, tile_columns = all_rows, all_columns
    if width / height > tile_columns / tile_rows:  # padded above and below
        filled = int(round(height * (tile_columns / width), 7))
        tile_rows -= (tile_rows - filled) // 2 * 2
    else:
        filled = int(round(width * (tile_rows / height), 7))
        tile_columns -= (tile_columns - filled) // 2 * 2
    if not (tile_rows and tile_columns):
        raise ValueError(
            f"use the framing 'pad': nothing of this {width} x {height} picture is left on the "
            "model's tiles"
        )
    count = base + tile_rows * (tile_columns + 1)
    view = _kept(processor, fed_size, tensors, config, squashed=True)
    kept = (all_columns - tile_columns) // 2, (all_rows - tile_rows) // 2, tile_columns, tile_rows
    tiled = _tiled(best, (all_columns, all_rows), kept, fed_size)
    tiles = Tiles(slice(base, count), tile_rows, tile_columns, tiled)
    return Layout(count, patches, rows, columns, view, tiles)


def _tiled(
    best: tuple[int, int],
    cells: tuple[int, int],
    kept: tuple[int, int, int, int],
    fed_size: tuple[int, int],
) -> Box:
    """The part of a fed (width, height) picture that the tiles' kept cells cover, in its pixels.

    best: (height, width) of all tiles, on which the picture is centred. cells: columns and rows
    on them; kept: the first column and row, and how many. As the library rounds it.
    """
    width, height = fed_size
    scale = min(best[1] / width, best[0] / height)
    on_tiles = min(math.ceil(width * scale), best[1]), min(math.ceil(height * scale), best[0])
    edges = []
    for axis, (side, resized) in enumerate(zip(fed_size, on_tiles, strict=True)):
        full = best[1 - axis]
        for cell in (kept[axis], kept[axis] + kept[axis + 2]):
            edges.append((cell * full / cells[axis] - (full - resized) // 2) * side / resized)
    return Box(edges[0], edges[2], edges[1], edges[3])


def merged_patches(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """Qwen-VL (arXiv 2409.12191): squares of patches become tokens, over the whole picture."""
    merge = config.vision_config.spatial_merge_size
    _, patch_rows, patch_columns = tensors["image_grid_thw"][0].tolist()
    rows, columns = patch_rows // merge, patch_columns // merge
    return Layout(rows * columns, slice(0, rows * columns), rows, columns, Box(0, 0, *fed_size))


def pooled_square(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """Gemma 3 (arXiv 2503.19786): squeezed into a square, whose patches are averaged in squares."""
    side = math.isqrt(config.mm_tokens_per_image)
    height, width = tensors["pixel_values"].shape[-2:]
    patches = config.vision_config.image_size // config.vision_config.patch_size
    # What fills no whole patch is dropped, and so is what fills no whole square of patches
    kept = side * (patches // side) * config.vision_config.patch_size
    view = Box(0, 0, fed_size[0] * kept / width, fed_size[1] * kept / height)
    return Layout(side * side, slice(0, side * side), side, side, view)


def pooled_patches(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """Gemma 4: the whole picture at its own aspect, whose patches are averaged in squares."""
    across, down = tensors["image_position_ids"][0].amax(0).tolist()  # of the last patch
    pool = config.vision_config.pooling_kernel_size
    rows, columns = (down + 1) // pool, (across + 1) // pool
    return Layout(rows * columns, slice(0, rows * columns), rows, columns, Box(0, 0, *fed_size))


def whole_and_slices(
    tensors: dict[str, torch.Tensor], processor: Any, config: Any, fed_size: tuple[int, int]
) -> Layout:
    """MiniCPM-V 4.6: the whole picture comes first and forms the grid.

    Slices of a large one follow, a line for each row of them (LLaVA-UHD, arXiv 2403.11703).
    """
    merge = 2 if processor.downsample_mode == "4x" else 4
    views = (tensors["target_sizes"] // merge).tolist()
    whole, *slices = ["<|image_pad|>" * (rows * columns) for rows, columns in views]
    written = f"<image>{whole}</image>"
    if processor.use_image_id:
        written = "<image_id>{index}</image_id>" + written
    if slices:
        width, height = fed_size
        most, scale = processor.max_slice_nums, processor.scale_resolution
        _, across = processor.get_sliced_grid((height, width), most, scale)
        marked = [f"<slice>{one}</slice>" for one in slices]
        lines = ["".join(marked[n : n + across]) for n in range(0, len(marked), across)]
        written += "\n".join(lines)
    rows, columns = views[0]
    count = sum(rows * columns for rows, columns in views)
    view = Box(0, 0, *fed_size)
    return Layout(count, slice(0, rows * columns), rows, columns, view, written=written)


def _tower_grid(tensors: dict[str, torch.Tensor], config: Any) -> tuple[int, int, int, slice]:
    """(rows, columns, tokens, which of them are patches) of one view in a LLaVA's tower."""
    patch = config.vision_config.patch_size
    rows, columns = (side // patch for side in tensors["pixel_values"].shape[-2:])
    # "default" drops the first token, whatever it is; "full" keeps all
    dropped = 1 if config.vision_feature_select_strategy == "default" else 0
    first = CLASS_TOKENS[config.vision_config.model_type] - dropped
    if first < 0:
        raise ValueError(
            "set vision_feature_select_strategy to 'full' in the model's config.json: its vision "
            "tower has no class token, so 'default' drops a patch of the picture"
        )
    count = first + rows * columns
    return rows, columns, count, slice(first, count)


def _kept(
    processor: Any,
    size: tuple[int, int],
    tensors: dict[str, torch.Tensor],
    config: Any,
    squashed: bool = False,
) -> Box:
    """The part of a (width, height) picture that the tower's patches cover, in its pixels.

    squashed: the picture is resized to the processor's square whatever its aspect.
    """
    width, height = size
    out_height, out_width = tensors["pixel_values"].shape[-2:]
    if squashed or processor.do_resize:
        resized_width, resized_height = _resized(processor.size, size, squashed)
    else:
        resized_width, resized_height = size
    # floor also where the output is larger: the processor pads the longer half on the left
    left, top = (resized_width - out_width) // 2, (resized_height - out_height) // 2
    patch = config.vision_config.patch_size  # the tower drops pixels that fill no whole patch
    right, bottom = left + out_width // patch * patch, top + out_height // patch * patch
    x_scale, y_scale = width / resized_width, height / resized_height
    return Box(left * x_scale, top * y_scale, right * x_scale, bottom * y_scale)


def _resized(rule: Any, size: tuple[int, int], squashed: bool) -> tuple[int, int]:
    """(width, height) after a processor's resize, as transformers.image_transforms rounds it."""
    width, height = size
    if "height" in rule and "width" in rule:
        return rule["width"], rule["height"]
    if "shortest_edge" not in rule or "longest_edge" in rule:
        raise ValueError(
            f"use another model: its image processor resizes to {dict(rule)}, which is not "
            "supported"
        )
    edge = rule["shortest_edge"]
    if squashed:
        return edge, edge
    long = int(edge * max(size) / min(size))  # truncated, not rounded
    return (edge, long) if width <= height else (long, edge)
