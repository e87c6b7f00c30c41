"""Methods side by side: the same picture and question, the same reading, one row a method.

Every method's window is read beside the picture and believed, without a stream against it, so that
methods differ only in where they look. Knows one picture; `comparison` measures many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..files import to_plain
from ..geometry import Box, whole_picture
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..output.method_sheet import COMPARED_SCHEMA, Tile, method_sheet
from ..pictures import to_picture
from ..progress import Progress
from ..results import Answer
from ..settings import LaserSettings
from ..steps.answer_input import make_crops_stream, make_plain_stream
from ..steps.decode import decode
from .compared_settings import carried_out
from .faithfulness import STEPS, Curves, Likelihood, curves
from .measuring import check_names
from .methods import ASKED, METHODS, Found, Reading, read_for_methods
from .metrics import holds, mass_in, points_at
from .scoring import same_words

FIGURES = ("mass", "points", "holds", "right", "insertion", "deletion", "tokens")
"""What is known of a method: the map's mass in the boxes; whether its peak lies in one; whether the
window holds them; whether the answer is right; the areas under both curves of faithfulness, in
natural logarithms; decoder tokens, locating and answering, those that streams share once and those
of drafts (`read_at`) not at all."""


@dataclass(frozen=True)
class Row:
    """A method on a question. figures: of FIGURES those that are known."""

    method: str
    found: Found
    answer: Answer
    figures: dict[str, float]
    curves: Curves | None = None


@dataclass(frozen=True)
class Compared:
    """plain: what the model says of the picture alone; the curves are of its likelihood."""

    reading: Reading
    plain: str
    rows: tuple[Row, ...]


def compare(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    settings: LaserSettings = LaserSettings(),
    *,
    methods: Sequence[str] = tuple(METHODS),
    answers: Sequence[str] = (),
    boxes: Sequence[Box] = (),
    steps: int = STEPS,
    high_resolution: bool = False,
    item: str = "",
    progress: Progress | None = None,
) -> Compared:
    """Methods by name on a picture (PIL, NumPy or tensor) and a question.

    answers: those that are right; boxes: of what is asked about, pixels; either may be unknown.
    settings: those of `compared_settings.NOT_CARRIED_OUT` change nothing. steps: of the curves of
    faithfulness, 0 for none. high_resolution, item: see `read_for_methods`.
    Raises ValueError for an unknown method, a box outside the picture and as the steps do.
    """
    check_names("methods", methods, METHODS)
    lvlm.check_answers()
    picture = to_picture(picture)
    for box in boxes:
        seen = box.intersect(Box(*whole_picture(picture.size)))
        if not (all(map(math.isfinite, box)) and seen.area):
            raise ValueError(f"correct the box {tuple(box)}: nothing of it lies on the picture")
    if progress:
        progress("reading the picture", 0, 1)
    reading = read_for_methods(
        lvlm, picture, question, settings, high_resolution=high_resolution, item=item
    )
    plain_stream = make_plain_stream(lvlm, reading.inputs, question, settings)
    plain = _decoded(reading, plain_stream).text
    likelihood = Likelihood(lvlm, picture, question, plain, settings) if steps and plain else None
    rows = []
    for index, name in enumerate(methods):
        if progress:
            progress("comparing methods", index, len(methods))
        found = METHODS[name].find(reading)
        stream = _stream(reading, found)
        answer = _decoded(reading, stream)
        figures = {"tokens": float(_tokens(reading, name, stream))}
        if answers:
            figures["right"] = same_words(answer.text, answers)
        traced = None
        if found.evidence is not None and not found.evidence.degenerate:
            if boxes:
                figures["mass"] = mass_in(found.evidence, boxes)
                figures["points"] = float(points_at(found.evidence, boxes))
            if likelihood:
                traced = curves(found.evidence, likelihood, steps)
                figures |= traced.areas
        if boxes and found.window is not None:
            figures["holds"] = float(all(holds(found.window, box) for box in boxes))
        rows.append(Row(name, found, answer, figures, traced))
    return Compared(reading, plain, tuple(rows))


def _stream(reading: Reading, found: Found) -> Stream:
    """What a method's answer is read from."""
    lvlm, settings, whole = reading.lvlm, reading.settings, reading.inputs
    if found.crop is not None:
        return make_crops_stream(lvlm, whole, [found.crop], reading.question, settings)
    if found.window is None and lvlm.family.native_resolution:
        both = whole.token_count + round(settings.answer.crop_budget * whole.token_count)
        whole = lvlm.encode(reading.picture, settings.prompt.framing, both)
        return replace(
            make_plain_stream(lvlm, whole, reading.question, settings), shared_prefix=False
        )
    return make_plain_stream(lvlm, whole, reading.question, settings)


