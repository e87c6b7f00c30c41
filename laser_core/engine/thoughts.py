"""What a model thinks before it answers: where it ends, and closing it where it grows too long.

Knows the marks that thinking models write; knows neither streams nor how logits are mixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from ..models.chat import Prompt
from ..models.chat_formats import THOUGHT_BEGIN, THOUGHT_END
from ..models.lvlm import Lvlm


class Thoughts:
    """Follows one answer, token by token.

    A thought is what comes before THOUGHT_END, where the prompt ends within one or the model writes
    THOUGHT_BEGIN before anything else. At `limit` tokens it is closed by force: the next tokens are
    those of THOUGHT_END, in every stream, and the model goes on with its answer.

    prompt: what the answer follows. count: tokens of the thought so far, its marks among them.
    open: whether the next token belongs to it; None while that cannot be known yet.
    cut_off: whether it was closed by force.
    """

    def __init__(self, lvlm: Lvlm, prompt: Prompt, limit: int) -> None:
        self.limit, self.count, self.cut_off = limit, 0, False
        self.open: bool | None = lvlm.chat.opens_thought(prompt) or None
        self.closing: list[int] = lvlm.tokenizer.encode(THOUGHT_END, add_special_tokens=False)
        self._decode = lvlm.tokenizer.decode
        self._closed_from = 0  # tokens before those that were forced

    def follow(self, token_ids: list[int]) -> None:
        """token_ids: all that were generated, the newest last; call it after each."""
        if self.open is False:
            return
        if self.open is None:
            begun = self._decode(token_ids).lstrip()
            if begun.startswith(THOUGHT_BEGIN):
                self.open = True
            elif not THOUGHT_BEGIN.startswith(begun):
                self.open = False
        if self.open:
            self.count = len(token_ids)
            # Two more than the mark has: it may share a token with what is around it
            newest = self._decode(token_ids[-len(self.closing) - 2 :])
            forced = self.cut_off and self.count == self._closed_from + len(self.closing)
            self.open = not (forced or THOUGHT_END in newest)

    def limited(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores (1, V), or at the limit those that leave no choice."""
        if not self.open or (self.count < self.limit and not self.cut_off):
            return scores
        if not self.cut_off:
            self.cut_off, self._closed_from = True, self.count
        forced = torch.full_like(scores, float("-inf"))
        forced[:, self.closing[self.count - self._closed_from]] = 0.0
        return forced


class EachThoughts(LogitsProcessor):
    """Keeps answers that are written side by side to the limits of their thoughts."""

    def __init__(self, each: Sequence[Thoughts]) -> None:
        self._each = each

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not any(one.open for one in self._each):
            return scores
        rows = zip(self._each, scores.split(1), strict=True)
        return torch.cat([one.limited(row) for one, row in rows])
