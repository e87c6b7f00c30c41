"""Faithfulness of a map, without boxes: what becomes of an answer as patches go and come.

Deletion blocks a map's patches, the strongest first; insertion shows them on a blocked picture.
Each curve is the answer's log-probability by the share of patches, its area the mean over 0 to 1
(RISE, arXiv 1806.07421, takes the probability of a class). A map is faithful where deletion's area
is small and insertion's large. Knows maps and likelihoods; knows no method.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..engine.likelihood import log_likelihoods
from ..engine.reading import read_stream
from ..geometry import whole_picture
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..results import Evidence
from ..settings import CounterfactualSettings, LaserSettings
from ..steps.counterfactual import block, mask_patches

STEPS = 8  # parts of equal size in which patches go and come


@dataclass(frozen=True)
class Curves:
    """(steps + 1,) natural logarithms of the answer's probability, from no patch to all."""

    deletion: np.ndarray
    insertion: np.ndarray

    @property
    def areas(self) -> dict[str, float]:
        """The means over the share of patches, 0 to 1, by the trapezoidal rule."""
        return {name: area(curve) for name, curve in vars(self).items()}


def area(curve: np.ndarray) -> float:
    """Of a curve of equal steps from 0 to 1."""
    return float((curve[1:] + curve[:-1]).mean() / 2)


class Likelihood:
    """An answer's log-probability on a picture with any of its pixels blocked, each once."""

    def __init__(
        self,
        lvlm: Lvlm,
        picture: Image.Image,
        question: str,
        answer: str,
        settings: LaserSettings = LaserSettings(),
    ) -> None:
        self._lvlm, self._picture, self._settings = lvlm, picture, settings
        self._question = question
        text, system = lvlm.answering_text(question, settings.answer), settings.prompt.system
        self._answer = lvlm.chat.answer_ids(1, text, answer, system)
        self._known: dict[bytes, float] = {}

    @one_at_a_time
    @torch.inference_mode()
    def __call__(self, mask: torch.Tensor) -> float:
        """mask: (H, W), above 0 where the picture has the model's mean colour instead."""
        key = np.packbits(mask.numpy() > 0).tobytes()
        if key not in self._known:
            lvlm, settings = self._lvlm, self._settings
            shown = block(self._picture, mask, CounterfactualSettings(), lvlm.mean_colour)
            inputs = lvlm.encode(shown, settings.prompt.framing)
            prompt = lvlm.answer_prompt([inputs], self._question, settings, thought_closed=True)
            read = read_stream(lvlm, Stream(prompt))
            [self._known[key]] = log_likelihoods(lvlm, read, [self._answer])
        return self._known[key]


def curves(evidence: Evidence, likelihood: Likelihood, steps: int = STEPS) -> Curves:
    """Both curves of a map. Equal patches go in reading order; those off the picture never do."""
    order = patches_in_order(evidence)
    deletion, insertion = [], []
    for step in range(steps + 1):
        taken = torch.zeros(evidence.map.shape, dtype=torch.bool)
        for row, column in order[: round(step * len(order) / steps)]:
            taken[row, column] = True
        mask = mask_patches(taken, evidence)
        deletion.append(likelihood(mask))
        insertion.append(likelihood(1 - mask))
    return Curves(np.array(deletion), np.array(insertion))


def patches_in_order(evidence: Evidence) -> Sequence[tuple[int, int]]:
    """(row, column) of the patches that touch the picture, the strongest first."""
    rows, columns = evidence.grid.shares_inside(whole_picture(evidence.picture_size))
    seen = np.outer(rows, columns).ravel() > 0
    order = np.argsort(-evidence.map.double().cpu().numpy().ravel(), kind="stable")
    return [divmod(int(cell), evidence.grid.columns) for cell in order if seen[cell]]
