"""Pick: which of several candidates, masks of any segmenter, is what a phrase names.

A coarse map becomes exact to the pixel: the candidates are ranked by the heat on their area, and
the best few are read again as crops. Our addition to the paper (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..geometry import Window
from ..models.lvlm import Lvlm
from ..output.masks import box_of
from ..pictures import check_mask, to_picture
from ..progress import Progress
from ..results import Candidate, Picked
from ..settings import LaserSettings
from .find import PRESENT, find, joined_heat, read_window

READ = 3  # candidates that are read again as crops
MARGIN = 0.25  # of a candidate's sides, around it in its crop


def pick(
    lvlm: Lvlm,
    picture: Any,
    candidates: Sequence[torch.Tensor],
    phrase: str,
    settings: LaserSettings = LaserSettings(),
    progress: Progress | None = None,
) -> Picked:
    """The candidate that a phrase names, or none.

    candidates: masks (H, W) of the picture's size, 0 to 1; an empty one is never picked. Raises
    ValueError without a candidate, for masks of another size, and as `find` does.
    """
    picture = to_picture(picture)
    if not candidates:
        raise ValueError("connect candidates, masks or boxes: there is none")
    for mask in candidates:
        check_mask(mask, picture)
    [found] = find(lvlm, picture, [phrase], settings, progress=progress)
    heat = joined_heat(found.evidence, found.closer)
    boxes = [box_of(mask > 0.5) for mask in candidates]
    evidence = [_density(heat, mask) for mask in candidates]
    order = sorted((n for n, box in enumerate(boxes) if box), key=lambda n: -evidence[n])
    inputs = lvlm.encode(picture, settings.prompt.framing)
    rated = [Candidate(box, density) for box, density in zip(boxes, evidence, strict=True)]
    for index in order[: READ if found.name else 0]:  # a question may get no answer
        box = boxes[index]
        assert box is not None
        window = _around(box, picture.size)
        seen = read_window(lvlm, picture, inputs, found.name, window, settings, progress)
        rated[index] = replace(rated[index], presence=seen.presence)
    return Picked(phrase, found.name, found.presence, tuple(rated), PRESENT)


def _density(heat: torch.Tensor, mask: torch.Tensor) -> float:
    """The mean heat on a mask's area; 0 for an empty one."""
    area = float(mask.sum())
    return float((heat * mask).sum()) / area if area > 0 else 0.0


def _around(box: Window, size: tuple[int, int]) -> Window:
    across, down = round(MARGIN * box.width), round(MARGIN * box.height)
    return Window(
        max(box.x1 - across, 0),
        max(box.y1 - down, 0),
        min(box.x2 + across, size[0]),
        min(box.y2 + down, size[1]),
    )
