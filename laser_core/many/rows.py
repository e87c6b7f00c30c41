"""What a row says of a picture, and the crops and masks that go with it.

Rows are plain values and the same on every engine; none holds a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..files import to_plain, write_atomically
from ..geometry import Window
from ..output.heat import heat_at, heat_map
from ..output.masks import box_of, cleaned_mask
from ..pictures import to_picture
from ..results import Evidence, LaserAnswer, Location
from ..settings import FindSettings
from .resumable_lines import writing

MASK_SHARE = FindSettings().mask_share
BOX_SIDE = 512  # pixels

COLUMNS: dict[str, Any] = {
    "row": "int",
    "id": "text",
    "image": "text",
    "question": "text",
    "answer": "text",
    "plain": "text",
    "stop_reason": "text",
    "windows": [["int"]],
    "boxes": [["int"]],
    "layer": "int",
    "certainty": "number",
    "files": ["text"],
    "error": "text",
}
"""The columns of a row, and their types as `ParquetFolder` names them."""


@dataclass(frozen=True)
class Files:
    """Which pictures are written beside the rows, below `folder`: names are made of row numbers."""

    folder: Path
    crops: bool
    masks: bool


def row_of(result: LaserAnswer | Location) -> dict[str, Any]:
    """What a result says, without what its item says.

    windows: read, best first; none where nothing was found. boxes: around the mask of the evidence
    on the whole picture. layer: the best. certainty: probability of the first word in the reading
    that was believed; of a location, on the whole picture.
    """
    answered = result if isinstance(result, LaserAnswer) else None
    location = result.location if isinstance(result, LaserAnswer) else result
    choice, maps = location.evidence.choice, location.maps
    assert choice is not None and maps is not None  # no mask from elsewhere was the evidence
    return to_plain(
        {
            "answer": answered.answer.text if answered else None,
            "plain": answered.plain.text if answered and answered.plain else None,
            "stop_reason": answered.answer.stop_reason if answered else None,
            "windows": () if location.nothing_found else location.windows,
            "boxes": _boxes(location.evidence),
            "layer": choice.layer,
            "certainty": answered.looks[answered.believed].certainty
            if answered
            else maps.certainty,
        }
    )


def _boxes(evidence: Evidence) -> tuple[Window, ...]:
    """Around the evidence's main part, drawn small: the mask of a large picture takes a second."""
    width, height = evidence.picture_size
    scale = max(1.0, max(width, height) / BOX_SIDE)
    drawn = max(1, round(width / scale)), max(1, round(height / scale))
    box = box_of(cleaned_mask(heat_at(evidence, drawn), MASK_SHARE))
    if box is None:
        return ()
    across, down = width / drawn[0], height / drawn[1]
    corners = box.x1 * across, box.y1 * down, box.x2 * across, box.y2 * down
    return (Window(*map(round, corners)),)


def write_files(files: Files, row: int, location: Location) -> list[str]:
    """Write the pictures that are asked for; their names, which begin with the folder's.

    Raises ValueError, remedy first, where they cannot be written.
    """
    pictures: dict[str, Image.Image] = {}
    if files.crops and not location.nothing_found:
        for number, window in enumerate(location.windows, 1):
            pictures[f"crop-{number}"] = location.picture.crop(window)
    if files.masks:
        heat = heat_map(location.evidence)
        mask = cleaned_mask(heat, MASK_SHARE)
        for name, map_ in (("mask", mask.float()), ("heat", heat)):
            pictures[name] = to_picture(map_[..., None]).convert("L")
    names = []
    folder = files.folder / f"{row // 1000:06d}"  # so that no folder holds a million
    for name, picture in pictures.items():
        path = folder / f"{row:09d}-{name}.png"
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, picture)
        names.append(path.relative_to(files.folder.parent).as_posix())
    return names
