"""Maps and windows of several methods on one sheet. Knows pictures and lines of text, no method."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from ..geometry import Box, Window
from ..results import Evidence
from .drawing import WINDOW_COLOUR
from .heat import covered, scaled

COMPARED_SCHEMA = "laser-compared"  # of the report beside a sheet
TILE_PX = 384  # the longer side of a picture
COLUMNS = 4
TEXT_PX, LINE_PX, GAP_PX = 16, 22, 16
BOX_COLOUR = "#ffffff"


@dataclass(frozen=True)
class Tile:
    """title and lines: below the picture. evidence, window: None where there is none."""

    title: str
    lines: Sequence[str]
    evidence: Evidence | None = None
    window: Window | None = None


def method_sheet(
    picture: Image.Image, heading: str, tiles: Sequence[Tile], boxes: Sequence[Box] = ()
) -> Image.Image:
    """A tile a method: the picture under its map, its window in cyan, true boxes in white.

    heading: above all tiles. Each map is drawn up to its own maximum.
    """
    from PIL import ImageDraw, ImageFont

    font, large = ImageFont.load_default(TEXT_PX), ImageFont.load_default(TEXT_PX + 4)
    scale = TILE_PX / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    cell = max(size[0], TILE_PX // 2)
    columns = min(COLUMNS, len(tiles))
    letters = max(8, int(cell / (0.52 * TEXT_PX)))
    texts = [
        [line for part in tile.lines for line in textwrap.wrap(part, letters)] for tile in tiles
    ]
    width = columns * (cell + GAP_PX) + GAP_PX
    head = textwrap.wrap(heading, max(20, int(width / (0.55 * (TEXT_PX + 4)))))
    top = GAP_PX + len(head) * (LINE_PX + 4) + GAP_PX // 2
    row_px = [
        size[1] + (1 + max(map(len, texts[start : start + columns]))) * LINE_PX + GAP_PX
        for start in range(0, len(tiles), columns)
    ]
    sheet = Image.new("RGB", (width, top + sum(row_px)), "white")
    pen = ImageDraw.Draw(sheet)
    for index, line in enumerate(head):
        pen.text((GAP_PX, GAP_PX + index * (LINE_PX + 4)), line, fill="black", font=large)
    for index, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        row, column = divmod(index, columns)
        left, upper = GAP_PX + column * (cell + GAP_PX), top + sum(row_px[:row])
        found = None if tile.evidence is None or tile.evidence.degenerate else tile.evidence
        sheet.paste(Image.fromarray(covered(picture, found, size)), (left, upper))
        for box in boxes:
            _outline(pen, scaled(box, picture.size, size), (left, upper), BOX_COLOUR, size, 1)
        if tile.window is not None:
            drawn = scaled(Box(*tile.window), picture.size, size)
            _outline(pen, drawn, (left, upper), WINDOW_COLOUR, size, 3)
        upper += size[1] + 4
        pen.text((left, upper), tile.title, fill="black", font=font, stroke_width=0.4)
        for number, line in enumerate(lines, 1):
            pen.text((left, upper + number * LINE_PX), line, fill="#3d4650", font=font)
    return sheet


def _outline(
    pen: object, box: Box, corner: tuple[int, int], colour: str, size: tuple[int, int], thick: int
) -> None:
    """A frame on the picture, black beside it so that it shows on any colour."""
    x1, y1 = (math.floor(max(edge, 0)) for edge in box[:2])
    x2, y2 = (math.ceil(min(edge, side)) - 1 for edge, side in zip(box[2:], size, strict=True))
    left, top = corner
    for grown, ink, width in ((1, "black", thick + 2), (0, colour, thick)):
        frame = left + x1 - grown, top + y1 - grown, left + x2 + grown, top + y2 + grown
        pen.rectangle(frame, outline=ink, width=width)  # type: ignore[attr-defined]
