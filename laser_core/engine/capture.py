"""Attention rows, captured while the model runs its own fast kernel (docs/method.md, step 2).

Inside a `with` block, a wrapper replaces the attention function that transformers has registered.
It keeps the few wanted queries and points at the keys that it passes on to the kernel. The rows of
many layers are computed from these at once: a GPU waits for calls, and these are few and large. It
touches no weights and makes nothing of size N x N. Grouped-query heads, RoPE of any kind, q/k
norms, sliding windows and soft caps are right by construction.

    with RowCapture(lvlm, rows=[-1], keys=slice(5, 581)) as capture:
        lvlm.model(**inputs)
    capture.rows_by_layer()    # (1, L, H, 576)
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange

from ..models.lvlm import Lvlm
from .few_calls import bytes_held_for_rows
from .kernels import wrapped_kernel


@dataclass(frozen=True)
class _Attended:
    """What a layer's kernel was called with: queries (B, H, S, D), keys (B, H_kv, N, D), its mask,
    and how it hides and scales (the keywords of `attention_rows`)."""

    query: torch.Tensor
    key: torch.Tensor
    mask: torch.Tensor | None
    how: dict[str, Any]

    @property
    def held_bytes(self) -> int:
        return 4 * self.key.numel() + self.query.nbytes

    @property
    def alike(self) -> tuple:
        """Equal for layers whose rows are one product."""
        shapes = self.query.shape, self.key.shape, self.key.device
        return (*shapes, id(self.mask), *self.how.values())


class RowCapture:
    """Context manager: keeps post-softmax attention rows of one forward, of every layer with any.

    rows: query indices of the forward (negative from the end), the same for every batch row.
    keys: the key positions to keep. Restores the registry and removes its hooks on any exit.
    """

    def __init__(self, lvlm: Lvlm, rows: Sequence[int], keys: slice) -> None:
        self._modules = lvlm.attention_modules
        self._layer_of = {id(module): index for index, module in enumerate(self._modules)}
        self._implementation = lvlm.attention
        self._rows, self._keys = list(rows), keys
        self._most_held = bytes_held_for_rows(lvlm)
        self._held: dict[int, _Attended] = {}
        self._captured: dict[int, torch.Tensor] = {}  # (B, H, R, K)

    def __enter__(self) -> RowCapture:
        self._thread = threading.get_ident()
        with ExitStack() as undo:
            if self._implementation == "eager":
                for module in self._modules:
                    undo.callback(module.register_forward_hook(self._eager_hook).remove)
            else:
                undo.enter_context(wrapped_kernel(self._implementation, self._wrap))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()
        if exception[0] is None:
            self._compute()
        self._held.clear()

    def rows_by_layer(self, batch_row: int = 0) -> torch.Tensor:
        """(R, L, H, K): the wanted rows over the wanted keys, float32 on the CPU.

        Raises RuntimeError if a layer did not run inside the block.
        """
        missing = len(self._modules) - len(self._captured)
        if missing:
            raise RuntimeError(
                f"run the model inside the capture: {missing} of {len(self._modules)} decoder "
                f"layers did not call the attention function {self._implementation!r}"
            )
        layers = [self._captured[index][batch_row] for index in range(len(self._modules))]
        if len({layer.device for layer in layers}) > 1:  # of a model on several
            layers = [layer.cpu() for layer in layers]
        return rearrange(layers, "layer head row key -> row layer head key").cpu()  # one copy

    def _hold(self, layer: int, attended: _Attended) -> None:
        self._held.pop(layer, None)  # of a stretch before, whose last token is another
        self._held[layer] = attended
        if sum(one.held_bytes for one in self._held.values()) > self._most_held:
            self._compute()

    def _compute(self) -> None:
        """The rows of the layers that are held, which are then let go."""
        products: dict[tuple, list[int]] = {}
        for layer, attended in self._held.items():
            products.setdefault(attended.alike, []).append(layer)
        for layers in products.values():
            held = [self._held[layer] for layer in layers]
            rows = attention_rows(
                [one.query for one in held],
                [one.key for one in held],
                held[0].mask,
                rows=self._rows,
                **held[0].how,
            )
            self._captured.update(zip(layers, self._kept(rows), strict=True))
        self._held.clear()

    def _kept(self, rows: torch.Tensor) -> torch.Tensor:
        return rows[..., self._keys].clone()  # a view would keep the rows over all keys alive

    def _eager_hook(self, module: torch.nn.Module, args: tuple, output: tuple) -> None:
        """Eager attention returns its weights: read the rows off the module's output."""
        if threading.get_ident() != self._thread:
            return
        weights = output[1]  # (B, H, S, N)
        rows = self._kept(_rows_of(weights, self._rows).float())
        self._captured[self._layer_of[id(module)]] = rows

    def _wrap(self, kernel: Callable) -> Callable:
        @functools.wraps(kernel)
        def attention(
            module: torch.nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            layer = self._layer_of.get(id(module))
            if layer is not None and threading.get_ident() == self._thread:
                how = {name: kwargs.get(name) for name in ("scaling", "sliding_window", "softcap")}
                self._hold(layer, _Attended(query, key, attention_mask, how))
            return kernel(module, query, key, value, attention_mask, *args, **kwargs)

        return attention


def attention_rows(
    queries: Sequence[torch.Tensor],
    keys: Sequence[torch.Tensor],
    mask: torch.Tensor | None,
    *,
    rows: Sequence[int],
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Post-softmax attention of some query rows of L layers, (L, B, H, R, N) float32.

    queries: of each layer (B, H, S, D); keys: (B, H_kv, N, D), not repeated for grouped-query
    heads. mask: of all of them, None (causal), (B, N) padding, or (B or 1, H or 1, S, N) boolean or
    additive. The cost is R / S of the layers' score matrices; S x N is never made.
    """
    length, dim = queries[0].shape[2:]
    # Heads of a group share their key: fold them into the row axis instead of repeating keys.
    wanted = rearrange(
        torch.stack([query[:, :, row] for query in queries for row in rows]),
        "(l row) b (kv group) d -> l b kv (group row) d",
        row=len(rows),
        kv=keys[0].shape[1],
    )
    # In float32: scores rounded to half precision would be off by several per cent after softmax.
    scores = torch.matmul(wanted.float(), torch.stack(list(keys)).float().transpose(-1, -2))
    scores = rearrange(scores, "l b kv (group row) n -> l b (kv group) row n", row=len(rows))
    scores = scores * (dim**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = _masked(scores, mask, rows, length, sliding_window)
    return scores.softmax(-1)


def _rows_of(values: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """(B, H, S, D) -> (B, H, R, D); an index tensor would make a GPU wait in every layer."""
    return torch.stack([values[:, :, row] for row in rows], dim=2)


def _masked(
    scores: torch.Tensor,
    mask: torch.Tensor | None,
    rows: Sequence[int],
    length: int,
    sliding_window: int | None,
) -> torch.Tensor:
    """`scores` (L, B, H, R, N) with hidden keys at -inf, as the kernel would hide them."""
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise ValueError(
            f"load the model with attention 'auto': a mask of type {type(mask).__name__} "
            "cannot be read row by row"
        )
    total = scores.shape[-1]
    if mask is not None and mask.ndim == 4:
        # A 4-D mask already holds causality and window; one row may serve all queries.
        chosen = mask[..., :total]
        if mask.shape[2] > 1:
            chosen = _rows_of(chosen, rows)
        if chosen.dtype == torch.bool:
            return scores.masked_fill(~chosen, float("-inf"))
        return scores + chosen.float()
    key_position = torch.arange(total, device=scores.device)
    ages = torch.stack([key_position - (total - length + row % length) for row in rows])  # (R, N)
    hidden = ages > 0
    if sliding_window is not None:
        hidden = hidden | (ages <= -sliding_window)
    if mask is not None:  # (B, N) padding, as flash attention takes it
        hidden = hidden | ~rearrange(mask[:, -total:].bool(), "b n -> b 1 1 n")
    return scores.masked_fill(hidden, float("-inf"))
