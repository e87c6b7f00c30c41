"""Where a model looks at the end of a short draft of its answer (`read_at`, step 2).

Knows prompts and tokens; knows no question and no picture's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..models.chat import Prompt, Stream
from ..models.lvlm import Lvlm
from .caches import cache_of
from .capture import RowCapture
from .reading import forward, positions_from_last, read_stream

DRAFT_TOKENS = 8
"""Of a draft, at most: what is asked for is a word or a phrase, and each token is a step."""


@dataclass(frozen=True)
class Drafted:
    """attention: (L, H, K) float32 on the CPU, of the draft's last token over the wanted keys.

    hidden: (D,) last state of the prompt's last token. token_ids: the draft, without its end.
    """

    attention: torch.Tensor
    hidden: torch.Tensor
    token_ids: tuple[int, ...]


def read_drafted(
    lvlm: Lvlm,
    prompt: Prompt,
    keys: slice,
    *,
    most: int = DRAFT_TOKENS,
    ends: Sequence[int] = (),
    shared: bool = True,
) -> Drafted:
    """Read a prompt and write at most `most` of the likeliest tokens after it.

    A draft that says nothing is read at the prompt's last token. ends: tokens that end a draft.
    shared: as in `Stream`. Raises ValueError for a model that cannot answer, unless nothing is to
    be written.
    """
    if most and lvlm.silent:
        raise ValueError(f"set read_at to 'first token': there is no draft ({lvlm.silent})")
    read = read_stream(lvlm, Stream(prompt, shared_prefix=shared))
    cache = cache_of(read.joined())
    most = min(most, lvlm.context_length - prompt.length)
    fed, states = [int(prompt.input_ids[0, -1])], []
    for position in positions_from_last(read, 1 + most).split(1, dim=-1):
        with RowCapture(lvlm, rows=[-1], keys=keys) as capture:
            states.append(forward(lvlm, cache, torch.tensor([fed[-1:]]), position, {})[0, -1])
        if len(fed) > most:
            break
        token = int(lvlm.logits(states[-1]).argmax())
        if token in ends:
            break
        fed.append(token)
    return Drafted(capture.rows_by_layer()[0], states[0], tuple(fed[1:]))
