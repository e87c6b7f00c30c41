"""A file's questions measured one by one, into JSONL files that a stopped run continues.

Knows items, lines and engines; knows nothing of what is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..console import ProgressLine
from ..many.laser_map import OwnModel, failure_of
from ..many.resumable_lines import Line, ResultLines
from ..many.running import Engine, embedded, fill, same_load
from ..models.lvlm import Lvlm
from ..settings import LaserSettings, LoadSettings
from .refcoco import find_picture


@dataclass(frozen=True)
class MeasuringWork:
    """The work on items: a line for each, of its head and of what was measured or why it failed.

    model: gives the model, once for all items. head: of an item; measure: of the model and an item.
    """

    model: Callable[[], Lvlm]
    head: Callable[[Any], Line]
    measure: Callable[[Lvlm, Any], Line]

    def rows(self, items: Iterable[Any]) -> Iterator[Line]:
        lvlm = self.model()
        for item in items:
            yield {**self.head(item), **line_or_error(lvlm, partial(self.measure, lvlm, item))}


@dataclass(frozen=True)
class Measurement:
    """What to measure, by which model, into which .jsonl file.

    items: all that the file may hold, each with an `id` and the name of its `picture` in `folder`;
    the first `limit` of them are measured (0: all). source: what else two runs must share to fill
    the same file, such as the input's digest.
    """

    items: Sequence[Any]
    folder: Path
    out: Path
    model: str
    load: LoadSettings
    settings: LaserSettings
    limit: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = embedded

    def run(
        self,
        progress: ProgressLine,
        *,
        stage: str,
        schema: str,
        version: int,
        asked: Mapping[str, Any],
        measure: Callable[[Lvlm, Any], Line],
        summarise: Callable[[Sequence[Line]], Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Measure what is missing; the run's record with its summary. What failed is tried again.

        asked: the settings that two runs must share. Raises ValueError, remedy first, for pictures
        that are not there, for files of another run and if nothing could be measured.
        """
        if self.limit < 0:
            raise ValueError(f"give --limit a number from 0, all, on: it is {self.limit}")
        wanted = self.items[: self.limit or None]
        run = {"model": self.model, **self.source, "load": same_load(self.load), **asked}
        work = MeasuringWork(OwnModel(self.model, self.load), vars, measure)
        with closing(ResultLines(self.out)) as results:
            # Before the files are made ready, so that a refusal leaves none
            measured = {line["id"] for line in results.each() if not line.get("error")}
            self._check_pictures([item for item in wanted if item.id not in measured])
            results.begin(schema, version, run)
            done = set(results.ids())
            missing = [item for item in wanted if item.id not in done]
            fill(results, work, missing, len(missing), self.engine, progress, stage)
            lines = results.merge([item.id for item in self.items])
            return results.summarise(summarise(lines))

    def _check_pictures(self, items: Sequence[Any]) -> None:
        if not self.folder.is_dir():
            raise ValueError(f"choose an existing folder: there is no {str(self.folder)!r}")
        names = dict.fromkeys(item.picture for item in items)
        missing = [name for name in names if not find_picture(self.folder, name).is_file()]
        if missing:
            raise ValueError(
                f"put the pictures into {str(self.folder)!r}, choose another folder, or leave out "
                f"their rows: {len(missing)} of {len(names)} are missing, such as {missing[0]!r}"
            )


def line_or_error(lvlm: Lvlm, measure: Callable[[], Line]) -> Line:
    """What `measure` gives, or {"error": why} for what a user can cause and for a full memory."""
    try:
        return measure()
    except Exception as error:
        failed = error
    # Not while it is handled: Python 3.10 then holds the tensors that filled the memory
    lvlm.release()
    try:
        return {"error": failure_of(failed)}
    finally:
        del failed  # its traceback holds this frame


def sorted_out(lines: Sequence[Line]) -> tuple[list[Line], dict[str, int]]:
    """The lines that have a result, and how many failed by reason, the most frequent first.

    Raises ValueError, with that reason, if there is no result.
    """
    measured = [line for line in lines if "error" not in line]
    failed = dict(Counter(line["error"] for line in lines if "error" in line).most_common())
    if not measured:
        reason, count = next(iter(failed.items()), ("choose data with questions", 0))
        raise ValueError(
            f"{reason} (nothing could be measured; {count} of {len(lines)} failed like this)"
        )
    return measured, failed


def check_names(what: str, names: Sequence[str], known: Iterable[str]) -> None:
    """Raise ValueError, remedy first, unless all are known, each once, and there is one."""
    if not names or len(set(names)) < len(names) or not set(names) <= set(known):
        raise ValueError(
            f"choose {what} of {', '.join(known)}, each once: they are {', '.join(names)!r}"
        )
