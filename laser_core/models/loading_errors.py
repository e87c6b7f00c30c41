"""What a user can do about an error that was raised while a model was loaded.

Looks at the error and at the model's files: only the files can prove that they are damaged. Knows
nothing of how a model is loaded.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import TORCHVISION, first_words
from ..out_of_memory import is_out_of_memory
from .model_files import damaged_file

_ACCELERATOR = re.compile(r"\b(CUDA|cuDNN|NVIDIA|HIP|ROCm|XPU|driver|kernel image)\b", re.I)


def explained(error: Exception, name: str, folder: Path | None) -> ValueError:
    """The error for the user, remedy first, with the library's own words.

    folder: the model's, None where it was not found yet.
    """
    said = first_words(error)
    if is_out_of_memory(error):
        paging = "enlarge the paging file, or " if "1455" in said else ""
        return ValueError(
            f"{paging}choose a smaller model or a quantization: {name} does not fit into the "
            f"memory ({said})"
        )
    try:
        damaged = damaged_file(folder) if folder else None
    except OSError as failure:
        error, said, damaged = failure, first_words(failure), None
    if damaged:  # the file's own format proves it, whatever error the library raised
        remedy = f"download {name} again: its {damaged} is damaged"
    elif isinstance(error, ImportError):
        remedy = f"install what {name} needs, or choose another model"
    elif isinstance(error, (RuntimeError, AssertionError)) and _ACCELERATOR.search(said):
        remedy = (
            "install a PyTorch that fits this GPU and its driver, or set device to cpu "
            f"(--device cpu): {name} cannot be put there"
        )
    elif "torchvision" in said:
        remedy = f"{TORCHVISION}: {name} cannot be loaded"
    elif isinstance(error, OSError) and error.errno:
        remedy = f"check that the disk or network drive of {name} is there and may be read"
    else:
        remedy = f"choose another model, or fix what the library names: {name} cannot be loaded"
    return ValueError(f"{remedy} ({said})")
