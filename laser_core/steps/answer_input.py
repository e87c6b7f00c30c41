"""Step 9: the pictures each stream answers from.

The positive stream sees the window, after the picture or alone; the negative one sees the same
with the evidence blocked, in pixels or in the model's own picture tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from ..engine.token_rows import Watch
from ..geometry import Grid, Window, whole_picture
from ..models.chat import Prompt, Stream
from ..models.lvlm import Lvlm
from ..pictures import PictureInputs, to_picture
from ..results import Counterfactual, Location
from ..settings import LaserSettings

LEAST_MAGNIFICATION = 1.25
"""A crop's side is shown at least this many times larger than in the picture: less would show
nothing new for its tokens."""


def make_plain_stream(lvlm: Lvlm, picture: Any, question: str, settings: LaserSettings) -> Stream:
    """The question on the picture (any form, or encoded), as the model alone would read it."""
    inputs = lvlm.encode(picture, settings.prompt.framing)
    return _stream(lvlm, [inputs], question, settings, shared=True)


def make_positive_stream(lvlm: Lvlm, found: Location) -> Stream:
    """The question on the picture's windows, after the picture or alone (step 9)."""
    crops = _cut(found.picture, found.windows)
    return make_crops_stream(lvlm, found.inputs, crops, found.question, found.settings)


def make_crops_stream(
    lvlm: Lvlm,
    whole: PictureInputs,
    crops: Sequence[Any],
    question: str,
    settings: LaserSettings,
    shared: bool = True,
    like: Prompt | None = None,
) -> Stream:
    """The question on crops (any form) of a picture, after the picture or alone.

    whole: the picture as `lvlm.encode` gave it. shared: whether a stream that begins with the
    picture continues from the cached prefix. On native-resolution models a crop is enlarged to a
    share of the picture's tokens: at its own size it would be no clearer than in the picture.
    Where picture and crops leave no room for the answer in the model's context, the crops stand
    alone, and the stream's note says so. like: the prompt with the evidence, whose lead this
    stream follows: streams that differ in more than the evidence cannot be compared.
    """
    encoded = [
        lvlm.encode(
            crop, settings.prompt.framing, tokens_of_crop(whole, crop, len(crops), settings)
        )
        for crop in crops
    ]
    with_picture, note = settings.answer.answer_input == "picture + crop", ""
    if like is not None:
        with_picture = _shows_picture(like, len(crops))
    elif with_picture:
        note = _too_long(lvlm, [whole, *encoded], question, settings)
    if with_picture and not note:
        return _stream(lvlm, [whole, *encoded], question, settings, shared)
    alone = _stream(lvlm, encoded, question, settings, shared=False)
    return dataclasses.replace(alone, note=note)


def make_negative_stream(
    lvlm: Lvlm, found: Location, positive: Prompt, blocked: Counterfactual
) -> Stream:
    """The stream of the positive prompt without the evidence (step 8)."""
    settings, picture = found.settings, blocked.picture
    if picture is None:
        return _blocked_tokens(positive, found.windows, blocked.mask, settings)
    whole, shared = found.inputs, settings.counterfactual.block == "crop"
    if not shared and _shows_picture(positive, len(found.windows)):
        whole = lvlm.encode(picture, settings.prompt.framing)
    crops = _cut(picture, found.windows)
    return make_crops_stream(lvlm, whole, crops, found.question, settings, shared, positive)


def make_watch(
    lvlm: Lvlm,
    prompt: Prompt,
    windows: Sequence[Window | None],
    picture_size: tuple[int, int],
    settings: LaserSettings,
) -> Watch:
    """What `decode` needs to say where each token of a prompt's answer looked.

    windows: what the prompt's crops show of the (width, height) picture that the maps lie on, which
    may itself come before them; None for what is left out.
    """
    text, system = lvlm.query_free_text(settings.prompt), settings.prompt.system
    free = lvlm.prompt(prompt.pictures, text, system, thought_closed=True)
    whole = [whole_picture(picture_size)] if _shows_picture(prompt, len(windows)) else []
    return Watch(free, (*whole, *windows), picture_size)


