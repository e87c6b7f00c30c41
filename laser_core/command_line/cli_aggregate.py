"""The command `aggregate`: its arguments, and what it prints.

torch is imported once the arguments are read and the rows are found to be whole.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..console import ProgressLine
from ..errors import explained_imports
from ..evaluation.refcoco import digest_of, read_items
from ..settings import LOCATE_GROUPS
from ..settings_text import add_flags, read_flags
from . import options
from .out_folder import DEFAULT_OUT


def add_aggregate(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(
        commands, "aggregate",
        "measure Attention Aggregation over a file of referring expressions and their boxes",
        "ROWS PICTURES", "rows.jsonl pictures --limit 200",
        "refs.json train2014 --instances instances.json --split val", remark=options.RESUMES,
    )  # fmt: skip
    parser.add_argument(
        "rows", metavar="ROWS",
        help="a .json or .jsonl file: rows of this project, of lmms-lab/RefCOCO, or refer's refs",
    )  # fmt: skip
    parser.add_argument("pictures", metavar="PICTURES", help="the folder of the pictures")
    parser.add_argument(
        "--instances", type=Path, metavar="FILE", help="refer's instances.json, for refer's refs"
    )
    parser.add_argument(
        "--split", default="", metavar="NAME",
        help="the split of refer's refs to take, such as val [default: all]",
    )  # fmt: skip
    parser.add_argument(
        "--question", default="{}", metavar="TEXT",
        help="how an expression is asked for, with {} in its place [default: {}]",
    )  # fmt: skip
    options.add_limit(parser)
    options.add_engine(parser)
    options.add_model(parser)
    options.add_result(parser, f"{DEFAULT_OUT}/aggregate.jsonl", "a .jsonl file")
    add_flags(parser, LOCATE_GROUPS)
    parser.set_defaults(run=_aggregate)


def _aggregate(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    rows, instances = Path(arguments.rows), arguments.instances
    items = read_items(
        rows, instances=instances, split=arguments.split, question=arguments.question
    )
    with explained_imports():
        from ..evaluation.attention_aggregation import aggregate, describe
        from ..evaluation.measuring import Measurement

    source = {
        "rows": digest_of(rows),
        "instances": digest_of(instances) if instances else None,
        "split": arguments.split,
        "question": arguments.question,
    }
    over = Measurement(
        items, Path(arguments.pictures), Path(arguments.out), arguments.model, load, settings,
        limit=arguments.limit, source=source, engine=options.read_engine(arguments),
    )  # fmt: skip
    with options.going_on(arguments.out, progress):
        record = aggregate(over, progress)
    lines = [*describe(record["summary"]), f"written to {arguments.out}, a line an item"]
    return options.tell(arguments, progress, record, lines)
