"""Rows as a folder of Parquet files that no crash and no second process can damage.

A row is first a line of FOLDER/_rows.jsonl, which `resumable_lines` keeps whole; a file's worth of
them becomes FOLDER/rows-00000.parquet, and so on. Readers of Parquet folders pass over names with
an underscore. Knows nothing of what a row says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..files import replacing
from .resumable_lines import Line, ResultLines, writing

ROWS_A_FILE = 5000
_FILE = re.compile(r"rows-(\d{5,})\.parquet")


def pyarrow() -> ModuleType:
    """The library that reads and writes Parquet. Raises ValueError where it is not there."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            'install the extra "many" (pip install "laser-lvlm[many]", or pip install pyarrow), or '
            "use .jsonl: Parquet needs pyarrow"
        ) from error
    return pyarrow


class ParquetFolder:
    """The rows of a folder; the methods are those of `ResultLines`.

    columns: the name and type of each ("text", "int", "number", or a list of one, as in ["text"]).
    """

    def __init__(self, folder: Path, columns: Mapping[str, Any]) -> None:
        self._arrow, self._folder = pyarrow(), folder
        self._lines = ResultLines(folder / "_rows.jsonl")
        types = {name: self._type_of(kind) for name, kind in columns.items()}
        self._schema = self._arrow.schema(list(types.items()))

    def begin(self, schema: str, version: int, run: Mapping[str, Any]) -> None:
        strangers = [path for path in _content(self._folder) if not path.name.startswith("_rows")]
        if strangers and not (self._folder / "_rows.run.json").exists():
            raise ValueError(
                f"choose another --out: {str(strangers[0])!r} is there, and no run of ours wrote it"
            )
        files = self._files()
        self._lines.begin(schema, version, run, filed=bool(files))
        with writing(self._folder):
            if files:  # a kill may have come before its lines were removed
                filed = set(self._column(files[-1], "id"))
                self._lines.drop(lambda line: line["id"] in filed)
            for path in files:
                if any(self._column(path, "error")):
                    self._drop_failures(path)

    def close(self) -> None:
        self._lines.close()

    def ids(self) -> Iterator[str]:
        for path in self._files():
            yield from self._column(path, "id")
        yield from self._lines.ids()

    @contextmanager
    def appending(self) -> Iterator[Callable[[Line], None]]:
        count = sum(1 for _ in self._lines.ids())
        with self._lines.appending() as append_line:

            def append(line: Line) -> None:
                nonlocal count
                append_line(line)
                count += 1
                if count >= ROWS_A_FILE:
                    self._file_lines()
                    count = 0

            try:
                yield append
            finally:
                self._file_lines()

    def summarise(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        return self._lines.summarise(summary)

    def _file_lines(self) -> None:
        """The lines become a file, and only then are they removed."""
        lines = list(self._lines.each())
        if not lines:
            return
        files = self._files()
        number = 1 + _number(files[-1]) if files else 0
        table = self._arrow.Table.from_pylist(lines, schema=self._schema)
        self._write(self._folder / f"rows-{number:05d}.parquet", table)
        self._lines.clear()

    def _drop_failures(self, path: Path) -> None:
        table = self._arrow.parquet.read_table(path)
        table = table.filter(table["error"].is_null())
        if table.num_rows:
            self._write(path, table)
        else:
            path.unlink()

    def _write(self, path: Path, table: Any) -> None:
        with writing(path), replacing(path) as file:
            self._arrow.parquet.write_table(table, file)

    def _column(self, path: Path, name: str) -> list[Any]:
        return self._arrow.parquet.read_table(path, columns=[name])[name].to_pylist()

    def _files(self) -> list[Path]:
        """In the order in which they were written."""
        return sorted(filter(_number_of, _content(self._folder)), key=_number)

    def _type_of(self, kind: Any) -> Any:
        if isinstance(kind, list):
            return self._arrow.list_(self._type_of(kind[0]))
        return {
            "text": self._arrow.string(),
            "int": self._arrow.int64(),
            "number": self._arrow.float64(),
        }[kind]


def _content(folder: Path) -> list[Path]:
    """What lies in it; nothing hidden, and nothing where there is no such folder."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _number_of(path: Path) -> re.Match[str] | None:
    return _FILE.fullmatch(path.name)


def _number(path: Path) -> int:
    found = _number_of(path)
    assert found is not None
    return int(found[1])
