"""The command line: ask a model about a picture, locate the evidence, measure many, list models.

    python -m laser_core ask PICTURE "QUESTION" [--model demo] [--out laser-out] [--json]

Exit codes: 0 for success; 2, with one line on stderr, for what the user can fix; 130 after Ctrl-C.
Anything else is a bug and shows its traceback. torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
import difflib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .. import __version__
from ..console import ProgressLine, Stopwatch, printable, quiet_libraries
from ..errors import explained_imports, is_for_the_user
from ..settings import ANSWER_GROUPS, LOCATE_GROUPS, removal
from ..settings_text import add_flags, flag_name, flags, read_flags
from . import options
from .cli_aggregate import add_aggregate
from .cli_check import add_check
from .cli_compare import add_compare
from .cli_find import add_find_options, finds, run_find
from .cli_many import add_many
from .cli_reproduce import add_reproduce
from .out_folder import DEFAULT_OUT, REPORT, check_files, check_folder, write

if TYPE_CHECKING:
    from PIL import Image

    from ..models.catalogue import ListedModel
    from ..results import LaserAnswer, Location


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code. Only --help and --version leave by SystemExit."""
    progress = ProgressLine()
    for stream in (sys.stdout, sys.stderr):  # an answer may have letters the terminal lacks
        if isinstance(stream, io.TextIOWrapper):  # whoever calls `main` may have put another there
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
        code = arguments.run(arguments, progress)
        sys.stdout.flush()  # here, where a closed pipe is expected
        return code
    except KeyboardInterrupt:
        progress.clear()
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        progress.clear()
        remedy = _remedy(error)
        if remedy is None:
            raise
        print(printable(" ".join(remedy.split())), file=sys.stderr)
        return 2


def _remedy(error: Exception) -> str | None:
    """What the user can do about it; None for a bug."""
    if is_for_the_user(error):
        return str(error)
    from ..out_of_memory import is_out_of_memory

    if is_out_of_memory(error):
        return (
            "choose a smaller model or picture, a --quantization, fewer --max-visual-tokens or "
            "--device cpu: the memory is full"
        )
    return None


# ---- commands ----------------------------------------------------------------------------------


