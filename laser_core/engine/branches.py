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

import torch

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Prefix
from ..progress import Progress
from .capture import RowCapture
from .few_calls import MASKED_TOKENS, one_forward_for_branches, pads, takes_masks
from .generating import end_tokens
from .last_rows import DRAFT_TOKENS, LastRow, read_last_row
from .masks import Masks, masks_of
from .padded import Tail, read_tails, shapes_of
from .reading import STRETCH, first_token_certainty, known_prefix, read_prefix
from .together import ask, in_batches, its_own_error


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
    return in_batches(_read_some, wanted, _kind_and_length)


def _read_some(members: list[_Branches]) -> list[BranchRows | Exception]:
    [one, *others] = members
    if others:
        for member in members:
            if member.progress:
                member.progress("reading the picture", 0, 1)
        rows = _packed_rows([(member.lvlm, (member.asked, member.free)) for member in members])
    else:
        rows = [read_rows(one.lvlm, [one.asked, one.free], one.progress, one.drafted)]
    return [
        its_own_error(partial(_branch_rows, member.lvlm, *own))
        for member, own in zip(members, rows, strict=True)
    ]


def _branch_rows(lvlm: Lvlm, with_query: LastRow, without_query: LastRow) -> BranchRows:
    certainty = None if lvlm.silent else first_token_certainty(lvlm, with_query.hidden)
    return BranchRows(with_query.attention, without_query.attention, certainty)


def _kind_and_length(one: _Branches) -> tuple[Hashable, int]:
    """What pictures of one batch have in common. A prefix that is known is continued alone."""
    lvlm, pair = one.lvlm, [one.asked, one.free]
    packed = len([*_groups(lvlm, pair)]) == 1 and _ids(one.asked) != _ids(one.free)
    if (
        one.asked.length + one.free.suffix_length > MASKED_TOKENS
        or one.drafted
        or not pads(lvlm, continued=True)
        or known_prefix(lvlm, one.asked)
        or not packed
    ):
        return id(one), one.asked.length
    return (None, one.free.suffix_length, shapes_of(lvlm, one.asked.pictures)), one.asked.length


def read_rows(
    lvlm: Lvlm,
    prompts: Sequence[Prompt],
    progress: Progress | None = None,
    drafted: bool = False,
) -> list[LastRow]:
    """The last row of each prompt of one picture, over its grid, in order. Equal prompts are read
    once: two runs would differ by rounding, and that difference would count as evidence.

    drafted: the attention is that of the last token of a draft of each answer.
    """
    unlike = {_ids(prompt): prompt for prompt in prompts}
    most, ends = (DRAFT_TOKENS, end_tokens(lvlm)) if drafted else (0, [])
    rows: list[LastRow] = []

    def report(done: int) -> None:  # of the picture, then the prompts
        if progress:
            progress("reading the picture", done, 1 + len(unlike))

    report(0)
    for group in _groups(lvlm, [*unlike.values()], packs=not drafted):
        first, prefix = group[0], None
        # A template may write nothing after the picture
        if first.suffix_length and not (len(group) > 1 and _at_once(lvlm, group)):
            prefix = read_prefix(lvlm, first)
            report(1 + len(rows))
        if len(group) > 1:
            rows += _packed_rows([(lvlm, group)])[0]
        else:
            held, keys = prefix.layers if prefix else None, first.map_spans[0]
            rows.append(read_last_row(lvlm, first, keys, held, most=most, ends=ends))
        report(1 + len(rows))
    read = dict(zip(unlike, rows, strict=True))
    return [read[_ids(prompt)] for prompt in prompts]


def _ids(prompt: Prompt) -> tuple[int, ...]:
    return tuple(prompt.input_ids[0].tolist())


def _groups(lvlm: Lvlm, prompts: list[Prompt], packs: bool = True) -> Iterator[list[Prompt]]:
    """The prompts in groups that one forward reads; each alone unless it `packs`."""
    # Flash attention takes no free-form mask, and a state knows none. For long texts it would be
    # large.
    packs = packs and takes_masks(lvlm) and not lvlm.state_layers
    group: list[Prompt] = []
    for prompt in prompts:
        full = sum(one.suffix_length for one in group) + prompt.suffix_length > STRETCH
        together = packs and not full and all(one.suffix_length for one in (*group, prompt))
        if group and not (together and prompt.prefix_key == group[0].prefix_key):
            yield group
            group = []
        group = [*group, prompt]
    if group:
        yield group


