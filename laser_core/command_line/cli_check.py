"""The command `check`: how likely each of the given options is as the answer.

torch is imported once the arguments are read.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..console import ProgressLine, printable, quiet_libraries
from ..errors import explained_imports
from ..settings import ANSWER_GROUPS
from ..settings_text import add_flags, add_model, read_flags


def add_check(commands: Any) -> None:
    """Declare the command."""
    purpose = "how likely each of the given options is as the answer"
    parser = commands.add_parser(
        "check", help=purpose, description=purpose, allow_abbrev=False,
        usage='%(prog)s PICTURE "QUESTION" [--options TEXT ...] [--model NAME] [--json] [settings]',
    )  # fmt: skip
    parser.add_argument("picture", metavar="PICTURE", help="a picture file")
    parser.add_argument("question", metavar="QUESTION", help="what to ask, in quotes")
    parser.add_argument(
        "--options", nargs="+", default=["yes", "no"], metavar="TEXT",
        help="the possible answers, each in quotes [default: yes no]",
    )  # fmt: skip
    add_model(parser)
    parser.add_argument(
        "--json", action="store_true", help="print the result as JSON and nothing else"
    )
    add_flags(parser, ANSWER_GROUPS)
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace, progress: ProgressLine) -> int:
    load, settings = read_flags(arguments)
    progress.stage("starting")
    with explained_imports():
        from ..files import to_json
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
    progress.clear()
    if arguments.json:
        content = {
            "question": checked.question,
            "options": checked.options,
            "probabilities": checked.probabilities,
            "log_likelihoods": checked.log_likelihoods,
            "index": checked.index,
            "looks": [vars(look) for look in checked.looks],
            "believed": checked.believed,
        }
        print(to_json(content, ascii=True))
        return 0
    print(printable(describe_check(checked, unsure=False)))
    if lvlm.notice:
        print(printable(f"note: {lvlm.notice}"))
    return 0
