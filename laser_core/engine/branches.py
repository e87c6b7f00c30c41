"""Both branches' rows of attention over one picture, in as few forwards as the kernel allows.

Both prompts continue the same prefix (system prompt and picture); their short suffixes run as one
packed forward wherever the kernel takes a free-form mask, with the prefix where the device wants
few calls. Knows prompts; knows no question.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import DynamicCache

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Prefix
from ..progress import Progress
from .caches import cache_of
from .capture import RowCapture
from .few_calls import one_forward_for_branches
from .reading import STRETCH, extend, first_token_certainty, forward, read_prefix, read_with_prefix


@dataclass(frozen=True)
class BranchRows:
    """The last prompt token's attention over the picture's grid, (L, H, N) float32 on the CPU.

    certainty: probability of the likeliest first token after the prompt with the question.
    """

    with_query: torch.Tensor
    without_query: torch.Tensor
    certainty: float


def read_branches(lvlm: Lvlm, asked: Prompt, free: Prompt, progress: Progress | None) -> BranchRows:
    """The rows of two prompts of the same picture, one with and one without the question."""
    if progress:
        progress("reading the picture", 0, 2)
    with_query, without_query, hidden = _both_rows(lvlm, asked, free, progress)
    if progress:
        progress("reading the picture", 2, 2)
    return BranchRows(with_query, without_query, first_token_certainty(lvlm, hidden))


def _both_rows(
    lvlm: Lvlm, asked: Prompt, free: Prompt, progress: Progress | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(rows with the question, rows without, hidden state with): (L, H, N), (L, H, N), (D,)."""
    suffixes = asked.suffix_length, free.suffix_length
    shared = lvlm.family.causal_prefix and asked.prefix_key == free.prefix_key
    if not (shared and min(suffixes) > 0):  # a template may write nothing after the picture
        with_query, hidden = _last_row(lvlm, asked, DynamicCache())
        return with_query, _last_row(lvlm, free, DynamicCache())[0], hidden
    equal = torch.equal(asked.input_ids, free.input_ids)
    # A free-form mask would override a sliding window. Flash attention takes none. For long texts
    # it would be large.
    packed = not lvlm.has_sliding_window and lvlm.attention in ("sdpa", "eager")
    packed = packed and not equal and sum(suffixes) <= STRETCH
    known = lvlm.prefix is not None and lvlm.prefix.key == asked.prefix_key
    if packed and not known and one_forward_for_branches(lvlm, asked.length + suffixes[1]):
        return _packed_rows(lvlm, asked, free, None)
    prefix = read_prefix(lvlm, asked)
    if progress:
        progress("reading the picture", 1, 2)
    if equal:  # two runs would differ by rounding, and that difference would count as evidence
        row, hidden = _last_row(lvlm, asked, cache_of(prefix.layers))
        return row, row, hidden
    if not packed:
        with_query, hidden = _last_row(lvlm, asked, cache_of(prefix.layers))
        return with_query, _last_row(lvlm, free, cache_of(prefix.layers))[0], hidden
    return _packed_rows(lvlm, asked, free, prefix)


def _map_keys(prompt: Prompt) -> slice:
    """The picture's tokens that form its grid, as positions in the prompt."""
    first, tokens = prompt.spans[0].start, prompt.pictures[0].map_tokens
    return slice(first + tokens.start, first + tokens.stop)


def _last_row(lvlm: Lvlm, prompt: Prompt, cache: DynamicCache) -> tuple[torch.Tensor, torch.Tensor]:
    """The last token's rows (L, H, N) and hidden state (D,), once `cache` holds the prompt."""
    with RowCapture(lvlm, rows=[-1], keys=_map_keys(prompt)) as capture:
        _, hidden = extend(lvlm, prompt, cache, prompt.length)
    return capture.rows_by_layer()[0], hidden[0, -1]


def _packed_rows(
    lvlm: Lvlm, asked: Prompt, free: Prompt, prefix: Prefix | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Both suffixes in one forward, neither seeing the other; after the prefix, or with it.

    Without one it is read too, and the model keeps it.
    """
    shared, total = asked.prefix_length, asked.length + free.suffix_length
    start = shared if prefix else 0
    mask = torch.ones(total, total, dtype=torch.bool).tril()
    mask[asked.length :, shared : asked.length] = False
    mask = mask[None, None, start:].to(lvlm.device)  # (1, 1, S, N)
    if lvlm.attention == "eager":  # takes additive masks only
        lowest = torch.finfo(lvlm.dtype).min
        mask = torch.zeros_like(mask, dtype=lvlm.dtype).masked_fill(~mask, lowest)
    ids = torch.cat([asked.input_ids[:, start:], free.input_ids[:, shared:]], dim=1)
    positions = [asked.position_ids[..., start:], free.position_ids[..., shared:]]
    rows, cache = [asked.length - 1 - start, total - 1 - start], DynamicCache()
    with RowCapture(lvlm, rows, keys=_map_keys(asked)) as capture:
        if prefix:
            cache = cache_of(prefix.layers)
            hidden = forward(lvlm, cache, ids, torch.cat(positions, dim=-1), {}, mask)
        else:
            hidden = read_with_prefix(lvlm, asked, cache, ids, torch.cat(positions, dim=-1), mask)
    with_query, without_query = capture.rows_by_layer()
    return with_query, without_query, hidden[0, rows[0]]
