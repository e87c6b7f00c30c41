"""Each token's probabilities in both streams, noted while the answer is generated.

A step keeps a few numbers on the device. They are moved off it only after the answer, so no step
waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ..models.lvlm import Lvlm
from ..results import Alternative, TokenRecord

TOP_ALTERNATIVES = 5  # as decoded
TOP_WITHOUT = 3  # without the evidence
NO_CHARACTER = "\ufffd"  # what decoders put for bytes that make no character
LONGEST_CHARACTER = 4  # tokens: a byte each, in UTF-8


class Recorder:
    """Notes the tokens of answers that are written side by side, step by step.

    `observe` takes a step's logits; the next call also brings the tokens that were chosen from
    them. `records` ends it.
    """

    def __init__(self, lvlm: Lvlm) -> None:
        self._lvlm = lvlm
        self._pending: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def observe(
        self,
        fed: torch.Tensor,
        mixed: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
    ) -> None:
        """fed: (B,) the tokens given to the model; the others: (B, V) logits."""
        if self._pending is not None:
            self._note(fed, *self._pending)
        self._pending = mixed, positive, negative

    def records(self, answers: Sequence[list[int]]) -> list[list[TokenRecord]]:
        """A record for each token of each answer, of which some ended before others."""
        if self._pending is not None and len(self._steps) < max(map(len, answers)):
            self._note(torch.tensor([token_ids[-1] for token_ids in answers]), *self._pending)
        self._pending = None
        if not self._steps:
            return [[] for _ in answers]
        values = torch.stack([values for values, _ in self._steps], dim=1).tolist()
        indices = torch.stack([indices for _, indices in self._steps], dim=1).tolist()
        found = []
        for token_ids, *steps in zip(answers, indices, values, strict=True):
            pieces, count = _Pieces(self._lvlm), len(token_ids)
            own = zip(*(each[:count] for each in steps), strict=True)
            found.append([self._record(index, value, pieces) for index, value in own])
        return found

    def _note(
        self,
        tokens: torch.Tensor,
        mixed: torch.Tensor,
        positive: torch.Tensor,
        negative: torch.Tensor | None,
    ) -> None:
        """Keep logits of the tokens and the best others, and their normaliser, a row per stream.

        mixed: (B, V), those that the tokens were chosen from; positive, negative: (B, V). The best
        of the negative stream alone follow the others.
        """
        best = mixed.topk(min(TOP_ALTERNATIVES, mixed.shape[1])).indices
        blind = (
            [] if negative is None else [negative.topk(min(TOP_WITHOUT, mixed.shape[1])).indices]
        )
        indices = torch.cat([tokens.to(best)[:, None], best, *blind], dim=1)
        streams = [mixed, positive] + ([] if negative is None else [negative])
        logits = torch.stack(streams, dim=1)  # (B, streams, V)
        chosen = indices[:, None].expand(-1, len(streams), -1)
        values = torch.cat([logits.gather(-1, chosen), logits.logsumexp(-1, keepdim=True)], dim=-1)
        self._steps.append((values, indices))

    def _record(
        self, indices: list[int], values: list[list[float]], pieces: _Pieces
    ) -> TokenRecord:
        """indices: the token and the best others; values: of `_note`, a list per stream."""
        texts = [pieces.text_of(index) for index in indices]
        pieces.add(indices[0])
        probabilities = [
            [math.exp(logit - row[-1]) for logit in row[:-1]]  # row[-1]: the normaliser
            for row in values
        ]
        mixed, with_evidence = probabilities[:2]
        contrasted = len(values) == 3
        without = probabilities[2] if contrasted else None
        # The first is the token itself; what is likely in both readings is there twice
        places = {index: place for place, index in reversed([*enumerate(indices)][1:])}
        alternatives = tuple(
            Alternative(
                text=texts[place],
                token_id=indices[place],
                probability=mixed[place],
                probability_with=with_evidence[place],
                probability_without=None if without is None else without[place],
            )
            for place in sorted(places.values())
        )
        return TokenRecord(
            text=texts[0],
            token_id=indices[0],
            logit_with=values[1][0],
            logit_without=values[2][0] if contrasted else None,
            probability=mixed[0],
            probability_with=with_evidence[0],
            probability_without=None if without is None else without[0],
            alternatives=alternatives,
        )


def text_of_tokens(lvlm: Lvlm, token_ids: Sequence[int]) -> str:
    """What these tokens say, without special ones and without a character that lacks tokens.

    The last few are left out while they are part of one: some decoders spoil its neighbours too.
    So are the family's marks around an answer.
    """
    least = max(len(token_ids) - LONGEST_CHARACTER, 0)
    for end in range(len(token_ids), least - 1, -1):
        text = lvlm.tokenizer.decode(token_ids[:end], skip_special_tokens=True)
        for mark in lvlm.family.answer_marks:
            text = text.replace(mark, "")
        text = text.strip()
        if not text.endswith(NO_CHARACTER):
            break
    return text.replace(NO_CHARACTER, "")


class _Pieces:
    """The text that each token of an answer adds; of several tokens' character, the last has it."""

    def __init__(self, lvlm: Lvlm) -> None:
        self._decode = lvlm.tokenizer.decode
        self._before: list[int] = []  # decoders drop the leading space of a text's first token
        self._unfinished: list[int] = []

    def text_of(self, token: int) -> str:
        """The text this token would add: "" where it leaves a character unfinished."""
        text = self._with(token)
        return "" if text.endswith(NO_CHARACTER) else text.replace(NO_CHARACTER, "")

    def add(self, token: int) -> None:
        finished = not self._with(token).endswith(NO_CHARACTER)
        self._unfinished.append(token)
        if finished or len(self._unfinished) == LONGEST_CHARACTER:
            self._before, self._unfinished = self._unfinished, []

    def _with(self, token: int) -> str:
        new = [*self._unfinished, token]
        start, both = self._decode(self._before), self._decode([*self._before, *new])
        return both[len(start) :] if both.startswith(start) else self._decode(new)
