"""The command `aggregate`: its arguments, and what it prints.

torch is imported once the arguments are read and the rows are found to be whole.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from ..console import ProgressLine, printable
from ..errors import explained_imports
from ..evaluation.refcoco import read_items
from ..settings import LOCATE_GROUPS
from ..settings_text import add_flags, add_model, read_flags
from .cli_many import add_engine, read_engine

DEFAULT_OUT = "laser-out/aggregate.jsonl"


def add_aggregate(commands: Any) -> None:
    """Declare the command."""
    purpose = "measure Attention Aggregation over a file of referring expressions and their boxes"
    parser = commands.add_parser(
        "aggregate", help=purpose, description=purpose, allow_abbrev=False,
        usage="%(prog)s ROWS PICTURES [--instances FILE] [--split NAME] [--model NAME] "
        "[--engine ray] [--workers N] [--address HOST:PORT] [--out FILE] [settings]",
        epilog="A run that was stopped goes on where it was.",
    )  # fmt: skip
    parser.add_argument(
        "rows", metavar="ROWS",
        help="a .json or .jsonl file: rows of this project, of lmms-lab/RefCOCO, or refer's refs",
    )  # fmt: skip
    parser.add_argument("pictures", metavar="PICTURES", help="the folder of the pictures")
    parser.add_argument(
        "--instances", type=Path, metavar="FILE", help="refer's instances.json, beside its refs"
    )
    parser.add_argument(
        "--split", default="", metavar="NAME", help="of refer's refs, such as val [default: all]"
    )
    parser.add_argument(
        "--question", default="{}", metavar="TEXT",
        help="how an expression is asked for, with {} in its place [default: {}]",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="the first N items [default: all]"
    )
    add_engine(parser)
    add_model(parser)
    parser.add_argument(
        "--out", default=DEFAULT_OUT, metavar="FILE",
        help=f"where the results go [default: {DEFAULT_OUT}]",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the summary as JSON and nothing else"
    )
    add_flags(parser, LOCATE_GROUPS)
    parser.set_defaults(run=_aggregate)


def _aggregate(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    out, rows, instances = Path(arguments.out), Path(arguments.rows), arguments.instances
    items = read_items(
        rows, instances=instances, split=arguments.split, question=arguments.question
    )
    with explained_imports():
        from ..evaluation.attention_aggregation import Aggregation, describe
        from ..files import to_json

    source = {
        "rows": _digest(rows),
        "instances": _digest(instances) if instances else None,
        "split": arguments.split,
        "question": arguments.question,
    }
    record = Aggregation(
        items, Path(arguments.pictures), out, arguments.model, load, settings,
        limit=arguments.limit, source=source, engine=read_engine(arguments),
    ).run(progress)  # fmt: skip
    progress.clear()
    if arguments.json:
        print(to_json(record, ascii=True))
        return 0
    print(printable("\n".join(describe(record["summary"]))))
    print(printable(f"written to {out}, a line an item"))
    return 0


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
