"""Weights of GGUF files: mapped from the file, and widened on any device where they are packed.

Knows the layout of ggml's blocks, which hold some numbers in few bits each; knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from einops import rearrange

from .gguf_encoders import JoinedHeader
from .gguf_files import BLOCKS, PackedTensor

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# What four bits stand for in the formats whose numbers lie unevenly
_UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


class GgufWeights:
    """The weights of a header that `joined_header` made, mapped from its files."""

    def __init__(self, header: JoinedHeader) -> None:
        self._header = header
        self._mapped = cache(_mapped)

    def get_tensor(self, name: str) -> torch.Tensor:
        """A weight in its own format: of one of BLOCKS (rows, bytes), else its numbers."""
        joined = self._header.tensors[name]
        pieces = [self._piece(file, tensor, joined.dtype) for file, tensor in joined.pieces]
        if len(pieces) == 1:
            whole = pieces[0]
        elif pieces[0].ndim == 4:
            whole = torch.stack(pieces, dim=2)
        else:
            whole = torch.cat(pieces)
        return whole.float() - joined.above if joined.above else whole

    def _piece(self, file: Path, tensor: PackedTensor, dtype: str) -> torch.Tensor:
        stored = self._mapped(file)[tensor.begin : tensor.begin + tensor.size]
        if tensor.dtype not in BLOCKS:
            numbers = stored.view(_PLAIN[tensor.dtype]).view(tensor.shape)
            return numbers if tensor.dtype == dtype else numbers.to(_PLAIN[dtype])
        rows = stored.view(*tensor.shape[:-1], -1)
        return rows if tensor.dtype == dtype else from_blocks(tensor.dtype, rows, _PLAIN[dtype])


def _mapped(file: Path) -> torch.Tensor:
    return torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8)


def from_blocks(kind: str, packed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of packed bytes as numbers: (..., bytes) -> (..., numbers).

    kind: one of BLOCKS. packed: uint8. They are computed in float32, then rounded to `dtype`.
    """
    parts = BLOCKS[kind].parts
    blocks = packed.reshape(-1, sum(parts)).split(parts, dim=1)
    return _WIDEN[kind](*blocks).to(dtype).reshape(*packed.shape[:-1], -1)


def _float(halves: torch.Tensor) -> torch.Tensor:
    return halves.contiguous().view(torch.float16).float()


def _bits(packed: torch.Tensor, bits: int, run: int) -> torch.Tensor:
    """Numbers of a few bits: (blocks, bytes) -> (blocks, numbers). run: bytes that hold the numbers
    of their lowest bits first, then those of the next."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
    runs = rearrange(packed, "blocks (runs run) -> blocks runs 1 run", run=run)
    return ((runs >> shifts[:, None]) & (2**bits - 1)).flatten(1)


def _less(numbers: torch.Tensor, offset: int) -> torch.Tensor:
    """Numbers that are below 128, less the offset."""
    return (numbers.view(torch.int8) - offset).float()


def _scaled(
    numbers: torch.Tensor, scales: torch.Tensor, below: torch.Tensor | None = None
) -> torch.Tensor:
    """Numbers times the scale of their group, less what their group lies below zero."""
    groups = rearrange(numbers, "blocks (groups n) -> blocks groups n", groups=scales.shape[1])
    scaled = groups.float() * scales[..., None]
    return (scaled if below is None else scaled.sub_(below[..., None])).flatten(1)


def _six_bits(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(scales, what groups lie below zero) of eight groups, in 12 bytes: (blocks, 8) each."""
    scales, below, rest = packed.split(4, dim=1)
    high = [(part >> 2) & 0x30 for part in (scales, below)]
    return (
        torch.cat([scales & 0x3F, (rest & 0x0F) | high[0]], dim=1).float(),
        torch.cat([below & 0x3F, (rest >> 4) | high[1]], dim=1).float(),
    )


def _uneven(indices: torch.Tensor) -> torch.Tensor:
    return _uneven_numbers(indices.device)[indices.int()]


@cache  # or each product would wait for the processor
def _uneven_numbers(device: torch.device) -> torch.Tensor:
    return torch.tensor(_UNEVEN, device=device, dtype=torch.float32)


# Each takes the parts of blocks, in their order: scale, below and least are halves; low and high
# are the lower and the upper bits of numbers.


def _q4_0(scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return _scaled(_less(_bits(low, 4, 16), 8), _float(scale))


def _q4_1(scale: torch.Tensor, least: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return _scaled(_bits(low, 4, 16), _float(scale), -_float(least))


def _q5_0(scale: torch.Tensor, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return _scaled(_less(_bits(low, 4, 16) | _bits(high, 1, 1) << 4, 16), _float(scale))


def _q5_1(
    scale: torch.Tensor, least: torch.Tensor, high: torch.Tensor, low: torch.Tensor
) -> torch.Tensor:
    return _scaled(_bits(low, 4, 16) | _bits(high, 1, 1) << 4, _float(scale), -_float(least))


def _q8_0(scale: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return _scaled(numbers.view(torch.int8), _float(scale))


def _q2_k(
    scales: torch.Tensor, low: torch.Tensor, scale: torch.Tensor, below: torch.Tensor
) -> torch.Tensor:
    groups, belows = (scales & 0x0F).float(), (scales >> 4).float()
    return _scaled(_bits(low, 2, 32), _float(scale) * groups, _float(below) * belows)


def _q3_k(
    high: torch.Tensor, low: torch.Tensor, scales: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    groups = _less(_bits(scales[:, :8], 4, 8) | _bits(scales[:, 8:], 2, 4) << 4, 32)
    return _scaled(_less(_bits(low, 2, 32) | _bits(high, 1, 32) << 2, 4), _float(scale) * groups)


def _q4_k(
    scale: torch.Tensor, below: torch.Tensor, scales: torch.Tensor, low: torch.Tensor
) -> torch.Tensor:
    groups, belows = _six_bits(scales)
    return _scaled(_bits(low, 4, 32), _float(scale) * groups, _float(below) * belows)


def _q5_k(
    scale: torch.Tensor,
    below: torch.Tensor,
    scales: torch.Tensor,
    high: torch.Tensor,
    low: torch.Tensor,
) -> torch.Tensor:
    groups, belows = _six_bits(scales)
    numbers = _bits(low, 4, 32) | _bits(high, 1, 32) << 4
    return _scaled(numbers, _float(scale) * groups, _float(below) * belows)


def _q6_k(
    low: torch.Tensor, high: torch.Tensor, scales: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    numbers = _less(_bits(low, 4, 64) | _bits(high, 2, 32) << 4, 32)
    return _scaled(numbers, _float(scale) * scales.view(torch.int8))


def _iq4_nl(scale: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return _scaled(_uneven(_bits(low, 4, 16)), _float(scale))


def _iq4_xs(
    scale: torch.Tensor, high: torch.Tensor, scales: torch.Tensor, low: torch.Tensor
) -> torch.Tensor:
    groups = _less(_bits(scales, 4, 1) | _bits(high, 2, 1) << 4, 32)
    return _scaled(_uneven(_bits(low, 4, 16)), _float(scale) * groups)


_WIDEN: dict[str, Callable[..., torch.Tensor]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl, "IQ4_XS": _iq4_xs,
}  # fmt: skip
