"""The whole method, in the order of the paper (LASER, arXiv 2602.04304)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .answer_input import answer_streams, plain_stream
from .attention import read_attention
from .counterfactual import block, evidence_patches, patch_mask
from .crop import place_windows
from .decode import OnText, decode
from .geometry import whole_picture
from .lvlm import Lvlm
from .pictures import to_picture
from .prefill import Progress
from .results import Answer, AttentionMaps, Evidence, LayerChoice, Placement
from .settings import LaserSettings
from .vaq import contrast, evidence, select_layer


@dataclass(frozen=True)
class Location:
    """Where the question looks: the outcome of steps 1-7."""

    picture: Image.Image
    maps: AttentionMaps
    choice: LayerChoice
    evidence: Evidence
    placement: Placement


@dataclass(frozen=True)
class LaserAnswer:
    """The outcome of the whole method.

    location is None where the model refused the question before looking. mask: (H, W) float32,
    what the counterfactual stream did not see, None if nothing was blocked. counterfactual: the
    picture with it filled, None also if the model's picture tokens were blocked instead. plain: the model's
    answer without the method, None unless asked for.
    """

    answer: Answer
    location: Location | None
    mask: torch.Tensor | None
    counterfactual: Image.Image | None
    plain: Answer | None


def locate(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    progress: Progress | None = None,
) -> Location:
    """Steps 1-7: the window of the picture (PIL, NumPy or tensor) that the question is about."""
    picture = to_picture(picture)
    maps = read_attention(lvlm, picture, question, settings.prompt, progress)
    contrasted = contrast(maps, settings.contrast)
    choice = select_layer(contrasted, settings.layer)
    found = evidence(contrasted, choice, maps)
    if found.degenerate:
        placement = Placement((whole_picture(picture.size),), (0.0,))
    else:
        placement = place_windows(found, settings.crop)
    return Location(picture, maps, choice, found, placement)


def answer(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    *,
    with_plain: bool = False,
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> LaserAnswer:
    """Steps 1-10: the question answered from the evidence, picture as PIL, NumPy or tensor."""
    unknown = lvlm.unknown_words(question)
    if unknown:
        reply = Answer(lvlm.closed_vocabulary.reply(unknown), (), "outside the vocabulary")
        return LaserAnswer(reply, None, None, None, reply if with_plain else None)
    found = locate(lvlm, picture, question, settings, progress)
    plain = plain_stream(lvlm, found.picture, question, settings.prompt)
    mask, blocked, positive, negative = None, None, plain, None
    if not found.evidence.degenerate:
        windows = found.placement.windows
        patches = evidence_patches(found.evidence, settings.counterfactual, windows)
        mask = patch_mask(patches, found.evidence, settings.counterfactual)
        if settings.counterfactual.fill != "visual tokens":
            blocked = block(found.picture, mask, settings.counterfactual, lvlm.mean_colour)
        positive, negative = answer_streams(
            lvlm, found.picture, blocked, mask, windows, question, settings
        )
    plain_answer = None
    if with_plain:
        greedy = dataclasses.replace(settings.decode, alpha=0.0)
        plain_answer = decode(lvlm, plain, None, greedy, progress)
    laser = decode(lvlm, positive, negative, settings.decode, progress, on_text)
    return LaserAnswer(laser, found, mask, blocked, plain_answer)
