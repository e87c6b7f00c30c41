"""Every layer's map on one sheet. Knows nothing of how layers are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..geometry import Grid
from ..results import Evidence
from .drawing import CHOSEN_COLOUR, LEAST_WIDTH_PX
from .heat import blend, covered

TILE_PX = (110, 224)  # the longer side of a picture on a sheet of layers, by how many there are
SHEET_PX = 1600
LABEL_WIDTH_PX = 122  # of a tile's number and VAQ


def layer_sheet(
    picture: Image.Image, maps: torch.Tensor, grid: Grid, vaq: Any, numbers: Sequence[int]
) -> Image.Image:
    """A tile per layer with its number and VAQ; the layer of the highest VAQ is framed.

    maps: (L, gh, gw) >= 0, each drawn up to its own maximum. vaq: (L,) floats. numbers: of the L
    layers in the decoder.
    """
    scores = [float(score) for score in vaq]
    finite = [index for index, score in enumerate(scores) if math.isfinite(score)]
    best = max(finite, key=scores.__getitem__) if finite else None
    tiles = _Sheet(picture.size, len(scores))
    for row, score in enumerate(scores):
        found = Evidence(maps[row], grid, picture.size)
        shown = None if found.degenerate else found
        tile = Image.fromarray(covered(picture, shown, tiles.tile_size))
        tiles.put(row, tile, f"{numbers[row]}", score, row == best)
    return tiles.picture


class _Sheet:
    """Tiles in rows, each below its label, above a line that says what they show."""

    def __init__(self, picture_size: tuple[int, int], tiles: int) -> None:
        from PIL import ImageDraw, ImageFont

        width, height = picture_size
        self.columns = min(max(math.ceil(math.sqrt(tiles * height / width)), 1), tiles)
        rows = math.ceil(tiles / self.columns)
        longer = min(max(SHEET_PX // max(self.columns, rows), TILE_PX[0]), TILE_PX[1])
        scale = longer / max(picture_size)
        # Room for the label, whatever the picture's shape
        self.tile_size = max(8, round(width * scale)), max(8, round(height * scale))
        self.cell_width = max(self.tile_size[0], LABEL_WIDTH_PX)
        self.font, self.gap = ImageFont.load_default(15), 10
        self.label_height, foot = 22, 30
        self.picture = Image.new(
            "RGB",
            (
                max(self.columns * (self.cell_width + self.gap) + self.gap, LEAST_WIDTH_PX),
                rows * (self.tile_size[1] + self.label_height + self.gap) + self.gap + foot,
            ),
            "white",
        )
        self.pen = ImageDraw.Draw(self.picture)
        top = self.picture.height - foot
        heat = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (14, 1))
        bar = blend(np.full((*heat.shape, 3), 128.0, dtype=np.float32), heat).astype(np.uint8)
        self.picture.paste(Image.fromarray(bar), (self.gap + 14, top + 2))
        for text, left in (("0", 0), ("1: the layer's strongest patch; framed: highest VAQ", 142)):
            self.pen.text((self.gap + left, top), text, fill="black", font=self.font)

    def put(self, index: int, tile: Image.Image, label: str, score: float, best: bool) -> None:
        left = self.gap + index % self.columns * (self.cell_width + self.gap)
        top = self.gap + index // self.columns * (self.tile_size[1] + self.label_height + self.gap)
        said = f"{score:.3g}" if math.isfinite(score) else "not finite"
        self.pen.text((left, top), label, fill="black", font=self.font)
        place = (left + self.cell_width, top)
        colour = CHOSEN_COLOUR if best else "#5a6570"
        self.pen.text(place, f"VAQ {said}", fill=colour, font=self.font, anchor="ra")
        corner = left, top + self.label_height
        self.picture.paste(tile, corner)
        if best:
            box = (
                *(c - 4 for c in corner),
                corner[0] + tile.width + 3,
                corner[1] + tile.height + 3,
            )
            self.pen.rectangle(box, outline=CHOSEN_COLOUR, width=4)
