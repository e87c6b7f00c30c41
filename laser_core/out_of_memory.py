"""Running out of memory, recognised: every device and allocator has its own way to say so."""

from __future__ import annotations

import errno
import re

import torch

_WORDS = re.compile(
    r"out of memory|allocate memory|not enough memory|ALLOC_FAILED"
    r"|os error (12|1455)\b",  # Rust's words, whatever the system's language: 1455 is Windows'
)
_CODES = {errno.ENOMEM, 1455}  # the second is Windows': the paging file is too small


def is_out_of_memory(error: BaseException) -> bool:
    """True for memory that ran out: of a GPU (CUDA, ROCm, MPS, XPU) or of the computer."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and {error.errno, getattr(error, "winerror", 0)} & _CODES:
        return True
    # The CPU's allocator, MPS and memory-mapped files raise ordinary types; safetensors has one of
    # its own
    own = isinstance(error, (RuntimeError, OSError)) or type(error).__name__ == "SafetensorError"
    return own and _WORDS.search(str(error)) is not None
