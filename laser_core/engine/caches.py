"""Caches that continue borrowed layers, grow in place or carry a state.

Know of a model only which of its layers carry one; know no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..models.lvlm import Lvlm
from ..models.prefix import Layers, State


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


def cache_of(lvlm: Lvlm, layers: Layers | None = None) -> DynamicCache:
    """A growing cache that begins with `layers`, which stay untouched; without any, an empty one.

    Keys and values are not copied; states are, as the model writes over its own.
    """
    if layers:
        return cache_of_layers(
            [state_layer(one) if isinstance(one, State) else _Continued(*one) for one in layers]
        )
    if not lvlm.state_layers:
        return DynamicCache()
    count = lvlm.model.config.get_text_config().num_hidden_layers
    return cache_of_layers(
        [_new_state() if layer in lvlm.state_layers else DynamicLayer() for layer in range(count)]
    )


def cache_of_layers(layers: Sequence[Any]) -> DynamicCache:
    """A cache of these very layers."""
    cache = DynamicCache()
    cache.layers = [*layers]
    return cache


def layers_of(cache: DynamicCache) -> Layers:
    """The cache's own keys and values, without those it was begun with; of its states, copies."""
    layers: Any = cache.layers  # by the library's types they may be of kinds that hold no keys
    return [
        State(layer.conv_states[0].clone(), layer.recurrent_states[0].clone())
        if hasattr(layer, "recurrent_states")
        else (layer.keys, layer.values)
        for layer in layers
    ]


def zero_rows(like: torch.Tensor, rows: int, length: int) -> torch.Tensor:
    """(rows, H_kv, length, D) zeros for keys or values like these. What masked places hold is
    multiplied by nought, so it must be finite."""
    return like.new_zeros(rows, like.shape[1], length, like.shape[3])


def repeated(layers: Layers, rows: int) -> Layers:
    """One row's layers as those of a batch of equal ones, not copied."""
    return _each(layers, lambda part: part.expand(rows, *part.shape[1:]))


def of_row(layers: Layers, row: int) -> Layers:
    """The layers of one row of a batch, as a batch of one."""
    return _each(layers, lambda part: part[row, None])


def cut(layers: Layers, first: int, last: int | None = None) -> Layers:
    """Keys and values of the tokens from `first` to `last`; states, of all tokens, as they are."""
    return [
        one if isinstance(one, State) else (one[0][:, :, first:last], one[1][:, :, first:last])
        for one in layers
    ]


def _each(layers: Layers, change: Callable[[torch.Tensor], torch.Tensor]) -> Layers:
    return [
        State(*map(change, one)) if isinstance(one, State) else (change(one[0]), change(one[1]))
        for one in layers
    ]


def joined(shared: Layers, own: Layers) -> Layers:
    """Two parts that follow one another as one: keys and values in a row, the later state."""
    if not shared:
        return own
    return [
        later
        if isinstance(later, State)
        else (torch.cat([first[0], later[0]], dim=-2), torch.cat([first[1], later[1]], dim=-2))
        for first, later in zip(shared, own, strict=True)
    ]


def copied(layer: Any) -> Any:
    """Keys and values that no longer are parts of a cache; a state, which never is one."""
    return layer if isinstance(layer, State) else (layer[0].clone(), layer[1].clone())


def keep_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Drop all other rows of a batch."""
    layers: Any = cache.layers
    for layer in layers:
        state = hasattr(layer, "recurrent_states")
        (layer.reorder_cache if state else layer.batch_select_indices)(rows)


# ---- layers of linear attention ----------------------------------------------------------------


def merged_states(states: Sequence[State]) -> State:
    """The states of several streams as one batch. They have no length, so that none is padded: read
    each stream without padding, and merge what comes of it."""
    return State(*(torch.cat(parts) for parts in zip(*states, strict=True)))


def state_layer(state: State) -> Any:
    """A cache's layer that goes on from a copy of the state."""
    layer = _new_state()
    layer.update_conv_state(state.conv)
    layer.update_recurrent_state(state.recurrent)
    return layer


def _new_state() -> Any:
    from transformers.cache_utils import LinearAttentionLayer  # 4.57 has none

    return LinearAttentionLayer()


# ---- layers that grow in place -----------------------------------------------------------------

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
