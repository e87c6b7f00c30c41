"""Results of many items in a JSONL file that no crash and no second process can damage.

During a run, each process appends whole lines to its own FILE.part-N.jsonl, next to FILE.jsonl. A
killed run leaves at most one torn line, which the next run cuts off. At the end the parts become
FILE.jsonl, in the items' order, completely or not at all. FILE.run.json says what was run, so that
no other run fills the same file. Knows nothing of what is measured.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import to_json, to_plain, write_atomically

Line = dict[str, Any]
"""A result: its item's "id", and "error" where there is none."""


class ResultLines:
    """The lines of FILE.jsonl and its parts, for process number `process`.

    Every method raises ValueError, remedy first, for files that cannot be read or written.
    """

    def __init__(self, path: Path, process: int = 0) -> None:
        if path.suffix != ".jsonl":
            raise ValueError(f"choose an --out that ends in .jsonl: it is {str(path)!r}")
        self._path, self._record_path = path, path.with_suffix(".run.json")
        self._part = path.with_suffix(f".part-{process}.jsonl")

    def begin(self, schema: str, version: int, run: Mapping[str, Any]) -> None:
        """Make the files ready, in one process before the others touch them.

        run: what was asked for, as nested plain values. Raises ValueError, which names the
        difference, if the files belong to another run.
        """
        run = to_plain(run)
        with _writable(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._record_path.exists():
                if self._path.exists() or self._parts():
                    raise ValueError(
                        f"choose another --out: {str(self._path)!r} exists, and no "
                        f"{self._record_path.name} says which run wrote it"
                    )
                self._write_record({"schema": schema, "version": version, "run": run})
            record = self._read_record()
            if (record.get("schema"), record.get("version")) != (schema, version):
                raise ValueError(
                    f"choose another --out: {str(self._record_path)!r} is of another program"
                )
            _check_same(run, record.get("run", {}), self._path)
            for part in self._parts():
                _cut_torn_line(part)

    def lines(self) -> dict[str, Line]:
        """All lines by id; a result takes precedence over an error."""
        found: dict[str, Line] = {}
        for path in [self._path, *self._parts()]:
            for line in _read_lines(path):
                if "error" in found.get(line["id"], {"error": ""}):
                    found[line["id"]] = line
        return found

    @contextmanager
    def appending(self) -> Iterator[Callable[[Line], None]]:
        """Inside, a function that appends a line to this process's part."""
        with _writable(self._part):
            file = os.open(self._part, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

        def append(line: Line) -> None:
            data = f"{_to_line(line)}\n".encode()
            with _writable(self._part):
                # One write: a reader never sees half a line, and a kill leaves none
                if os.write(file, data) < len(data):
                    raise OSError(None, "the disk is full")

        try:
            yield append
        finally:
            os.close(file)

    def merge(self, order: Sequence[str]) -> list[Line]:
        """The parts become the file, its lines in the order of these ids; the lines."""
        found = self.lines()
        merged = [found[id] for id in order if id in found]
        with _writable(self._path):
            write_atomically(self._path, "".join(f"{_to_line(line)}\n" for line in merged))
            for part in self._parts():
                part.unlink(missing_ok=True)
        return merged

    def summarise(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Add the summary to the record of the run; the record."""
        record = {**self._read_record(), "summary": to_plain(summary)}
        with _writable(self._record_path):
            self._write_record(record)
        return record

    def _parts(self) -> list[Path]:
        return sorted(self._path.parent.glob(f"{glob.escape(self._path.stem)}.part-*.jsonl"))

    def _read_record(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._record_path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"choose another --out: {str(self._record_path)!r} cannot be read ({error})"
            ) from error

    def _write_record(self, record: dict[str, Any]) -> None:
        write_atomically(self._record_path, f"{to_json(record)}\n")


def _to_line(line: Line) -> str:
    return json.dumps(to_plain(line), ensure_ascii=False, allow_nan=False)


def _read_lines(path: Path) -> list[Line]:
    if not path.exists():
        return []
    found = []
    with _writable(path):
        text = path.read_text("utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], 1):  # the rest is being written
        try:
            found.append(json.loads(line))
            found[-1]["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"remove line {number} of {str(path)!r}, and it is measured again: it is damaged"
            ) from error
    return found


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


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


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"choose another --out, or make room: {str(path)!r} cannot be written or read "
            f"({error.strerror or error})"
        ) from error
