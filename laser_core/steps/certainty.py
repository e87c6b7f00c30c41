"""Look closer only when unsure, and believe what makes the model surest (`adaptive`, step 9).

Sure: of an answer's first token, before it answers. Reads any stream that answers; knows neither
where windows lie nor how an answer goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from ..engine.padded import read_streams
from ..engine.reading import ReadStream
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
            progress("reading the picture", 0, 1)

    [read] = read_streams(lvlm, [stream], certainty=True, check=check)
    return read


def plain_certainty(
    lvlm: Lvlm, plain: Stream, found: Location, progress: Progress | None = None
) -> Stream | ReadStream:
    """The plain stream of what was located, with its certainty.

    Where the prompt that answers is the one that located, nothing is read: the maps know it.
    """
    known = found.maps.certainty if found.maps else None
    locating = lvlm.locating_text(found.look_for or found.question, found.settings.prompt)
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
    closer: Iterator[Location],
    make: Callable[[Location], Stream],
    progress: Progress | None = None,
) -> Choice:
    """The reading that makes the model surest of its first token, the plain one included.

    closer: the looks, placed and read one by one until a reading is as sure as `adaptive` asks;
    none where nothing was found. make: the stream of one. Of equally sure ones the earlier is
    taken. With `adaptive` 0, evidence from a mask or a window by hand the first look is believed
    unread. A plain prompt that leaves no room for the answer is not believed.
    """
    decoding, first = found.settings.decode, next(closer, None)
    if first is None:
        return Choice(plain, (Look(()),), 0, plain, None)
    if decoding.adaptive == 0 or found.maps is None or found.by_hand:
        return Choice(plain, (Look(first.windows),), 0, make(first), first)
    fits = plain.prompt.length + decoding.max_tokens <= lvlm.context_length
    known = plain_certainty(lvlm, plain, found, progress) if fits else replace(plain, certainty=0.0)
    surest = sure_of(known)
    place: Location | None = first
    choice = Choice(known, (Look((), surest),), 0, known, None)
    while surest < decoding.adaptive and place is not None:
        read = _with_certainty(lvlm, make(place), found, as_one_stage(progress, "looking closer"))
        choice = replace(choice, looks=(*choice.looks, Look(place.windows, sure_of(read))))
        if sure_of(read) > surest:
            surest, believed = sure_of(read), len(choice.looks) - 1
            choice = replace(choice, believed=believed, reading=read, place=place)
        place = next(closer, None) if surest < decoding.adaptive else None
    return choice


def sure_of(read: Stream | ReadStream) -> float:
    """The certainty of a stream that was read for it."""
    assert read.certainty is not None
    return read.certainty
