"""Step 2: where the last prompt token looks, with and without the question."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from einops import rearrange

from ..engine.branches import read_branches
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import Progress
from ..results import AttentionMaps
from ..settings import DRAFTED, PromptSettings


class ReadAttention(Protocol):
    """`read_attention`, or a version that remembers its results."""

    def __call__(
        self,
        lvlm: Lvlm,
        picture: Any,
        question: str,
        settings: PromptSettings = ...,
        progress: Progress | None = ...,
        /,
    ) -> AttentionMaps: ...


@one_at_a_time
@torch.inference_mode()
def read_attention(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: PromptSettings = PromptSettings(),
    progress: Progress | None = None,
) -> AttentionMaps:
    """Attention of the last prompt token over the picture's patches, in both branches.

    Or of the last token of a draft of each branch's answer, as settings.read_at says. picture: PIL,
    NumPy, tensor, or already encoded by `lvlm.encode`. Post-softmax, every layer and head, float32
    on the CPU (docs/method.md, steps 1-2).
    Raises ValueError for an empty question or a prompt longer than the context.
    """
    inputs = lvlm.encode(picture, settings.framing)
    prompts = lvlm.branch_prompts(inputs, question, settings)
    rows = read_branches(lvlm, *prompts, progress, settings.read_at == DRAFTED)
    gh = inputs.grid.rows
    with_query, without_query = (
        rearrange(branch, "l h (gh gw) -> l h gh gw", gh=gh)
        for branch in (rows.with_query, rows.without_query)
    )
    return AttentionMaps(
        with_query,
        without_query,
        inputs.grid,
        inputs.picture_size,
        rows.certainty,
        lvlm.band,
    )
