"""Attention masks by the kind of layer: windows, and pictures whose tokens see each other.

Knows which kinds of layers a decoder has; knows no cache and no prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.lvlm import Lvlm

Masks = torch.Tensor | dict[str, torch.Tensor]
"""(B or 1, 1, S, N) as a decoder takes it: one for all layers, or one for each kind of layer."""


def masks_of(
    lvlm: Lvlm,
    seen: torch.Tensor,
    queries: torch.Tensor,
    keys: torch.Tensor,
    same_picture: torch.Tensor | None = None,
) -> Masks:
    """What each query sees, as the decoder takes it.

    seen: (B or 1, 1, S, N) boolean, without windows. queries (S,), keys (N,): places in the text,
    of which a window counts. same_picture: like `seen`, for models whose pictures see themselves.
    """
    text = lvlm.model.config.get_text_config()

    def of(kind: str) -> torch.Tensor:
        mask = seen
        if same_picture is not None and kind in lvlm.whole_pictures:
            mask = mask | same_picture
        if kind == "sliding_attention":
            mask = mask & (keys > queries[:, None] - text.sliding_window)
        return _additive(mask, lvlm.dtype) if lvlm.attention == "eager" else mask

    if not lvlm.has_sliding_window:
        return of("full_attention")
    kinds = getattr(text, "layer_types", None)
    if kinds is None:
        return of("sliding_attention")
    return {kind: of(kind) for kind in dict.fromkeys(kinds)}


def masks_of_stretch(lvlm: Lvlm, first: int, last: int, pictures: Sequence[slice]) -> Masks:
    """Of the tokens from `first` to `last` of a text that is in the cache before them.

    pictures: their tokens in the text; none of them is cut by the stretch.
    """
    keys = torch.arange(last, device=lvlm.device)
    queries = keys[first:]
    same = torch.zeros(1, 1, last - first, last, dtype=torch.bool, device=lvlm.device)
    for span in pictures:
        same[..., max(span.start - first, 0) : max(span.stop - first, 0), span] = True
    seen = (keys <= queries[:, None])[None, None]
    return masks_of(lvlm, seen, queries, keys, same)


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, lowest)
