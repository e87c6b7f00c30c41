"""How a run tells what it is doing. Knows no stage and no answer: only the shape of the calls."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total) between forwards; it may raise to interrupt."""

OnText = Callable[[str], None]
"""Called with the whole answer so far after each token; it may raise to interrupt."""
