"""A file of reproduced figures: what it holds, what follows from its rows, and whether they agree.

Whoever runs `reproduce` may contribute such a file; docs/reproduced.md is made from them. Knows
numbers and texts; knows no model and no data set.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import to_plain
from .intervals import Bootstrap

SCHEMA, VERSION = "laser-reproduced", 1
_FIELDS = {
    "schema": str, "version": int, "model": str, "weights": dict, "suite": str, "load": dict,
    "settings": dict, "data": dict, "versions": dict, "hardware": dict, "seconds": float,
    "failed": dict, "rows": dict, "figures": dict,
}  # fmt: skip
_TOLERANCE = 1e-5  # of figures that were written with 7 digits


def figures_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means with 95 % intervals by task and score; over: paired differences to the way `plain`.

    rows: by task `groups`, which picture each question is of, and `scores`, by name a number for
    each question. The intervals come from a bootstrap over pictures.
    """
    figures: dict[str, Any] = {}
    for task, kept in rows.items():
        bootstrap = Bootstrap(kept["groups"])
        columns = {
            name: np.array(values, float)  # NaN for None
            for name, values in kept["scores"].items()
        }
        plain = columns.get("plain")
        figures[task] = {
            name: {
                "mean": bootstrap.mean(values),
                "over plain": None
                if plain is None or name == "plain" or name not in kept["ways"]
                else bootstrap.mean(values - plain),
            }
            for name, values in columns.items()
        }
    return to_plain(figures)


def read_own(path: Path) -> dict[str, Any]:
    """A file that `reproduce` wrote, whole or not. Raises ValueError, remedy first, for others."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _foreign(path, f"it cannot be read as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise _foreign(path, "its schema is another")
    return content


def read_reproduced(path: Path) -> dict[str, Any]:
    """A contributed file. Raises ValueError, remedy first, for any other and for one that is not
    whole: fields, counts, scores beyond 0 to 1, and figures that do not follow from its rows."""
    content = read_own(path)
    if content.get("version") != VERSION:
        raise ValueError(
            f"update this package, or run `reproduce` anew: {str(path)!r} has version "
            f"{content.get('version')!r}, and this package reads {VERSION}"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), (kind, int) if kind is float else kind):
            raise _foreign(path, f"its field {name!r} is missing or of another kind")
    for task, kept in content["rows"].items():
        _check_rows(path, task, kept)
    if not _alike(content["figures"], figures_of(content["rows"])):
        raise ValueError(
            f"run `reproduce` again with the same --out: the figures of {str(path)!r} do not "
            "follow from its rows"
        )
    return content


def _check_rows(path: Path, task: str, kept: Any) -> None:
    whole = isinstance(kept, dict) and {"ids", "groups", "scores", "ways"} <= kept.keys()
    if not (whole and kept["ids"] and isinstance(kept["scores"], dict) and kept["scores"]):
        raise _foreign(path, f"the rows of {task} are none")
    columns = [kept["groups"], *kept["scores"].values()]
    if any(len(column) != len(kept["ids"]) for column in columns):
        raise _foreign(path, f"the rows of {task} differ in number")
    if len(set(kept["ids"])) < len(kept["ids"]):
        raise _foreign(path, f"a question of {task} is there twice")
    for name, values in kept["scores"].items():
        if not all(value is None or 0 <= value <= 1 for value in values):
            raise _foreign(path, f"a score of {task}, {name}, is not from 0 to 1")


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    return one == other


def _foreign(path: Path, why: str) -> ValueError:
    return ValueError(f"choose a file that `reproduce` wrote: {str(path)!r} is none, {why}")
