"""A run over many items: what is missing is made, counted and written, row by row.

Knows neither pictures nor models: `Work` makes the rows, an engine says where.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..console import ProgressLine, quiet_libraries
from ..settings import LoadSettings
from .parquet_folder import ParquetFolder
from .resumable_lines import ResultLines
from .sources import Item, Source

Results = ResultLines | ParquetFolder
MOST_REASONS = 100  # that are told apart


class Work(Protocol):
    """What is done to items; it can be pickled."""

    def rows(self, items: Iterable[Any]) -> Iterator[dict[str, Any]]:
        """A row for each item, in order, with its "id"; with an "error" where it failed."""


Engine = Callable[[Work, Iterable[Any], int], Iterator[dict[str, Any]]]
"""Called as engine(work, items, how many); gives their rows, in any order."""


def embedded(work: Work, items: Iterable[Any], total: int) -> Iterator[dict[str, Any]]:
    """The engine that needs nothing: in this process."""
    return work.rows(items)


def same_load(load: LoadSettings) -> dict[str, Any]:
    """What two runs that fill the same rows share of how a model is loaded: not the device."""
    return {name: value for name, value in load.to_dict().items() if name != "device"}


def run(
    source: Source,
    work: Work,
    results: Results,
    engine: Engine,
    progress: ProgressLine,
    *,
    stage: str,
    schema: str,
    version: int,
    asked: dict[str, Any],
) -> dict[str, Any]:
    """Make the rows that `results` lacks of a source. The run's record, with its summary.

    stage: what progress is called. asked: what else two runs must share to fill the same rows.
    Raises ValueError, remedy first, for ids that occur twice, for rows of another run, and if not
    one row could be made.
    """
    progress.stage("reading the list")
    all_items = survey(source)
    there = {"place": source.place, "items": all_items.count, "digest": all_items.digest}
    results.begin(schema, version, {**asked, "source": there})
    try:
        done = keys(results.ids())
        missing = all_items.count - len(done)
        filled = fill(results, work, without(source, done), missing, engine, progress, stage)
        failed = sum(filled.failed.values())
        if failed == all_items.count:
            raise ValueError(f"{filled.example} (not one row could be made; {failed} failed)")
        return results.summarise(
            {
                "rows": all_items.count,
                "made": filled.made,
                "seconds": filled.seconds,
                "failed": filled.failed,
            }
        )
    finally:
        results.close()


@dataclass(frozen=True)
class Filled:
    """made: how many rows. failed: how many of them, by remedy. example: the first failure."""

    made: int
    seconds: float
    failed: dict[str, int]
    example: str


def fill(
    results: Results,
    work: Work,
    items: Iterable[Any],
    total: int,
    engine: Engine,
    progress: ProgressLine,
    stage: str,
) -> Filled:
    """Append a row for each of `total` items."""
    failures: Counter[str] = Counter()
    example = ""
    made, started = 0, time.monotonic()
    if total:
        with quiet_libraries(), results.appending() as append:
            progress.stage("loading the model")  # which is not part of the bar's rate
            for row in engine(work, items, total):
                append(row)
                made += 1
                if row.get("error"):
                    example = example or row["error"]
                    failures[_reason(row["error"], failures)] += 1
                progress.bar(stage, made, total)
    return Filled(made, time.monotonic() - started, dict(failures.most_common()), example)


def describe(summary: Mapping[str, Any]) -> list[str]:
    """A summary in lines for people."""
    failed = sum(summary["failed"].values())
    made, seconds = summary["made"], summary["seconds"]
    rate = f" in {seconds:.1f} s, {made / seconds:.2f} a second" if made else ""
    lines = [f"{summary['rows']} rows, {made} of them new{rate}; {failed} failed"]
    return lines + [f"failed {count}: {reason}" for reason, count in summary["failed"].items()]


def _reason(error: str, known: Counter[str]) -> str:
    """The remedy, which is the same for many rows."""
    remedy = error.partition(": ")[0]
    return remedy if remedy in known or len(known) < MOST_REASONS else "other reasons"


# ---- which items there are -------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """count: of items. digest: of their ids and questions, in order."""

    count: int
    digest: str


def survey(items: Iterable[Item]) -> Survey:
    """Read all items once, before the work. Raises ValueError where two share an id."""
    everything = hashlib.sha256()

    def ids() -> Iterator[str]:
        for item in items:
            everything.update(json.dumps([item.id, item.question]).encode())
            yield item.id

    found = np.sort(keys(ids()))
    twice = found[1:][found[1:] == found[:-1]]
    if len(twice):
        id = next(item.id for item in items if _key(item.id) == twice[0])
        raise ValueError(f"give every row an id of its own: {id!r} occurs twice")
    return Survey(len(found), everything.hexdigest())


def keys(ids: Iterable[str]) -> np.ndarray:
    """(n,) uint64: 8 bytes of each id's digest, so that ten million ids take 80 MB."""
    return np.fromiter(map(_key, ids), np.uint64)


def without(items: Iterable[Item], done: np.ndarray) -> Iterator[Item]:
    """The items whose ids' `keys` are not among these."""
    done = np.sort(done)
    for item in items:
        key = _key(item.id)
        place = int(np.searchsorted(done, key))
        if place == len(done) or done[place] != key:
            yield item


def _key(id: str) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(id.encode(), digest_size=8).digest(), np.uint64)[0]
