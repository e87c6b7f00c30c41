"""Attention maps as a file that NumPy opens anywhere (.npz), and back. Knows no model, draws none.

The arrays of a file, with L layers, H query heads and a grid of gh x gw patches:

with_query, without_query  (L, H, gh, gw) float32: attention of the last prompt token (or
                           of a draft's, by the setting read_at), after the softmax, in the
                           branch with the question and in the one without
view                       (4,) float64: x1, y1, x2, y2, where the grid lies on the picture, in
                           pixels; it may reach beyond the picture. Patch (row, column) begins at
                           x1 + column (x2 - x1) / gw, y1 + row (y2 - y1) / gh
picture_size               (2,) int64: width and height in pixels
certainty                  () float64: probability of the likeliest first token; NaN: not known
band                       (2,) float64: the depths that the model's family is searched in, 0 to 1
layers                     (L,) int64: the layers' numbers in the decoder, counted from 0; those of
                           linear attention have no maps
decoder_layers             () int64: how many layers the decoder has
evidence                   (gh, gw) float32: what the settings make of the maps
about                      () text, JSON: schema, version, model, question, settings, windows

Where an answer's maps were asked for, also those of its T tokens, with the N patches of the P
pictures it was read from (the whole one, crops of it), one picture after the other, row by row:

tokens                     (T,) text: what each adds to the answer
token_rows                 (T, L, N) float32: attention of the step that wrote each, after the
                           softmax, the mean over a layer's heads
token_without_query        (L, N) float32: that of the last token of the same prompt without the
                           question
token_grids                (P, 2) int64: rows and columns of each picture's patches
token_views                (P, 4) float64: where each grid lies on the whole picture, as `view`
token_windows              (P, 4) int64: x1, y1, x2, y2, what of the whole picture each shows
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch

from ..files import to_plain, write_atomically
from ..geometry import Box, Grid, Window
from ..results import Answer, AttentionMaps, Band, LaserAnswer, Location, TokenMaps

SCHEMA, VERSION = "laser-maps", 1
_DIMENSIONS = {"with_query": 4, "without_query": 4, "evidence": 2, "view": 1, "picture_size": 1}
_DIMENSIONS |= {"certainty": 0, "band": 1, "layers": 1, "decoder_layers": 0, "about": 0}
_OF_TOKENS = {"tokens": 1, "token_rows": 3, "token_without_query": 2}
_OF_TOKENS |= {"token_grids": 2, "token_views": 2, "token_windows": 2}


@dataclass(frozen=True)
class SavedMaps:
    """What a file of maps holds.

    evidence: (gh, gw). about: model, question, settings and windows, as JSON has them. tokens: what
    each token of the answer adds, and token_maps where it looked; () and None where the file has
    none.
    """

    maps: AttentionMaps
    evidence: torch.Tensor
    about: dict[str, Any]
    tokens: tuple[str, ...] = ()
    token_maps: TokenMaps | None = None


def maps_bytes(result: LaserAnswer | Location, model: str = "") -> bytes:
    """The file's content. model: its name. Raises ValueError where a mask is the evidence."""
    found = result.location if isinstance(result, LaserAnswer) else result
    maps = maps_of(found)
    band, layers = maps.band, len(maps.with_query)
    tokens: dict[str, Any] = {}
    if isinstance(result, LaserAnswer) and result.answer.maps:
        tokens = _token_arrays(result.answer, result.answer.maps)
    about = {
        "schema": SCHEMA,
        "version": VERSION,
        "model": model,
        "question": found.question,
        "settings": found.settings.to_dict(),
        "windows": found.windows,
    }
    file = io.BytesIO()
    np.savez_compressed(
        file,
        with_query=maps.with_query.numpy(),
        without_query=maps.without_query.numpy(),
        view=np.array(maps.grid.view, np.float64),
        picture_size=np.array(maps.picture_size, np.int64),
        certainty=np.array(math.nan if maps.certainty is None else maps.certainty),
        band=np.array([band.first, band.last], np.float64),
        layers=np.array(band.numbers or range(layers), np.int64),
        decoder_layers=np.array(band.layers or layers, np.int64),
        evidence=found.evidence.map.float().numpy(),
        about=np.array(json.dumps(to_plain(about))),
        **tokens,
    )
    return file.getvalue()


