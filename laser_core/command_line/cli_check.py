"""The command `check`: how likely each of the given options is as the answer.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..console import ProgressLine, quiet_libraries
from ..errors import explained_imports
from ..settings import ANSWER_GROUPS
from ..settings_text import add_flags, read_flags
from . import options


def add_check(commands: Any) -> None:
    """Declare the command."""
    parser = options.add_command(
        commands, "check", "say how likely each of the given answers is", 'PICTURE "QUESTION"',
        'pictures/scene_picnic.jpg "is there a dog?"',
        'pictures/scene_picnic.jpg "what colour is the car?" --options red blue black',
    )  # fmt: skip
    options.add_picture(parser)
    parser.add_argument("question", metavar="QUESTION", help="what to ask, in quotes")
    parser.add_argument(
        "--options", nargs="+", default=["yes", "no"], metavar="TEXT",
        help="the possible answers, each in quotes [default: yes no]",
    )  # fmt: skip
    options.add_model(parser)
    options.add_json(parser)
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    progress.stage("starting")
    with explained_imports():
        from ..models.loading import load_lvlm
        from ..output.sentences import describe_check
        from ..pictures import read_picture
        from ..recipes.check import check

    picture = read_picture(arguments.picture)
    with quiet_libraries():
        progress.stage("loading the model")
        lvlm = load_lvlm(arguments.model, load)
        checked = check(
            lvlm, picture, arguments.question, arguments.options, settings, progress.stage
        )
    content = {
        "question": checked.question,
        "options": checked.options,
        "probabilities": checked.probabilities,
        "log_likelihoods": checked.log_likelihoods,
        "index": checked.index,
        "looks": [vars(look) for look in checked.looks],
        "believed": checked.believed,
    }
    lines = [describe_check(checked, unsure=False), *options.notes(lvlm.notice)]
    return options.tell(arguments, progress, content, lines)
