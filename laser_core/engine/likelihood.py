"""How likely a model is to write given answers. Knows streams and token ids; knows no question."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from .caches import cache_of
from .generating import end_tokens
from .reading import ReadStream, forward, overflow


def log_likelihoods(lvlm: Lvlm, read: ReadStream, answers: Sequence[Sequence[int]]) -> list[float]:
    """Natural logarithm of each answer's probability after the stream's prompt.

    answers: token ids, at least one each. The probability is that of exactly these tokens and then
    an end of the turn or of the answer, where the model has one: no answer is favoured for being
    shorter or for being how another begins.
    Raises ValueError for scores that are not finite.
    """
    ends, mark = end_tokens(lvlm), lvlm.chat.answer_end(read.prompt)
    held = read.joined()
    found = []
    for answer in answers:
        written = [*answer, *mark]
        fed = torch.tensor([[int(read.prompt.input_ids[0, -1]), *written]])
        positions = _positions_from_last(read.prompt, fed.shape[1])
        hidden = forward(lvlm, cache_of(lvlm, held), fed, positions, {})
        # In float64 on the CPU: some devices have none
        logits = lvlm.logits(hidden[0]).float().cpu().double()
        scores = logits.log_softmax(-1)
        each = scores[torch.arange(len(written)), written]
        total = float(each[: len(answer)].sum())
        closed = [*scores[len(answer), ends], *([each[len(answer) :].sum()] if mark else [])]
        if closed:
            total += float(torch.stack(closed).logsumexp(0))
        if total != total:
            raise overflow(lvlm)
        found.append(total)
    return found


def _positions_from_last(prompt: Prompt, count: int) -> torch.Tensor:
    """(1, count) or (3, 1, count): of the prompt's last token and those that follow it."""
    last = prompt.position_ids[..., -1:]
    first = prompt.length + prompt.delta
    following = torch.arange(first, first + count - 1).expand(*last.shape[:-1], -1)
    return torch.cat([last, following], dim=-1)
