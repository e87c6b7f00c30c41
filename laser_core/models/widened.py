"""Layers whose weights stay in 8 bits and are widened for each product.

Weights alone: what comes in and goes out keeps its own format. Knows no file and no model.
"""

from __future__ import annotations

from typing import cast

import torch


class _Widened(torch.nn.Module):
    """weight: in 8 bits. scale: (), what it is multiplied by."""

    weight: torch.nn.Parameter
    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        if not isinstance(weight, torch.nn.Parameter):  # one that is stays shared
            weight = torch.nn.Parameter(weight, requires_grad=False)
        self.weight = weight
        self.register_buffer("scale", scale)


class WidenedLinear(_Widened):
    """weight: (out, in). bias: (out,) in the format of what comes in, or None."""

    def __init__(
        self, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None = None
    ) -> None:
        super().__init__(weight, scale)
        kept = None if bias is None else torch.nn.Parameter(bias, requires_grad=False)
        self.register_parameter("bias", kept)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        bias = cast("torch.Tensor | None", self.bias)
        return torch.nn.functional.linear(
            states, widen(self.weight, self.scale, states.dtype), bias
        )


class WidenedEmbedding(_Widened):
    """weight: (words, width). dtype: of the embeddings."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> None:
        super().__init__(weight, scale)
        self._dtype = dtype

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        # As bytes: not every device can look up 8-bit numbers
        rows = torch.nn.functional.embedding(ids, self.weight.view(torch.uint8))
        return widen(rows.view(self.weight.dtype), self.scale, self._dtype)


def widen(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight as its makers meant it, in `dtype`. scale: (), of any format."""
    return weight.to(dtype) * scale.to(dtype)