def _too_long(
    lvlm: Lvlm, pictures: Sequence[PictureInputs], question: str, settings: LaserSettings
) -> str:
    """Why picture and crops are not read together, a sentence; "" where they fit."""
    text, system = lvlm.answering_text(question, settings.answer), settings.prompt.system
    ids = len(lvlm.chat.ids(len(pictures), text, system)) - len(pictures)
    length = ids + lvlm.picture_tokens(pictures)
    most, context = settings.decode.max_tokens, lvlm.context_length
    if length + most <= context:
        return ""
    return (
        f"picture and crop would take {length} tokens, the answer up to {most}, and the model "
        f"takes {context}: answered from the crop alone"
    )


def _shows_picture(prompt: Prompt, crops: int) -> bool:
    return len(prompt.pictures) > crops


def tokens_of_crop(whole: PictureInputs, crop: Any, crops: int, settings: LaserSettings) -> int:
    """Visual tokens for one of `crops` crops of a picture, on native-resolution models.

    A budget below the picture's tokens is raised to what magnifies the crop, up to those tokens.
    """
    even_share = whole.token_count / crops
    budget = settings.answer.crop_budget * even_share
    if budget < even_share and not isinstance(crop, PictureInputs):
        width, height = to_picture(crop).size
        area = width * height / (whole.picture_size[0] * whole.picture_size[1])
        magnified = LEAST_MAGNIFICATION**2 * area * whole.token_count
        budget = min(max(budget, magnified), even_share)
    return max(1, round(budget))


def _cut(picture: Image.Image, windows: Sequence[Window]) -> list[Image.Image]:
    return [picture.crop(window) for window in windows]


def _stream(
    lvlm: Lvlm,
    pictures: Sequence[PictureInputs],
    question: str,
    settings: LaserSettings,
    shared: bool,
) -> Stream:
    return Stream(lvlm.answer_prompt(pictures, question, settings), shared_prefix=shared)


def _blocked_tokens(
    prompt: Prompt, windows: Sequence[Window], mask: torch.Tensor, settings: LaserSettings
) -> Stream:
    """The positive prompt, with those picture tokens blocked that lie mostly under the mask."""
    with_picture = _shows_picture(prompt, len(windows))
    whole = Window(0, 0, mask.shape[1], mask.shape[0])
    regions = [whole, *windows] if with_picture else list(windows)
    spare = with_picture and settings.counterfactual.block == "crop"
    blocked: list[int] = []
    places = zip(regions, prompt.pictures, prompt.spans, strict=True)
    for index, (region, picture, span) in enumerate(places):
        if picture.map_tokens != slice(0, picture.token_count):
            raise ValueError(
                "choose another fill than 'visual tokens': this model reads the picture at several "
                "resolutions, and its finer tokens would still show the evidence"
            )
        if spare and index == 0:
            continue
        part = mask[region.y1 : region.y2, region.x1 : region.x2]
        blocked += [span.start + cell for cell in _covered_cells(part, picture.grid)]
    return Stream(prompt, shared_prefix=with_picture, blocked=tuple(blocked))


def _covered_cells(mask: torch.Tensor, grid: Grid) -> list[int]:
    """Cells (row by row) at least half under `mask` (H, W), or the most covered if none is."""
    rows = _overlaps(grid.y_edges, mask.shape[0])
    columns = _overlaps(grid.x_edges, mask.shape[1])
    cover = (rows @ mask.double() @ columns.T).flatten()  # (gh * gw,) shares of each cell's area
    if cover.max() <= 0:
        return []
    # The slack keeps a cell of exactly half from depending on how its edges were rounded.
    return torch.nonzero(cover >= min(0.5, float(cover.max())) - 1e-9).flatten().tolist()


def _overlaps(edges: list[float], side_px: int) -> torch.Tensor:
    """(cells, side_px): the share of each cell that each row or column of pixels takes."""
    edge = torch.tensor(edges, dtype=torch.float64)
    pixel = torch.arange(side_px, dtype=torch.float64)
    start, stop = edge[:-1, None], edge[1:, None]
    common = torch.minimum(stop, pixel + 1) - torch.maximum(start, pixel)
    return common.clamp(min=0.0) / (stop - start)
