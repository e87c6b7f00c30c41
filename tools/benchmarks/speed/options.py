"""Options that the speed and the memory benchmark share, and the file they write."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from laser_core.files import write_atomically
from tools.benchmarks.speed.shapes import NAMES, measured_with

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GPU = {"shapes": ["llava-1.5-7b", "qwen2.5-vl-7b"], "device": "cuda", "dtype": "bf16"}
GPU |= {"threads": torch.get_num_threads()}  # pictures are prepared on the CPU


def parser_of(doc: str) -> argparse.ArgumentParser:
    """A parser with the shared options; doc: the tool's own docstring."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=NAMES, default=["llava", "qwen2.5-vl"])
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1, help="of the CPU; with --gpu as many as there are cores")
    add("--dtype", choices=DTYPES, default="fp32")
    add("--no-peers", action="store_true", help="leave the peers' way out")
    add("--gpu", action="store_true", help="other defaults: the 7B shapes on a GPU in bf16")
    add("--json", type=Path, help="written after every row")
    return parser


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, **gpu: Any
) -> argparse.Namespace:
    """The options; `--gpu` changes defaults only. gpu: those that `GPU` lacks.

    Sets PyTorch's number of threads.
    """
    chosen = parser.parse_args(arguments)
    if chosen.gpu:
        parser.set_defaults(**GPU, **gpu)
        chosen = parser.parse_args(arguments)
    if chosen.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"run it on a machine with a CUDA GPU: {chosen.device} is not there")
    torch.set_num_threads(chosen.threads)
    return chosen


def record_of(chosen: argparse.Namespace) -> dict[str, Any]:
    """What a JSON file begins with."""
    options = vars(chosen) | {"json": None}
    return {"measured_with": measured_with(chosen.device), "options": options, "shapes": {}}


def save(record: dict[str, Any], path: Path | None) -> None:
    """Write the record so far; a run that is ended meanwhile leaves the last whole file."""
    if path is not None:
        write_atomically(path, json.dumps(record, indent=1))
