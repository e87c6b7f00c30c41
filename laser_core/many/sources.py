"""Where many pictures come from: a folder, a glob, or rows of a JSONL or Parquet file.

An item says where its picture lies; nothing is opened before `open_picture`. Knows no model, and
nothing of what becomes of an item.
"""

from __future__ import annotations

import fnmatch
import glob
import json
import math
import os
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import to_plain
from ..pictures import read_picture, to_picture
from .parquet_folder import pyarrow

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
TABLES = (".jsonl", ".parquet")
SECONDS_TO_ANSWER = 30.0  # of a server

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """A picture's bytes in the column `image` of a Parquet file, which stay there until opened."""

    file: str
    row_group: int
    index: int


@dataclass(frozen=True)
class Item:
    """row: its number in the source, from 0. id: its own there. image: as the source names it.

    picture: what `open_picture` opens. error: why it cannot be asked about, remedy first, or "".
    """

    row: int
    id: str
    image: str | None
    question: str
    picture: Any
    error: str = ""


class Template:
    """A question with columns in braces: "what is the {colour} thing?".

    Raises ValueError, remedy first, for braces that enclose no name.
    """

    def __init__(self, text: str) -> None:
        try:
            self._parts = list(string.Formatter().parse(text))
            named = [part for part in self._parts if part[1] is not None]
            if not all(re.fullmatch(r"[^.\[\]]+", name or "") for _, name, _, _ in named):
                raise ValueError("a name is missing, or it has dots or brackets")
            if any(spec or conversion for _, _, spec, conversion in named):
                raise ValueError("only names are filled in")
        except ValueError as error:
            raise ValueError(
                f"write {{column}} where a column goes, and {{{{ and }}}} for braces of the "
                f"question: {text!r} does neither ({error})"
            ) from error
        self.columns = [str(name) for _, name, _, _ in named]

    def fill(self, row: Row) -> str:
        """The question of a row. Raises ValueError for a column without text or number."""
        return "".join(
            before + ("" if name is None else _text(row, name))
            for before, name, _, _ in self._parts
        )


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, np.generic):
        value = value.item()
    missing = isinstance(value, float) and math.isnan(value)  # of a table with holes
    if not isinstance(value, (str, int, float)) or isinstance(value, bool) or missing:
        raise ValueError(f"fill in the column {name!r} with a text or a number: it is {value!r}")
    return str(value)


class Source:
    """All items of SOURCE, in an order that is always the same.

    place: a folder, with all folders in it; a glob of pictures, of .jsonl or of .parquet files; or
    one of those files. question: a template over the columns; "" for the column `question`. Raises
    ValueError, remedy first, for a place without pictures and for columns that are not there.
    """

    def __init__(self, place: str, question: str) -> None:
        path = Path(place)
        self.place = os.path.abspath(place)
        self.folder = path if path.is_dir() else None
        is_glob = not path.exists() and glob.has_magic(place)
        self._files = sorted(map(Path, glob.iglob(place, recursive=True))) if is_glob else [path]
        if not path.exists() and not (is_glob and self._files):
            raise ValueError(f"check the path: there is no file or folder {place!r}")
        suffixes = {file.suffix.lower() for file in self._files}
        self._tables = suffixes <= set(TABLES)
        if not self._tables and suffixes & set(TABLES) and suffixes & set(PICTURES):
            raise ValueError(f"choose a glob of pictures or one of tables: {place!r} finds both")
        self._is_glob = is_glob
        if not (self.folder or is_glob or self._tables):
            raise ValueError(
                f"choose a folder, a glob such as 'pictures/*.jpg', or a .jsonl or .parquet file: "
                f"{place!r} is none"
            )
        self._template = Template(question or "{question}")
        self._needed = {*self._template.columns, "image"}
        self._check_columns(place)

    def reads(self, file: Path) -> bool:
        """Whether a file that is written here would be taken for a part of the source."""
        parts = Path(os.path.abspath(file)).parts
        if self.folder:
            return file.suffix in PICTURES and file.resolve().is_relative_to(self.folder.resolve())
        return self._is_glob and _matches(parts, Path(self.place).parts)

    def __iter__(self) -> Iterator[Item]:
        rows = self._table_rows() if self._tables else self._picture_rows()
        for number, (row, folder, cell) in enumerate(rows):
            yield self._item(number, row, folder, cell)

    def _check_columns(self, place: str) -> None:
        first = next(iter(self._table_rows() if self._tables else self._picture_rows()), None)
        if first is None:
            raise ValueError(f"choose another source: {place!r} holds no picture")
        row, _, cell = first
        there = {*row, "image"} if cell else set(row)
        for name in sorted(self._needed - there):
            wanted = "write the QUESTION, or add" if name == "question" else "add"
            raise ValueError(
                f"{wanted} the column {name!r}, or choose one of {', '.join(sorted(there))}: "
                f"{place!r} has none of that name"
            )

    def _picture_rows(self) -> Iterator[tuple[Row, Path, Cell | None]]:
        files = _pictures_below(self.folder) if self.folder else iter(self._files)
        base = self.folder or Path()
        for file in files:
            if file.suffix.lower() in PICTURES:
                name = file.relative_to(base).as_posix() if self.folder else file.as_posix()
                yield {"id": name, "image": name}, base, None

    def _table_rows(self) -> Iterator[tuple[Row, Path, Cell | None]]:
        for file in self._files:
            read = _jsonl_rows if file.suffix.lower() == ".jsonl" else self._parquet_rows
            for row, cell in read(file):
                yield row, file.parent, cell

    def _parquet_rows(self, file: Path) -> Iterator[tuple[Row, Cell | None]]:
        """Without the bytes of pictures."""
        arrow = pyarrow()
        try:
            opened = arrow.parquet.ParquetFile(file)
        except (OSError, arrow.ArrowException) as error:
            raise ValueError(
                f"choose a Parquet file: {str(file)!r} is not one ({error})"
            ) from error
        with opened:
            schema = opened.schema_arrow
            inside = "image" in schema.names and _holds_pictures(file, schema.field("image").type)
            names = [
                name for name in schema.names
                if name in {*self._needed, "id"} and not (inside and name == "image")
            ]  # fmt: skip
            for group in range(opened.num_row_groups):
                rows: Any = ({} for _ in range(opened.metadata.row_group(group).num_rows))
                if names:
                    batches = opened.iter_batches(1000, row_groups=[group], columns=names)
                    rows = (row for batch in batches for row in batch.to_pylist())
                for index, row in enumerate(rows):
                    yield row, Cell(str(file), group, index) if inside else None

    def _item(self, number: int, row: Row, folder: Path, cell: Cell | None) -> Item:
        id = row.get("id", number)
        if not isinstance(id, (str, int)):
            raise ValueError(
                f"give every row a text or a number as its id: row {number} has {id!r}"
            )
        image, question, error = row.get("image"), "", ""
        picture: Any = cell
        try:
            question = self._template.fill(row)
            if cell is None:
                image = _text(row, "image")
                picture = image if _is_url(image) else str(folder / image)
        except ValueError as unfilled:
            error = str(unfilled)
        shown = to_plain(image) if isinstance(image, str) else None
        return Item(number, to_plain(str(id)), shown, to_plain(question), picture, error)


