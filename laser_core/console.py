"""What a terminal shows: progress on stderr, no control characters, libraries kept quiet."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

# C0 except line break and tab, C1, and characters that reverse the writing direction
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text safe for a terminal: control characters are written out, line breaks kept.

    Questions, answers and names come from elsewhere and could otherwise control the terminal.
    """
    text = text.replace("\r\n", "\n")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class ProgressLine:
    """Progress of a run: one rewritten line on a terminal, else a line whenever the stage changes.

    `stage` and `text` are the pipeline's `progress` and `on_text`.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._stage = ""
        self._line = ""
        self._started, self._before = 0.0, 0

    def stage(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Show that `done` of `total` parts of a stage are done."""
        if self._terminal:
            self._rewrite(f"{stage} {done}/{total}" if total else stage)
        elif stage != self._stage:
            print(printable(stage), file=self._stream, flush=True)
        self._stage = stage

    def bar(self, stage: str, done: int, total: int) -> None:
        """Show a bar, rate and time left of a long stage; without a terminal a line every tenth.

        The stage's first call starts the clock.
        """
        if stage != self._stage or not done:
            self._started, self._before = time.monotonic(), done
        left = ""
        if self._before < done < total:
            seconds = (time.monotonic() - self._started) / (done - self._before)
            left = f", {_rate(seconds)}, {_duration(seconds * (total - done))} left"
        if self._terminal:
            width = 20 * done // total
            self._rewrite(f"{stage} [{'#' * width}{'.' * (20 - width)}] {done}/{total}{left}")
        elif done == total or 10 * done // total > 10 * (done - 1) // total:
            print(f"{stage} {done}/{total}{left}", file=self._stream, flush=True)
        self._stage = stage

    def text(self, answer: str) -> None:
        """Show the answer so far; only a terminal does."""
        if self._terminal:
            self._rewrite(f"answering: {answer}")

    def clear(self) -> None:
        """Take the line off the terminal, before something else is printed."""
        if self._terminal and self._line:
            self._rewrite("")

    def _rewrite(self, line: str) -> None:
        line = printable(" ".join(line.split()))
        width = max(shutil.get_terminal_size().columns - 1, 10)
        if len(line) > width:  # the end of an answer is the news
            line = "..." + line[3 - width :]
        print(f"\r\x1b[K{line}", end="", file=self._stream, flush=True)
        self._line = line


def _rate(seconds: float) -> str:
    """How many come where one takes so long: 3.2/s, 12/min."""
    if not seconds:
        return "at once"
    return f"{1 / seconds:.1f}/s" if seconds < 1 else f"{60 / seconds:.1f}/min"


def _duration(seconds: float) -> str:
    """A time in its largest unit: 45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Stopwatch:
    """Seconds since it was made, or since the last lap."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._started = now - self._started, now
        return seconds


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside, transformers and matplotlib print neither warnings nor progress of their own.

    The hub's download progress stays on a terminal. Any exit restores what was before.
    """
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    fonts = logging.getLogger("matplotlib")
    level = fonts.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            transformers_logging.set_verbosity_error()
            transformers_logging.disable_progress_bar()  # and the hub's
            if sys.stderr.isatty():
                enable_progress_bars()
            fonts.setLevel(logging.ERROR)
            yield
        finally:
            fonts.setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            (transformers_logging.enable_progress_bar if bars else disable_progress_bars)()
