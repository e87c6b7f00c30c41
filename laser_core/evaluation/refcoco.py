"""Referring expressions and their boxes, from the files that RefCOCO comes in.

A file holds JSON rows, as a list or one per line (.jsonl), of one of these kinds, told by their
fields. Pickles are refused: reading one may run code. Knows no model and opens no picture.

    id, image, question, box          this project's own; box (x1, y1, x2, y2)
    question_id, file_name, answer, bbox
                                      of lmms-lab/RefCOCO; answer: expressions, bbox (x, y, w, h)
    ref_id, ann_id, image_id, split, sentences
                                      of refer's refs, beside its instances.json in COCO's format
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..geometry import Box

Row = dict[str, Any]


@dataclass(frozen=True)
class ReferringItem:
    """id: its own in the file. picture: a file name. box: float pixels of the picture."""

    id: str
    picture: str
    question: str
    box: Box


def read_items(
    path: Path, *, instances: Path | None = None, split: str = "", question: str = "{}"
) -> list[ReferringItem]:
    """Every expression of a file, in its order.

    instances: refer's instances.json, which its refs need. split: only the refs of this one.
    question: what is asked about an expression, which replaces {}; own rows are asked as they are.

    Raises ValueError, remedy first, for another kind of file, for rows that are incomplete or hold
    values of another kind, for equal ids and where there is no expression.
    """
    if "{}" not in question:
        raise ValueError(f"write {{}} where the expression goes: the question is {question!r}")
    rows = read_rows(path)
    kind = next((kind for kind in _KINDS if kind.fields <= rows[0].keys()), None)
    if kind is None:
        raise ValueError(
            f"give every row the fields of one kind, such as id, image, question, box: the first "
            f"row of {str(path)!r} has {', '.join(rows[0]) or 'none'}"
        )
    if split and "split" not in kind.fields:
        raise ValueError(f"leave out --split: the rows of {str(path)!r} are of one split")
    if split:
        splits = sorted({str(row.get("split")) for row in rows})
        rows = [row for row in rows if row.get("split") == split]
        if not rows:
            raise ValueError(f"choose a --split of {', '.join(splits)}: there is no {split!r}")
    coco = _Instances(instances, path) if kind.needs_instances else None
    items: list[ReferringItem] = []
    for number, row in enumerate(rows):
        try:
            items += kind.items(row, number, question, coco)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(
                f"fix row {number + 1} of {str(path)!r}: {type(error).__name__} {error}"
            ) from error
    if not items:
        raise ValueError(f"add expressions to the rows of {str(path)!r}: none has any")
    check_ids(item.id for item in items)
    return items


def find_picture(folder: Path, name: str) -> Path:
    """The file of a picture: by its name, or by the names COCO gives the same picture.

    COCO_train2014_000000581857_16.jpg, as lmms-lab names it by its annotation, is
    COCO_train2014_000000581857.jpg in COCO 2014 and 000000581857.jpg in COCO 2017. If none
    exists, the first.
    """
    of_2014 = re.sub(r"^(COCO_\w+?_\d{12})_\d+(?=\.\w+$)", r"\1", name)
    of_2017 = re.sub(r"^COCO_\w+?_(?=\d{12}\.)", "", of_2014)
    paths = [folder / name for name in (name, of_2014, of_2017)]
    return next((path for path in paths if path.is_file()), paths[0])


def is_published(row: Row) -> bool:
    """Whether a row is of a kind that others publish, and not this project's own."""
    return any(kind.fields <= row.keys() for kind in _KINDS[1:])