def _holds_pictures(file: Path, kind: Any) -> bool:
    """Whether a column `image` has pictures, and not their paths. Raises ValueError for neither."""
    types = pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind) or "string_view" in str(kind):
        return False
    if types.is_struct(kind) or "binary" in str(kind):
        return True
    raise ValueError(
        f"put paths, bytes or structs of bytes into the column 'image': {str(file)!r} has {kind}"
    )


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a glob finds a path; both in parts."""
    if not (parts and pattern):
        return not parts and set(pattern) <= {"**"}
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _pictures_below(folder: Path) -> Iterator[Path]:
    """Every file in it and in its folders, none of them hidden; each folder's own sorted."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _jsonl_rows(file: Path) -> Iterator[tuple[Row, None]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("it is no object")
            except (ValueError, RecursionError) as error:
                raise ValueError(f"fix line {number} of {str(file)!r}: {error}") from error
            yield row, None


# ---- one of them -------------------------------------------------------------------------------


def open_picture(picture: Any, *, allow_urls: bool = False) -> Image.Image:
    """A picture in RGB from what an item or a row has of it.

    picture: a path, a URL, bytes of a file, a `Cell`, {"bytes", "path"} as `datasets` has it, or
    what `to_picture` takes. Raises ValueError, remedy first, as `read_picture` does, and for a URL
    without allow_urls.
    """
    if isinstance(picture, Cell):
        column = _cells(picture.file, picture.row_group)
        picture = _based(column[picture.index].as_py(), Path(picture.file).parent)
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    if picture is None:
        raise ValueError("fill in the column 'image': it is empty")
    if isinstance(picture, str) and _is_url(picture):
        if not allow_urls:
            raise ValueError(f"give --allow-urls, or a local path: {picture!r} is a URL")
        return read_picture(picture, _downloaded(picture))
    if isinstance(picture, bytes):
        return read_picture("the bytes in the column 'image'", picture)
    if isinstance(picture, (str, os.PathLike)):
        return read_picture(picture)
    return to_picture(picture)


def _based(cell: Any, folder: Path) -> Any:
    """A cell whose path, where it has one, begins at the file's folder."""
    if isinstance(cell, dict) and not cell.get("bytes") and cell.get("path"):
        return cell["path"] if _is_url(cell["path"]) else str(folder / cell["path"])
    return cell


@lru_cache(maxsize=2)  # neighbours lie in the same one
def _cells(file: str, row_group: int) -> Any:
    arrow = pyarrow()
    try:
        with arrow.parquet.ParquetFile(file) as opened:
            return opened.read_row_group(row_group, columns=["image"])["image"]
    except (OSError, arrow.ArrowException) as error:
        raise ValueError(
            f"write {file!r} again: its row group {row_group} cannot be read ({error})"
        ) from error


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _downloaded(url: str) -> bytes:
    from huggingface_hub.utils import get_session

    try:
        answer = get_session().get(url, timeout=SECONDS_TO_ANSWER)
        answer.raise_for_status()
    except Exception as error:  # of requests or httpx, by the hub client's version
        raise ValueError(f"check the address and the network: {url!r} gave {error}") from error
    return answer.content
