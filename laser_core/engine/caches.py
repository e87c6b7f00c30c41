"""Key-value caches that continue borrowed ones or grow in place. Know no prompt and no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..models.prefix import Layers


class _Continued(DynamicLayer):
    """A growing layer that begins with borrowed keys and values; its own hold only what is new.

    It never drops keys, even in a model with a sliding window: the mask holds the window, and a
    later continuation may start anywhere.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self._borrowed = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        own = super().update(key_states, value_states)
        keys, values = (torch.cat(pair, dim=-2) for pair in zip(self._borrowed, own, strict=True))
        return keys, values

    def get_seq_length(self, *args: Any) -> int:
        return self._borrowed[0].shape[-2] + super().get_seq_length()


def cache_of(layers: Layers) -> DynamicCache:
    """A growing cache that begins with `layers`, which stay untouched and are not copied."""
    return cache_of_layers([_Continued(keys, values) for keys, values in layers])


def cache_of_layers(layers: Sequence[DynamicLayer]) -> DynamicCache:
    """A cache of these very layers."""
    cache = DynamicCache()
    cache.layers = [*layers]
    return cache


def layers_of(cache: DynamicCache) -> Layers:
    """The cache's own keys and values, without those it was begun with."""
    layers: Any = cache.layers  # by the library's types they may be of kinds that hold no keys
    return [(layer.keys, layer.values) for layer in layers]


ROOM = 32  # tokens a cache grows by when it is full


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, H_kv, N, D) with room behind them.

    A new token is written in place; the library's layer copies all tokens for each new one.
    """

    is_croppable = False  # else `generate` may run a step ahead and crop the cache afterwards

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, length: int) -> None:
        super().__init__()
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._room, self._length = (keys, values), length
        self._show()

    def _show(self) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (tensor[:, :, : self._length] for tensor in self._room)
        self.keys, self.values = keys, values
        return keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, stop = self._length, self._length + key_states.shape[-2]
        if stop > self._room[0].shape[-2]:  # by the one token of a step
            pad = (0, 0, 0, ROOM)
            keys, values = (torch.nn.functional.pad(tensor, pad) for tensor in self._room)
            self._room = keys, values
        for tensor, new in zip(self._room, (key_states, value_states), strict=True):
            tensor[:, :, start:stop] = new
        self._length = stop
        return self._show()

    def get_seq_length(self, *args: Any) -> int:
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        keys, values = (tensor[indices] for tensor in self._room)
        self._room = keys, values
        self._show()
