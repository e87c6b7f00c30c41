"""A line of results, or why there is none: one bad item stops no run. Knows no figure."""

from __future__ import annotations

from collections.abc import Callable

from ..many.laser_map import failure_of
from ..many.resumable_lines import Line
from ..models.lvlm import Lvlm


def line_or_error(lvlm: Lvlm, measure: Callable[[], Line]) -> Line:
    """What `measure` gives, or {"error": why} for what a user can cause and for a full memory."""
    try:
        return measure()
    except Exception as error:
        failed = error
    # Not while it is handled: Python 3.10 then holds the tensors that filled the memory
    lvlm.release()
    try:
        return {"error": failure_of(failed)}
    finally:
        del failed  # its traceback holds this frame
