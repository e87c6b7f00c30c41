"""Attention maps of all layers and heads as one HTML file that needs no network. Knows no model."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..files import to_plain
from ..results import LaserAnswer, Location
from ..steps.vaq import contrast
from .heat import heat_colours, levels_of, on_picture
from .maps_file import maps_of
from .token_maps import token_levels

PAGE = Path(__file__).with_name("maps_page.html")
MOST_CELLS = 32
"""Rows and columns of a map on the page. Finer ones are averaged: the file would be too large."""

PICTURE_SIDE_PX = 1024


def maps_page(result: LaserAnswer | Location, model: str = "") -> str:
    """The page: every map beside the picture under the one that is pointed at.

    Where an answer has its tokens' maps, also its words, to point at. model: its name. Raises
    ValueError where a mask is the evidence.
    """
    answered = result if isinstance(result, LaserAnswer) else None
    found = result.location if isinstance(result, LaserAnswer) else result
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
        "tokens": _tokens(answered) if answered else None,
    }
    # Nothing in a question may end the script
    text = json.dumps(to_plain(content)).replace("<", "\\u003c")
    return PAGE.read_text("utf-8").replace("__CONTENT__", text)


def _levels(maps: torch.Tensor, found: Location) -> dict[str, Any]:
    """Maps (L, H, gh, gw) on the picture."""
    grid, size = found.evidence.grid, found.evidence.picture_size
    levels, most, _ = levels_of(maps.flatten(0, 1), grid, size, MOST_CELLS)
    shape = [*maps.shape[:2], *levels.shape[1:]]
    return {"shape": shape, "most": most, "levels": _base64(levels.numpy().tobytes())}


def _tokens(result: LaserAnswer) -> dict[str, Any] | None:
    """The answer's words and where each looked, where that is known."""
    answer, maps = result.answer, result.answer.maps
    if maps is None or not answer.written:
        return None
    levels, box = token_levels(answer, maps, result.location.settings, MOST_CELLS)
    return {
        "texts": [token.text for token in answer.written],
        "thoughts": answer.thought_tokens,
        "shape": levels.shape[1:],
        "box": box,
        "levels": _base64(levels.numpy().tobytes()),
    }


def _picture(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=88)
    return "data:image/jpeg;base64," + _base64(file.getvalue())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
