"""The part of a prompt that runs share, as the decoder holds it. Does not know how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch


class State(NamedTuple):
    """What a layer of linear attention keeps of all tokens so far: it has no length.

    conv: (B, C, K), the last inputs of its convolution. recurrent: (B, H, D_k, D_v).
    """

    conv: torch.Tensor
    recurrent: torch.Tensor


Layers = list[tuple[torch.Tensor, torch.Tensor]]
"""Of every decoder layer: keys and values (B, H_kv, N, D), or a `State`."""


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
        kept = sum(tensor.nbytes for layer in self.layers for tensor in layer)
        for value in (value for call in self.inputs for value in call.values()):
            tensors = value if isinstance(value, (list, tuple)) else [value]
            kept += sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor))
        return kept
