"""The whole method, in the order of the paper (LASER, arXiv 2602.04304)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from .geometry import whole_picture
from .models.chat import Stream
from .models.families import PictureInputs
from .models.lvlm import Lvlm
from .pictures import to_picture
from .progress import OnText, Progress
from .results import Answer, AttentionMaps, Evidence, LayerChoice, Placement
from .settings import LaserSettings
from .steps.answer_input import negative_stream, plain_stream, positive_stream
from .steps.attention import read_attention
from .steps.counterfactual import block, evidence_patches, patch_mask
from .steps.crop import place_windows
from .steps.decode import decode
from .steps.vaq import contrast, evidence, evidence_of_mask, select_layer


@dataclass(frozen=True)
class Location:
    """Where the question looks: the outcome of steps 1-7. inputs: the picture as encoded.

    maps and choice are None where a mask from elsewhere is the evidence.
    """

    picture: Image.Image
    inputs: PictureInputs
    maps: AttentionMaps | None
    choice: LayerChoice | None
    evidence: Evidence
    placement: Placement


@dataclass(frozen=True)
class LaserAnswer:
    """The outcome of the whole method.

    location is None where the model refused the question before looking. mask: (H, W) float32,
    what the counterfactual stream did not see, None if nothing was blocked. counterfactual: the
    picture with it filled, None also if the model's picture tokens were blocked instead. plain:
    the model's answer without the method, None unless asked for. skipped: "crop" or
    "counterfactual" where settings.decode.adaptive spared it, else "".
    """

    answer: Answer
    location: Location | None
    mask: torch.Tensor | None
    counterfactual: Image.Image | None
    plain: Answer | None
    skipped: str = ""


def locate(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    progress: Progress | None = None,
    *,
    inputs: PictureInputs | None = None,
    maps: AttentionMaps | None = None,
    mask: torch.Tensor | None = None,
) -> Location:
    """Steps 1-7: the window of the picture (PIL, NumPy or tensor) that the question is about.

    inputs: the picture as `lvlm.encode` gave it; maps: of `read_attention` for the same picture,
    question and prompt settings; where they are at hand. mask: (H, W) float 0..1 at picture size,
    evidence from elsewhere: steps 2-6 are left out. Raises ValueError, beside what the steps
    raise, for words outside a closed vocabulary.
    """
    unknown = lvlm.unknown_words(question)
    if unknown:
        raise ValueError(lvlm.closed_vocabulary.reply(unknown))
    picture = to_picture(picture)
    inputs = inputs or lvlm.encode(picture, settings.prompt.framing)
    _check_belongs(picture, inputs, maps, mask)
    if mask is not None:
        maps, found = None, evidence_of_mask(mask)
    else:
        maps = maps or read_attention(lvlm, inputs, question, settings.prompt, progress)
        contrasted = contrast(maps, settings.contrast)
        found = evidence(contrasted, select_layer(contrasted, settings.layer), maps)
    if found.degenerate:
        placement = Placement((whole_picture(picture.size),), (0.0,))
    else:
        placement = place_windows(found, settings.crop)
    return Location(picture, inputs, maps, found.choice, found, placement)


def answer(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    *,
    location: Location | None = None,
    with_plain: bool = False,
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> LaserAnswer:
    """Steps 1-10: the question answered from the evidence, picture as PIL, NumPy or tensor.

    location: of `locate` for the same picture, question and settings, where it is at hand.
    """
    unknown = lvlm.unknown_words(question)
    if unknown:
        reply = Answer(lvlm.closed_vocabulary.reply(unknown), (), "outside the vocabulary")
        return LaserAnswer(reply, None, None, None, reply if with_plain else None)
    found = location or locate(lvlm, picture, question, settings, progress)
    plain = plain_stream(lvlm, found.inputs, question, settings.prompt)
    positive, negative = plain, None
    adaptive, skipped = settings.decode.adaptive, ""
    if found.maps is not None and 0 < adaptive <= found.maps.certainty:
        skipped = "crop"
    elif not found.evidence.degenerate:
        looks = found.placement.windows, question, settings
        positive = positive_stream(lvlm, found.picture, *looks, found.inputs)
        if settings.decode.alpha > 0:
            negative = _Counterfactual.of(lvlm, found, positive, question, settings)
    plain_answer = None
    if with_plain:
        undisturbed = dataclasses.replace(settings.decode, alpha=0.0)
        shown = on_text if positive is plain else None
        plain_answer = decode(lvlm, plain, None, undisturbed, _plainly(progress), shown)
    if positive is plain and plain_answer is not None:
        laser = plain_answer  # nothing else to answer from: not decoded a second time
    else:
        laser = decode(lvlm, positive, negative, settings.decode, progress, on_text)
    if negative is None:
        return LaserAnswer(laser, found, None, None, plain_answer, skipped)
    if negative.mask is None:
        skipped = "counterfactual"
    return LaserAnswer(laser, found, negative.mask, negative.picture, plain_answer, skipped)


def _plainly(progress: Progress | None) -> Progress | None:
    """The progress of the plain answer, as one stage of the whole."""
    if progress is None:
        return None
    return lambda _, done, total: progress("answering plainly", done, total)


def _check_belongs(
    picture: Image.Image,
    inputs: PictureInputs,
    maps: AttentionMaps | None,
    mask: torch.Tensor | None,
) -> None:
    """Raise ValueError for maps or a mask of another picture."""
    if mask is not None and tuple(mask.shape) != (picture.height, picture.width):
        raise ValueError(
            f"resize the mask to (height, width) of the picture: it is {tuple(mask.shape)} but the "
            f"picture is {(picture.height, picture.width)}"
        )
    if maps is not None and (maps.picture_size, maps.grid) != (picture.size, inputs.grid):
        raise ValueError(
            f"read the attention of this very picture: the maps are of one of {maps.picture_size} "
            f"pixels, this one has {picture.size}"
        )


@dataclass
class _Counterfactual:
    """Step 8, called where the stream without the evidence is to be read, and drawn only then.

    mask, picture: as of `LaserAnswer`, None until then.
    """

    lvlm: Lvlm
    found: Location
    patches: torch.Tensor
    positive: Stream
    question: str
    settings: LaserSettings
    mask: torch.Tensor | None = None
    picture: Image.Image | None = None

    @classmethod
    def of(
        cls, lvlm: Lvlm, found: Location, positive: Stream, question: str, settings: LaserSettings
    ) -> _Counterfactual | None:
        """None where the windows hold no evidence: both streams would be the same."""
        windows = found.placement.windows
        patches = evidence_patches(found.evidence, settings.counterfactual, windows)
        return cls(lvlm, found, patches, positive, question, settings) if patches.any() else None

    def __call__(self) -> Stream:
        lvlm, found, settings = self.lvlm, self.found, self.settings.counterfactual
        with torch.inference_mode(False):  # an ordinary tensor, for whoever is given it
            self.mask = patch_mask(self.patches, found.evidence)
        if settings.fill != "visual tokens":
            self.picture = block(found.picture, self.mask, settings, lvlm.mean_colour)
        looks = found.placement.windows, self.question, self.settings, found.inputs
        return negative_stream(lvlm, self.positive, self.picture, self.mask, *looks)