def _at_once(lvlm: Lvlm, prompts: Sequence[Prompt]) -> bool:
    """Whether one forward reads these prompts and their prefix, which is not known yet."""
    total = prompts[0].prefix_length + sum(prompt.suffix_length for prompt in prompts)
    return known_prefix(lvlm, prompts[0]) is None and one_forward_for_branches(lvlm, total)


_Pack = tuple[Lvlm, Sequence[Prompt]]
"""Prompts of one picture that share their prefix and are read as one row, and the model."""


def _packed_rows(packs: Sequence[_Pack]) -> list[list[LastRow]]:
    """The last rows of several prompts of each picture, all in one forward.

    Each picture has a row: its prefix and then the prompts' suffixes, none of which sees another.
    All have as many, and all suffixes but the first are equally long. A prefix that is known, which
    is that of a single picture, is continued; others are read too, and their models keep them.
    """
    lvlm, prompts = packs[0]
    prefix = known_prefix(lvlm, prompts[0]) if len(packs) == 1 else None
    tails = [_tail_of(prompts, prefix) for _, prompts in packs]
    longest = max(tail.length for tail in tails)
    pads = [longest - tail.length for tail in tails]
    ends = _ends(prompts)
    last = [end - ends[-1] - 1 for end in ends[1:]]
    grids = [_shifted(own[0].map_spans[0], pad) for (_, own), pad in zip(packs, pads, strict=True)]
    keys = slice(min(grid.start for grid in grids), max(grid.stop for grid in grids))
    mask = _mask_of(packs, pads, tails[0].past)
    for own, _ in packs:
        own.prefix = prefix  # before the new one is computed, so that there are never two
    with RowCapture(lvlm, last, keys) as capture:
        read = read_tails(lvlm, tails, mask)
    found = []
    for row, ((own, its), grid) in enumerate(zip(packs, grids, strict=True)):
        attention = capture.rows_by_layer(row)[..., _shifted(grid, -keys.start)]
        each = zip(attention, last, strict=True)
        found.append([LastRow(rows, read[row].hidden[at]) for rows, at in each])
        if prefix is None:
            own.prefix = Prefix(its[0].prefix_key, read[row].layers, read[row].inputs)
    return found


def _tail_of(prompts: Sequence[Prompt], prefix: Prefix | None) -> Tail:
    """Prompts of one picture as one row, each in the places it has after their prefix."""
    [first, *others], shared = prompts, prompts[0].prefix_length
    tail = Tail.of(first, first.length, prefix)
    tail.ids = torch.cat([tail.ids, *(one.input_ids[:, shared:] for one in others)], dim=1)
    places = (one.position_ids[..., shared:] for one in others)
    tail.positions = torch.cat([tail.positions, *places], dim=-1)
    tail.kept = None if prefix else shared
    return tail


def _mask_of(packs: Sequence[_Pack], pads: Sequence[int], past: int) -> Masks:
    """For the tokens of `_packed_rows` from `past` on: each sees its prefix and its own suffix."""
    lvlm, prompts = packs[0]
    shared = torch.arange(prompts[0].prefix_length)
    # Of each token, its index in its own prompt. Only windows count it, and then no row is padded
    index = torch.cat([shared, *(torch.arange(len(shared), one.length) for one in prompts)])
    total = pads[0] + len(index)
    seen = torch.ones(len(packs), 1, total - past, total, dtype=torch.bool).tril(past)
    for row, (pad, (_, its)) in enumerate(zip(pads, packs, strict=True)):
        suffixes = pairwise(pad + end for end in _ends(its))
        for begin, end in [(0, pad), *suffixes]:  # padding sees itself: nothing is not a number
            seen[row, :, end - past :, begin:end] = False
    same = None
    if lvlm.whole_pictures and not past:
        same = torch.zeros_like(seen)
        same[..., prompts[0].spans[0], prompts[0].spans[0]] = True
        same = same.to(lvlm.device)
    index = index.to(lvlm.device)
    return masks_of(lvlm, seen.to(lvlm.device), index[past:], index, same)


def _ends(prompts: Sequence[Prompt]) -> list[int]:
    """Where the prefix and each suffix end in the row of these prompts."""
    return [*accumulate((one.suffix_length for one in prompts), initial=prompts[0].prefix_length)]


def _shifted(span: slice, tokens: int) -> slice:
    return slice(span.start + tokens, span.stop + tokens)
