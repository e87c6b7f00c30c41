"""What is asked: the question, and which pictures the answer is read from. Runs nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from laser_core.models.lvlm import Lvlm
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
)

QUESTION = "what colour is the square to the left of the circle ?"


@dataclass(frozen=True)
class Mode:
    """Which pictures the answer is read from, and what is blocked."""

    name: str
    answer_input: str
    block: str = "crop"
    quarter: bool = False

    def settings(self, tokens: int) -> LaserSettings:
        """For an answer of `tokens` tokens."""
        # A crop of a quarter of the picture's tokens shows a window small enough to be magnified
        crop = CropSettings(scale=0.35) if self.quarter else CropSettings()
        return LaserSettings(
            crop=crop,
            counterfactual=CounterfactualSettings(block=self.block),
            answer=AnswerSettings(self.answer_input, 0.25 if self.quarter else 1.0),
            decode=DecodeSettings(max_tokens=tokens, adaptive=0.0),  # one window, always read
        )


CROP = Mode("crop only", "crop")
PICTURE_AND_CROP = Mode("picture + crop, block: crop", "picture + crop")
MODES = (
    CROP,
    PICTURE_AND_CROP,
    Mode("picture + crop, block: both", "picture + crop", "picture and crop"),
)
QUARTER_MODES = tuple(
    dataclasses.replace(mode, name=f"{mode.name}, a quarter of the tokens", quarter=True)
    for mode in (CROP, PICTURE_AND_CROP)
)


def modes_of(lvlm: Lvlm) -> tuple[Mode, ...]:
    """All modes of a model: a crop costs fewer tokens only where resolution is native."""
    return MODES + QUARTER_MODES * lvlm.family.native_resolution
