"""Rows of attention over one picture for many prompts, in as few forwards as the kernel allows.

All prompts continue the same prefix (system prompt and picture); their short suffixes run as packed
forwards wherever the kernel takes a free-form mask, the first one with the prefix where the device
wants few calls. Knows prompts; knows no question.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Prefix
from ..progress import Progress
from .caches import cache_of, cut, empty_cache
from .capture import RowCapture
from .drafts import read_drafted
from .few_calls import MASKED_TOKENS, one_forward_for_branches, pads, takes_masks
from .generating import end_tokens
from .masks import masks_of
from .padded import Tail, in_groups, read_tails, shapes_of
from .reading import (
    STRETCH,
    extend,
    first_token_certainty,
    forward,
    read_prefix,
    read_with_prefix,
    row_of,
)
from .together import ask, its_own_error


@dataclass(frozen=True)
class LastRow:
    """What a prompt's last token sees and says.

    attention: over the picture's grid, (L, H, N) float32 on the CPU. hidden: its last state (D,).
    """

    attention: torch.Tensor
    hidden: torch.Tensor


@dataclass(frozen=True)
class BranchRows:
    """The last token's attention over the picture's grid, (L, H, N) float32 on the CPU.

    Of the prompt, or of the draft that follows it.
    certainty: probability of the likeliest first token after the prompt with the question; None
    for a model that only locates.
    """

    with_query: torch.Tensor
    without_query: torch.Tensor
    certainty: float | None


def read_branches(
    lvlm: Lvlm, asked: Prompt, free: Prompt, progress: Progress | None, drafted: bool = False
) -> BranchRows:
    """The rows of two prompts of the same picture, one with and one without the question.

    Together with the pictures of runs beside this one. drafted: as for `read_rows`.
    """
    return ask(_read_all, _Branches(lvlm, asked, free, progress, drafted))


@dataclass
class _Branches:
    lvlm: Lvlm
    asked: Prompt
    free: Prompt
    progress: Progress | None
    drafted: bool


def _read_all(wanted: list[_Branches]) -> list[BranchRows | Exception]:
    found: list[Any] = [None] * len(wanted)
    for group in in_groups([_kind_and_length(index, one) for index, one in enumerate(wanted)]):
        members = [wanted[index] for index in group]
        if len(group) == 1:
            one = members[0]
            rows = [read_rows(one.lvlm, [one.asked, one.free], one.progress, one.drafted)]
        else:
            rows = _batch_rows(members)
        for index, one, own in zip(group, members, rows, strict=True):
            found[index] = its_own_error(partial(_branch_rows, one.lvlm, *own))
    return found


def _branch_rows(lvlm: Lvlm, with_query: LastRow, without_query: LastRow) -> BranchRows:
    certainty = None if lvlm.silent else first_token_certainty(lvlm, with_query.hidden)
    return BranchRows(with_query.attention, without_query.attention, certainty)


def _kind_and_length(index: int, one: _Branches) -> tuple[Hashable, int]:
    """What pictures of one batch have in common. A prefix that is known is continued alone."""
    lvlm, pair = one.lvlm, (one.asked, one.free)
    known = lvlm.prefix is not None and lvlm.prefix.key == one.asked.prefix_key
    continued = all(_continues(lvlm, prompt) for prompt in pair)
    packed = len([*_groups(lvlm, list(pair))]) == 1 and _ids(one.asked) != _ids(one.free)
    long = one.asked.length + one.free.suffix_length > MASKED_TOKENS
    if (
        long
        or one.drafted
        or not pads(lvlm, continued=True)
        or known
        or not continued
        or not packed
    ):
        return index, one.asked.length
    return (None, one.free.suffix_length, shapes_of(lvlm, one.asked.pictures)), one.asked.length


def _batch_rows(wanted: Sequence[_Branches]) -> list[list[LastRow]]:
    """Both branches of pictures in one forward, a row for each: its prefix, then both suffixes.

    Each model keeps its picture's prefix.
    """
    for one in wanted:
        one.lvlm.prefix = None
        if one.progress:
            one.progress("reading the picture", 0, 1)
    lvlm, free = wanted[0].lvlm, wanted[0].free.suffix_length
    tails = [_pair(one.asked, one.free) for one in wanted]
    longest = max(tail.length for tail in tails)
    mask = torch.ones(len(wanted), 1, longest, longest, dtype=torch.bool).tril()
    for row, one, tail in zip(mask, wanted, tails, strict=True):
        pad = longest - tail.length
        row[:, :, :pad] = False
        row[:, longest - free :, pad + one.asked.prefix_length : longest - free] = False
    mask |= torch.eye(longest, dtype=torch.bool)  # padding sees itself: nothing is not a number
    with RowCapture(lvlm, rows=[-1 - free, -1], keys=slice(None)) as capture:
        index = torch.arange(longest, device=lvlm.device)
        read = read_tails(lvlm, tails, masks_of(lvlm, mask.to(lvlm.device), index, index))
    found = []
    for row, (one, tail) in enumerate(zip(wanted, tails, strict=True)):
        pad, end, keys = longest - tail.length, one.asked.prefix_length, _map_keys(one.asked)
        attention = capture.rows_by_layer(row)[..., pad + keys.start : pad + keys.stop]
        last = zip(attention, (-1 - free, -1), strict=True)
        found.append([LastRow(rows, read[row].hidden[at]) for rows, at in last])
        inputs = [row_of(call, 0, 0, end, 0) for call in read[row].inputs]
        one.lvlm.prefix = Prefix(one.asked.prefix_key, cut(read[row].layers, 0, end), inputs)
    return found


def _pair(asked: Prompt, free: Prompt) -> Tail:
    """Both prompts as one row: the second one's suffix follows, in the places it has after the
    prefix."""
    shared = asked.prefix_length
    ids = torch.cat([asked.input_ids, free.input_ids[:, shared:]], dim=1)
    positions = torch.cat([asked.position_ids, free.position_ids[..., shared:]], dim=-1)
    return Tail(ids, positions, asked.pictures)


def read_rows(
    lvlm: Lvlm,
    prompts: Sequence[Prompt],
    progress: Progress | None = None,
    drafted: bool = False,
) -> list[LastRow]:
    """The last row of each prompt of one picture, in order. Equal prompts are read once:
    two runs would differ by rounding, and that difference would count as evidence.

    drafted: the attention is that of the last token of a draft of each answer, see `read_drafted`.
    """
    unlike: dict[tuple[int, ...], Prompt] = {}
    for prompt in prompts:
        unlike.setdefault(_ids(prompt), prompt)
    rows: list[LastRow] = []

    def report(done: int) -> None:  # of the picture, then the prompts
        if progress:
            progress("reading the picture", done, 1 + len(unlike))

    report(0)
    for prompt in unlike.values() if drafted else ():
        draft = read_drafted(lvlm, prompt, _map_keys(prompt), ends=end_tokens(lvlm))
        rows.append(LastRow(draft.attention, draft.hidden))
        report(1 + len(rows))
    for group in _groups(lvlm, [] if drafted else list(unlike.values())):
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
    packs = takes_masks(lvlm) and not lvlm.state_layers
    group: list[Prompt] = []
    for prompt in prompts:
        full = sum(one.suffix_length for one in group) + prompt.suffix_length > STRETCH
        together = packs and not full and all(_continues(lvlm, one) for one in (*group, prompt))
        if group and not (together and prompt.prefix_key == group[0].prefix_key):
            yield group
            group = []
        group = [*group, prompt]
    if group:
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
