"""The evidence as a heat map and over the picture, pixel by pixel. Knows no figure or text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from ..geometry import Box, Grid, whole_picture
from ..results import Evidence

COLOUR_MAP = "inferno"  # perceptually uniform, and the same to colour-blind eyes
# Opacity of the heat where evidence is least and most: what it covers stays legible.
COVER_LEAST, COVER_MOST = 0.25, 0.62


def heat_map(evidence: Evidence) -> torch.Tensor:
    """The evidence map on the picture: (H, W) float32, 0..1, maximum 1 on the picture.

    Bilinear between the centres of the patches that touch the picture; 0 where the model saw
    nothing (outside the grid's view), and everywhere when the map is degenerate.
    """
    return heat_at(evidence, evidence.picture_size)


def on_picture(
    maps: torch.Tensor, grid: Grid, picture_size: tuple[int, int]
) -> tuple[torch.Tensor, Box]:
    """Maps (n, gh, gw) without the rows and columns that lie outside the picture, and their box.

    Patches that lie only in the padding are no part of the picture and must not blur into it.
    """
    rows, columns = grid.shares_inside(whole_picture(picture_size))
    first_row, last_row = _touching(rows)
    first_column, last_column = _touching(columns)
    width, height = grid.cell_size
    box = Box(
        grid.view.x1 + first_column * width,
        grid.view.y1 + first_row * height,
        grid.view.x1 + (last_column + 1) * width,
        grid.view.y1 + (last_row + 1) * height,
    )
    return maps[:, first_row : last_row + 1, first_column : last_column + 1], box


def levels_of(
    maps: torch.Tensor, grid: Grid, picture_size: tuple[int, int], most_cells: int
) -> tuple[torch.Tensor, torch.Tensor, Box]:
    """Maps (n, gh, gw) in 256 levels of each one's largest value: what a page can draw.

    Returns the levels (n, rows, columns) uint8 on the picture, each map's largest value (n,), and
    the box that they cover. Of more than `most_cells` a side, neighbours are averaged. All 0 where
    a map holds nothing, or is not finite.
    """
    cells, box = on_picture(maps.float().cpu(), grid, picture_size)
    rows, columns = (min(side, most_cells) for side in cells.shape[1:])
    cells = torch.nn.functional.adaptive_avg_pool2d(cells[:, None], (rows, columns))[:, 0]
    most = cells.amax((1, 2))
    found = ((most > 0) & most.isfinite())[:, None, None]
    levels = torch.where(found, cells / most[:, None, None], 0.0).mul(255).round().byte()
    return levels, most, box


def heat_colours() -> tuple[bytes, bytes]:
    """256 levels of heat as a palette: red, green, blue of each level, and how far each covers."""
    from matplotlib import colormaps

    levels = np.linspace(0, 1, 256)
    colours = colormaps[COLOUR_MAP](levels, bytes=True)[:, :3]
    cover = COVER_LEAST + (COVER_MOST - COVER_LEAST) * levels
    return colours.tobytes(), (cover * 255).round().astype(np.uint8).tobytes()


def heat_at(evidence: Evidence, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) float32 for the picture drawn at `size` (width, height), see `heat_map`."""
    width, height = size
    if evidence.degenerate:
        return torch.zeros(height, width)
    cells, box = on_picture(evidence.map[None].float().cpu(), evidence.grid, evidence.picture_size)
    cells = cells[0]
    x_scale, y_scale = (d / p for d, p in zip(size, evidence.picture_size, strict=True))
    cell_width, cell_height = evidence.grid.cell_size
    heat = _stretched(cells, height, box.y1 * y_scale, cell_height * y_scale)
    heat = _stretched(heat.T, width, box.x1 * x_scale, cell_width * x_scale).T
    view = evidence.grid.view
    seen = inside(view.y1 * y_scale, view.y2 * y_scale, height)[:, None]
    seen = seen & inside(view.x1 * x_scale, view.x2 * x_scale, width)[None]
    heat = heat.where(seen, 0.0)
    # A patch may be thinner than a pixel and fall between the points that are drawn
    return heat / heat.max() if heat.max() > 0 else heat


def _touching(shares: Sequence[float]) -> tuple[int, int]:
    """The first and last index of those above zero."""
    indices = [index for index, share in enumerate(shares) if share > 0]
    return indices[0], indices[-1]


def _stretched(cells: torch.Tensor, pixels: int, start: float, extent: float) -> torch.Tensor:
    """(cells, n) -> (pixels, n): linear between cell centres, constant beyond the outer ones.

    start: where the first cell begins; extent: of a cell; both in pixels.
    """
    positions = (torch.arange(pixels, dtype=torch.float64) + 0.5 - start) / extent - 0.5
    positions = positions.clamp(0, len(cells) - 1)
    below = positions.floor().long()
    above = (below + 1).clamp(max=len(cells) - 1)
    part = (positions - below).float()[:, None]
    return cells[below] * (1 - part) + cells[above] * part


def inside(low: float, high: float, pixels: int) -> torch.Tensor:
    """(pixels,) bool: whose centre lies in [low, high)."""
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    return (centres >= low) & (centres < high)


def covered(picture: Image.Image, evidence: Evidence | None, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: the picture at `size` under its heat, striped where it was not seen."""
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    if evidence is None:
        return pixels.astype(np.uint8)
    pixels = blend(pixels, heat_at(evidence, size).numpy())
    covering = pixels.astype(np.uint8)
    view = scaled(evidence.grid.view, evidence.picture_size, size)
    seen = inside(view.y1, view.y2, size[1])[:, None] & inside(view.x1, view.x2, size[0])[None]
    down, across = np.nonzero(~seen.numpy())
    covering[down, across] = np.where((down + across) // 8 % 2 == 0, 40, 110)[:, None]
    return covering


def blend(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) 0..255 under heat (H, W) 0..1, as float32 0..255."""
    from matplotlib import colormaps

    # By their 256 levels: the library's colours of every pixel are four float64 each
    levels = colormaps[COLOUR_MAP](np.arange(256))[:, :3].astype(np.float32) * 255
    mixed = levels[(heat * 256).clip(0, 255).astype(np.uint8)]
    mixed -= pixels
    mixed *= rearrange(COVER_LEAST + (COVER_MOST - COVER_LEAST) * heat, "h w -> h w 1")
    mixed += pixels
    return mixed


def scaled(box: Box, size: tuple[int, int], drawn: tuple[int, int]) -> Box:
    x_scale, y_scale = drawn[0] / size[0], drawn[1] / size[1]
    return Box(box.x1 * x_scale, box.y1 * y_scale, box.x2 * x_scale, box.y2 * y_scale)
