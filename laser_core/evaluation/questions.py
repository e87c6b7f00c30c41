"""Questions about pictures, with their answers and the boxes of what is asked about, from a file.

A file holds JSON rows, as a list or one a line (.jsonl): `image`, `question` and, if known,
`answer` (a text, or several that count as right), `boxes` (each x1, y1, x2, y2 in pixels) and `id`;
or rows as `refcoco` reads them, with a box and no answer. Knows no model and opens no picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..geometry import Box
from .refcoco import Row, find_picture, read_items, read_rows

_FIELDS = {"id", "image", "question", "answer", "boxes"}


@dataclass(frozen=True)
class Question:
    """id: its own in the file. picture: a file name. answers: those that are right; none known: ().

    boxes: of what is asked about, float pixels of the picture; none known: ().
    """

    id: str
    picture: str
    question: str
    answers: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()


def read_questions(path: Path) -> list[Question]:
    """Every question of a file, in its order.

    Raises ValueError, remedy first, for another kind of file, rows that are incomplete or hold
    values of another kind, and equal ids.
    """
    rows = read_rows(path)
    own = {"image", "question"} <= rows[0].keys() and rows[0].keys() <= _FIELDS
    if not own or "box" in rows[0]:
        return [
            Question(item.id, item.picture, item.question, (), (item.box,))
            for item in read_items(path)
        ]
    found, seen = [], set()
    for number, row in enumerate(rows, 1):
        try:
            question = _question(row, number)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"fix row {number} of {str(path)!r}: {type(error).__name__} {error}"
            ) from error
        if question.id in seen:
            raise ValueError(f"give every row an id of its own: {question.id!r} occurs twice")
        seen.add(question.id)
        found.append(question)
    return found


def check_pictures(questions: Sequence[Question], folder: Path) -> None:
    """Raise ValueError, remedy first, if a picture is not in the folder."""
    if not folder.is_dir():
        raise ValueError(f"choose an existing folder: there is no {str(folder)!r}")
    names = dict.fromkeys(question.picture for question in questions)
    missing = [name for name in names if not find_picture(folder, name).is_file()]
    if missing:
        raise ValueError(
            f"put the pictures into {str(folder)!r}, or choose another folder: {len(missing)} of "
            f"{len(names)} are missing, such as {missing[0]!r}"
        )


def _question(row: Row, number: int) -> Question:
    answers = row.get("answer", ())
    answers = (answers,) if isinstance(answers, str) else tuple(answers)
    for text in (row["image"], row["question"], *answers):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text")
        text.encode()  # half a surrogate pair could not be saved
    boxes = tuple(_box(box) for box in row.get("boxes", ()))
    return Question(str(row.get("id", number)), row["image"], row["question"], answers, boxes)


def _box(values: Any) -> Box:
    whole = isinstance(values, list) and len(values) == 4
    if not (whole and all(isinstance(n, (int, float)) and math.isfinite(n) for n in values)):
        raise ValueError(f"the box is {values!r}, and not four finite numbers")
    box = Box(*map(float, values))
    if box.width <= 0 or box.height <= 0:
        raise ValueError(f"the box holds nothing: {values!r}")
    return box
