"""Results of many items in a JSONL file that no crash and no second process can damage.

A run appends whole lines to FILE.jsonl, and while it does, no other run may. A killed run leaves at
most one torn line, which the next run cuts off. FILE.run.json says what was run, so that no other
run fills the same file. Knows nothing of what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from ..files import replacing, to_json, to_plain, write_atomically

Line = dict[str, Any]
"""A result: its item's "id", and "error" where there is none."""


class ResultLines:
    """The lines of FILE.jsonl.

    Every method raises ValueError, remedy first, for files that cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix != ".jsonl":
            raise ValueError(f"choose an --out that ends in .jsonl: it is {str(path)!r}")
        self._path, self._record_path = path, path.with_suffix(".run.json")
        self._lock = FileLock(path.with_name(f".{path.stem}.lock"))  # no kill leaves it locked

    def begin(
        self, schema: str, version: int, run: Mapping[str, Any], *, filed: bool = False
    ) -> None:
        """Make the files ready, and keep other runs off them until `close` or the process's end.

        What a kill tore off is removed, and so are failures: their items are to be tried again.
        run: what was asked for, as nested plain values. filed: whether results lie elsewhere, too.
        Raises ValueError, which names the difference, if results are there and of another run, and
        while another run writes them.
        """
        with writing(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(
                    f"wait for the run that is writing {str(self._path)!r}, or choose another --out"
                ) from error
            try:
                record = {"schema": schema, "version": version, "run": to_plain(run)}
                self._check_record(record, filed)
                if self._path.exists():
                    _cut_torn_line(self._path)
                self.drop(lambda line: bool(line.get("error")))
            except BaseException:
                self.close()
                raise

    def close(self) -> None:
        """Let other runs write the files."""
        self._lock.release()

    def each(self) -> Iterator[Line]:
        """Every whole line, in the file's order."""
        if not self._path.exists():
            return
        with writing(self._path), open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):  # else it is being written
                    yield self._read(line, number)

    def lines(self) -> dict[str, Line]:
        """All lines by id."""
        return {line["id"]: line for line in self.each()}

    def ids(self) -> Iterator[str]:
        """The id of every line."""
        return (line["id"] for line in self.each())

    @contextmanager
    def appending(self) -> Iterator[Callable[[Line], None]]:
        """Inside, a function that appends a line."""
        with contextlib.ExitStack() as opened:
            file: BinaryIO | None = None

            def append(line: Line) -> None:
                nonlocal file
                with writing(self._path):
                    if file is None:
                        file = opened.enter_context(open(self._path, "ab", buffering=0))
                    _write_whole(file, f"{_to_line(line)}\n".encode())

            yield append

    def drop(self, unwanted: Callable[[Line], bool]) -> None:
        """Remove lines, all at once; the others stay as they are."""
        if not any(unwanted(line) for line in self.each()):
            return
        with writing(self._path), replacing(self._path) as new, open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not unwanted(self._read(line, number)):
                    new.write(line)

    def clear(self) -> None:
        """Remove every line; what is appended inside `appending` then is the first."""
        with writing(self._path):
            os.truncate(self._path, 0)

    def merge(self, order: Sequence[str]) -> list[Line]:
        """Put the lines in the order of these ids; they."""
        found = self.lines()
        merged = [found[id] for id in order if id in found]
        with writing(self._path):
            write_atomically(self._path, "".join(f"{_to_line(line)}\n" for line in merged))
        return merged

    def summarise(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Add the summary to the record of the run; the record."""
        record = {**self._read_record(), "summary": to_plain(summary)}
        with writing(self._record_path):
            self._write_record(record)
        return record

    def _check_record(self, record: dict[str, Any], filed: bool) -> None:
        """Write the record; where there are results, compare it with the one that is there."""
        if not self._record_path.exists():
            if self._path.exists():
                raise ValueError(
                    f"choose another --out: {str(self._path)!r} exists, and no "
                    f"{self._record_path.name} says which run wrote it"
                )
            self._write_record(record)
        earlier = self._read_record()
        if any(earlier.get(name) != record[name] for name in ("schema", "version")):
            raise ValueError(
                f"choose another --out: {str(self._record_path)!r} is of another program"
            )
        if filed or (self._path.exists() and self._path.stat().st_size):
            _check_same(record["run"], earlier.get("run", {}), self._path)
        else:
            self._write_record(record)

    def _read(self, line: bytes, number: int) -> Line:
        try:
            found = json.loads(line)
            found["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"remove line {number} of {str(self._path)!r}, and it is made again: it is damaged"
            ) from error
        return found

    def _read_record(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._record_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"choose another --out: {str(self._record_path)!r} cannot be read ({error})"
            ) from error

    def _write_record(self, record: dict[str, Any]) -> None:
        write_atomically(self._record_path, f"{to_json(record)}\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Inside, an OSError becomes a ValueError that says what to do."""
    try:
        yield
    except OSError as error:
        for_good = isinstance(error, (FileExistsError, NotADirectoryError, PermissionError))
        again = "" if for_good else "make room and run the same command again, which goes on, or "
        raise ValueError(
            f"{again}choose another --out: {str(path)!r} cannot be written or read "
            f"({error.strerror or error})"
        ) from error


def _to_line(line: Line) -> str:
    return json.dumps(to_plain(line), ensure_ascii=False, allow_nan=False)


def _write_whole(file: BinaryIO, data: bytes) -> None:
    """Append all of it or nothing: a full disk takes a part."""
    start = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) :]
    except BaseException:
        os.truncate(file.fileno(), start)
        raise


def _cut_torn_line(path: Path) -> None:
    """Remove what follows the last line's end."""
    with open(path, "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end and file.read(1) != b"\n":
            end = file.seek(max(end - 1, 0))
        file.truncate(file.tell() if end else 0)


def _check_same(run: Mapping[str, Any], earlier: Mapping[str, Any], path: Path) -> None:
    run, earlier = _flat(run), _flat(earlier)
    for name in {**run, **earlier}:
        if run.get(name) != earlier.get(name):
            raise ValueError(
                f"choose another --out, or repeat its run: {str(path)!r} was made with "
                f"{name} {earlier.get(name)!r}, not {run.get(name)!r}"
            )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat
