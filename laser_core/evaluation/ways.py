"""Ways to answer one question, with the controls that a figure of LASER needs beside it.

plain         the whole picture alone
equal tokens  the same at as many tokens as picture and crop take, on native-resolution models
laser         as it is set, without the second stream
laser, VAT    as it is set
paper         the preset *paper*
random        windows at random, of LASER's sizes, read and believed by LASER's rule

All look where the same reading of the picture says. Knows no data set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from ..geometry import Box, whole_picture
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..pipeline import answer_from, locate
from ..results import Location, Placement
from ..settings import LaserSettings
from ..steps.answer_input import make_plain_stream, make_positive_stream
from ..steps.attention import read_attention
from ..steps.certainty import choose_reading
from ..steps.crop import closer_looks
from ..steps.decode import decode
from .methods import random_window
from .metrics import holds, mass_in

WAYS = ("plain", "equal tokens", "laser", "laser, VAT", "paper", "random")


def answers_by_way(
    lvlm: Lvlm,
    picture: Image.Image,
    question: str,
    *,
    look_for: str = "",
    instruction: str = "",
    max_tokens: int = 16,
    seed: int = 0,
) -> tuple[dict[str, str], Location]:
    """What each way answers, and where LASER looked first.

    A model's own instruction (laser.json) takes the place of `instruction`. seed: of the windows
    at random. Without a native resolution there is no way "equal tokens".
    """
    given: dict[str, Any] = {
        "instruction": "" if lvlm.instruction else instruction,
        "max_tokens": max_tokens,
    }
    with_vat = LaserSettings.of(**given)
    settings = LaserSettings.of(alpha=0.0, **given)
    inputs = lvlm.encode(picture, settings.prompt.framing)
    maps = read_attention(lvlm, inputs, look_for or question, settings.prompt)
    place = partial(locate, lvlm, picture, question, look_for=look_for, read=lambda *_: maps)
    found = place(settings)
    plain = make_plain_stream(lvlm, inputs, question, settings)
    said = {"plain": decode(lvlm, plain, None, settings.decode).text}
    if lvlm.family.native_resolution:
        both = lvlm.encode(picture, settings.prompt.framing, 2 * inputs.token_count)
        prompt = make_plain_stream(lvlm, both, question, settings).prompt
        said["equal tokens"] = decode(lvlm, Stream(prompt), None, settings.decode).text
    said["laser"] = answer_from(lvlm, found).answer.text
    said["laser, VAT"] = answer_from(lvlm, replace(found, settings=with_vat)).answer.text
    said["paper"] = answer_from(lvlm, place(LaserSettings.of("paper", **given))).answer.text
    at_random = _at_random(closer_looks(found), np.random.default_rng(seed))
    make = partial(make_positive_stream, lvlm)
    choice = choose_reading(lvlm, plain, found, at_random, make)
    said["random"] = decode(lvlm, choice.reading, None, settings.decode).text
    return said, found


def shares_by_way(found: Location, boxes: tuple[Box, ...]) -> dict[str, float]:
    """What LASER's map and first window hold of the boxes; `area`: what a blind map would score."""
    whole = Box(*whole_picture(found.picture.size))
    shares = {"area": sum(box.intersect(whole).area for box in boxes) / whole.area}
    if not found.evidence.degenerate:
        shares["mass"] = mass_in(found.evidence, boxes)
    return {**shares, "holds": float(all(holds(found.windows[0], box) for box in boxes))}


def _at_random(looks: Iterator[Location], rng: np.random.Generator) -> Iterator[Location]:
    """The looks with their windows anywhere on the picture."""
    for look in looks:
        windows = tuple(random_window(look.picture, window, rng) for window in look.windows)
        yield replace(look, placement=Placement(windows, look.placement.shares))
