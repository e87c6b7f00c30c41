"""What commands share: options, each declared once, and how a command ends. Knows no command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..console import ProgressLine, printable

if TYPE_CHECKING:
    from ..many.running import Engine

RESUMES = "A run that was stopped goes on: give the same command again."


def add_command(
    commands: Any, name: str, purpose: str, usage: str, *examples: str, remark: str = ""
) -> argparse.ArgumentParser:
    """A command's parser. usage, examples: what follows the command's name."""
    shown = "\n".join(["examples:", *(f"  %(prog)s {example}" for example in examples)])
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=purpose, usage=f"%(prog)s {usage}".rstrip() + " [options]", allow_abbrev=False,
        description="\n\n".join(filter(None, [purpose, remark, shown])),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


def add_picture(parser: argparse.ArgumentParser) -> None:
    """Declare what most commands ask about."""
    parser.add_argument("picture", metavar="PICTURE", help="a picture file")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Declare --model, which is no setting."""
    parser.add_argument(
        "--model", default="demo", metavar="NAME",
        help="demo (bundled), a model folder, a text encoder's file, or a hub id like "
        "owner/name, which is downloaded [default: demo]",
    )  # fmt: skip


def add_result(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """Declare where the result goes: `what` that is."""
    parser.add_argument(
        "--out", default=default, metavar="PATH",
        help=f"where the result goes: {what} [default: {default}]",
    )  # fmt: skip
    add_json(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON and nothing else"
    )


def add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help="ask only the first N questions [default: 0, all]",
    )  # fmt: skip


def add_high_resolution(parser: argparse.ArgumentParser) -> None:
    """Declare the flag, which is no setting."""
    parser.add_argument(
        "--high-resolution", action="store_true",
        help="locate on the picture's parts, read one by one: LLaVA-NeXT's tiles, or else blocks "
        "of about 1,000 pixels",
    )  # fmt: skip


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Declare where the work is done."""
    parser.add_argument(
        "--engine", choices=("embedded", "ray"), default="embedded",
        help="where the work is done; embedded: in this process; ray: by Ray Data, on many GPUs "
        "[default: embedded]",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N",
        help="how many --engine ray starts [default: 0, one for each GPU]",
    )  # fmt: skip
    parser.add_argument(
        "--address", default="", metavar="HOST:PORT",
        help="the running Ray cluster to use [default: this computer]",
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


@contextmanager
def going_on(out: Any, progress: ProgressLine) -> Iterator[None]:
    """Inside, Ctrl-C says how the run goes on."""
    try:
        yield
    except KeyboardInterrupt:
        progress.clear()
        print(printable(f"the same command goes on with {out}"), file=sys.stderr)
        raise


def tell(
    arguments: argparse.Namespace,
    progress: ProgressLine,
    content: Mapping[str, Any],
    lines: Sequence[str],
) -> int:
    """Print the content as JSON, if that was asked for, else the lines; the exit code."""
    from ..files import to_json

    progress.clear()
    said = to_json(dict(content), ascii=True) if arguments.json else printable("\n".join(lines))
    print(said)
    return 0


def notes(notice: str) -> list[str]:
    """What a model says of itself, as a line, if it does."""
    return [f"note: {notice}"] if notice else []