def read_rows(path: Path) -> list[Row]:
    """A file's JSON objects. Raises ValueError, remedy first, for what is no list of them."""
    if path.suffix in (".p", ".pkl", ".pickle"):
        raise ValueError(
            "convert it to JSON first, python -m tools.lmms_eval.refs_to_json: "
            f"{str(path)!r} is a pickle, and reading one may run code"
        )
    text, rows, at = _text(path), [], 0
    try:
        if path.suffix == ".jsonl":
            # Not splitlines: JSON texts may hold U+2028 and the like, which end no line here
            for at, line in enumerate(text.split("\n"), 1):  # noqa: B007  # where it fails
                rows += [json.loads(line)] if line.strip() else []
        else:
            rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        why = f"{getattr(error, 'msg', error)} in line {at}" if at else error
        raise ValueError(f"save {str(path)!r} as JSON, or as .jsonl: {why}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"fill {str(path)!r} with rows: it is no list of JSON objects")
    return rows


def digest_of(path: Path) -> str:
    """A file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 22):
            digest.update(part)
    return digest.hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")  # with or without the mark that Windows puts first
    except OSError as error:
        raise ValueError(
            f"check the path: {str(path)!r} cannot be read ({error.strerror})"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"save {str(path)!r} as JSON in UTF-8: it is no text") from error


def check_ids(ids: Iterable[str]) -> None:
    """Raise ValueError, remedy first, if one occurs twice."""
    seen: set[str] = set()
    for id in ids:
        if id in seen:
            raise ValueError(f"give every row an id of its own: {id!r} occurs twice")
        seen.add(id)


class _Instances:
    """Boxes and picture names by id, from a file in COCO's format."""

    def __init__(self, path: Path | None, refs: Path) -> None:
        if path is None:
            raise ValueError(
                f"give --instances, the instances.json of the same dataset: {str(refs)!r} holds "
                "no boxes"
            )
        text = _text(path)
        try:
            content = json.loads(text)
            self.pictures = {row["id"]: row["file_name"] for row in content["images"]}
            self.boxes = {row["id"]: row["bbox"] for row in content["annotations"]}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"give --instances in COCO's format, with images and annotations: {str(path)!r} "
                f"is not ({type(error).__name__} {error})"
            ) from error


# ---- kinds of rows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Kind:
    fields: set[str]
    items: Callable[[Row, int, str, _Instances | None], Iterator[ReferringItem]]
    needs_instances: bool = False


def _own(row: Row, number: int, question: str, coco: object) -> Iterator[ReferringItem]:
    box = Box(*four_numbers(row["box"]))
    yield _item(str(row["id"]), row["image"], row["question"], box)


def _lmms_lab(row: Row, number: int, question: str, coco: object) -> Iterator[ReferringItem]:
    """Ids get row numbers, because one object may be in the file several times."""
    answers = [row["answer"]] if isinstance(row["answer"], str) else row["answer"]
    for index, expression in enumerate(answers):
        id = f"{row['question_id']}-{number}-{index}"
        yield _item(id, row["file_name"], expression, _corners(row["bbox"]), question)


def _refer(
    row: Row, number: int, question: str, coco: _Instances | None
) -> Iterator[ReferringItem]:
    assert coco is not None  # needs_instances
    for sentence in row["sentences"]:
        id = f"{row['ref_id']}-{sentence['sent_id']}"
        picture, box = coco.pictures[row["image_id"]], _corners(coco.boxes[row["ann_id"]])
        yield _item(id, picture, sentence["sent"], box, question)


def _item(id: str, picture: Any, expression: Any, box: Box, question: str = "{}") -> ReferringItem:
    """Finds every error of a row here, before a model is loaded for it."""
    for what, value in (("picture's name", picture), ("expression", expression)):
        if not isinstance(value, str):
            raise ValueError(f"the {what} is {value!r}, and no text")
    if box.width < 0 or box.height < 0:
        raise ValueError(f"the box's corners are swapped: {tuple(box)}")
    item = ReferringItem(id, picture, question.replace("{}", expression.strip()), box)
    f"{item.id}{item.picture}{item.question}".encode()  # half a surrogate pair could not be saved
    return item


def _corners(box: Any) -> Box:
    x, y, width, height = four_numbers(box)
    return Box(x, y, x + width, y + height)


def four_numbers(values: Any) -> list[float]:
    """A box's values. Raises ValueError for anything else."""
    whole = isinstance(values, list) and len(values) == 4
    if not (whole and all(isinstance(n, (int, float)) and math.isfinite(n) for n in values)):
        raise ValueError(f"the box is {values!r}, and not four finite numbers")
    return [float(number) for number in values]


_KINDS = (
    _Kind({"id", "image", "question", "box"}, _own),
    _Kind({"question_id", "file_name", "answer", "bbox"}, _lmms_lab),
    _Kind({"ref_id", "ann_id", "image_id", "split", "sentences"}, _refer, needs_instances=True),
)
