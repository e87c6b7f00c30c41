"""The folder a command writes to: only what an earlier run wrote there is replaced or removed.

Knows file names and reports; knows nothing of what the pictures show.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_OUT = "laser-out"
REPORT = "report.json"
_WRITTEN = re.compile(
    r"(overlay|crop(-\d+)?|counterfactual|vaq|found|compare|mask-\d+|heat-\d+)\.png"
    r"|report\.json"
    r"|maps\.(npz|html)"
)


def check_folder(out: Path) -> None:
    """Raise ValueError before the work, not after it, if `out` cannot be written."""
    existing = next(
        folder for folder in (out.absolute(), *out.absolute().parents) if _there(folder)
    )
    if not existing.is_dir():
        raise ValueError(f"choose another --out: {str(existing)!r} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"choose another --out: {str(existing)!r} is not writable")


def check_files(out: Path, asked: Path, names: Sequence[str]) -> None:
    """Raise ValueError if a run that writes `names` would overwrite what no earlier run wrote.

    asked: the picture that is asked about.
    """
    earlier = _earlier_files(out)  # these are removed
    for name in dict.fromkeys([*names, REPORT, *earlier]):
        there = out / name
        if os.path.lexists(there) and (name not in earlier or _same(there, asked)):
            raise ValueError(
                f"choose another --out, or move {str(there)!r} away: the run would overwrite it, "
                "and no earlier run wrote it, or it is the picture you ask about"
            )


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:  # the other is reported when it is opened
        return False


def _there(path: Path) -> bool:
    """As Path.exists, but True for a path below a file: the caller then names that file."""
    try:
        path.stat()
    except NotADirectoryError:
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ValueError(f"choose a shorter --out: {error.strerror}") from error
        return not isinstance(error, FileNotFoundError)
    return True


def write(
    out: Path, files: Mapping[str, Image.Image | bytes | str], report: Mapping[str, Any]
) -> str:
    """Remove an earlier run's files, write these and the report that names them; what to say."""
    from ..files import to_json, write_atomically

    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in _earlier_files(out):
            if name not in (*files, REPORT):
                (out / name).unlink(missing_ok=True)
        for name, data in files.items():
            write_atomically(out / name, data)
        write_atomically(out / REPORT, to_json(dict(report)) + "\n")
    except OSError as error:
        raise ValueError(
            f"choose another --out, or make room: {str(out)!r} cannot be written "
            f"({error.strerror or error})"
        ) from error
    return f"written to {out}{os.sep}: {', '.join([*files, REPORT])}"


def _earlier_files(out: Path) -> list[str]:
    """Files that the report in `out` says are its own: only those may be replaced or removed."""
    from ..output.found import FOUND_SCHEMA
    from ..output.method_sheet import COMPARED_SCHEMA
    from ..output.report import SCHEMA

    try:
        earlier = json.loads((out / REPORT).read_text("utf-8"))
        if earlier["schema"] not in (SCHEMA, FOUND_SCHEMA, COMPARED_SCHEMA):
            return []
        return [name for name in earlier["files"] if _WRITTEN.fullmatch(name)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # not a report of ours
