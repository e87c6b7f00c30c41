"""The command `reproduce`: public benchmarks with the method and its controls, into one JSON file.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import ProgressLine, printable
from ..errors import explained_imports
from ..settings_text import add_flags, add_model, read_flags
from .out_folder import DEFAULT_OUT

TASKS = ("vstar", "textvqa", "pope", "refcoco")
DEFAULT_FILE = f"{DEFAULT_OUT}/reproduced.json"


def add_reproduce(commands: Any) -> None:
    """Declare the command."""
    purpose = "run public benchmarks with the method and its controls, into one JSON file"
    parser = commands.add_parser(
        "reproduce", help=purpose, description=purpose, allow_abbrev=False,
        usage="%(prog)s --model NAME [--suite small|full] [--tasks NAME ...] [--data DIR] "
        "[--download] [--out FILE] [loading settings]",
        epilog="A run that was stopped goes on where it was. Nothing is fetched unasked.",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument(
        "--suite", default="small", metavar="NAME",
        help="small: some hundred questions, evenly spread; full: all [default: small]",
    )  # fmt: skip
    parser.add_argument(
        "--tasks", nargs="+", default=list(TASKS), metavar="NAME",
        help=f"of {' '.join(TASKS)} [default: all]",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, metavar="DIR",
        help="a folder with a folder for each data set, its Parquet files inside [default: the "
        "hub's cache]",
    )  # fmt: skip
    parser.add_argument(
        "--download", action="store_true", help="fetch what is not here, the model too"
    )
    parser.add_argument(
        "--out", type=Path, default=Path(DEFAULT_FILE), metavar="FILE",
        help=f"where the figures go [default: {DEFAULT_FILE}]",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the file's content alone")
    add_flags(parser, ("load",))
    parser.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, _ = read_flags(arguments)
    progress.stage("starting")
    with explained_imports():
        from ..evaluation.reproduce import Reproduction, describe
        from ..files import to_json

    content = Reproduction(
        arguments.model, load, arguments.suite, arguments.tasks, arguments.data, arguments.out,
        arguments.download,
    ).run(progress)  # fmt: skip
    progress.clear()
    if arguments.json:
        print(to_json(content, ascii=True))
        return 0
    print(printable("\n".join(describe(content))))
    print(printable(f"written to {arguments.out}"))
    return 0
