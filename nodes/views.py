"""What the nodes' own views on the canvas draw: plain values, and temp files of bounded size.

A picture has at most 512 pixels per side, a map at most 64 x 64 cells; the maps of all layers are
tiles of one file. An answer's first 64 tokens travel as values, a longer one's as a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .runtime import temp_file

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..laser_core.geometry import Box, Grid
    from ..laser_core.results import (
        Answer,
        Evidence,
        LayerChoice,
        Look,
        Placement,
        TokenRecord,
    )
    from ..laser_core.settings import LaserSettings

PICTURE_PX = 512  # longer side of a view's picture
MAP_CELLS = 64  # per side of a view's map: finer ones are averaged
GUTTER_PX = 2  # around a map in the file of all
FIRST_TOKENS = 64  # of an answer, sent as values: one page of the view
TOKEN_CELLS = 32  # per side of a token's map

Entry = dict[str, str]  # a temp file, as ComfyUI names it


def vaq_view(
    picture: Image.Image,
    evidence: Evidence,
    layer_maps: torch.Tensor,
    by_rule: LayerChoice,
    by_hand: bool,
) -> dict[str, Any]:
    """One picture's layers: VAQ, choice, the rule's weights and maps. layer_maps: (L, gh, gw).

    A layer is named by its number; `vaq` and the maps are in the order of `numbers`.
    """
    choice = evidence.choice
    return {
        **_picture_and_maps(picture, evidence.picture_size, layer_maps, evidence.grid),
        "numbers": choice.numbers,
        "vaq": choice.vaq,
        "layer": choice.layer,
        "weights": by_rule.weights,
        "largest": by_rule.largest,
        "by_hand": by_hand,
        "rule_layer": by_rule.layer,
        "nothing_found": evidence.degenerate,
    }


def window_view(
    picture: Image.Image, evidence: Evidence | None, placement: Placement, by_hand: bool = False
) -> dict[str, Any]:
    """One picture's windows (x1, y1, x2, y2) in its pixels, over its evidence."""
    found = evidence is not None and not evidence.degenerate
    maps = evidence.map[None] if found else None
    return {
        **_picture_and_maps(picture, picture.size, maps, evidence.grid if found else None),
        "windows": placement.windows,
        "shares": placement.shares if found else None,
        "by_hand": by_hand,
        "nothing_found": evidence is not None and not found,
    }


def token_view(answer: Answer, notice: str = "") -> dict[str, Any]:
    """One answer, token by token; `all_tokens` is a file with the rest of a long one.

    The token that ends an answer is none of what it says. notice: what its model says of itself.
    """
    from ..laser_core.files import to_plain

    tokens = [_token(token) for token in answer.written]
    rest = _written(to_plain(tokens)) if len(tokens) > FIRST_TOKENS else None
    return {
        "text": answer.text,
        "notice": notice,
        "stop_reason": answer.stop_reason,
        "seconds": _short(answer.seconds_reading + answer.seconds_decoding),
        "thought_tokens": answer.thought_tokens,
        "count": len(tokens),
        "tokens": tokens[:FIRST_TOKENS],
        "all_tokens": rest,
    }


def token_map_view(
    picture: Image.Image, answer: Answer, settings: LaserSettings
) -> dict[str, Any] | None:
    """Where each token looked, over a picture; None where the answer has no tokens.

    levels: a file with a byte for each cell of each map, and the palette. tile, place: see `_maps`.
    """
    import base64

    from ..laser_core.output.heat import heat_colours
    from ..laser_core.output.token_maps import token_levels

    if not answer.written:
        return None
    levels, box = token_levels(answer, answer.maps, settings, TOKEN_CELLS)
    colours, cover = heat_colours()
    data = {"levels": levels.numpy().tobytes(), "colours": colours, "cover": cover}
    content = {name: base64.b64encode(value).decode("ascii") for name, value in data.items()}
    return {
        **_picture_and_maps(picture, picture.size, None, None),
        "place": _place(box, picture.size),
        "tile": (levels.shape[2], levels.shape[1]),
        "levels": _written(content),
    }


def choice_view(text: str, notice: str, **more: Any) -> dict[str, Any]:
    """One choice among given answers, which has no tokens of its own."""
    return {"text": text, "notice": notice, "stop_reason": "", "tokens": [], **more}


