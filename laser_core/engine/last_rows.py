"""Where a model looks at the end of a prompt or of a short draft of its answer (`read_at`, step 2).

Knows prompts and tokens; knows no question and no picture's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..models.prefix import Layers
from .caches import cache_of
from .capture import RowCapture
from .reading import Check, extend, forward

DRAFT_TOKENS = 8
"""Of a draft, at most: what is asked for is a word or a phrase, and each token is a step."""


@dataclass(frozen=True)
class LastRow:
    """What the last token of a prompt, or of the draft that follows it, sees.

    attention: over the wanted keys, (L, H, K) float32 on the CPU. hidden: (D,) last state of the
    prompt's last token. draft: its tokens, without the one that ends it.
    """

    attention: torch.Tensor
    hidden: torch.Tensor
    draft: tuple[int, ...] = ()


def read_last_row(
    lvlm: Lvlm,
    prompt: Prompt,
    keys: slice,
    held: Layers | None = None,
    *,
    most: int = 0,
    ends: Sequence[int] = (),
    check: Check | None = None,
) -> LastRow:
    """Read a prompt and write at most `most` of the likeliest tokens after it.

    A draft that says nothing is read at the prompt's last token. held: what the decoder holds of
    the prompt's first tokens; all others are read. ends: tokens that end a draft. check: called
    before each forward that reads. Raises ValueError for a draft of a model that cannot answer.
    """
    if most and lvlm.silent:
        raise ValueError(f"set read_at to 'first token': there is no draft ({lvlm.silent})")
    cache = cache_of(lvlm, held)
    with RowCapture(lvlm, rows=[-1], keys=keys) as capture:
        _, states = extend(lvlm, prompt, cache, prompt.length, check)
    hidden = last = states[0, -1]
    draft: list[int] = []
    for index in range(prompt.length, min(prompt.length + most, lvlm.context_length)):
        token = int(lvlm.logits(last).argmax())
        if token in ends:
            break
        draft.append(token)
        position = torch.full_like(prompt.position_ids[..., -1:], index + prompt.delta)
        with RowCapture(lvlm, rows=[-1], keys=keys) as capture:
            last = forward(lvlm, cache, torch.tensor([[token]]), position, {})[0, -1]
    return LastRow(capture.rows_by_layer()[0], hidden, tuple(draft))
