"""Step 2: where the last prompt token looks, with and without the question.

Both branches continue the same prefix (system prompt and picture); their short suffixes run as
one packed forward wherever the attention kernel takes a free-form mask.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from transformers import DynamicCache

from ..engine.caches import cache_of
from ..engine.capture import RowCapture
from ..engine.reading import STRETCH, extend, first_token_certainty, forward, read_prefix
from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import Progress
from ..results import AttentionMaps
from ..settings import PromptSettings


@one_at_a_time
@torch.inference_mode()
def read_attention(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: PromptSettings = PromptSettings(),
    progress: Progress | None = None,
) -> AttentionMaps:
    """Attention of the last prompt token over the picture's patches, in both branches.

    picture: PIL, NumPy, tensor, or already encoded by `lvlm.encode`. Post-softmax, every layer
    and head, float32 on the CPU (docs/method.md, steps 1-2).
    Raises ValueError for an empty question or a prompt longer than the context.
    """
    inputs = lvlm.encode(picture, settings.framing)
    texts = (lvlm.question_text(question, settings), lvlm.query_free_text(settings))
    asked, free = (lvlm.prompt([inputs], text, settings.system) for text in texts)
    if progress:
        progress("reading the picture", 0, 2)
    *rows, hidden = _both_rows(lvlm, asked, free, progress)
    gh = inputs.grid.rows
    with_query, without_query = (rearrange(r, "l h (gh gw) -> l h gh gw", gh=gh) for r in rows)
    certainty = first_token_certainty(lvlm, hidden)
    if progress:
        progress("reading the picture", 2, 2)
    return AttentionMaps(with_query, without_query, inputs.grid, inputs.picture_size, certainty)


def _both_rows(
    lvlm: Lvlm, asked: Prompt, free: Prompt, progress: Progress | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The two branches' rows, each (L, H, N), and with the question the hidden state (D,)."""
    suffixes = asked.suffix_length, free.suffix_length
    shared = lvlm.family.causal_prefix and asked.prefix_key == free.prefix_key
    if not (shared and min(suffixes) > 0):  # a template may write nothing after the picture
        with_query, hidden = _last_row(lvlm, asked, DynamicCache())
        return with_query, _last_row(lvlm, free, DynamicCache())[0], hidden
    prefix = read_prefix(lvlm, asked)
    if progress:
        progress("reading the picture", 1, 2)
    if torch.equal(asked.input_ids, free.input_ids):
        # Two runs would differ by rounding, and the method would take that for evidence.
        row, hidden = _last_row(lvlm, asked, cache_of(prefix.layers))
        return row, row, hidden
    # A free-form mask would override a sliding window, flash attention takes none, and for long
    # texts it would be large.
    packed = not lvlm.has_sliding_window and lvlm.attention in ("sdpa", "eager")
    if not packed or sum(suffixes) > STRETCH:
        with_query, hidden = _last_row(lvlm, asked, cache_of(prefix.layers))
        return with_query, _last_row(lvlm, free, cache_of(prefix.layers))[0], hidden
    return _packed_rows(lvlm, asked, free, cache_of(prefix.layers))


def _map_keys(prompt: Prompt) -> slice:
    """The picture's tokens that form its grid, as positions in the prompt."""
    first, tokens = prompt.spans[0].start, prompt.pictures[0].map_tokens
    return slice(first + tokens.start, first + tokens.stop)


def _last_row(lvlm: Lvlm, prompt: Prompt, cache: DynamicCache) -> tuple[torch.Tensor, torch.Tensor]:
    """The last token's (L, H, N) and hidden state (D,), after what `cache` lacks of the prompt."""
    with RowCapture(lvlm, rows=[-1], keys=_map_keys(prompt)) as capture:
        _, hidden = extend(lvlm, prompt, cache, prompt.length)
    return capture.rows_by_layer()[0], hidden[0, -1]


def _packed_rows(
    lvlm: Lvlm, asked: Prompt, free: Prompt, cache: DynamicCache
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both suffixes in one forward after the prefix, neither seeing the other."""
    prefix = asked.prefix_length
    lengths = [prompt.suffix_length for prompt in (asked, free)]
    total = sum(lengths)
    own = torch.block_diag(*(torch.ones(length, length).tril() for length in lengths)).bool()
    mask = torch.cat([torch.ones(total, prefix, dtype=torch.bool), own], dim=1)
    mask = mask[None, None].to(lvlm.device)  # (1, 1, S, N)
    if lvlm.attention == "eager":  # takes additive masks only
        lowest = torch.finfo(lvlm.dtype).min
        mask = torch.zeros_like(mask, dtype=lvlm.dtype).masked_fill(~mask, lowest)
    with RowCapture(lvlm, rows=[lengths[0] - 1, total - 1], keys=_map_keys(asked)) as capture:
        hidden = forward(
            lvlm,
            cache,
            torch.cat([asked.input_ids[:, prefix:], free.input_ids[:, prefix:]], dim=1),
            torch.cat([asked.position_ids[..., prefix:], free.position_ids[..., prefix:]], dim=-1),
            {},
            mask,
        )
    with_query, without_query = capture.rows_by_layer()
    return with_query, without_query, hidden[0, lengths[0] - 1]
