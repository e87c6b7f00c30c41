"""Where an answer looks while it is written: a row of attention for each of its tokens.

Knows prompts and one row of a batch; knows neither layers' worth nor how maps are drawn.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import reduce

from ..geometry import Window
from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Layers
from ..results import TokenMaps
from .caches import cut
from .capture import RowCapture
from .last_rows import read_last_row
from .reading import Check, ReadStream


@dataclass(frozen=True)
class Watch:
    """What is needed to say where an answer looks.

    free: its prompt without the question. windows: what each of the prompt's pictures shows of the
    picture that the maps lie on; None for one that is left out. picture_size: (width, height).
    """

    free: Prompt
    windows: tuple[Window | None, ...]
    picture_size: tuple[int, int]


class TokenRows:
    """The rows of one answer: reads the prompt without the question, then notes each step.

    A token's row is that of the step that wrote it: the query is the token before. Kept is the mean
    over each layer's heads, L x N numbers a token. read: the answer's stream, whose pictures are
    not read again, but for those that a state cannot be cut after. check: called before each
    forward.
    """

    def __init__(self, lvlm: Lvlm, read: ReadStream, watch: Watch, check: Check) -> None:
        self._lvlm, self._watch, self._pictures = lvlm, watch, read.prompt.pictures
        self._keys = _watched_keys(read.prompt, watch)
        keys, held = _watched_keys(watch.free, watch), _held_for(lvlm, read, watch.free)
        free = read_last_row(lvlm, watch.free, _around(keys), held, check=check)
        self._without_query = _head_means(free.attention, keys)
        self._rows: list[torch.Tensor] = []  # (L, N)

    @contextmanager
    def noting(self, batch_row: int, pad: int) -> Iterator[None]:
        """Inside, every forward of the model in this thread adds a row.

        batch_row: the answer's; pad: tokens that its prompt is padded by on its left.
        """
        keys, thread = _around(self._keys), threading.get_ident()
        keys = slice(keys.start + pad, keys.stop + pad)
        running: list[RowCapture] = []

        def begin(*_: Any) -> None:
            if threading.get_ident() == thread:
                running.append(RowCapture(self._lvlm, rows=[-1], keys=keys).__enter__())

        def end(*_: Any) -> None:
            if threading.get_ident() == thread:
                capture = running.pop()
                capture.__exit__(None, None, None)
                rows = capture.rows_by_layer(batch_row)[0]
                self._rows.append(_head_means(rows, self._keys))

        model = self._lvlm.model
        hooks = model.register_forward_pre_hook(begin), model.register_forward_hook(end)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for capture in running:  # of a step that failed
                capture.__exit__(RuntimeError)

    def maps(self, tokens: int) -> TokenMaps:
        """Of the answer's first `tokens` tokens."""
        windows, grids = [], []
        for window, picture in zip(self._watch.windows, self._pictures, strict=True):
            if window is not None:
                windows.append(window)
                grids.append(picture.grid.within(window, picture.picture_size))
        return TokenMaps(
            torch.stack(self._rows[:tokens]),
            self._without_query,
            tuple(grids),
            tuple(windows),
            self._watch.picture_size,
            self._lvlm.band,
        )


def _held_for(lvlm: Lvlm, read: ReadStream, free: Prompt) -> Layers:
    """What the decoder holds of a stream's tokens that `free` begins with, pictures among them."""
    # A state has no length: the one after the first picture is kept
    stop = read.prompt.prefix_length if lvlm.state_layers else read.prompt.spans[-1].stop
    alike = torch.equal(free.input_ids[:, :stop], read.prompt.input_ids[:, :stop])
    if not alike or free.length == stop:  # a template may write nothing after the pictures
        return []
    return read.shared if lvlm.state_layers else cut(read.joined(), 0, stop)


def _watched_keys(prompt: Prompt, watch: Watch) -> torch.Tensor:
    """(N,) positions of the watched pictures' patches."""
    shown = zip(prompt.map_spans, watch.windows, strict=True)
    spans = [span for span, window in shown if window is not None]
    return torch.cat([torch.arange(span.start, span.stop) for span in spans])


def _head_means(rows: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(L, H, K) over `_around` of the keys -> (L, N) over the keys."""
    return reduce(rows, "layer head key -> layer key", "mean")[:, keys - keys[0]]


def _around(keys: torch.Tensor) -> slice:
    return slice(int(keys[0]), int(keys[-1]) + 1)
