"""The whole method, in the order of the paper (LASER, arXiv 2602.04304).

Joins the steps and decides which of them run. Knows no tensor, no prompt and no device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import Any

import torch

from .engine.together import run_together
from .geometry import Window
from .models.lvlm import Lvlm
from .pictures import check_mask, to_picture
from .progress import OnText, Progress, as_one_stage
from .results import LaserAnswer, Location
from .settings import LaserSettings
from .steps.answer_input import (
    make_negative_stream,
    make_plain_stream,
    make_positive_stream,
    make_watch,
)
from .steps.attention import ReadAttention, read_attention
from .steps.certainty import choose_reading
from .steps.counterfactual import blocks_something, make_counterfactual
from .steps.crop import closer_looks, given, place_windows
from .steps.decode import decode
from .steps.vaq import contrast, make_evidence, make_evidence_of_mask, select_layer


def locate(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    progress: Progress | None = None,
    *,
    mask: torch.Tensor | None = None,
    window: Window | None = None,
    look_for: str = "",
    read: ReadAttention = read_attention,
) -> Location:
    """Steps 1-7: the windows of the picture (PIL, NumPy or tensor) that the question is about.

    mask: (H, W) float 0..1 at picture size, evidence from elsewhere: steps 1-6 are left out.
    window: on the picture, by hand: step 7 is left out.
    look_for: what locates in place of the question, which is still the one to be answered.
    read: steps 1-2, or a version that remembers its results. Raises what the steps raise.
    """
    picture = to_picture(picture)
    inputs = lvlm.encode(picture, settings.prompt.framing)
    if mask is None:
        maps = read(
            lvlm, inputs, look_for.strip() or question, settings.prompt, progress
        )  # steps 1-2
        contrasted = contrast(maps, settings.contrast)  # step 3
        choice = select_layer(contrasted, settings.layer, maps.band)  # steps 4-5
        found = make_evidence(contrasted, choice, maps)  # step 6
    else:
        check_mask(mask, picture)
        maps, found = None, make_evidence_of_mask(mask)
    placement = given(found, window) if window else place_windows(found, settings.crop)  # step 7
    by_hand = window is not None
    return Location(
        picture, inputs, question, settings, maps, found, placement, by_hand, look_for.strip()
    )


def answer(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    *,
    with_plain: bool = False,
    token_maps: bool = False,
    look_for: str = "",
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> LaserAnswer:
    """Steps 1-10: the question answered from the evidence. picture, look_for: as for `locate`.

    with_plain: also as the model alone answers. token_maps: also where each token looked.
    """
    lvlm.check_answers()  # before the picture is read
    found = locate(lvlm, picture, question, settings, progress, look_for=look_for)
    asked = {"with_plain": with_plain, "token_maps": token_maps}
    return answer_from(lvlm, found, **asked, progress=progress, on_text=on_text)


def answer_from(
    lvlm: Lvlm,
    found: Location,
    *,
    with_plain: bool = False,
    token_maps: bool = False,
    progress: Progress | None = None,
    on_text: OnText | None = None,
) -> LaserAnswer:
    """Steps 8-10: the located question answered from its windows, or from the picture alone.

    with_plain, token_maps: as for `answer`.
    """
    decoding, make = found.settings.decode, partial(make_positive_stream, lvlm)  # step 9
    plain = make_plain_stream(lvlm, found.inputs, found.question, found.settings)
    choice = choose_reading(lvlm, plain, found, closer_looks(found), make, progress)
    looked, place = choice.place is not None, choice.place or found
    contrasts = looked and decoding.alpha > 0 and blocks_something(place)
    block = cache(lambda: make_counterfactual(place, lvlm.mean_colour))  # step 8, if it is read

    prompt, windows = choice.reading.prompt, place.windows if looked else ()
    watch = None
    if token_maps:
        watch = make_watch(lvlm, prompt, windows, found.picture.size, found.settings)
    if with_plain or not looked:
        stage = as_one_stage(progress, "answering plainly") if with_plain else progress
        own = (None, None) if looked else (on_text, watch)
        laser = plain_answer = decode(lvlm, choice.plain, None, decoding, stage, *own)
    if looked:
        blind = partial(make_negative_stream, lvlm, place, prompt)
        negative = (lambda: blind(block())) if contrasts else None
        laser = decode(lvlm, choice.reading, negative, decoding, progress, on_text, watch)  # 10
    blocked, skipped = block() if laser.contrasted else None, contrasts and not laser.contrasted
    plainly = plain_answer if with_plain else None
    return LaserAnswer(laser, place, blocked, plainly, choice.looks, choice.believed, skipped)


# ---- many pictures -----------------------------------------------------------------------------


def locate_many(
    lvlm: Lvlm,
    items: Iterable[tuple[Any, str]],
    settings: LaserSettings = LaserSettings(),
    *,
    batch: int = 0,
    progress: Progress | None = None,
) -> Iterator[Location | Exception]:
    """`locate` of every (picture, question), as `answer_many` answers."""

    def job(own: Lvlm, item: tuple[Any, str]) -> Location:
        return locate(own, *item, settings, progress)

    return run_together(lvlm, items, job, batch)


def answer_many(
    lvlm: Lvlm,
    items: Iterable[tuple[Any, str]],
    settings: LaserSettings = LaserSettings(),
    *,
    with_plain: bool = False,
    batch: int = 0,
    progress: Progress | None = None,
) -> Iterator[LaserAnswer | Exception]:
    """`answer` of every (picture, question), in order, side by side where the device gains.

    batch: pictures at a time; 0: as many as fit. Of the items, at most one batch is read ahead.
    An item that fails for its own sake gives its error, and the others go on; what else is raised
    ends all (`engine.together.run_together`).
    """
    lvlm.check_answers()

    def job(own: Lvlm, item: tuple[Any, str]) -> LaserAnswer:
        return answer(own, *item, settings, with_plain=with_plain, progress=progress)

    return run_together(lvlm, items, job, batch)
