"""Attention maps of all layers and heads as one HTML file that needs no network. Knows no model."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..files import to_plain
from ..results import Location
from ..steps.vaq import contrast
from .heat import heat_colours, on_picture
from .maps_file import maps_of

PAGE = Path(__file__).with_name("maps_page.html")
MOST_CELLS = 32
"""Rows and columns of a map on the page. Finer ones are averaged: the file would be too large."""

PICTURE_SIDE_PX = 1024


def maps_page(found: Location, model: str = "") -> str:
    """The page: every map beside the picture under the one that is pointed at.

    model: its name. Raises ValueError where a mask is the evidence.
    """
    maps = maps_of(found)
    contrasted = contrast(maps, found.settings.contrast)
    every = {
        "what the question adds": contrasted,
        "with the question": maps.with_query,
        "without the question": maps.without_query,
    }
    choice = found.evidence.choice
    assert choice is not None  # as the maps are there
    view = on_picture(contrasted.flatten(0, 1), maps.grid, maps.picture_size)[1]
    colours, cover = heat_colours()
    content = {
        "question": found.question,
        "model": model,
        "picture": _picture(found.picture),
        "size": found.picture.size,
        "box": [view.x1, view.y1, view.x2, view.y2],
        "windows": found.windows,
        "numbers": choice.numbers,
        "vaq": choice.vaq,
        "layer": choice.layer,
        "weights": choice.weights,
        "reason": choice.reason,
        "colours": _base64(colours),
        "cover": _base64(cover),
        "maps": {name: _levels(one, found) for name, one in every.items()},
    }
    # Nothing in a question may end the script
    text = json.dumps(to_plain(content)).replace("<", "\\u003c")
    return PAGE.read_text("utf-8").replace("__CONTENT__", text)


def _levels(maps: torch.Tensor, found: Location) -> dict[str, Any]:
    """Maps (L, H, gh, gw) on the picture in 256 levels, each of its own largest value."""
    layers, heads = maps.shape[:2]
    cells = on_picture(maps.flatten(0, 1), found.evidence.grid, found.evidence.picture_size)[0]
    rows, columns = (min(side, MOST_CELLS) for side in cells.shape[1:])
    cells = torch.nn.functional.adaptive_avg_pool2d(cells[:, None], (rows, columns))[:, 0]
    most = cells.amax((1, 2))
    shares = cells / most.where(most > 0, 1.0)[:, None, None]
    levels = (shares.nan_to_num(0.0) * 255).round().to(torch.uint8).numpy()
    return {
        "shape": [layers, heads, rows, columns],
        "most": most,
        "levels": _base64(np.ascontiguousarray(levels).tobytes()),
    }


def _picture(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + _base64(file.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
