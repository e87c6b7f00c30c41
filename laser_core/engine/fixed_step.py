"""A decoding step over caches of fixed size, which a GPU can replay as one CUDA graph.

All that a step changes lies in place: token, positions, mask, and where its keys are written. So
from the second step on, nothing but the token is new to the device. Knows how a model is called;
knows neither prompts nor how a token is chosen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from ..models.lvlm import Lvlm
from ..out_of_memory import is_out_of_memory
from .caches import cache_of_layers, zero_rows
from .masks import masks_of

BUCKET = 256
"""Tokens: a cache has room for the next multiple, so that answers of like length share a graph."""

GROWS_BY = 1024
"""Tokens that a cache grows by when it is full: its graph is made anew then."""

PAYS_FROM = 5
"""Steps of an answer before a graph is made: making it takes as long as four plain steps saved."""

Replay = Callable[[], torch.Tensor]


class FixedStep:
    """One token for every row, over the same memory each time.

    streams: rows of the batch. room: tokens that prompt and answer take at most. The cache holds
    multiples of BUCKET and is filled layer by layer with `buffers`, then `begin` is called.
    length: tokens in the cache.
    """

    def __init__(self, lvlm: Lvlm, streams: int, room: int) -> None:
        # Neither holds the other: what is let go is freed at once
        self._lvlm = weakref.proxy(lvlm)
        self.streams, self.room = streams, in_buckets(room)
        self.cache = DynamicCache()
        self._layers: list[_FixedLayer | None] = [None] * len(lvlm.attention_modules)
        self._replay: Replay | None = None
        self._weights = _addresses(lvlm)
        self.refused, self.for_now = "", False  # why no graph could be made; whether it may later
        self.grown = False
        device = lvlm.device
        self._place = _Place(torch.zeros(1, dtype=torch.long, device=device))
        self._tokens = torch.zeros(streams, 1, dtype=torch.long, device=device)
        shape = (3, streams, 1) if lvlm.mrope else (streams, 1)
        self._positions = torch.zeros(shape, dtype=torch.long, device=device)
        self._seen = torch.zeros(streams, 1, 1, self.room, dtype=torch.bool, device=device)
        self._indices = torch.arange(self.room, device=device)
        self._steps = 0

    def serves(self, streams: int, room: int) -> bool:
        """Whether its graph can answer this: the sizes are its own, the weights where they were."""
        same = (self.streams, self.room) == (streams, in_buckets(room))
        return same and self.has_graph and self._weights == _addresses(self._lvlm)

    @property
    def length(self) -> int:
        return self._place.length

    @property
    def has_graph(self) -> bool:
        return self._replay is not None

    @property
    def nbytes(self) -> int:
        """Of the caches."""
        return sum(tensor.nbytes for layer in self._layers if layer for tensor in layer.room)

    def buffers(
        self, index: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's keys and values, (streams, H_kv, room, D) zeros. keys, values: like these."""
        layer = self._layers[index]
        if layer is None:
            shape = self.streams, self.room
            room = zero_rows(keys, *shape), zero_rows(values, *shape)
            layer = self._layers[index] = _FixedLayer(self._place, room)
        else:
            for tensor in layer.room:
                tensor.zero_()
        return layer.room

    def begin(self, length: int, pads: torch.Tensor, positions: torch.Tensor) -> None:
        """Go on after `length` tokens. pads: (S,) of each row's, hidden on its left.

        positions: (S, 1) or (3, S, 1) of the next token.
        """
        self.cache = cache_of_layers([layer for layer in self._layers if layer])
        self._place.length, self._steps = length, 0
        self._place.index.fill_(length)
        self._positions.copy_(positions)
        seen = (self._indices >= pads[:, None]) & (self._indices < length)
        self._seen.copy_(seen[:, None, None])

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(S, V) float32 logits after these tokens, (S, 1)."""
        if self.length == self.room:
            self._grow()
        self._tokens.copy_(tokens)
        self._steps += 1
        if self._steps == PAYS_FROM and not self.has_graph and not self.refused:
            self._make_graph()
        logits = self._replay() if self._replay else self._run()
        self._place.length += 1
        return logits.to(torch.float32, copy=True)  # the next step writes over them

    def _grow(self) -> None:
        """Room for more tokens, at other addresses: without the graph of the old ones."""
        self._replay, self._steps, self.room = None, 0, self.room + GROWS_BY
        self.grown = True
        self._seen = torch.nn.functional.pad(self._seen, (0, GROWS_BY))
        self._indices = torch.arange(self.room, device=self._place.index.device)
        for layer in filter(None, self._layers):
            layer.grow(GROWS_BY)

    def _run(self) -> torch.Tensor:
        """(S, V): the step itself. Asks the device for nothing that depends on a value."""
        lvlm = self._lvlm
        self._seen.index_fill_(3, self._place.index, True)
        hidden = lvlm.body(  # not the decoder: Gemma 4 feeds it padding for a placeholder
            input_ids=self._tokens,
            attention_mask=masks_of(lvlm, self._seen, self._place.index, self._indices),
            position_ids=self._positions,
            **{lvlm.cache_name: self.cache},
            use_cache=True,
        ).last_hidden_state
        logits = lvlm.logits(hidden[:, -1])
        self._place.index.add_(1)
        self._positions.add_(1)
        return logits

    def _make_graph(self) -> None:
        before = self._positions.clone()
        try:
            self._replay = capture_graph(self._run, self._tokens.device)
        except RuntimeError as error:  # a kernel that waits, or allocates where it may not
            self.refused = str(error).partition("\n")[0]
            self.for_now = is_out_of_memory(error)
        # The rehearsal has moved these on; what it wrote is written over
        self._place.index.fill_(self.length)
        self._positions.copy_(before)


@dataclass
class _Place:
    """Where the next token goes: (1,) on the device, and the same known without waiting for it."""

    index: torch.Tensor
    length: int = 0


class _FixedLayer(DynamicLayer):
    """Keys and values (S, H_kv, room, D) of which those before the place count."""

    is_croppable = False  # else `generate` may run a step ahead and crop the cache afterwards

    def __init__(self, place: _Place, room: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__()
        self.keys, self.values = self.room = room
        self.dtype, self.device, self.is_initialized = room[0].dtype, room[0].device, True
        self._place = place

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        for tensor, new in zip(self.room, (key_states, value_states), strict=True):
            tensor.index_copy_(2, self._place.index, new)
        return self.room

    def grow(self, tokens: int) -> None:
        keys, values = (torch.nn.functional.pad(tensor, (0, 0, 0, tokens)) for tensor in self.room)
        self.keys, self.values = self.room = keys, values

    def get_seq_length(self, *args: Any) -> int:
        return self._place.length


def in_buckets(tokens: int) -> int:
    return -(-tokens // BUCKET) * BUCKET


def capture_graph(run: Callable[[], torch.Tensor], device: torch.device) -> Replay:
    """`run` on a device as a CUDA graph: a function that runs it again, and gives its output.

    Runs it once before, on another stream, as kernels that prepare themselves must not be
    captured. Raises RuntimeError for what cannot be captured.
    """
    with torch.cuda.device(device):  # whose streams are meant, whatever the current device is
        stream = _stream_beside(torch.cuda.current_device())
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                run()
        finally:
            torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = run()

    def replay() -> torch.Tensor:
        with torch.cuda.device(device):
            graph.replay()
        return output

    return replay


@cache
def _stream_beside(device: int) -> torch.cuda.Stream:
    """One for all graphs of a device: PyTorch keeps 32 MB of working memory for each stream."""
    return torch.cuda.Stream(device)


def _addresses(lvlm: Lvlm) -> tuple[int, ...]:
    """Where the weights lie that a step reads: a graph reads them from there."""
    parts = lvlm.model.get_decoder(), lvlm.model.get_output_embeddings()
    return tuple(
        tensor.data_ptr() for part in parts for tensor in (*part.parameters(), *part.buffers())
    )
