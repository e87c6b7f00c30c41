"""Methods side by side over a data set: a JSONL file that a stopped run continues, its summary.

Knows files and figures; `compare` knows one picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..console import ProgressLine, quiet_libraries
from ..many.resumable_lines import Line, ResultLines
from ..models.loading import load_lvlm
from ..models.lvlm import Lvlm
from ..pictures import read_picture
from ..settings import LaserSettings, LoadSettings
from .compare import FIGURES, check_methods, compare, rows_as_data
from .compared_settings import carried_out
from .failures import line_or_error
from .faithfulness import STEPS
from .intervals import Bootstrap, in_words
from .methods import METHODS
from .questions import Question, check_pictures
from .refcoco import find_picture

SCHEMA, VERSION = "laser-comparison", 1


@dataclass(frozen=True)
class Comparison:
    """What to compare, by which model, into which .jsonl file.

    questions: all that the file may hold; the first `limit` of them are measured (0: all).
    source: what else two runs must share to fill the same file, such as the input's digest.
    """

    questions: Sequence[Question]
    folder: Path
    out: Path
    model: str
    load: LoadSettings
    settings: LaserSettings
    methods: Sequence[str] = tuple(METHODS)
    steps: int = STEPS
    high_resolution: bool = False
    limit: int = 0
    source: Mapping[str, Any] = field(default_factory=dict)

    def run(self, progress: ProgressLine) -> dict[str, Any]:
        """Measure what is missing; the run's record with its summary. What failed is tried again.

        Raises ValueError, remedy first, for files of another run and if nothing could be measured.
        """
        check_methods(self.methods)
        if self.limit < 0:
            raise ValueError(f"give --limit a number from 0, all, on: it is {self.limit}")
        wanted = self.questions[: self.limit or None]
        check_pictures(wanted, self.folder)
        with closing(ResultLines(self.out)) as results:
            results.begin(SCHEMA, VERSION, self._description())
            done = results.lines()
            missing = [one for one in wanted if one.id not in done]
            if missing:
                self._measure(missing, results, progress)
            lines = results.merge([question.id for question in self.questions])
            return results.summarise(summarise(lines, self.methods))

    def _description(self) -> dict[str, Any]:
        load = self.load.to_dict()
        del load["device"]  # a run may go on elsewhere
        run = {name: getattr(self, name) for name in ("methods", "steps", "high_resolution")}
        settings = carried_out(self.settings)
        return {"model": self.model, **self.source, **run, "load": load, **settings}

    def _measure(
        self, questions: Sequence[Question], results: ResultLines, progress: ProgressLine
    ) -> None:
        progress.stage("loading the model")
        with quiet_libraries(), results.appending() as append:
            lvlm = load_lvlm(self.model, self.load)
            for index, question in enumerate(questions):
                progress.bar("comparing", index, len(questions))
                line = line_or_error(lvlm, partial(self._line, lvlm, question))
                append({"id": question.id, "picture": question.picture, **line})
            progress.bar("comparing", len(questions), len(questions))

    def _line(self, lvlm: Lvlm, question: Question) -> Line:
        picture = read_picture(find_picture(self.folder, question.picture))
        compared = compare(
            lvlm, picture, question.question, self.settings,
            methods=self.methods, answers=question.answers, boxes=question.boxes,
            steps=self.steps, high_resolution=self.high_resolution, item=question.id,
        )  # fmt: skip
        return {"plain": compared.plain, "methods": rows_as_data(compared)}


def summarise(lines: Sequence[Line], methods: Sequence[str]) -> dict[str, Any]:
    """Means with 95 % intervals by method, and how much the first is ahead of each other one.

    lines: at least one. The intervals come from a bootstrap over pictures; differences are paired.
    Raises ValueError if there is no result.
    """
    measured = [line for line in lines if "error" not in line]
    failures = Counter(line["error"] for line in lines if "error" in line)
    if not measured:
        reason, count = failures.most_common(1)[0]
        raise ValueError(f"{reason} (nothing could be compared; {count} questions failed so)")
    bootstrap = Bootstrap([line["picture"] for line in measured])
    columns = {
        method: {
            name: np.array([_number(line["methods"][method].get(name)) for line in measured])
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
        "failed": dict(failures.most_common()),
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


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
    names = [name for name in FIGURES if _known(summary["methods"], name)]
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


def _known(methods: Mapping[str, Any], name: str) -> bool:
    return any(figures[name]["items"] for figures in methods.values())
