"""The method as a map over rows, for a loop, Ray Data, `datasets` or a DataLoader.

Pictures are read ahead of the model by threads. Knows no file of results.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np
from accelerate.utils.memory import clear_device_cache
from PIL import Image

from ..console import quiet_libraries
from ..errors import is_for_the_user
from ..models.loading import DEMO, load_lvlm
from ..models.lvlm import Lvlm
from ..out_of_memory import is_out_of_memory
from ..pipeline import answer_many, locate_many
from ..results import LaserAnswer, Location
from ..settings import LaserSettings, LoadSettings
from .rows import COLUMNS, Files, row_of, write_files
from .sources import Item, Template, open_picture

AHEAD = 8  # pictures that are read before the model asks for them, at least
FULL = "choose a smaller model or a --quantization: the memory is full"

_In = TypeVar("_In")
_Out = TypeVar("_Out")
Columns = Mapping[str, Any]


_OWN = "row", "id", "image"  # columns of a source's items, not of rows that are mapped


class OwnModel:
    """A model that is loaded when it is first asked for, once in each process that unpickles this.

    name, load: as for `load_lvlm`, whose errors it raises.
    """

    def __init__(self, name: str, load: LoadSettings) -> None:
        self._name, self._load = name, load
        self._loaded: Lvlm | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_loaded": None}

    def __call__(self) -> Lvlm:
        if self._loaded is None:
            with quiet_libraries():
                self._loaded = load_lvlm(self._name, self._load)
        return self._loaded


class LaserMap:
    """Answers to a question about each row's picture; with `locating`, windows and boxes alone.

        LaserMap("what is the {colour} thing?")({"image": "a.jpg", "colour": "red"})["answer"]

    question: a template over the row's columns; "" for the column `question`. model, load: as for
    `load_lvlm`; it is loaded by the first row, once in each process that unpickles this. batch: how
    many pictures are read at once, 0: as many as the device allows.

    It takes a row, a list of rows, or a batch as a dict of columns, and gives the same with the
    columns of `rows.COLUMNS` in the place of `image`, and of columns of the same names. A row that
    fails has the reason, remedy first, in `error`. Raises ValueError for a question that is no
    template, a batch below 0, and as `load_lvlm`.
    """

    def __init__(
        self,
        question: str = "",
        settings: LaserSettings = LaserSettings(),
        *,
        model: str = DEMO,
        load: LoadSettings = LoadSettings(),
        locating: bool = False,
        with_plain: bool = False,
        batch: int = 0,
        allow_urls: bool = False,
        files: Files | None = None,
    ) -> None:
        if batch < 0:
            raise ValueError(f"give batch a number from 0, as the device allows: it is {batch}")
        self._question, self._settings = Template(question or "{question}"), settings
        self._model = OwnModel(model, load)
        self._locating, self._with_plain = locating, with_plain
        self._batch, self._allow_urls, self._files = batch, allow_urls, files

    def __call__(self, rows: Any) -> Any:
        if not isinstance(rows, Mapping):
            return self._mapped(rows)
        if not _is_batch(rows.get("image")):
            return self._mapped([rows])[0]
        names = list(rows)
        columns = [rows[name] for name in names]
        mapped = self._mapped(
            [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        )
        added = [name for name in COLUMNS if name not in _OWN]
        kept = [name for name in names if name != "image"]
        return {name: [row[name] for row in mapped] for name in dict.fromkeys([*kept, *added])}

    def _mapped(self, rows: Sequence[Columns]) -> list[dict[str, Any]]:
        items = [self._item(number, row) for number, row in enumerate(rows)]
        found = self.rows(items)
        return [
            {
                **{name: value for name, value in given.items() if name != "image"},
                **{name: value for name, value in row.items() if name not in _OWN},
            }
            for given, row in zip(rows, found, strict=True)
        ]

    def _item(self, number: int, row: Columns) -> Item:
        try:
            if "image" not in row:
                raise ValueError("add the column 'image': a row has none")
            return Item(number, "", None, self._question.fill(row), row["image"])
        except ValueError as error:
            return Item(number, "", None, "", None, str(error))

    def rows(self, items: Iterable[Item]) -> Iterator[dict[str, Any]]:
        """A row for each item, in order, while pictures are read ahead."""
        waiting: deque[tuple[Item, str]] = deque()  # given to the model or failed, in order

        def readable() -> Iterator[tuple[Any, str]]:
            for item, picture in _ahead(self._opened, items, max(AHEAD, 2 * self._batch)):
                failed = isinstance(picture, ValueError)
                waiting.append((item, str(picture) if failed else ""))
                if not failed:
                    yield picture, item.question

        for result in self._results(readable()):
            while waiting[0][1]:
                yield _failed(*waiting.popleft())
            yield self._row(waiting.popleft()[0], result)
        while waiting:
            yield _failed(*waiting.popleft())

    def _results(
        self, pairs: Iterator[tuple[Any, str]]
    ) -> Iterator[LaserAnswer | Location | Exception]:
        lvlm = self._model()
        if self._locating:
            return locate_many(lvlm, pairs, self._settings, batch=self._batch)
        lvlm.check_answers()
        return answer_many(
            lvlm, pairs, self._settings, with_plain=self._with_plain, batch=self._batch
        )

    def _opened(self, item: Item) -> Image.Image | ValueError:
        if item.error:
            return ValueError(item.error)
        try:
            return open_picture(item.picture, allow_urls=self._allow_urls)
        except (ValueError, MemoryError) as error:
            if isinstance(error, MemoryError):
                return ValueError(f"make the picture smaller: {FULL}")
            if not is_for_the_user(error):
                raise
            return error.with_traceback(None)  # else it would hold the file

    def _row(self, item: Item, result: LaserAnswer | Location | Exception) -> dict[str, Any]:
        if isinstance(result, Exception):
            return _failed(item, failure_of(result))
        location = result.location if isinstance(result, LaserAnswer) else result
        files = write_files(self._files, item.row, location) if self._files else []
        return {**_row(item), **row_of(result), "files": files}


def failure_of(error: Exception) -> str:
    """Why an item failed, in one line for its row; raises the error if it is a bug."""
    if is_out_of_memory(error):
        error.__traceback__ = error.__context__ = None  # hold the tensors that filled the memory
        clear_device_cache()
        return FULL
    if not is_for_the_user(error):
        raise error
    return " ".join(str(error).split())


def _is_batch(images: Any) -> bool:
    """Whether the column holds several pictures, and is not one as an array."""
    if isinstance(images, np.ndarray):
        return images.ndim == 1 or images.ndim > 3
    return isinstance(images, list)


def _row(item: Item) -> dict[str, Any]:
    own = {"row": item.row, "id": item.id, "image": item.image, "question": item.question}
    return {**dict.fromkeys(COLUMNS), **own, "windows": [], "boxes": [], "files": []}


def _failed(item: Item, reason: str) -> dict[str, Any]:
    return {**_row(item), "error": reason}


def _ahead(
    function: Callable[[_In], _Out], values: Iterable[_In], count: int
) -> Iterator[tuple[_In, _Out]]:
    """Each value with what the function gives for it, in order, `count` of them begun ahead."""
    remaining = iter(values)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        begun = deque((value, pool.submit(function, value)) for value in islice(remaining, count))
        try:
            while begun:
                value, future = begun.popleft()
                result = future.result()
                for following in islice(remaining, 1):
                    begun.append((following, pool.submit(function, following)))
                yield value, result
                del value, future, result  # the picture is the model's now
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