def _decoded(reading: Reading, stream: Stream) -> Answer:
    return decode(reading.lvlm, stream, None, replace(reading.settings.decode, alpha=0.0))


def _tokens(reading: Reading, method: str, stream: Stream) -> int:
    """Decoder tokens of a method; on high resolution those of the whole picture's prompts."""
    reads = [reading.prompts[index] for index in METHODS[method].reads]
    prefix = reading.prompts[ASKED].prefix_length
    located = prefix + sum(prompt.suffix_length for prompt in reads) if reads else 0
    return located + stream.prompt.length - (prefix if located and stream.shared_prefix else 0)


def rows_as_data(compared: Compared) -> dict[str, Any]:
    """Windows, answers and figures by method."""
    return {
        row.method: {
            "window": row.found.window,
            "answer": row.answer.text,
            **row.figures,
        }
        for row in compared.rows
    }


# ---- for people --------------------------------------------------------------------------------

VERDICTS = {
    "points": ("peak outside the boxes", "peak in a box"),
    "holds": ("window misses boxes", "window holds the boxes"),
    "right": ("wrong", "right"),
}


def lines_of(compared: Compared) -> list[str]:
    """A comparison in lines for people, a method each."""
    widths = max(len(row.method) for row in compared.rows)
    return [
        f"the picture alone: {compared.plain}",
        *(
            f"{row.method:<{widths}}  {row.answer.text}  ({', '.join(said(row))})"
            for row in compared.rows
        ),
    ]


def said(row: Row) -> list[str]:
    """A method's figures in words."""
    words = []
    for name in FIGURES:
        value = row.figures.get(name)
        if value is None:
            continue
        if name in VERDICTS:
            words.append(VERDICTS[name][int(value)])
        elif name == "mass":
            words.append(f"{value:.0%} of the map in the boxes")
        else:
            words.append(f"{name} {value:.{0 if name == 'tokens' else 2}f}")
    return words


def sheet_of(compared: Compared, boxes: Sequence[Box] = ()) -> Image.Image:
    """Map, window and answer of every method, side by side."""
    tiles = [
        Tile(METHODS[row.method].title, [row.answer.text, *said(row)],
             row.found.evidence, row.found.window)
        for row in compared.rows
    ]  # fmt: skip
    reading = compared.reading
    heading = f"{reading.question} The picture alone: {compared.plain}. Cyan: the window."
    heading += " White: what is asked about." if boxes else ""
    return method_sheet(reading.picture, heading, tiles, boxes)


def report_of(compared: Compared, files: Sequence[str] = ()) -> dict[str, Any]:
    """A comparison as plain JSON values: windows, answers, figures and curves by method."""
    reading = compared.reading
    traced = {row.method: vars(row.curves) for row in compared.rows if row.curves}
    content = {
        "schema": COMPARED_SCHEMA,
        "version": 1,
        "question": reading.question,
        "plain": compared.plain,
        "methods": rows_as_data(compared),
        "curves": traced,
        "model": reading.lvlm.name,
        "settings": carried_out(reading.settings),
        "files": list(files),
    }
    return to_plain(content)