def _ask(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    return _run(arguments, progress, answering=True)


def _locate(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    if finds(arguments):
        if arguments.high_resolution:
            raise ValueError("leave out --high-resolution: phrases are looked at closer as it is")
        return run_find(arguments, progress)
    [arguments.question] = arguments.phrases
    return _run(arguments, progress, answering=False)


def _run(arguments: argparse.Namespace, progress: ProgressLine, answering: bool) -> int:
    load, settings = read_flags(arguments)
    if not arguments.question.strip():
        raise ValueError("write what to look for: the question is empty")
    out = Path(arguments.out)
    check_folder(out)
    progress.stage("starting")
    with explained_imports():
        from ..models.loading import load_lvlm
        from ..output.report import report, summary
        from ..pictures import read_picture
        from ..pipeline import answer, locate
        from ..recipes.high_resolution import read_finely
        from ..steps.attention import read_attention

    check_files(out, Path(arguments.picture), _names(settings.crop.windows, arguments.maps))
    picture = read_picture(arguments.picture)
    with quiet_libraries():
        watch = Stopwatch()
        progress.stage("loading the model")
        lvlm = load_lvlm(arguments.model, load)
        seconds = {"loading": watch.lap()}
        result: LaserAnswer | Location
        if answering:
            result = answer(
                lvlm, picture, arguments.question, settings,
                with_plain=True, token_maps=arguments.maps, look_for=arguments.look_for,
                progress=progress.stage, on_text=progress.text,
            )  # fmt: skip
        else:
            read = read_finely(picture) if arguments.high_resolution else read_attention
            result = locate(lvlm, picture, arguments.question, settings, progress.stage, read=read)
        seconds["method"] = watch.lap()
        progress.stage("drawing")
        files: dict[str, Image.Image | bytes | str] = {**_pictures(result)}
        if arguments.maps:
            files |= _maps(result, lvlm.name)
        seconds["drawing"] = watch.lap()
    content = report(result, lvlm, load=load, files=[*files, REPORT])
    written = write(out, files, content)
    times = ", ".join(f"{stage} {taken:.1f} s" for stage, taken in seconds.items())
    return options.tell(arguments, progress, content, [*summary(content), times, written])


def _models(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    with explained_imports():
        from ..models import catalogue
        from ..models.families import FAMILIES

    for folder in arguments.folder:
        if not Path(folder).is_dir():
            raise ValueError(f"choose an existing folder: there is no folder {folder!r}")
    given = [(Path(folder).as_posix(), Path(folder)) for folder in arguments.folder]
    roots = [*catalogue.own_roots(), *given]
    print("bundled")
    for name, model in catalogue.demo_models().items():
        print(f"  {name:<11}{model.size if model else 'missing: reinstall the package'}")
    print("\nsupported model types")
    for model_type, family in FAMILIES.items():
        print(f"  {model_type:<13}{family.name:<15}{catalogue.describe(family)}")
    for root in roots:
        _print_models(f"in {root[1]}", catalogue.in_folders([root]))
    _print_models("in the Hugging Face cache", catalogue.in_hub_cache())
    absent = [model for model in catalogue.listed(roots) if model.path is None]
    _print_models("downloaded on first use", absent)
    return 0


def _print_models(title: str, models: Sequence[ListedModel]) -> None:
    print(printable(f"\n{title}"))
    widths = [
        max((len(text) for text in texts), default=0)
        for texts in ([model.value for model in models], [model.description for model in models])
    ]
    for model in models:
        remark = f"{model.size} {model.precision}"
        if model.missing:
            remark = f"incomplete: it lacks {model.missing[0]}"
        what = f"{model.value:<{widths[0]}}  {model.description:<{widths[1]}}"
        print(printable(f"  {what}  {remark}".rstrip()))
    if not models:
        print("  none")


# ---- files -------------------------------------------------------------------------------------


def _names(windows: int, maps: bool) -> list[str]:
    """What a run may write."""
    names = [f"crop-{index}.png" for index in range(2, windows + 1)]
    names += ["maps.npz", "maps.html"] * maps
    return ["overlay.png", "crop.png", "counterfactual.png", "vaq.png", *names]


def _pictures(result: LaserAnswer | Location) -> dict[str, Image.Image]:
    """The pictures of a run by file name."""
    from ..output.drawing import overlay, vaq_chart
    from ..results import LaserAnswer

    location = result.location if isinstance(result, LaserAnswer) else result
    choice = location.evidence.choice
    assert choice is not None  # no command takes a mask as the evidence
    pictures = {"overlay.png": overlay(location)}
    if not location.evidence.degenerate:
        for index, window in enumerate(location.windows, 1):
            name = "crop.png" if index == 1 else f"crop-{index}.png"
            pictures[name] = location.picture.crop(window)
    blocked = result.counterfactual if isinstance(result, LaserAnswer) else None
    if blocked and blocked.picture:
        pictures["counterfactual.png"] = blocked.picture
    pictures["vaq.png"] = vaq_chart(choice)
    return pictures


def _maps(result: LaserAnswer | Location, model: str) -> dict[str, bytes | str]:
    """All attention maps by file name: for programs, and for people."""
    from ..output.maps_file import maps_bytes
    from ..output.maps_page import maps_page

    return {"maps.npz": maps_bytes(result, model), "maps.html": maps_page(result, model)}


# ---- arguments ---------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Refuses with a ValueError of one line, instead of the usage text."""

    def parse_known_args(self, *args: Any, **options: Any) -> Any:  # a command's own, in its name
        known, unknown = super().parse_known_args(*args, **options)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        number = re.fullmatch(r"argument (--\S+): invalid (int|float) value: (.*)", message)
        if number:
            kind = "a whole number" if number[2] == "int" else "a number"
            raise ValueError(f"give {number[1]} {kind}: it is {number[3]}")
        unknown = message.partition("unrecognized arguments: ")[2].split()
        own = set(self._option_string_actions)
        for word in (word.partition("=")[0] for word in unknown if word.startswith("--")):
            removed = removal(word[2:].replace("-", "_"), flag_name)
            if removed and own & {flag.name for flag in flags()}:
                raise ValueError(removed)
            if removed or word in _every_option():
                raise ValueError(f"leave out {word}: `{self.prog}` does not take it")
            alike = difflib.get_close_matches(word, sorted(own), n=1)
            if alike:
                raise ValueError(f"did you mean {alike[0]}? There is no {word}")
        raise ValueError(f"see `{self.prog} --help`: {message}")


def _every_option() -> set[str]:
    """Those of all commands."""
    parser: Any = _parser()
    [commands] = parser._subparsers._group_actions
    return {name for one in commands.choices.values() for name in one._option_string_actions}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m laser_core",
        description="Training-free visual grounding for vision-language models "
        "(LASER, arXiv 2602.04304): find what a question is about, look there, answer.",
        epilog='Begin with: %(prog)s ask PICTURE "QUESTION". %(prog)s COMMAND --help says more.',
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    _add_ask(commands)
    _add_locate(commands)
    add_check(commands)
    add_many(commands)
    add_aggregate(commands)
    add_compare(commands)
    add_reproduce(commands)
    models = options.add_command(
        commands, "models", "list the models at hand and the supported types", "",
        "--folder ~/models",
    )  # fmt: skip
    models.add_argument(
        "--folder", action="append", default=[], metavar="DIR",
        help="list the model folders in this folder as well; may be given several times",
    )  # fmt: skip
    models.set_defaults(run=_models)
    return parser


def _add_ask(commands: Any) -> None:
    parser = options.add_command(
        commands, "ask", "answer a question about a picture", 'PICTURE "QUESTION"',
        'pictures/scene_picnic.jpg "what number is on the bee?"',
        'photo.jpg "what does the sign say?" --model Qwen/Qwen2.5-VL-3B-Instruct',
    )  # fmt: skip
    options.add_picture(parser)
    parser.add_argument("question", metavar="QUESTION", help="what to ask, in quotes")
    parser.add_argument(
        "--look-for", default="", metavar="TEXT",
        help="what locates in place of the question, which is still the one that is answered",
    )  # fmt: skip
    _add_run(parser)
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_ask)


def _add_locate(commands: Any) -> None:
    parser = options.add_command(
        commands, "locate", "find what a question or phrases are about, without an answer",
        'PICTURE "QUESTION" | PICTURE "PHRASE" "PHRASE" ...',
        'pictures/scene_picnic.jpg "what number is on the bee?"',
        'pictures/scene_picnic.jpg dog "red ball" --masks',
    )  # fmt: skip
    options.add_picture(parser)
    parser.add_argument(
        "phrases", metavar="PHRASE", nargs="+",
        help="one question, for its window and maps; or what to find, each in quotes",
    )  # fmt: skip
    add_find_options(parser)
    options.add_high_resolution(parser)
    _add_run(parser)
    add_flags(parser, (*LOCATE_GROUPS, "find"))
    parser.set_defaults(run=_locate)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--maps", action="store_true",
        help="also write the attention of every layer and head, and that of each token of the "
        "answer: maps.npz, and maps.html to look at",
    )  # fmt: skip
    options.add_model(parser)
    options.add_result(parser, DEFAULT_OUT, "a folder")
