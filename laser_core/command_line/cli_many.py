"""The command `many`: its arguments, and what it prints. And where commands run: their engines.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import ProgressLine, printable
from ..errors import explained_imports
from ..settings import ANSWER_GROUPS, LOCATE_GROUPS
from ..settings_text import add_flags, add_model, flags, read_flags

if TYPE_CHECKING:
    from ..many.running import Engine, Results

DEFAULT_OUT = "laser-out/many.jsonl"
SCHEMA, VERSION = "laser-many", 1


def add_many(commands: Any) -> None:
    """Declare the command."""
    purpose = "ask a question about each of many pictures, or locate it there; a row for each"
    parser = commands.add_parser(
        "many", help=purpose, description=purpose, allow_abbrev=False,
        usage='%(prog)s SOURCE ["QUESTION"] [--locate] [--plain] [--crops] [--masks] '
        "[--allow-urls] [--batch N] [--engine ray] [--workers N] [--address HOST:PORT] "
        "[--model NAME] [--out OUT] [--json] [settings]",
        epilog="A run that was stopped goes on where it was.",
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
        "--locate", action="store_true", help="find what the questions are about, no answers"
    )
    parser.add_argument("--plain", action="store_true", help="also the model's answer alone")
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
    add_engine(parser)
    add_model(parser)
    parser.add_argument(
        "--out", default=DEFAULT_OUT, metavar="OUT",
        help=f"a .jsonl file, or a folder for Parquet files [default: {DEFAULT_OUT}]",
    )  # fmt: skip
    parser.add_argument(
        "--json", action="store_true", help="print the run's record as JSON and nothing else"
    )
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_many)


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare where the work is done."""
    parser.add_argument(
        "--engine", choices=("embedded", "ray"), default="embedded",
        help="embedded: in this process; ray: by Ray Data, on many GPUs [default: embedded]",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N",
        help="of --engine ray [default: 0, one for each GPU]",
    )  # fmt: skip
    parser.add_argument(
        "--address", default="", metavar="HOST:PORT",
        help="of a running Ray cluster [default: this computer]",
    )  # fmt: skip


def read_engine(arguments: argparse.Namespace) -> Engine:
    """The engine that was chosen. Raises ValueError, remedy first, where it cannot be had."""
    from ..many.running import embedded

    if arguments.engine == "embedded":
        for name in ("workers", "address"):
            if getattr(arguments, name):
                raise ValueError(f"give --engine ray too, or leave out --{name}")
        return embedded
    from ..many.ray_engine import RayEngine

    return RayEngine(arguments.workers, arguments.address)


def _many(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    _check(arguments)
    out = Path(os.path.abspath(arguments.out))  # "." has no name to put one beside
    with explained_imports():
        from ..files import to_json
        from ..many.laser_map import LaserMap
        from ..many.rows import Files
        from ..many.running import describe, run
        from ..many.sources import Source
        from ..models.catalogue import DEMO_FOLDERS
        from ..models.model_files import read_json

    engine = read_engine(arguments)
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
        "load": {**load.to_dict(), "device": None},  # a run may go on elsewhere
        **{
            name: group for name, group in settings.to_dict().items()
            if name in LOCATE_GROUPS or not arguments.locate
        },
    }  # fmt: skip
    try:
        record = run(
            source, work, _results(out), engine, progress,
            stage="locating" if arguments.locate else "answering",
            schema=SCHEMA, version=VERSION, asked=asked,
        )  # fmt: skip
    except KeyboardInterrupt:
        progress.clear()
        print(printable(f"the same command goes on with {arguments.out}"), file=sys.stderr)
        raise
    progress.clear()
    if arguments.json:
        print(to_json(record, ascii=True))
        return 0
    print(printable("\n".join(describe(record["summary"]))))
    if arguments.model in DEMO_FOLDERS:
        print(f"note: {read_json(DEMO_FOLDERS[arguments.model] / 'laser.json')['notice']}")
    print(printable(f"written to {arguments.out}"))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise ValueError, remedy first, for arguments that contradict each other."""
    if arguments.batch < 0:
        raise ValueError(f"give --batch a number from 0, as the device allows: {arguments.batch}")
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
