"""A line of results, or why there is none: one bad item stops no run. Knows no figure."""

from __future__ import annotations

from collections.abc import Callable

from accelerate.utils.memory import clear_device_cache

from ..errors import is_for_the_user
from ..many.resumable_lines import Line
from ..models.lvlm import Lvlm
from ..out_of_memory import is_out_of_memory


def line_or_error(lvlm: Lvlm, measure: Callable[[], Line]) -> Line:
    """What `measure` gives, or {"error": why} for what a user can cause and for a full memory."""
    try:
        return measure()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    except ValueError as error:
        if not is_for_the_user(error):
            raise
        return {"error": " ".join(str(error).split())}
    # Only here: the error no longer holds the tensors that filled the memory
    lvlm.release()
    clear_device_cache()
    return {"error": "choose a smaller model or a --quantization: the GPU's memory is full"}
