"""Questions about pictures, with their answers and the boxes of what is asked about, from a file.

A file holds JSON rows, as a list or one a line (.jsonl): `image`, `question` and, if known,
`answer` (a text, or several that count as right), `boxes` (each x1, y1, x2, y2 in pixels), or `box`
for one, and `id`; or rows of RefCOCO as `refcoco` reads them. Knows no model and opens no picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..geometry import Box
from .refcoco import Row, check_ids, four_numbers, is_published, read_items, read_rows

_FIELDS = ("id", "image", "question", "answer", "box", "boxes")


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

    Raises ValueError, remedy first, for another kind of file, rows that are incomplete, hold values
    of another kind or fields that are not known, and equal ids.
    """
    rows = read_rows(path)
    if is_published(rows[0]) or not {"image", "question"} <= rows[0].keys():
        return [
            Question(item.id, item.picture, item.question, (), (item.box,))
            for item in read_items(path)
        ]
    found = []
    for number, row in enumerate(rows, 1):
        for name in row:
            if name not in _FIELDS:
                raise ValueError(
                    f"rename or leave out {name!r} in row {number} of {str(path)!r}: known are "
                    f"{', '.join(_FIELDS)}"
                )
        try:
            found.append(_question(row, number))
        except (KeyError, ValueError, OverflowError) as error:
            raise ValueError(
                f"fix row {number} of {str(path)!r}: {type(error).__name__} {error}"
            ) from error
    check_ids(question.id for question in found)
    return found


def _question(row: Row, number: int) -> Question:
    """A field that is null is not known."""
    answers = _listed(row.get("answer"))
    for text in (row["image"], row["question"], *answers):
        if not isinstance(text, str):
            raise ValueError(f"{text!r} is no text")
        text.encode()  # half a surrogate pair could not be saved
    several = _listed(row.get("boxes"))
    if not all(isinstance(one, list) for one in several):
        several = [several]  # a box alone
    one = [] if row.get("box") is None else [row["box"]]
    boxes = tuple(read_box(values) for values in [*one, *several])
    id = number if row.get("id") is None else row["id"]
    return Question(str(id), row["image"], row["question"], tuple(answers), boxes)


def _listed(value: Any) -> list[Any]:
    """One or several values, or none, as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def read_box(values: Any) -> Box:
    """A box from [x1, y1, x2, y2]. Raises ValueError for anything else and for one of no area."""
    box = Box(*four_numbers(values))
    if box.width <= 0 or box.height <= 0:
        raise ValueError(f"the box holds nothing: {values!r}")
    return box
