"""The logits of the first answered token, for many prompts of one item at once.

The demo models' answers are one word of one token, so these logits decide the answer at every
alpha and beta. Knows streams and caches; knows no rows and no items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import torch
from transformers import DynamicCache

from laser_core.engine.caches import cache_of
from laser_core.engine.reading import read_blocked, read_prefix, read_stream
from laser_core.models.chat import Prompt, Stream
from laser_core.models.lvlm import Lvlm


@torch.inference_mode()
def first_logits(lvlm: Lvlm, streams: Sequence[Stream]) -> torch.Tensor:
    """(len(streams), V) float32: what `decode` notes as its first token's logits.

    Prompts of one shape run as one batch. Streams that share the prefix must share it with each
    other.
    """
    groups: dict[tuple, list[int]] = defaultdict(list)
    logits: list[torch.Tensor | None] = [None] * len(streams)
    for index, stream in enumerate(streams):
        if stream.blocked:
            logits[index] = _with_blocked_tokens(lvlm, stream)
            continue
        spans = tuple((span.start, span.stop) for span in stream.prompt.spans)
        groups[stream.shared_prefix, stream.prompt.length, spans].append(index)
    for (shared, *_), indices in groups.items():
        rows = _batch(lvlm, [streams[index].prompt for index in indices], shared)
        for index, row in zip(indices, rows, strict=True):
            logits[index] = row
    return torch.stack(logits)


def _batch(lvlm: Lvlm, prompts: Sequence[Prompt], shared: bool) -> torch.Tensor:
    """(B, V) of prompts of one shape."""
    cache = DynamicCache()
    if shared:
        for index, pair in enumerate(read_prefix(lvlm, prompts[0]).layers):
            keys, values = (tensor.expand(len(prompts), -1, -1, -1) for tensor in pair)
            cache.update(keys, values, index)
    start, stop = cache.get_seq_length(), prompts[0].length
    # A picture a forward, as in laser_core.engine.reading: no family merges sizes within a row.
    ahead = [span.start for span in prompts[0].spans if start <= span.start]
    for first, last in pairwise([start, *ahead[1:], stop]):
        hidden = _forward(lvlm, cache, prompts, first, last)
    return lvlm.logits(hidden[:, -1]).float().cpu()


def _with_blocked_tokens(lvlm: Lvlm, stream: Stream) -> torch.Tensor:
    """(V,)"""
    whole = Stream(stream.prompt, stream.shared_prefix)
    read = read_blocked(lvlm, stream, read_stream(lvlm, whole))
    cache = cache_of(lvlm, read.joined())
    last = stream.prompt.length - 1
    hidden = _forward(lvlm, cache, [stream.prompt], last, last + 1)
    return lvlm.logits(hidden[:, -1])[0].float().cpu()


def _forward(
    lvlm: Lvlm, cache: DynamicCache, prompts: Sequence[Prompt], first: int, last: int
) -> torch.Tensor:
    """Hidden states (B, last - first, D) of the body over these tokens; `cache` grows."""
    pictures = [one for prompt in prompts for one in prompt.pictures_in(first, last)]
    inputs = {
        name: torch.cat([picture.tensors[name] for picture in pictures]).to(lvlm.device)
        for name in (pictures[0].tensors if pictures else ())
    }
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(lvlm.dtype)
    ids = torch.cat([prompt.input_ids[:, first:last] for prompt in prompts])
    inputs |= {name: types.to(lvlm.device) for name, types in lvlm.token_types(ids).items()}
    positions = torch.cat([prompt.position_ids[..., first:last] for prompt in prompts], dim=-2)
    return lvlm.body(
        input_ids=ids.to(lvlm.device),
        position_ids=positions.to(lvlm.device),
        **{lvlm.cache_name: cache},
        use_cache=True,
        **inputs,
    ).last_hidden_state
