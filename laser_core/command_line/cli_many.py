"""The command `many`: its arguments, and what it prints.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import ProgressLine
from ..errors import explained_imports
from ..settings import ANSWER_GROUPS, LOCATE_GROUPS
from ..settings_text import add_flags, flags, read_flags
from . import options
from .out_folder import DEFAULT_OUT

if TYPE_CHECKING:
    from ..many.running import Results

SCHEMA, VERSION = "laser-many", 1


def add_many(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(
        commands, "many", "ask a question about each of many pictures, or locate it there",
        'SOURCE ["QUESTION"]', '"pictures/scene_*.jpg" "is there a dog?"',
        'rows.jsonl "what is the {colour} thing?" --locate --crops', remark=options.RESUMES,
    )  # fmt: skip
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a folder, a glob, or a .jsonl or .parquet file with the columns image, and maybe id "
        "and question",
    )  # fmt: skip
    parser.add_argument(
        "question", metavar="QUESTION", nargs="?", default="",
        help='the question, with columns in braces: "what is the {colour} thing?" '
        "[default: the column question]",
    )  # fmt: skip
    parser.add_argument(
        "--locate", action="store_true", help="locate what the questions are about, and answer none"
    )
    parser.add_argument("--plain", action="store_true", help="also write the model's answer alone")
    parser.add_argument("--crops", action="store_true", help="write the windows as pictures")
    parser.add_argument(
        "--masks", action="store_true", help="write each mask and heat map as pictures"
    )
    parser.add_argument(
        "--allow-urls", action="store_true", help="download pictures that are named by a URL"
    )
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N",
        help="pictures that are read at once [default: 0, as the device allows]",
    )  # fmt: skip
    options.add_engine(parser)
    options.add_model(parser)
    options.add_result(
        parser, f"{DEFAULT_OUT}/many.jsonl", "a .jsonl file, or a folder for Parquet files"
    )
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_many)


def _many(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    _check(arguments)
    out = Path(os.path.abspath(arguments.out))  # "." has no name to put one beside
    with explained_imports():
        from ..many.laser_map import LaserMap
        from ..many.rows import Files
        from ..many.running import describe, run, same_load
        from ..many.sources import Source
        from ..models.catalogue import DEMO_FOLDERS
        from ..models.model_files import read_json

    engine = options.read_engine(arguments)
    source = Source(arguments.source, arguments.question)
    files, written = None, [out]
    if arguments.crops or arguments.masks:
        files = Files(out.with_name(f"{out.name}-files"), arguments.crops, arguments.masks)
        written.append(files.folder / "000000" / "000000000-crop-1.png")
    if any(map(source.reads, written)):
        raise ValueError("choose an --out outside of SOURCE: what is written would be read, too")
    work = LaserMap(
        arguments.question, settings, model=arguments.model, load=load,
        locating=arguments.locate, with_plain=arguments.plain, batch=arguments.batch,
        allow_urls=arguments.allow_urls, files=files,
    )  # fmt: skip
    asked = {
        "question": arguments.question, "model": arguments.model,
        **{name: getattr(arguments, name) for name in ("locate", "plain", "crops", "masks")},
        "load": same_load(load),
        **{
            name: group for name, group in settings.to_dict().items()
            if name in LOCATE_GROUPS or not arguments.locate
        },
    }  # fmt: skip
    with options.going_on(arguments.out, progress):
        record = run(
            source, work, _results(out), engine, progress,
            stage="locating" if arguments.locate else "answering",
            schema=SCHEMA, version=VERSION, asked=asked,
        )  # fmt: skip
    demo = DEMO_FOLDERS.get(arguments.model)
    said = options.notes(read_json(demo / "laser.json")["notice"] if demo else "")
    lines = [*describe(record["summary"]), *said, f"written to {arguments.out}"]
    return options.tell(arguments, progress, record, lines)


def _check(arguments: argparse.Namespace) -> None:
    """Raise ValueError, remedy first, for arguments that contradict each other."""
    if arguments.batch < 0:
        raise ValueError(
            f"give --batch a number from 0, as the device allows: it is {arguments.batch}"
        )
    if not arguments.locate:
        return
    given = ["--plain"] if arguments.plain else []
    answering = [group for group in ANSWER_GROUPS if group not in LOCATE_GROUPS]
    given += [flag.name for flag in flags(answering) if flag.destination in vars(arguments)]
    if given:
        raise ValueError(f"leave out {given[0]}, or --locate: nothing is answered")


def _results(out: Path) -> Results:
    from ..many.parquet_folder import ParquetFolder
    from ..many.resumable_lines import ResultLines
    from ..many.rows import COLUMNS

    if out.suffix == ".jsonl":
        return ResultLines(out)
    if out.is_file() or (out.suffix and not out.is_dir()):
        raise ValueError(
            f"choose an --out that ends in .jsonl, or a folder for Parquet files: it is "
            f"{str(out)!r}"
        )
    return ParquetFolder(out, COLUMNS)
