"""How sure the model is of an answer's first token, before it answers (`adaptive`).

Reads any stream that answers; knows no rule that goes by what it finds.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..engine.reading import ReadStream, read_stream
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import Progress
from ..results import Location


@one_at_a_time
@torch.inference_mode()
def read_certainty(lvlm: Lvlm, stream: Stream, progress: Progress | None = None) -> ReadStream:
    """The stream's prompt, read once: it has its certainty, and `decode` continues from it.

    Raises ValueError for scores that are not finite.
    """

    def check() -> None:
        if progress:
            progress("reading the picture", 1, 1)

    return read_stream(lvlm, stream, certainty=True, check=check)


def plain_certainty(
    lvlm: Lvlm, plain: Stream, found: Location, progress: Progress | None = None
) -> Stream | ReadStream:
    """The plain stream of what was located, with its certainty.

    Where the prompt that answers is the one that located, nothing is read: the maps know it.
    """
    known = found.maps.certainty if found.maps else None
    locating = lvlm.locating_text(found.question, found.settings.prompt)
    answering = lvlm.answering_text(found.question, found.settings.answer)
    if known is not None and locating == answering:
        return replace(plain, certainty=known)
    if not lvlm.chat.opens_thought(plain.prompt):
        return read_certainty(lvlm, plain, progress)
    # Of a thought, the first word is as sure for any question
    closed = lvlm.answer_prompt(
        plain.prompt.pictures, found.question, found.settings, thought_closed=True
    )
    asked = read_certainty(lvlm, replace(plain, prompt=closed), progress)
    return replace(plain, certainty=asked.certainty)
