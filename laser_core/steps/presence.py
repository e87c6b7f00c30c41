"""Where each of several things is, and whether the model says that it is there: one reading.

The question "Is there ...?" does both jobs: its last token's attention is compared with that of the
prompt without it (steps 1-2), and its first answer token is read. Knows neither layers nor windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange

from ..engine.branches import read_rows
from ..engine.reading import overflow
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import Progress
from ..results import AttentionMaps
from ..settings import DRAFTED, PromptSettings

YES, NO = ("yes", "Yes"), ("no", "No")


@dataclass(frozen=True)
class Seen:
    """maps: of the question for one phrase. presence: yes over yes and no, 0 to 1."""

    maps: AttentionMaps
    presence: float


@one_at_a_time
@torch.inference_mode()
def read_presence(
    lvlm: Lvlm,
    picture: Any,
    phrases: Sequence[str],
    settings: PromptSettings = PromptSettings(),
    progress: Progress | None = None,
) -> list[Seen]:
    """Each phrase on one picture, which is read once for all of them.

    picture: PIL, NumPy, tensor, or already encoded by `lvlm.encode`. Raises ValueError for an empty
    phrase, a model that cannot answer, a prompt longer than the context, and scores that are not
    finite.
    """
    lvlm.check_answers()
    inputs = lvlm.encode(picture, settings.framing)
    questions = [lvlm.presence_question(phrase) for phrase in phrases]
    pairs = [lvlm.branch_prompts(inputs, question, settings) for question in questions]
    prompts = [asked for asked, _ in pairs]
    drafted = settings.read_at == DRAFTED
    *rows, free = read_rows(lvlm, [*prompts, pairs[0][1]], progress, drafted)
    gh = inputs.grid.rows
    without = rearrange(free.attention, "l h (gh gw) -> l h gh gw", gh=gh)
    seen = []
    for row, question in zip(rows, questions, strict=True):
        attention = rearrange(row.attention, "l h (gh gw) -> l h gh gw", gh=gh)
        maps = AttentionMaps(attention, without, inputs.grid, inputs.picture_size, band=lvlm.band)
        seen.append(Seen(maps, _presence(lvlm, row.hidden, question, settings)))
    return seen


def _presence(lvlm: Lvlm, hidden: torch.Tensor, question: str, settings: PromptSettings) -> float:
    """The share of "yes" among "yes" and "no" as the answer's first token."""
    text = lvlm.locating_text(question, settings)
    logits = lvlm.logits(hidden).float()

    def first(words: Sequence[str]) -> set[int]:
        return {lvlm.chat.answer_ids(1, text, word, settings.system)[0] for word in words}

    yes, no = first(YES), first(NO)
    both = yes & no  # a token that begins either, such as a blank of its own, tells nothing
    if not (yes - both and no - both):
        raise ValueError(
            f"choose another model: {lvlm.name} begins yes and no with the same token, so that "
            "its first one does not tell whether something is there"
        )
    scores = [logits[list(own - both)].logsumexp(-1) for own in (yes, no)]
    share = float(torch.sigmoid(scores[0] - scores[1]))
    if share != share:
        raise overflow(lvlm)
    return share
