"""How a run reports its progress: the shape of the calls. Knows no stage and no answer."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total) between forwards; it may raise to interrupt."""


def as_one_stage(progress: Progress | None, stage: str) -> Progress | None:
    """A run's own stages, reported as one stage of a larger run."""
    if progress is None:
        return None
    return lambda _, done, total: progress(stage, done, total)


OnText = Callable[[str], None]
"""Called with the whole answer so far after each token; it may raise to interrupt.

While a model still thinks, the text is THINKING and its thoughts.
"""

THINKING = "(thinking) "
