"""The command `reproduce`: public benchmarks with the method and its controls, into one JSON file.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import ProgressLine
from ..errors import explained_imports
from ..settings_text import add_flags, read_flags
from . import options
from .out_folder import DEFAULT_OUT

TASKS = ("vstar", "textvqa", "pope", "refcoco")


def add_reproduce(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(
        commands, "reproduce",
        "run public benchmarks with the method and its controls, into one JSON file",
        "--model NAME", "--model llava-hf/llava-1.5-7b-hf --download",
        "--model models/llava-1.5-7b-hf --data data --tasks pope --suite full",
        remark=f"{options.RESUMES} Nothing is fetched without --download.",
    )  # fmt: skip
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
    options.add_model(parser)
    options.add_result(parser, f"{DEFAULT_OUT}/reproduced.json", "a .json file")
    add_flags(parser, ("load",))
    parser.set_defaults(run=_reproduce)


def _reproduce(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, _ = read_flags(arguments)
    progress.stage("starting")
    with explained_imports():
        from ..evaluation.reproduce import Reproduction, describe

    wanted = Reproduction(
        arguments.model, load, arguments.suite, arguments.tasks, arguments.data,
        Path(arguments.out), arguments.download,
    )  # fmt: skip
    with options.going_on(arguments.out, progress):
        content = wanted.run(progress)
    lines = [*describe(content), f"written to {arguments.out}"]
    return options.tell(arguments, progress, content, lines)