def save_maps(result: LaserAnswer | Location, path: str | PathLike, model: str = "") -> None:
    """Write what `locate` or `answer` found, completely or not at all; as `maps_bytes`."""
    write_atomically(path, maps_bytes(result, model))


def load_maps(path: str | PathLike) -> SavedMaps:
    """What `save_maps` wrote. Raises ValueError for any other file, OSError for one that is absent.

    Nothing in a file is run.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _foreign(path, "it is no .npz of numbers") from error
    missing = [name for name in _DIMENSIONS if name not in arrays]
    if missing:
        raise _foreign(path, f"it lacks {missing[0]}")
    expected = _DIMENSIONS
    if "tokens" in arrays:
        expected = _DIMENSIONS | _OF_TOKENS
        missing = [name for name in _OF_TOKENS if name not in arrays]
        if missing:
            raise _foreign(path, f"it lacks {missing[0]}")
    for name, dimensions in expected.items():
        if arrays[name].ndim != dimensions:
            raise _foreign(path, f"{name} has {arrays[name].ndim} dimensions, not {dimensions}")
    about = _about(path, str(arrays["about"]))
    rows, columns = arrays["with_query"].shape[2:]
    same = arrays["with_query"].shape == arrays["without_query"].shape
    if not same or arrays["evidence"].shape != (rows, columns):
        raise _foreign(path, "its maps differ in shape")
    certainty = float(arrays["certainty"])
    first, last = arrays["band"].tolist()
    numbers = tuple(arrays["layers"].tolist())
    maps = AttentionMaps(
        torch.from_numpy(arrays["with_query"]),
        torch.from_numpy(arrays["without_query"]),
        Grid(rows, columns, Box(*arrays["view"].tolist())),
        tuple(arrays["picture_size"].tolist()),
        None if math.isnan(certainty) else certainty,
        Band(first, last, numbers, int(arrays["decoder_layers"])),
    )
    evidence = torch.from_numpy(arrays["evidence"])
    if "tokens" not in arrays:
        return SavedMaps(maps, evidence, about)
    token_maps = _token_maps(arrays, maps)
    patches = sum(grid.rows * grid.columns for grid in token_maps.grids)
    whole = len(arrays["tokens"]), *token_maps.without_query.shape
    if token_maps.rows.shape != whole or patches != whole[-1]:
        raise _foreign(path, "its tokens' maps differ in shape")
    return SavedMaps(maps, evidence, about, tuple(arrays["tokens"].tolist()), token_maps)


def _token_arrays(answer: Answer, maps: TokenMaps) -> dict[str, np.ndarray]:
    return {
        "tokens": np.array([token.text for token in answer.tokens], dtype=np.str_),
        "token_rows": maps.rows.numpy(),
        "token_without_query": maps.without_query.numpy(),
        "token_grids": np.array([(grid.rows, grid.columns) for grid in maps.grids], np.int64),
        "token_views": np.array([grid.view for grid in maps.grids], np.float64),
        "token_windows": np.array(maps.windows, np.int64),
    }


def _token_maps(arrays: dict[str, np.ndarray], maps: AttentionMaps) -> TokenMaps:
    sizes, views = arrays["token_grids"].tolist(), arrays["token_views"].tolist()
    return TokenMaps(
        torch.from_numpy(arrays["token_rows"]),
        torch.from_numpy(arrays["token_without_query"]),
        tuple(
            Grid(rows, columns, Box(*view))
            for (rows, columns), view in zip(sizes, views, strict=True)
        ),
        tuple(Window(*window) for window in arrays["token_windows"].tolist()),
        maps.picture_size,
        maps.band,
    )


def maps_of(found: Location) -> AttentionMaps:
    """The maps of what was found. Raises ValueError where a mask is the evidence."""
    if found.maps is None:
        raise ValueError("locate without a mask: where a mask is the evidence, there are no maps")
    return found.maps


def _about(path: str | PathLike, text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
        known = about["schema"] == SCHEMA
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(path, "it does not say what it is") from error
    if not known:
        raise _foreign(path, f"its schema is {about['schema']!r}")
    if about.get("version") != VERSION:
        raise ValueError(
            f"update this package, or save the maps anew: {str(path)!r} has version "
            f"{about.get('version')!r} of their file, and this package reads {VERSION}"
        )
    return about


def _foreign(path: str | PathLike, why: str) -> ValueError:
    return ValueError(f"choose a file of maps that save_maps wrote: {str(path)!r} is none, {why}")
