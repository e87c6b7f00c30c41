"""The command `compare`: methods side by side, on one picture or over a data set.

torch is imported once the arguments are read and the rows are found to be whole.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

from ..console import ProgressLine, printable, quiet_libraries
from ..errors import explained_imports
from ..evaluation.compared_settings import NOT_CARRIED_OUT
from ..evaluation.questions import read_box, read_questions
from ..settings import ANSWER_GROUPS
from ..settings_text import add_flags, add_model, flags, read_flags
from .out_folder import DEFAULT_OUT, REPORT, check_files, check_folder, write

DEFAULT_LINES = f"{DEFAULT_OUT}/compare.jsonl"
SHEET = "compare.png"
ROWS = (".json", ".jsonl")


def add_high_resolution(parser: argparse.ArgumentParser) -> None:
    """Declare the flag, which is no setting."""
    parser.add_argument(
        "--high-resolution", action="store_true",
        help="locate on the picture's parts, read one by one: LLaVA-NeXT's tiles, or else blocks "
        "of about 1,000 pixels",
    )  # fmt: skip


def add_compare(commands: Any) -> None:
    """Declare the command."""
    purpose = "compare methods on a picture, or over a file of questions"
    parser = commands.add_parser(
        "compare", help=purpose, description=purpose, allow_abbrev=False,
        usage='%(prog)s PICTURE "QUESTION" | ROWS PICTURES [--methods NAME ...] '
        "[--box X1 Y1 X2 Y2] [--answer TEXT] [--steps N] [--high-resolution] [--limit N] "
        "[--model NAME] [--out PATH] [settings]",
        epilog="A run over a file that was stopped goes on where it was.",
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
        help="laser vicrop carve max raw random centre whole [default: all]; the first is what the "
        "others are compared with",
    )  # fmt: skip
    parser.add_argument(
        "--box", type=float, nargs=4, action="append", default=[], metavar="N",
        help="of a picture: x1 y1 x2 y2 of what is asked about; may be given several times",
    )  # fmt: skip
    parser.add_argument("--answer", metavar="TEXT", help="of a picture: the right answer")
    parser.add_argument(
        "--steps", type=int, default=8, metavar="N",
        help="parts in which a map's patches go and come, for insertion and deletion; 0: neither "
        "[default: 8]",
    )  # fmt: skip
    add_high_resolution(parser)
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="the first N rows [default: all]"
    )
    add_model(parser)
    parser.add_argument(
        "--out", metavar="PATH",
        help=f"a folder for the sheet and report.json [default: {DEFAULT_OUT}]; of rows a .jsonl "
        f"file [default: {DEFAULT_LINES}]",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON, nothing else"
    )
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    if arguments.steps and not 2 <= arguments.steps <= 100:  # both ends alone tell nothing
        raise ValueError(f"give --steps 0, or a number from 2 to 100: it is {arguments.steps}")
    for flag in flags(ANSWER_GROUPS):
        if flag.spec.name in NOT_CARRIED_OUT and flag.destination in vars(arguments):
            raise ValueError(
                f"leave out {flag.name}: every method's first window is read once, without a "
                "second stream"
            )
    if Path(arguments.picture).suffix.lower() in ROWS:
        return _rows(arguments, progress)
    return _picture(arguments, progress)


def _picture(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    if arguments.limit:
        raise ValueError("leave out --limit: it is of a file of rows, and this is a picture")
    try:
        boxes = [read_box(values) for values in arguments.box]
    except ValueError as error:
        raise ValueError(f"correct --box: {error}") from error
    out = Path(arguments.out or DEFAULT_OUT)
    check_folder(out)
    progress.stage("starting")
    with explained_imports():
        from ..evaluation.compare import check_methods, compare, lines_of, report_of, sheet_of
        from ..evaluation.methods import METHODS
        from ..files import to_json
        from ..models.loading import load_lvlm
        from ..pictures import read_picture

    methods = arguments.methods or list(METHODS)
    check_methods(methods)
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
    write(out, {SHEET: sheet}, to_json(content))
    progress.clear()
    if arguments.json:
        print(to_json(content, ascii=True))
        return 0
    print(printable("\n".join(lines_of(compared))))
    if lvlm.notice:
        print(printable(f"note: {lvlm.notice}"))
    print(printable(f"written to {out}{os.sep}: {SHEET}, {REPORT}"))
    return 0


def _rows(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    if arguments.box or arguments.answer:
        raise ValueError("leave out --box and --answer: a file of rows has its own")
    rows, folder = Path(arguments.picture), Path(arguments.question)
    questions = read_questions(rows)
    with explained_imports():
        from ..evaluation.comparison import Comparison, describe
        from ..evaluation.methods import METHODS
        from ..files import to_json

    out = Path(arguments.out or DEFAULT_LINES)
    record = Comparison(
        questions, folder, out, arguments.model, load, settings,
        methods=arguments.methods or tuple(METHODS), steps=arguments.steps,
        high_resolution=arguments.high_resolution, limit=arguments.limit,
        source={"rows": hashlib.sha256(rows.read_bytes()).hexdigest()},
    ).run(progress)  # fmt: skip
    progress.clear()
    if arguments.json:
        print(to_json(record, ascii=True))
        return 0
    print(printable("\n".join(describe(record["summary"]))))
    print(printable(f"written to {out}, a line a question"))
    return 0
