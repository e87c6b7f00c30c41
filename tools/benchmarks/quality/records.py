"""The records of many items, in a file that a stopped run continues.

Knows the file and the items' order; `ItemRun` knows what a record holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from laser_core.console import ProgressLine
from laser_core.many.resumable_lines import ResultLines
from laser_core.models.lvlm import Lvlm
from tools.benchmarks.quality.measure import ItemRun
from tools.benchmarks.quality.rows import Row
from tools.demo_model.world import HeldOutItem


@dataclass(frozen=True)
class Measured:
    """Items of one set and, for each, the rows' records by row name."""

    items: Sequence[HeldOutItem]
    records: list[dict[str, dict[str, Any]]]


def measure(
    lvlm: Lvlm, items: Sequence[HeldOutItem], rows: Sequence[Row], file: Path, seed: int
) -> Measured:
    """Every row on every item; `file` (.jsonl) holds a line for each item done."""
    run = {"model": lvlm.name, "weights": _digest(lvlm), "seed": seed, "items": len(items)}
    run |= {"rows": {row.name: row.settings.to_dict() for row in rows}}
    progress = ProgressLine()
    with closing(ResultLines(file)) as results:
        try:
            results.begin("laser-quality", 1, run)
        except ValueError as error:
            raise SystemExit(
                f"remove {file.with_suffix('')}.*, or choose another --cache ({error})"
            ) from error
        done = set(results.ids())
        missing = [index for index in range(len(items)) if str(index) not in done]
        with results.appending() as append:
            for count, index in enumerate(missing):
                progress.bar(file.stem, count, len(missing))
                rng = np.random.default_rng([seed, index])
                append({"id": str(index), "rows": ItemRun(lvlm, items[index], rng).records(rows)})
        progress.clear()
        lines = results.merge([str(index) for index in range(len(items))])
    return Measured(items, [line["rows"] for line in lines])


def _digest(lvlm: Lvlm) -> str:
    """Of the weights: records of a model that was trained again are not continued."""
    digest = hashlib.sha256()
    for tensor in lvlm.model.state_dict().values():
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
