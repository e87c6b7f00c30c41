"""Vision attention in windows: those of equal size as one kernel call.

The library calls its kernel for each window of 64 patches, and waits for their sizes in every
layer. Knows how Qwen2.5-VL's tower calls its attention; knows no picture and no decoder.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..models.lvlm import Lvlm

WINDOWED = "Qwen2_5_VLVisionAttention"
"""The attention class, by name, whose `forward` takes the windows' edges as `cu_seqlens`."""


@contextmanager
def equal_windows_at_once(lvlm: Lvlm) -> Iterator[None]:
    """Inside, in this thread, the tower's windows of equal size are one call; features are equal.

    Towers of other families are left alone. So are modules whose weights are loaded for each call,
    and kernels other than SDPA: flash attention takes all windows in one call by itself.
    """
    modules = [module for module in lvlm.body.modules() if _is_replaced(module)]
    thread, groups = threading.get_ident(), _Groups()
    for module in modules:
        module.forward = _forward(module, groups, thread)
    try:
        yield
    finally:
        for module in modules:
            del module.forward


def _is_replaced(module: Any) -> bool:
    named = type(module).__name__ == WINDOWED
    return named and module.config._attn_implementation == "sdpa" and "forward" not in vars(module)


class _Groups:
    """Patches by the size of their window, worked out once for all layers with the same edges."""

    def __init__(self) -> None:
        self._known: dict[int, tuple] = {}

    def of(self, edges: torch.Tensor) -> tuple[list[tuple[int, torch.Tensor]], torch.Tensor]:
        """(size, patches (windows * size,)) for each size, and each patch's place in their order.

        edges: (windows + 1,) where windows begin and end. Equal edges may repeat (empty windows).
        """
        known = self._known.get(id(edges))
        if known is None:
            at = edges.tolist()
            starts: dict[int, list[int]] = {}
            for start, stop in pairwise(at):
                if stop > start:
                    starts.setdefault(stop - start, []).append(start)
            groups = [
                (size, (torch.tensor(begin)[:, None] + torch.arange(size)).flatten())
                for size, begin in starts.items()
            ]
            order = torch.cat([patches for _, patches in groups])
            places = torch.argsort(order).to(edges.device)
            on_device = [(size, patches.to(edges.device)) for size, patches in groups]
            # The edges are kept, so that no others can have their id
            known = self._known[id(edges)] = (on_device, places, edges)
        return known[0], known[1]


def _forward(module: Any, groups: _Groups, thread: int) -> Any:
    own = module.forward
    rotate = sys.modules[type(module).__module__].apply_rotary_pos_emb_vision

    @functools.wraps(own)
    def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        edges = kwargs.get("cu_seqlens")
        if args or edges is None or threading.get_ident() != thread:
            return own(hidden_states, *args, **kwargs)
        states = rearrange(
            module.qkv(hidden_states), "n (part h d) -> part n h d", part=3, h=module.num_heads
        )
        query, key = rotate(states[0], states[1], *kwargs["position_embeddings"])
        together = torch.stack([query, key, states[2]])  # (3, N, H, D)
        by_size, places = groups.of(edges)
        attended = [
            _attention(module, together if len(by_size) == 1 else together[:, patches], size)
            for size, patches in by_size
        ]
        whole = attended[0] if len(by_size) == 1 else torch.cat(attended)[places]
        return module.proj(whole)

    return forward


def _attention(module: Any, states: torch.Tensor, size: int) -> torch.Tensor:
    """(3, windows * size, H, D), query, key and value -> (windows * size, H * D)."""
    windows = rearrange(states, "part (window n) h d -> part window h n d", n=size)
    kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]
    output, _ = kernel(
        module, *windows, attention_mask=None, scaling=module.scaling, is_causal=False
    )
    return rearrange(output, "window n h d -> (window n) (h d)")
