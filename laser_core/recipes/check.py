"""Check: a question whose possible answers are given, each scored by its whole likelihood.

The options are scored where LASER would answer: after the picture, or the picture and the look that
makes the model surest (step 9). An option's score is the sum of the log-probabilities of its
tokens, as the harness lm-eval's `acc` takes it, and of the end of the answer: lengths are not
normalised, and no option gains by being how another begins. Our addition to the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..engine.likelihood import log_likelihoods
from ..engine.reading import ReadStream, read_stream
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..pictures import to_picture
from ..pipeline import locate
from ..progress import Progress
from ..results import Checked
from ..settings import LaserSettings
from ..steps.answer_input import make_plain_stream, make_positive_stream
from ..steps.attention import ReadAttention, read_attention
from ..steps.certainty import choose_reading
from ..steps.crop import closer_looks

YES_NO = ("yes", "no")


@one_at_a_time
@torch.inference_mode()
def check(
    lvlm: Lvlm,
    picture: Any,
    question: str,
    options: Sequence[str] = YES_NO,
    settings: LaserSettings = LaserSettings(),
    progress: Progress | None = None,
    read: ReadAttention = read_attention,
) -> Checked:
    """How likely each option is as the answer. picture, read: as for `pipeline.locate`.

    An option counts as written and with a capital first letter. Raises ValueError for fewer than
    two options or equal ones, for words outside a closed vocabulary, and as the steps do.
    """
    lvlm.check_answers()
    options = tuple(option.strip() for option in options)
    alike = {option[:1].upper() + option[1:] for option in options}
    if len(alike) < max(len(options), 2) or "" in options:
        quoted = ", ".join(map(repr, options))
        raise ValueError(f"write two or more different options, each by itself: they are {quoted}")
    inputs = lvlm.encode(to_picture(picture), settings.prompt.framing)
    for option in options:
        lvlm.check_words(option, inputs)
    found = locate(lvlm, picture, question, settings, progress, read=read)
    plain = make_plain_stream(lvlm, found.inputs, found.question, found.settings)
    make = partial(make_positive_stream, lvlm)
    choice = choose_reading(lvlm, plain, found, closer_looks(found), make, progress)
    reading = _to_the_end(lvlm, choice.reading, question, settings)
    if progress:
        progress("answering", 0, 1)
    spelled = [_spellings(lvlm, reading, question, option, settings) for option in options]
    scores = iter(log_likelihoods(lvlm, reading, [ids for own in spelled for ids in own]))
    sums = [torch.tensor([next(scores) for _ in own]).double().logsumexp(0) for own in spelled]
    return Checked(question, options, tuple(map(float, sums)), choice.looks, choice.believed)


def _to_the_end(
    lvlm: Lvlm, reading: Stream | ReadStream, question: str, settings: LaserSettings
) -> ReadStream:
    """The reading with keys and values; a thought that its template opens is closed at once."""
    if lvlm.chat.opens_thought(reading.prompt):
        pictures = reading.prompt.pictures
        closed = lvlm.answer_prompt(pictures, question, settings, thought_closed=True)
        return read_stream(lvlm, Stream(closed))
    if isinstance(reading, ReadStream):
        return replace(reading)
    return read_stream(lvlm, reading)


def _spellings(
    lvlm: Lvlm, reading: ReadStream, question: str, option: str, settings: LaserSettings
) -> list[list[int]]:
    """The option's token ids, as written and with a capital first letter, where that differs."""
    text, system = lvlm.answering_text(question, settings.answer), settings.prompt.system
    pictures = len(reading.prompt.pictures)
    found: list[list[int]] = []
    for spelling in (option, option[0].upper() + option[1:]):
        ids = lvlm.chat.answer_ids(pictures, text, spelling, system)
        if ids not in found:
            found.append(ids)
    return found
