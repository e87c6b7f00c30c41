"""Layers whose weights stay in the few bits of their file and are widened for each product.

Weights alone: what comes in and goes out keeps its own format. Knows formats, no file and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import cast

import torch
from einops import rearrange

# E2M1, the four bits of nvfp4: a sign, two bits of exponent, one of mantissa
_NUMBERS = 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0
_BLOCK, _TILE_ROWS, _TILE_COLUMNS = 16, 128, 4  # numbers; rows and scales
# Numbers of a weight that are widened at once: the rest of a larger one waits. On a CPU, what is
# computed on the way stays in its cache
_AT_ONCE, _AT_ONCE_ON_CPU = 2**24, 2**20


@dataclass(frozen=True)
class Packed:
    """A weight in few bits.

    stored: as its file has it. beside: what it is widened with. widen: (stored, *beside, dtype)
    gives the weight as its makers meant it, in dtype. numbers: how many it has. by_row: it widens
    rows of `stored` alone too.
    """

    stored: torch.Tensor
    beside: tuple[torch.Tensor, ...]
    widen: Callable[..., torch.Tensor]
    numbers: int
    by_row: bool = False

    def widened(self, dtype: torch.dtype) -> torch.Tensor:
        return self.widen(self.stored, *self.beside, dtype)


class Widened(torch.nn.Module):
    """weight: as it is stored. numbers: how many the weight has."""

    weight: torch.nn.Parameter

    def __init__(self, packed: Packed) -> None:
        super().__init__()
        stored = packed.stored
        if not isinstance(stored, torch.nn.Parameter):  # one that is stays shared
            stored = torch.nn.Parameter(stored, requires_grad=False)
        self.weight = stored
        self._names = [f"beside_{index}" for index in range(len(packed.beside))]
        for name, tensor in zip(self._names, packed.beside, strict=True):
            self.register_buffer(name, tensor)
        self._widen, self._by_row, self.numbers = packed.widen, packed.by_row, packed.numbers

    @property
    def packed(self) -> Packed:
        """The weight where it is now: the model may have moved."""
        beside = tuple(self.get_buffer(name) for name in self._names)
        return Packed(self.weight, beside, self._widen, self.numbers, self._by_row)

    def parts(self, rows: int) -> Sequence[torch.Tensor]:
        """The weight in so many rows each; the whole where it cannot be cut up."""
        if not self._by_row or len(self.weight) <= rows:
            return (self.weight,)
        return self.weight.split(rows)

    def widened(self, stored: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """stored: the weight, or rows of one that is widened by row."""
        # Not by get_buffer: it takes longer than a small product, and every step calls this
        return self._widen(stored, *(self._buffers[name] for name in self._names), dtype)


class WidenedLinear(Widened):
    """packed: of (out, in). bias: (out,) in the format of what comes in, or None."""

    def __init__(self, packed: Packed, bias: torch.Tensor | None = None) -> None:
        super().__init__(packed)
        kept = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", kept)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        bias = cast("torch.Tensor | None", self.bias)
        at_once = _AT_ONCE_ON_CPU if states.device.type == "cpu" else _AT_ONCE
        parts, dtype = self.parts(max(1, at_once // states.shape[-1])), states.dtype
        if len(parts) == 1:
            return torch.nn.functional.linear(states, self.widened(parts[0], dtype), bias)
        products = [torch.nn.functional.linear(states, self.widened(part, dtype)) for part in parts]
        product = torch.cat(products, dim=-1)
        return product if bias is None else product + bias


class WidenedEmbedding(Widened):
    """packed: of (words, width), by row. factor: (), of embeddings. dtype: of embeddings."""

    def __init__(self, packed: Packed, factor: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__(packed)
        self.register_buffer("factor", factor)
        self._dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        # As bytes: not every device can look up 8-bit numbers
        rows = torch.nn.functional.embedding(ids, self.weight.view(torch.uint8))
        embeddings = self.widened(rows.view(self.weight.dtype), self._dtype)
        return embeddings * self.get_buffer("factor").to(self._dtype)


def from_fp8(stored: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """stored: in 8 bits, of any shape. scale: (), of any format."""
    return stored.to(dtype) * scale.to(dtype)


def from_nvfp4(
    stored: torch.Tensor,
    blocks: torch.Tensor,
    scale: torch.Tensor,
    columns: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """(out, in), as comfy-kitchen's and cuBLAS's 4-bit products read it.

    stored: (out, in / 2) bytes of two numbers each, the first in the upper half. blocks: a scale
    for every 16 numbers of a row, in tiles of 128 rows by 4 scales. scale: (). columns: (in,) or
    (1,), what comes in is multiplied by (AWQ's, arXiv 2306.00978).
    """
    rows, across = len(stored), stored.shape[1] * 2 // _BLOCK
    tiles = blocks.float().reshape(-(-rows // _TILE_ROWS), -(-across // _TILE_COLUMNS), 32, 4, 4)
    scales = rearrange(tiles, "down across row band column -> (down band row) (across column)")
    scales = (scales[:rows, :across] * scale.float()).to(dtype)
    pairs = torch.nn.functional.embedding(stored.int(), _pairs(stored.device, dtype))
    weight = (pairs.reshape(rows, across, _BLOCK) * scales[..., None]).reshape(rows, -1)
    return weight * columns.to(dtype)


@lru_cache(maxsize=8)  # or each product would wait for the processor
def _pairs(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(256, 2): the two numbers of each byte."""
    numbers = [*_NUMBERS, *(-number for number in _NUMBERS)]
    return torch.tensor([*product(numbers, repeat=2)], device=device, dtype=dtype)
