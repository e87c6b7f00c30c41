"""Running out of memory, recognised: every device and allocator has its own way to say so."""

from __future__ import annotations

import torch

_WORDS = ("out of memory", "allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """True for memory that ran out: of a GPU (CUDA, ROCm, MPS, XPU) or of the computer."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    # The CPU's allocator, MPS and memory-mapped files have no type of their own
    return isinstance(error, (RuntimeError, OSError)) and any(w in str(error) for w in _WORDS)
