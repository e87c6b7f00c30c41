"""Look closer only when unsure, and believe what makes the model surest (`adaptive`, step 9).

Sure: of an answer's first token, before it answers. Reads any stream that answers; knows neither
where windows lie nor how an answer goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..engine.reading import ReadStream, read_stream
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import Progress, as_one_stage
from ..results import Location, Look


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
    return _with_certainty(lvlm, plain, found, progress)


def _with_certainty(
    lvlm: Lvlm, stream: Stream, found: Location, progress: Progress | None
) -> Stream | ReadStream:
    if not lvlm.chat.opens_thought(stream.prompt):
        return read_certainty(lvlm, stream, progress)
    # Of a thought, the first word is as sure for any question
    closed = lvlm.answer_prompt(
        stream.prompt.pictures, found.question, found.settings, thought_closed=True
    )
    asked = read_certainty(lvlm, replace(stream, prompt=closed), progress)
    return replace(stream, certainty=asked.certainty)


@dataclass(frozen=True)
class Choice:
    """What the answer is read from.

    plain: the whole picture alone, with its certainty where that was asked for. looks: what was
    compared, in order; believed: the index of the surest. reading: that one, to be answered from;
    place: its windows, None where it is the plain one.
    """

    plain: Stream | ReadStream
    looks: tuple[Look, ...]
    believed: int
    reading: Stream | ReadStream
    place: Location | None


def choose_reading(
    lvlm: Lvlm,
    plain: Stream,
    found: Location,
    closer: Sequence[Location],
    make: Callable[[Location], Stream],
    progress: Progress | None = None,
) -> Choice:
    """The reading that makes the model surest of its first token, the plain one included.

    closer: the looks, read one by one until a reading is as sure as `adaptive` asks; none where
    nothing was found. make: the stream of one. Of equally sure ones the earlier is taken. With
    `adaptive` 0, evidence from a mask or a window by hand the first look is believed unread.
    """
    enough = found.settings.decode.adaptive
    if not closer:
        return Choice(plain, (Look(()),), 0, plain, None)
    if enough == 0 or found.maps is None or found.by_hand:
        first = closer[0]
        return Choice(plain, (Look(first.windows),), 0, make(first), first)
    known = plain_certainty(lvlm, plain, found, progress)
    surest = sure_of(known)
    choice = Choice(known, (Look((), surest),), 0, known, None)
    for count, place in enumerate(closer, 1):
        if surest >= enough:
            break
        stage = as_one_stage(progress, f"looking closer ({count})")
        read = _with_certainty(lvlm, make(place), found, stage)
        choice = replace(choice, looks=(*choice.looks, Look(place.windows, sure_of(read))))
        if sure_of(read) > surest:
            surest = sure_of(read)
            choice = replace(choice, believed=count, reading=read, place=place)
    return choice


def sure_of(read: Stream | ReadStream) -> float:
    """The certainty of a stream that was read for it."""
    assert read.certainty is not None
    return read.certainty
