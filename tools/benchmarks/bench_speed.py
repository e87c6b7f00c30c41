"""Time and memory of the whole method, the plain model, published codes and the floor.

    python -m tools.benchmarks.bench_speed [--shapes llava qwen2.5-vl] [--answers 10] [--json FILE]
    python -m tools.benchmarks.bench_speed --gpu --json FILE     # the 7B shapes in bf16 on a GPU

Models have random weights of the named shape and are built in place; `demo` is the shipped one.
A row starts from a picture and a question and ends with an answer of that many tokens. `--gpu`
changes defaults only. A row is written as soon as it is measured. A way or a row that does not fit
into memory is left out with a note.

Time: process time of one thread on the CPU, clock time on a GPU. All ways run in every round; each
round begins with a different one. A ratio is the median of the rounds' own ratios, ± half the
distance between their quartiles.
Memory: the most that tensors held during the answer, beyond what they held before. Resident memory
is larger, because the allocator keeps what was freed.
Floor: the least arithmetic that gives the same answer, over the plain answer's. No implementation
reads and decodes the same tokens with less. Operations are counted, not timed.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from laser_core.files import write_atomically
from tools.benchmarks.speed.bench import Bench
from tools.benchmarks.speed.modes import CROP, modes_of
from tools.benchmarks.speed.shapes import NAMES, lvlm_of_shape, measured_with
from tools.benchmarks.speed.tables import HEADERS, rows_of
from tools.benchmarks.speed.timing import unless_full
from tools.build.markdown import markdown

BATCH_TOKENS = 20  # of a batch's answers
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GPU: dict[str, Any] = {"shapes": ["llava-1.5-7b", "qwen2.5-vl-7b"], "device": "cuda"}
GPU |= {"dtype": "bf16", "answers": [20], "batches": [1, 4, 16], "rounds": 3}
GPU |= {"threads": torch.get_num_threads()}  # pictures are prepared on the CPU

Rows = dict[str, list[list[str]]]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options given, `--gpu` as other defaults. Sets PyTorch's number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--shapes", nargs="+", choices=NAMES, default=["llava", "qwen2.5-vl"])
    add("--only", nargs="+", choices=HEADERS, default=list(HEADERS))
    add("--answers", nargs="+", type=int, default=[10], help="lengths in tokens")
    add("--batches", nargs="*", type=int, default=[], help="numbers of pictures")
    add("--rounds", type=int, default=5)
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=int, default=1, help="of the CPU; with --gpu as many as there are cores")
    add("--dtype", choices=DTYPES, default="fp32")
    add("--no-peers", action="store_true", help="leave out what published codes do")
    add("--gpu", action="store_true", help="other defaults: the 7B shapes on a GPU in bf16")
    add("--json", type=Path, help="written after every row")
    chosen = parser.parse_args(arguments)
    if chosen.gpu:
        parser.set_defaults(**GPU)
        chosen = parser.parse_args(arguments)
    if chosen.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"run it on a machine with a CUDA GPU: {chosen.device} is not there")
    torch.set_num_threads(chosen.threads)
    return chosen


def measurements(bench: Bench, chosen: argparse.Namespace) -> list[tuple[str, str, Callable]]:
    """What is measured of a model: (part, name in the record, run), in order.

    All answer inputs at one length before the next; the last of several lengths from the crop only.
    """
    peers = not chosen.no_peers
    every: list[tuple[str, str, Callable]] = [
        ("reading", "reading", partial(bench.reading, peers)),
        ("decoding", "decoding", bench.decoding),
    ]
    modes, lengths = modes_of(bench.lvlm), chosen.answers
    for index, tokens in enumerate(lengths):
        last = 0 < index == len(lengths) - 1
        for mode in modes[:1] if last else modes:
            run = partial(bench.whole, mode, tokens, peers)
            every.append(("whole", f"{mode.name}, {tokens}", run))
    for count in chosen.batches:
        run = partial(bench.batch, CROP, BATCH_TOKENS, count)
        every.append(("batches", f"batch of {count}", run))
    return [one for one in every if one[0] in chosen.only]


def measure(name: str, chosen: argparse.Namespace, record: dict[str, Any], rows: Rows) -> None:
    """All of one model, added to the record (and its file) and to the rows one by one."""
    lvlm = unless_full(name, partial(lvlm_of_shape, name, chosen.device, DTYPES[chosen.dtype]))
    if lvlm is None:
        return
    bench = Bench(name, lvlm, chosen.device, chosen.rounds)
    entry = record["shapes"][name] = {}
    for part, key, run in measurements(bench, chosen):
        table = unless_full(f"{name}, {key}", run)
        if table is None:
            lvlm.release()
            continue
        entry[key] = table
        save(record, chosen.json)
        new = rows_of(part, name, table)
        rows[part] += new
        print(markdown(HEADERS[part], new), file=sys.stderr, flush=True)


def save(record: dict[str, Any], path: Path | None) -> None:
    """Write the record so far; a run that is ended meanwhile leaves the last whole file."""
    if path is not None:
        write_atomically(path, json.dumps(record, indent=1))


def main() -> None:
    chosen, started = options(), time.time()
    record: dict[str, Any] = {"measured_with": measured_with(chosen.device)}
    record |= {"options": vars(chosen) | {"json": None}, "shapes": {}}
    rows: Rows = {part: [] for part in HEADERS}
    for name in chosen.shapes:
        measure(name, chosen, record, rows)
        gc.collect()  # the weights go before the next model's are made
    for part, lines in rows.items():
        if lines:
            print(markdown(HEADERS[part], lines), end="\n\n")
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
