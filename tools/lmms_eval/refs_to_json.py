"""refer's refs(unc).p as JSON, which `python -m laser_core aggregate` reads.

    python -m tools.lmms_eval.refs_to_json "refs(unc).p" refs.json

A pickle may name any function to call. These hold lists, dicts, texts and numbers only, so this
reader refuses everything else.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
from pathlib import Path
from typing import NoReturn


class _PlainValues(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"use another file: it would call {module}.{name}, which refs never do")


def read_refs(data: bytes) -> list[dict]:
    """The refs in a pickle of plain values. Raises ValueError for any other."""
    try:
        refs = _PlainValues(io.BytesIO(data), encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, IndexError, KeyError) as error:
        raise ValueError(f"download the file again: it is no whole pickle ({error})") from error
    if not isinstance(refs, list):
        raise ValueError("use refer's refs(...).p: this pickle holds no list")
    return refs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("pickle", type=Path)
    parser.add_argument("json", type=Path)
    options = parser.parse_args()
    refs = read_refs(options.pickle.read_bytes())
    options.json.write_text(json.dumps(refs), "utf-8")
    print(f"{len(refs)} refs written to {options.json}")


if __name__ == "__main__":
    main()
