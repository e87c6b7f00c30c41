"""Step 9: the pictures each stream answers from.

The positive stream sees the window, after the picture or alone; the negative one sees the same
with the evidence blocked, in pixels or in the model's own picture tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from .families import PictureInputs
from .geometry import Grid, Window
from .lvlm import Lvlm, Prompt
from .prefill import Stream
from .settings import LaserSettings, PromptSettings


def plain_stream(
    lvlm: Lvlm, picture: Image.Image, question: str, settings: PromptSettings
) -> Stream:
    """The question on the picture, as the model alone would read it."""
    inputs = lvlm.encode(picture, settings.framing)
    text = lvlm.question_text(question, settings)
    return Stream(lvlm.prompt([inputs], text, settings.system), shared_prefix=True)


def answer_streams(
    lvlm: Lvlm,
    picture: Image.Image,
    blocked: Image.Image | None,
    mask: torch.Tensor,
    windows: Sequence[Window],
    question: str,
    settings: LaserSettings,
) -> tuple[Stream, Stream]:
    """The positive and the negative stream (METHOD steps 8-9).

    mask: (H, W) float32 in 0..1 at picture size, what the negative stream must not see.
    blocked: the picture with it blocked, or None to block the picture's tokens instead.
    """
    with_picture = settings.answer.answer_input == "picture + crop"
    positive = _stream(lvlm, picture, picture, windows, question, settings)
    if blocked is None:
        return positive, _blocked_tokens(positive.prompt, windows, mask, settings)
    whole = blocked if settings.counterfactual.block == "picture and crop" else picture
    shared = with_picture and whole is picture
    return positive, _stream(lvlm, whole, blocked, windows, question, settings, shared)


def _stream(
    lvlm: Lvlm,
    whole: Image.Image,
    cropped: Image.Image,
    windows: Sequence[Window],
    question: str,
    settings: LaserSettings,
    shared: bool = True,
) -> Stream:
    """`whole` (with answer input 'picture + crop') and the windows of `cropped`, and the question."""
    framing = settings.prompt.framing
    with_picture = settings.answer.answer_input == "picture + crop"
    picture = lvlm.encode(whole, framing)
    # On native-resolution models a crop is enlarged to a share of the picture's tokens: cut out
    # at its own size it would be no clearer than before.
    budget = max(1, round(picture.token_count * settings.answer.crop_budget / len(windows)))
    crops = [lvlm.encode(cropped.crop(window), framing, tokens=budget) for window in windows]
    pictures: list[PictureInputs] = [picture, *crops] if with_picture else crops
    text = lvlm.question_text(question, settings.prompt)
    prompt = lvlm.prompt(pictures, text, settings.prompt.system)
    return Stream(prompt, shared_prefix=shared and with_picture)


def _blocked_tokens(
    prompt: Prompt, windows: Sequence[Window], mask: torch.Tensor, settings: LaserSettings
) -> Stream:
    """The positive prompt with the picture tokens blocked that lie mostly under the mask."""
    with_picture = settings.answer.answer_input == "picture + crop"
    whole = Window(0, 0, mask.shape[1], mask.shape[0])
    regions = [whole, *windows] if with_picture else list(windows)
    spare = with_picture and settings.counterfactual.block == "crop"
    blocked: list[int] = []
    for index, (region, picture, span) in enumerate(zip(regions, prompt.pictures, prompt.spans)):
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
