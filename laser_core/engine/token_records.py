"""Each token's probabilities in both streams, noted while the answer is generated.

A step keeps a few numbers on the device. They are moved off it only after the answer, so no step
waits.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ..models.lvlm import Lvlm
from ..results import Alternative, TokenRecord
from .two_streams import Mix

TOP_ALTERNATIVES = 5
UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoders make of a character's first bytes
PART_OF_CHARACTER = "\N{HORIZONTAL ELLIPSIS}"  # in the text of an alternative


class Recorder:
    """Notes one answer's tokens, step by step.

    `observe` takes a step's logits; the next call also brings the token that was chosen from them.
    `records` ends it.
    """

    def __init__(self, lvlm: Lvlm, mix: Mix) -> None:
        self._lvlm, self._mixed = lvlm, mix
        self._pending: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._steps: list[tuple[torch.Tensor, torch.Tensor]] = []

    def observe(
        self, fed: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> None:
        """fed: (1,) the token given to the model; positive, negative: (1, V) logits."""
        if self._pending is not None:
            self._note(fed[0], *self._pending)
        self._pending = positive[0], None if negative is None else negative[0]

    def records(self, token_ids: list[int]) -> list[TokenRecord]:
        """A record for each token of the answer."""
        if self._pending is not None and len(self._steps) < len(token_ids):
            self._note(torch.tensor(token_ids[-1]), *self._pending)
        self._pending = None
        steps = self._steps[: len(token_ids)]
        if not steps:
            return []
        values = torch.stack([values for values, _ in steps]).tolist()
        indices = torch.stack([indices for _, indices in steps]).tolist()
        records: list[TokenRecord] = []
        known: list[int] = []  # the tokens of the last whole characters
        begun: list[int] = []  # those of a character that is not whole yet
        for step in zip(indices, values, strict=True):
            texts = [_added_text(self._lvlm, known, [*begun, index]) for index in step[0]]
            begun.append(token_ids[len(records)])
            records.append(self._record(*step, texts))
            if texts[0] is not None:
                known, begun = begun, []
        return records

    def _note(
        self, token: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor | None
    ) -> None:
        """Keep logits of the token and the best others, and their normaliser, a row per stream.

        positive, negative: (V,), those that the token was chosen from.
        """
        mixed = self._mixed(positive, negative)
        best = mixed.topk(min(TOP_ALTERNATIVES, len(mixed))).indices
        indices = torch.cat([token.to(best).reshape(1), best])
        logits = torch.stack([mixed, positive] + ([] if negative is None else [negative]))
        values = torch.cat([logits[:, indices], logits.logsumexp(-1, keepdim=True)], dim=1)
        self._steps.append((values, indices))

    def _record(
        self, indices: list[int], values: list[list[float]], texts: list[str | None]
    ) -> TokenRecord:
        """indices: the token and the best others; values: of `_note`, a list per stream; texts:
        what each adds, None for a part of a character."""
        probabilities = [
            [math.exp(logit - row[-1]) for logit in row[:-1]]  # row[-1]: the normaliser
            for row in values
        ]
        mixed, with_evidence = probabilities[:2]
        contrasted = len(values) == 3
        without = probabilities[2] if contrasted else None
        alternatives = tuple(
            Alternative(
                text=_shown(texts[place]),
                token_id=index,
                probability=mixed[place],
                probability_with=with_evidence[place],
                probability_without=None if without is None else without[place],
            )
            for place, index in enumerate(indices)
            if place  # the first is the token itself
        )
        return TokenRecord(
            text=texts[0] or "",
            token_id=indices[0],
            logit_with=values[1][0],
            logit_without=values[2][0] if contrasted else None,
            probability=mixed[0],
            probability_with=with_evidence[0],
            probability_without=None if without is None else without[0],
            alternatives=alternatives,
        )


def _added_text(lvlm: Lvlm, known: list[int], new: list[int]) -> str | None:
    """The text that `new` tokens add, None while they end within a character.

    With its leading space, which decoders drop at the start of a text.
    """
    start, both = lvlm.tokenizer.decode(known), lvlm.tokenizer.decode([*known, *new])
    added = both[len(start) :] if both.startswith(start) else lvlm.tokenizer.decode(new)
    return None if added.endswith(UNFINISHED) else added


def _shown(text: str | None) -> str:
    """An alternative's text; it may be a part of a character, or break one off."""
    return PART_OF_CHARACTER if text is None else text.replace(UNFINISHED, PART_OF_CHARACTER)


def whole_characters(lvlm: Lvlm, token_ids: Any) -> str:
    """The text of an answer so far, without a character whose last bytes are still to come."""
    text = lvlm.tokenizer.decode(token_ids, skip_special_tokens=True)
    return text.rstrip(UNFINISHED).strip()
