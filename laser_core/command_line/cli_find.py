"""The command `locate` with phrases: masks, boxes and points of each, written and printed.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..console import ProgressLine, quiet_libraries
from ..errors import explained_imports
from ..settings_text import flags, read_find_flags, read_flags
from . import options
from .out_folder import REPORT, check_files, check_folder, write


def add_find_options(parser: argparse.ArgumentParser) -> None:
    """Declare what only finding takes."""
    parser.add_argument(
        "--masks", action="store_true", help="write each phrase's mask and heat map as pictures"
    )
    parser.add_argument(
        "--points", action="store_true", help="print points on and off each thing, as JSON"
    )


def finds(arguments: argparse.Namespace) -> bool:
    """Whether phrases are to be found, and not one question's window."""
    chosen = any(flag.destination in vars(arguments) for flag in flags(["find"]))
    return len(arguments.phrases) > 1 or arguments.masks or arguments.points or chosen


def run_find(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    (load, settings), finding = read_flags(arguments), read_find_flags(arguments)
    out = Path(arguments.out)
    check_folder(out)
    progress.stage("starting")
    with explained_imports():
        from ..models.loading import load_lvlm
        from ..output.found import found_drawing, found_report
        from ..output.masks import points_json
        from ..output.sentences import describe_finding
        from ..pictures import read_picture, to_picture
        from ..recipes.find import find

    numbers = range(1, 1 + len(arguments.phrases)) if arguments.masks else ()
    masks = [f"{name}-{number}.png" for number in numbers for name in ("mask", "heat")]
    check_files(out, Path(arguments.picture), ["found.png", *masks])
    picture = read_picture(arguments.picture)
    with quiet_libraries():
        progress.stage("loading the model")
        lvlm = load_lvlm(arguments.model, load)
        things = find(lvlm, picture, arguments.phrases, settings, finding, progress.stage)
        progress.stage("drawing")
        pictures = {"found.png": found_drawing(picture, things)}
    maps = [map_[..., None] for one in things for map_ in (one.mask.float(), one.heat)]
    for name, map_ in zip(masks, maps if masks else (), strict=True):
        pictures[name] = to_picture(map_).convert("L")
    content = found_report(
        things, model=lvlm.name, notice=lvlm.notice, preset=settings.preset,
        finding=finding.to_dict(), files=[*pictures, REPORT],
    )  # fmt: skip
    written, lines = write(out, pictures, content), []
    for one in things:
        lines.append(describe_finding(one))
        if arguments.points:
            lines.append(f"  on it: {points_json(one.points)}")
            lines.append(f"  off it: {points_json(one.negative_points)}")
    return options.tell(
        arguments, progress, content, [*lines, *options.notes(lvlm.notice), written]
    )
