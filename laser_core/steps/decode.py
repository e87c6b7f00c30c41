"""Step 10, VAT: decode by the difference between the streams with and without the evidence.

Holds the formula; how the streams are read and run is the engine's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from ..engine.generating import generate
from ..engine.reading import ReadStream
from ..engine.token_rows import Watch
from ..models.chat import Stream
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..progress import OnText, Progress
from ..results import Answer
from ..settings import DecodeSettings


def mix_logits(
    positive: torch.Tensor, negative: torch.Tensor | None, alpha: float, beta: float
) -> torch.Tensor:
    """s_t = z+ + alpha (z+ - z-), (..., V) float32, implausible tokens at -inf (Eqs. 10-11).

    Without a second stream nothing is mixed, so nothing is dropped: z+.
    """
    if negative is None:
        return positive
    mixed = positive + alpha * (positive - negative)
    if beta > 0:
        # + ln(beta): the plausibility cut-off p >= beta max p, in logits.
        least = positive.amax(-1, keepdim=True) + math.log(beta)
        mixed = mixed.masked_fill(positive < least, float("-inf"))
    return mixed


@one_at_a_time
@torch.inference_mode()
def decode(
    lvlm: Lvlm,
    positive: Stream | ReadStream,
    negative: Stream | Callable[[], Stream] | None = None,
    settings: DecodeSettings = DecodeSettings(),
    progress: Progress | None = None,
    on_text: OnText | None = None,
    watch: Watch | None = None,
    **generate_options: Any,
) -> Answer:
    """The answer decoded from s_t = z+ + alpha (z+ - z-) (Eqs. 10-11).

    positive, negative: prompts with and without the evidence; positive may have been read before,
    by `read_certainty`; negative may be a function that makes it, called only when it is read.
    Decoding is plain, with no second stream computed, for alpha 0, without a negative stream, and
    where the first token is as sure as settings.adaptive asks. A negative stream with blocked
    tokens must have the positive stream's prompt.
    watch: what `answer_input.make_watch` gives: the answer then says where each token looked. On a
    GPU that takes up to three times as long.
    generate_options: the library's streamer, stopping_criteria and logits_processor. They see the
    positive row and the mixed logits.
    Raises ValueError for other options, and for scores that are not finite.
    """
    other = generate_options.keys() - {"streamer", "stopping_criteria", "logits_processor"}
    if other:
        raise ValueError(f"set {', '.join(sorted(other))} in DecodeSettings, or leave it out")
    mix = partial(mix_logits, alpha=settings.alpha, beta=settings.beta)
    other_stream = negative if settings.alpha > 0 else None
    return generate(
        lvlm, positive, other_stream, mix, settings, progress, on_text, watch, generate_options
    )
