"""Plain JSON values, and files written completely or not at all. Knows nothing of their content."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image


def to_plain(value: Any) -> Any:
    """`value` as JSON has it: dict, list, str, int, float, bool, None.

    Tensors, arrays and tuples become lists; dataclasses become dicts. Floats keep the 7
    significant digits that float32 holds; NaN and infinity become None. Raises TypeError for
    what has no plain form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):  # half characters, as from a broken file name, are no UTF-8
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.7g}") if math.isfinite(value) else None
    if isinstance(value, (torch.Tensor, np.ndarray, np.bool_)):
        return to_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"no plain form of {type(value).__name__}")


def to_json(content: dict[str, Any], ascii: bool = False) -> str:
    """A report as JSON text, indented, with lists of numbers on one line.

    ascii: other characters are escaped, for a terminal or pipe of any encoding.
    """
    text = json.dumps(content, indent=2, ensure_ascii=ascii, allow_nan=False)
    # A line break right after "[" is layout: inside strings JSON escapes it
    return re.sub(
        r"\[\n\s+[-\d][-+.,\de\s]*\]",
        lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
        text,
    )


def write_atomically(path: str | os.PathLike, data: bytes | str | Image.Image) -> None:
    """Write a file completely or not at all.

    Text is written as UTF-8, a picture in the format of the path's suffix.
    """
    with replacing(path) as file:
        if isinstance(data, Image.Image):
            suffix = Path(path).suffix.lower()
            data.save(file, format=Image.registered_extensions()[suffix])
        else:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Inside, a hidden file in the same folder, which then takes the place of `path`.

    On any error or interrupt that file is removed, and an older `path` stays as it was.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name without content
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
