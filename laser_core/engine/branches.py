"""Rows of attention over one picture for many prompts, in as few forwards as the kernel allows.

All prompts continue the same prefix (system prompt and picture); their short suffixes run as packed
forwards wherever the kernel takes a free-form mask, the first one with the prefix where the device
wants few calls. Knows prompts; knows no question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Prefix
from ..progress import Progress
from .caches import cache_of, empty_cache
from .capture import RowCapture
from .few_calls import one_forward_for_branches
from .masks import masks_of
from .reading import STRETCH, extend, first_token_certainty, forward, read_prefix, read_with_prefix


@dataclass(frozen=True)
class LastRow:
    """What a prompt's last token sees and says.

    attention: over the picture's grid, (L, H, N) float32 on the CPU. hidden: its last state (D,).
    """

    attention: torch.Tensor
    hidden: torch.Tensor


@dataclass(frozen=True)
class BranchRows:
    """The last prompt token's attention over the picture's grid, (L, H, N) float32 on the CPU.

    certainty: probability of the likeliest first token after the prompt with the question; None
    for a model that only locates.
    """

    with_query: torch.Tensor
    without_query: torch.Tensor
    certainty: float | None


def read_branches(lvlm: Lvlm, asked: Prompt, free: Prompt, progress: Progress | None) -> BranchRows:
    """The rows of two prompts of the same picture, one with and one without the question."""
    with_query, without_query = read_rows(lvlm, [asked, free], progress)
    certainty = None if lvlm.silent else first_token_certainty(lvlm, with_query.hidden)
    return BranchRows(with_query.attention, without_query.attention, certainty)


def read_rows(
    lvlm: Lvlm, prompts: Sequence[Prompt], progress: Progress | None = None
) -> list[LastRow]:
    """The last row of each prompt of one picture, in order. Equal prompts are read once:
    two runs would differ by rounding, and that difference would count as evidence."""
    unlike: dict[tuple[int, ...], Prompt] = {}
    for prompt in prompts:
        unlike.setdefault(_ids(prompt), prompt)
    rows: list[LastRow] = []

    def report(done: int) -> None:  # of the picture, then the prompts
        if progress:
            progress("reading the picture", done, 1 + len(unlike))

    report(0)
    for group in _groups(lvlm, list(unlike.values())):
        prefix = None
        if _continues(lvlm, group[0]) and not (len(group) > 1 and _at_once(lvlm, group)):
            prefix = read_prefix(lvlm, group[0])
            report(1 + len(rows))
        packed = len(group) > 1
        rows += _packed_rows(lvlm, group, prefix) if packed else [_last_row(lvlm, group[0], prefix)]
        report(1 + len(rows))
    read = dict(zip(unlike, rows, strict=True))
    return [read[_ids(prompt)] for prompt in prompts]


def _ids(prompt: Prompt) -> tuple[int, ...]:
    return tuple(prompt.input_ids[0].tolist())


def _groups(lvlm: Lvlm, prompts: list[Prompt]) -> Iterator[list[Prompt]]:
    """The prompts in groups that one forward reads."""
    # Flash attention takes no free-form mask, and a state knows none. For long texts it would be
    # large.
    packs = lvlm.attention in ("sdpa", "eager") and not lvlm.state_layers
    group: list[Prompt] = []
    for prompt in prompts:
        full = sum(one.suffix_length for one in group) + prompt.suffix_length > STRETCH
        together = packs and not full and all(_continues(lvlm, one) for one in (*group, prompt))
        if group and not (together and prompt.prefix_key == group[0].prefix_key):
            yield group
            group = []
        group = [*group, prompt]
    yield group


def _continues(lvlm: Lvlm, prompt: Prompt) -> bool:
    """Whether a prompt continues a prefix: a template may write nothing after the picture."""
    return lvlm.family.causal_prefix and prompt.suffix_length > 0


def _at_once(lvlm: Lvlm, prompts: Sequence[Prompt]) -> bool:
    """Whether one forward reads these prompts and their prefix, which is not known yet."""
    known = lvlm.prefix is not None and lvlm.prefix.key == prompts[0].prefix_key
    total = prompts[0].prefix_length + sum(prompt.suffix_length for prompt in prompts)
    return not known and one_forward_for_branches(lvlm, total)


def _map_keys(prompt: Prompt) -> slice:
    """The picture's tokens that form its grid, as positions in the prompt."""
    first, tokens = prompt.spans[0].start, prompt.pictures[0].map_tokens
    return slice(first + tokens.start, first + tokens.stop)


def _last_row(lvlm: Lvlm, prompt: Prompt, prefix: Prefix | None) -> LastRow:
    """The last row of one prompt, after the prefix or without one."""
    cache = cache_of(prefix.layers) if prefix else empty_cache(lvlm)
    with RowCapture(lvlm, rows=[-1], keys=_map_keys(prompt)) as capture:
        _, hidden = extend(lvlm, prompt, cache, prompt.length)
    return LastRow(capture.rows_by_layer()[0], hidden[0, -1])


def _packed_rows(lvlm: Lvlm, prompts: Sequence[Prompt], prefix: Prefix | None) -> list[LastRow]:
    """All suffixes in one forward, none seeing another; after the prefix, or with it.

    Without one it is read too, and the model keeps it.
    """
    first, shared = prompts[0], prompts[0].prefix_length
    start = shared if prefix else 0
    ends = list(accumulate((prompt.suffix_length for prompt in prompts), initial=shared))
    seen = torch.arange(ends[-1]) <= torch.arange(start, ends[-1])[:, None]  # (S, N)
    for begin, end in pairwise(ends):
        seen[end - start :, begin:end] = False
    same = torch.zeros_like(seen)
    if not prefix:
        same[first.spans[0], first.spans[0]] = True
    # Of each token, its index in its own prompt
    index = torch.cat([torch.arange(shared), *(torch.arange(shared, p.length) for p in prompts)])
    seen, same, index = (tensor.to(lvlm.device) for tensor in (seen, same, index))
    mask = masks_of(lvlm, seen[None, None], index[start:], index, same[None, None])
    parts = [prompt.input_ids[:, shared:] for prompt in prompts]
    ids = torch.cat([first.input_ids[:, start:shared], *parts], dim=1)
    places = [prompt.position_ids[..., shared:] for prompt in prompts]
    positions = torch.cat([first.position_ids[..., start:shared], *places], dim=-1)
    last, cache = [end - 1 - start for end in ends[1:]], empty_cache(lvlm)
    with RowCapture(lvlm, last, keys=_map_keys(first)) as capture:
        if prefix:
            hidden = forward(lvlm, cache_of(prefix.layers), ids, positions, {}, mask)
        else:
            hidden = read_with_prefix(lvlm, first, cache, ids, positions, mask)
    rows = capture.rows_by_layer()
    return [LastRow(row, hidden[0, at]) for row, at in zip(rows, last, strict=True)]
