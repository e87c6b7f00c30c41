"""Pictures of what the nodes found, of the picture's own size, drawn with the core's colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from ..laser_core.geometry import Grid, Window
    from ..laser_core.results import Evidence

TILE_PX = (96, 224)  # the longer side of a picture on a sheet, by how many layers there are
SHEET_PX = 1600


def overlay(
    picture: Image.Image, evidence: Evidence | None, windows: Sequence[Window] = ()
) -> Image.Image:
    """The picture under its heat map, with the windows outlined; its size stays."""
    import numpy as np
    from PIL import Image, ImageDraw

    from ..laser_core.render import WINDOW_COLOUR, heat_map

    drawn = picture.copy()
    if evidence is not None and not evidence.degenerate:
        heat = heat_map(evidence).numpy()
        drawn = Image.fromarray(_covered(np.asarray(picture, dtype=np.float32), heat))
    pen = ImageDraw.Draw(drawn)
    line = max(2, round(max(picture.size) / 250))
    for window in windows:
        pen.rectangle(
            (window.x1, window.y1, window.x2 - 1, window.y2 - 1), outline=WINDOW_COLOUR, width=line
        )
    return drawn


def layer_sheet(picture: Image.Image, contrast: torch.Tensor, grid: Grid) -> Image.Image:
    """A tile per layer: the picture under the mean of the layer's heads, with its number.

    contrast: (L, H, gh, gw) >= 0.
    """
    from PIL import Image, ImageDraw

    from ..laser_core.results import Evidence

    maps = contrast.mean(1)  # LHhw -> Lhw
    layers = len(maps)
    columns = math.ceil(math.sqrt(layers * picture.height / picture.width))
    columns = min(max(columns, 1), layers)
    rows = math.ceil(layers / columns)
    side = min(max(SHEET_PX // max(columns, rows), TILE_PX[0]), TILE_PX[1])
    scale = side / max(picture.size)
    size = tuple(max(8, round(edge * scale)) for edge in picture.size)
    small = picture.resize(size, Image.Resampling.LANCZOS)
    label, gap = 14, 4
    cell = size[0] + gap, size[1] + label + gap
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), "white")
    pen = ImageDraw.Draw(sheet)
    view = grid.view
    x_scale, y_scale = size[0] / picture.width, size[1] / picture.height
    scaled = grid._replace(
        view=view._replace(
            x1=view.x1 * x_scale, y1=view.y1 * y_scale, x2=view.x2 * x_scale, y2=view.y2 * y_scale
        )
    )
    for layer, layer_map in enumerate(maps):
        left, top = gap + layer % columns * cell[0], gap + layer // columns * cell[1]
        pen.text((left + 2, top), str(layer), fill="black")
        tile = overlay(small, Evidence(layer_map, scaled, size))
        sheet.paste(tile, (left, top + label))
    return sheet


def on_one_size(sheets: Sequence[Image.Image]) -> list[Image.Image]:
    """Drawings on white canvases of one size, unscaled, for a batch."""
    from PIL import Image

    size = max(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)
    canvases = []
    for sheet in sheets:
        canvas = Image.new("RGB", size, "white")
        canvas.paste(sheet)
        canvases.append(canvas)
    return canvases


def _covered(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) 0..255 under heat (H, W) 0..1, as uint8."""
    import numpy as np
    from matplotlib import colormaps

    from ..laser_core.render import COLOUR_MAP, COVER_LEAST, COVER_MOST

    colours = colormaps[COLOUR_MAP](heat)[..., :3].astype(np.float32) * 255
    cover = (COVER_LEAST + (COVER_MOST - COVER_LEAST) * heat)[..., None]
    return (pixels * (1 - cover) + colours * cover).astype(np.uint8)
