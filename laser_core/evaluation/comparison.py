"""Methods side by side over a data set, and the summary of it.

Knows lines and figures; `compare` knows one picture, `measuring` runs many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..console import ProgressLine
from ..many.resumable_lines import Line
from ..models.lvlm import Lvlm
from ..pictures import read_picture
from ..settings import LaserSettings
from .compare import FIGURES, compare, rows_as_data
from .compared_settings import carried_out
from .faithfulness import STEPS
from .intervals import Bootstrap, in_words
from .measuring import Measurement, check_names, sorted_out
from .methods import METHODS
from .questions import Question
from .refcoco import find_picture

SCHEMA, VERSION = "laser-comparison", 1


def compare_all(
    over: Measurement,
    progress: ProgressLine,
    *,
    methods: Sequence[str] = tuple(METHODS),
    steps: int = STEPS,
    high_resolution: bool = False,
) -> dict[str, Any]:
    """Compare methods on all questions; the run's record with its summary.

    methods, steps, high_resolution: as for `compare`. Raises ValueError as the run does, and for an
    unknown method.
    """
    check_names("methods", methods, METHODS)
    given: dict[str, Any] = {"methods": methods, "steps": steps, "high_resolution": high_resolution}
    return over.run(
        progress, stage="comparing", schema=SCHEMA, version=VERSION,
        asked={**given, **carried_out(over.settings)},
        measure=partial(_measure, folder=over.folder, settings=over.settings, **given),
        summarise=partial(summarise, methods=methods),
    )  # fmt: skip


def _measure(
    lvlm: Lvlm, question: Question, *, folder: Path, settings: LaserSettings, **given: Any
) -> Line:
    picture = read_picture(find_picture(folder, question.picture))
    compared = compare(
        lvlm, picture, question.question, settings,
        answers=question.answers, boxes=question.boxes, item=question.id, **given,
    )  # fmt: skip
    return {"plain": compared.plain, "methods": rows_as_data(compared)}


def summarise(lines: Sequence[Line], methods: Sequence[str]) -> dict[str, Any]:
    """Means with 95 % intervals by method, and how much the first is ahead of each other one.

    lines: at least one. The intervals come from a bootstrap over pictures; differences are paired.
    Raises ValueError if there is no result.
    """
    measured, failed = sorted_out(lines)
    bootstrap = Bootstrap([line["picture"] for line in measured])
    columns = {
        method: {
            name: np.array([line["methods"][method].get(name) for line in measured], float)
            for name in FIGURES
        }
        for method in methods
    }
    first = columns[methods[0]]
    return {
        "questions": len(lines),
        "measured": len(measured),
        "pictures": len({line["picture"] for line in measured}),
        "methods": {
            method: {name: bootstrap.mean(own[name]) for name in FIGURES}
            for method, own in columns.items()
        },
        "ahead": {
            method: {name: bootstrap.mean(first[name] - own[name]) for name in FIGURES}
            for method, own in columns.items()
            if method != methods[0]
        },
        "failed": failed,
    }


HEADS = {
    "mass": "map in boxes %",
    "points": "peak in a box %",
    "holds": "window holds boxes %",
    "right": "right %",
    "insertion": "insertion (high)",
    "deletion": "deletion (low)",
    "tokens": "tokens",
}
SHARES = ("mass", "points", "holds", "right")  # 0 to 1, said in per cent


def describe(summary: Mapping[str, Any]) -> list[str]:
    """A summary in lines for people: a table, the others less the first, and what failed."""

    def written(name: str, figure: Mapping[str, Any], sign: str = "") -> str:
        scale, digits = (100, 1) if name in SHARES else (1, 0 if name == "tokens" else 2)
        return in_words(figure, summary["measured"], sign, scale, digits)

    failed = sum(summary["failed"].values())
    lines = [
        f"{summary['measured']} questions on {summary['pictures']} pictures, {failed} failed; "
        "means with 95 % intervals over pictures"
    ]
    methods = summary["methods"].values()
    names = [name for name in FIGURES if any(own[name]["items"] for own in methods)]
    rows = [["method", *(HEADS[name] for name in names)]]
    for method, figures in summary["methods"].items():
        rows.append([method, *(written(name, figures[name]) for name in names)])
    first = next(iter(summary["methods"]))
    rows.append([f"{first} less ..."])
    for method, figures in summary["ahead"].items():
        rows.append([method, *(written(name, figures[name], "+") for name in names)])
    widths = [max(len(row[at]) for row in rows if at < len(row)) for at in range(len(rows[0]))]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        lines.append("  " + "  ".join(cells).rstrip())
    return lines + [f"failed {count}: {reason}" for reason, count in summary["failed"].items()]
