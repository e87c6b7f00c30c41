"""The command `compare`: methods side by side, on one picture or over a data set.

torch is imported once the arguments are read and the rows are found to be whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import ProgressLine, quiet_libraries
from ..errors import explained_imports
from ..evaluation.compared_settings import NOT_CARRIED_OUT
from ..evaluation.questions import read_box, read_questions
from ..evaluation.refcoco import digest_of
from ..settings import ANSWER_GROUPS
from ..settings_text import add_flags, flags, read_flags
from . import options
from .out_folder import DEFAULT_OUT, REPORT, check_files, check_folder, write

DEFAULT_LINES = f"{DEFAULT_OUT}/compare.jsonl"
SHEET = "compare.png"
ROWS = (".json", ".jsonl")
OF_ROWS = ("limit", "engine", "workers", "address")
OF_PICTURE = ("box", "answer")


def add_compare(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(
        commands, "compare", "compare methods on a picture, or over a file of questions",
        'PICTURE "QUESTION" | ROWS PICTURES',
        'pictures/scene_picnic.jpg "what number is on the bee?" --answer 6',
        "rows.jsonl pictures --methods laser vicrop whole", remark=options.RESUMES,
    )  # fmt: skip
    parser.add_argument(
        "picture", metavar="PICTURE",
        help="a picture file; or rows, .json or .jsonl: image, question, answer, boxes, or "
        "RefCOCO's as `aggregate` reads them",
    )  # fmt: skip
    parser.add_argument(
        "question", metavar="QUESTION", help="the question; or the folder of the rows' pictures"
    )
    parser.add_argument(
        "--methods", nargs="+", metavar="NAME",
        help="of laser vicrop carve max raw random centre whole; the first is what the others are "
        "compared with [default: all]",
    )  # fmt: skip
    parser.add_argument(
        "--box", type=float, nargs=4, action="append", default=[],
        metavar=("X1", "Y1", "X2", "Y2"),
        help="of a picture: where what is asked about lies, in pixels; may be given several times",
    )  # fmt: skip
    parser.add_argument("--answer", metavar="TEXT", help="of a picture: the right answer")
    parser.add_argument(
        "--steps", type=int, default=8, metavar="N",
        help="parts in which a map's patches go and come, for insertion and deletion; 0: neither "
        "[default: 8]",
    )  # fmt: skip
    options.add_high_resolution(parser)
    options.add_limit(parser)
    options.add_engine(parser)
    options.add_model(parser)
    of_rows = f"of rows a .jsonl file [default: {DEFAULT_LINES}]"
    options.add_result(parser, DEFAULT_OUT, f"{of_rows}, of a picture a folder")
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_compare, out="")  # PICTURE says which of both


def _compare(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    if arguments.steps and not 2 <= arguments.steps <= 100:  # both ends alone tell nothing
        raise ValueError(f"give --steps 0, or a number from 2 to 100: it is {arguments.steps}")
    for flag in flags(ANSWER_GROUPS):
        if flag.spec.name in NOT_CARRIED_OUT and flag.destination in vars(arguments):
            raise ValueError(
                f"leave out {flag.name}: every method's first window is read once, without a "
                "second stream"
            )
    over_rows = Path(arguments.picture).suffix.lower() in ROWS
    of, others = ("a picture", OF_PICTURE) if over_rows else ("rows", OF_ROWS)
    for name in others:
        given = getattr(arguments, name)
        if given and (name, given) != ("engine", "embedded"):  # not the default
            raise ValueError(f"leave out --{name}, which is of {of}: {arguments.picture!r} is none")
    return (_rows if over_rows else _picture)(arguments, progress)


def _picture(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    try:
        boxes = [read_box(values) for values in arguments.box]
    except ValueError as error:
        raise ValueError(f"correct --box: {error}") from error
    out = Path(arguments.out or DEFAULT_OUT)
    check_folder(out)
    progress.stage("starting")
    with explained_imports():
        from ..evaluation.compare import compare, lines_of, report_of, sheet_of
        from ..evaluation.measuring import check_names
        from ..evaluation.methods import METHODS
        from ..models.loading import load_lvlm
        from ..pictures import read_picture

    methods = arguments.methods or list(METHODS)
    check_names("methods", methods, METHODS)
    check_files(out, Path(arguments.picture), [SHEET])
    picture = read_picture(arguments.picture)
    with quiet_libraries():
        progress.stage("loading the model")
        lvlm = load_lvlm(arguments.model, load)
        compared = compare(
            lvlm, picture, arguments.question, settings,
            methods=methods, answers=[arguments.answer] if arguments.answer else [], boxes=boxes,
            steps=arguments.steps, high_resolution=arguments.high_resolution,
            progress=progress.stage,
        )  # fmt: skip
        progress.stage("drawing")
        sheet = sheet_of(compared, boxes)
    content = report_of(compared, files=[SHEET, REPORT])
    written = write(out, {SHEET: sheet}, content)
    return options.tell(
        arguments, progress, content, [*lines_of(compared), *options.notes(lvlm.notice), written]
    )


def _rows(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    rows, folder = Path(arguments.picture), Path(arguments.question)
    questions = read_questions(rows)
    with explained_imports():
        from ..evaluation.comparison import compare_all, describe
        from ..evaluation.measuring import Measurement
        from ..evaluation.methods import METHODS

    out = Path(arguments.out or DEFAULT_LINES)
    over = Measurement(
        questions, folder, out, arguments.model, load, settings, limit=arguments.limit,
        source={"rows": digest_of(rows)}, engine=options.read_engine(arguments),
    )  # fmt: skip
    with options.going_on(out, progress):
        record = compare_all(
            over, progress, methods=arguments.methods or tuple(METHODS), steps=arguments.steps,
            high_resolution=arguments.high_resolution,
        )  # fmt: skip
    lines = [*describe(record["summary"]), f"written to {out}, a line a question"]
    return options.tell(arguments, progress, record, lines)
