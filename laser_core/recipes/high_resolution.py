"""A finer map of a large picture: what its parts show, one by one, as one grid.

Reads the tiles that a model sees beside the whole picture (LLaVA-NeXT), or else blocks of about
BLOCK_PX pixels as pictures of their own, as ViCrop does for V* (arXiv 2502.17422, `high_res` of
github.com/saccharomycetes/mllms_know). Knows pictures and grids; knows no method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from einops import einsum
from PIL import Image

from ..geometry import Box, Grid, Window
from ..models.lvlm import Lvlm
from ..pictures import PictureInputs
from ..progress import Progress
from ..results import AttentionMaps
from ..settings import PromptSettings
from ..steps.attention import ReadAttention, read_attention

BLOCK_PX = 1024  # ViCrop's threshold


def read_finely(picture: Image.Image) -> ReadAttention:
    """`read_attention` of this very picture at a higher resolution, for `locate`.

    Attention is that of each part: what a block's prompt gives to the picture, it gives to the
    block. The maps' certainty is not known.
    """

    def read(
        lvlm: Lvlm,
        inputs: Any,
        question: str,
        settings: PromptSettings = PromptSettings(),
        progress: Progress | None = None,
    ) -> AttentionMaps:
        def branches(part: PictureInputs) -> torch.Tensor:
            maps = read_attention(lvlm, part, question, settings, progress)
            return torch.stack([maps.with_query, maps.without_query])

        inputs = lvlm.encode(inputs, settings.framing)
        rows, grid = finer_rows(lvlm, picture, inputs, branches, settings.framing)
        return AttentionMaps(rows[0], rows[1], grid, inputs.picture_size, None, lvlm.band)

    return read


def finer_rows(
    lvlm: Lvlm,
    picture: Image.Image,
    inputs: PictureInputs,
    read: Callable[[PictureInputs], torch.Tensor],
    framing: str = "pad",
) -> tuple[torch.Tensor, Grid]:
    """What `read` gives of a picture's parts, (..., gh, gw) each, on one grid over the picture.

    inputs: the picture's. A block's map is a density: where its grid reaches beyond the block
    (padding), the part on the block is taken. A picture of one block is read as it is.
    """
    if inputs.tiles is not None:
        tokens, grid = inputs.tiles
        with_ends = Grid(grid.rows, grid.columns + 1, grid.view)  # a token that ends each row
        rows = read(replace(inputs, map_tokens=tokens, grid=with_ends))
        return rows[..., : grid.columns], grid
    blocks = blocks_of(picture.size)
    if len(blocks) == len(blocks[0]) == 1:
        return read(inputs), inputs.grid
    stitched: list[torch.Tensor] = []
    shape = None  # of the first block: on native-resolution models another may have one row more
    for line in blocks:
        parts = []
        for block in line:
            part = lvlm.encode(picture.crop(block), framing)
            shape = shape or (part.grid.rows, part.grid.columns)
            parts.append(_on_block(read(part), part.grid, block, shape))
        stitched.append(torch.cat(parts, dim=-1))
    rows = torch.cat(stitched, dim=-2)
    return rows, Grid(rows.shape[-2], rows.shape[-1], Box(0, 0, *picture.size))


def blocks_of(size: tuple[int, int]) -> list[list[Window]]:
    """Blocks in rows that cover a (width, height) picture, as many as ViCrop cuts."""
    width, height = size
    down = math.ceil(height / BLOCK_PX)
    across = max(1, int(down * width / height))
    xs = [round(width * n / across) for n in range(across + 1)]
    ys = [round(height * n / down) for n in range(down + 1)]
    return [[Window(x1, y1, x2, y2) for x1, x2 in pairwise(xs)] for y1, y2 in pairwise(ys)]


def _on_block(
    maps: torch.Tensor, grid: Grid, block: Window, shape: tuple[int, int]
) -> torch.Tensor:
    """(..., gh, gw) of a block's grid as (..., rows, columns) cells that fill the block exactly."""
    cells = Grid(*shape, Box(0, 0, block.width, block.height))
    rows, columns = (
        torch.tensor(shares, dtype=maps.dtype)
        for shares in (
            [grid.shares_inside(Box(grid.view.x1, low, grid.view.x2, high))[0]
             for low, high in pairwise(cells.y_edges)],
            [grid.shares_inside(Box(low, grid.view.y1, high, grid.view.y2))[1]
             for low, high in pairwise(cells.x_edges)],
        )
    )  # fmt: skip
    return einsum(rows, maps, columns, "y gh, ... gh gw, x gw -> ... y x")
