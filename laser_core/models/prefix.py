"""The part of a prompt that runs share, as the decoder holds it. Does not know how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch

Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values (B, H_kv, N, D) of every decoder layer."""


DecoderInputs = list[dict[str, Any]]
"""What the decoder was called with, forward by forward: picture and text embeddings joined."""


class Kept(Protocol):
    """What a model keeps between runs beside its weights."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""


@dataclass(frozen=True)
class Prefix:
    """A prompt's tokens up to the end of its first picture, as the decoder holds them."""

    key: tuple
    layers: Layers
    inputs: DecoderInputs

    @property
    def nbytes(self) -> int:
        kept = sum(keys.nbytes + values.nbytes for keys, values in self.layers)
        for value in (value for call in self.inputs for value in call.values()):
            tensors = value if isinstance(value, (list, tuple)) else [value]
            kept += sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))
        return kept