def looks_view(looks: Sequence[Look], believed: int) -> dict[str, Any]:
    """How sure each reading was, the (width, height) of its windows, and which is believed."""
    if looks[0].certainty is None:
        return {}
    read = [
        [_short(look.certainty), [(window.width, window.height) for window in look.windows]]
        for look in looks
    ]
    return {"looks": read, "believed": believed}


def _token(token: TokenRecord) -> dict[str, Any]:
    return {
        "text": token.text,
        "vat": _short(token.vat),
        "with": _short(token.probability_with),
        "without": _short(token.probability_without),
        "alternatives": [
            [other.text, _short(other.probability_with), _short(other.probability_without)]
            for other in token.alternatives
        ],
    }


def _short(value: float | None) -> float | None:
    """Four digits: more would double what is sent and are not shown."""
    return None if value is None else float(f"{value:.4g}")


def _picture_and_maps(
    picture: Image.Image, size: tuple[int, int], maps: torch.Tensor | None, grid: Grid | None
) -> dict[str, Any]:
    """The picture's size and file, and the maps (n, gh, gw) over it, if there are any.

    size: of the picture as it came; it may be smaller by now.
    """
    small = picture.copy()
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    return {
        "size": size,
        "picture": _saved(small, ".jpg", quality=85),
        "maps": None if maps is None else _maps(maps, grid, size),
    }


def _maps(maps: torch.Tensor, grid: Grid, size: tuple[int, int]) -> dict[str, Any]:
    """Maps as tiles of one file, row by row, each up to its own maximum in the core's colours.

    tile: (width, height) in pixels, one for each cell. A gutter around it repeats its outermost
    pixels, so that a tile drawn enlarged and smooth does not mix with its neighbours.
    place: the part of the picture that a tile covers, (x, y, width, height) as shares of its size.
    peaks: the centre of each map's strongest cell, as shares too; None where a map holds nothing.
    """
    import torch
    from einops import rearrange
    from PIL import Image

    from ..laser_core.output.heat import heat_colours, levels_of

    levels, _, box = levels_of(maps, grid, size, MAP_CELLS)
    rows, columns = levels.shape[1:]
    padded = torch.nn.functional.pad(levels[None].float(), (GUTTER_PX,) * 4, mode="replicate")
    across = math.ceil(math.sqrt(len(levels)))
    padded = torch.cat([padded[0], padded[0].new_zeros(-len(levels) % across, *padded.shape[2:])])
    sheet = rearrange(padded, "(down across) h w -> (down h) (across w)", across=across)
    colours, opacities = heat_colours()
    tiles = Image.fromarray(sheet.byte().numpy()).convert("L")
    tiles.putpalette(colours)
    place = _place(box, size)
    return {
        "image": _saved(tiles, ".png", transparency=opacities),
        "across": across,
        "tile": (columns, rows),
        "gutter": GUTTER_PX,
        "place": place,
        "peaks": [
            _peak(int(one.argmax()), rows, columns, place) if one.any() else None for one in levels
        ],
    }


def _place(box: Box, size: tuple[int, int]) -> tuple[float, ...]:
    return box.x1 / size[0], box.y1 / size[1], box.width / size[0], box.height / size[1]


def _peak(index: int, rows: int, columns: int, place: tuple) -> tuple[float, float]:
    x, y, width, height = place
    row, column = divmod(index, columns)
    return x + width * (column + 0.5) / columns, y + height * (row + 0.5) / rows


def preview(drawing: Image.Image) -> Entry | None:
    """A drawing as a file that the canvas shows on the node; None without ComfyUI."""
    small = drawing.copy()
    small.thumbnail((2 * PICTURE_PX, 2 * PICTURE_PX))
    return _saved(small, ".jpg", quality=88)


def _written(content: Any) -> Entry | None:
    """Plain values as a file; None without ComfyUI."""
    place = temp_file(".json")
    if place is None:
        return None
    path, entry = place
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, separators=(",", ":"))
    return entry


def _saved(picture: Image.Image, suffix: str, **options: Any) -> Entry | None:
    place = temp_file(suffix)
    if place is None:
        return None
    path, entry = place
    picture.save(path, **options)
    return entry
