"""Many runs in one process: does memory, or anything else, leak? And the memory of a capture.

    python -m tools.checks.soak [--runs 200]  runs that alternate models, sizes and interrupts
    python -m tools.checks.soak --capture     peak memory of the attention capture, 1k to 16k tokens
    python -m tools.checks.soak --picture     peak memory of each step on a picture of 8000 x 8000

Linux only (reads /proc). The first prints the process's memory every 20 runs and ends with exit
code 1 if it grew by more than 2 % after run 20.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core import pipeline
from laser_core.pictures import to_picture, to_tensor
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture

MOST_GROWTH = 0.02
QUESTION = "what colour is the square ?"
SIZES = ((90, 60), (400, 300), (64, 900), (1200, 1200), (1, 1))
MODELS = ("llava", "qwen2_5_vl", "llava_next", "qwen3_vl")


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def resident_mb() -> float:
    """Memory of this process, after the allocator has returned its reserve."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def peak_mb(function: Callable[[], Any]) -> tuple[float, Any]:
    """How far memory rises above now while `function` runs, and its result."""
    before = resident_mb()
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark
    result = function()
    status = Path("/proc/self/status").read_text()
    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(high.split()[1]) / 1024 - before, result


def interrupting(after: int | None) -> Callable[[str, int, int], None]:
    """A progress callback that interrupts at its call number `after`, or never."""
    calls = itertools.count()

    def progress(stage: str, done: int, total: int) -> None:
        if next(calls) == after:
            raise Interrupt

    return progress


def soak(runs: int) -> int:
    models = [lvlm_of(kind, fresh=True) for kind in MODELS]
    settings = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=4))
    names = ALL_ATTENTION_FUNCTIONS.valid_keys()
    kernels = {name: ALL_ATTENTION_FUNCTIONS[name] for name in names}
    interrupts, start, growth = 0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        for run in range(1, runs + 1):
            lvlm, size = models[run % len(models)], SIZES[run % len(SIZES)]
            stop = run % 7 if run % 3 == 0 else None  # every third run is interrupted somewhere

            try:
                pipeline.answer(lvlm, noise_picture(size, run), QUESTION, settings,
                                progress=interrupting(stop))  # fmt: skip
            except Interrupt:
                interrupts += 1
            if run % 20 == 0:
                memory = resident_mb()
                start = start or memory
                growth = memory / start - 1
                print(f"run {run:>4}: {memory:7.1f} MB, {growth:+.2%} since run 20", flush=True)
        left = os.listdir(folder)
    hooks = [
        hook
        for lvlm in models
        for module in lvlm.model.modules()
        for kind in (module._forward_hooks, module._forward_pre_hooks)
        for hook in kind.values()
        if hook.__module__.startswith("laser_core")
    ]
    patched = [name for name in names if ALL_ATTENTION_FUNCTIONS[name] is not kernels[name]]
    print(f"{interrupts} interrupts; left behind: {len(hooks)} hooks, {len(patched)} kernels, "
          f"{len(left)} files, {threading.active_count() - 1} threads")  # fmt: skip
    return int(growth > MOST_GROWTH or bool(hooks or patched or left))


def capture() -> int:
    """Peak memory of reading both branches' attention, by image tokens."""
    print("| image tokens | peak MB | MB per 1k tokens |\n|---|---|---|")
    read_attention(lvlm_of("qwen2_vl"), noise_picture(), QUESTION)  # what a first run allocates
    for thousands in (1, 2, 4, 8, 16):
        side = round((thousands * 1024) ** 0.5) * 28
        lvlm = lvlm_of("qwen2_vl", fresh=True, vision=side)
        lvlm.model.config.get_text_config().max_position_embeddings = 1 << 20
        inputs = lvlm.encode(noise_picture((side, side)))
        peak, _ = peak_mb(lambda: read_attention(lvlm, inputs, QUESTION))  # noqa: B023
        tokens = inputs.token_count
        print(f"| {tokens} | {peak:.0f} | {peak / tokens * 1000:.1f} |", flush=True)
    return 0


def picture() -> int:
    """Peak memory of each step on the largest picture, as ComfyUI hands it over."""
    lvlm, settings = lvlm_of("llava"), LaserSettings(decode=DecodeSettings(max_tokens=2))
    image = torch.rand(1, 1000, 1000, 3).repeat_interleave(8, 1).repeat_interleave(8, 2)
    print("| step on 8000 x 8000 | peak MB |\n|---|---|")
    peak, pixels = peak_mb(lambda: to_picture(image))
    print(f"| IMAGE to picture | {peak:.0f} |", flush=True)
    peak, _ = peak_mb(lambda: to_tensor(pixels))
    print(f"| picture to IMAGE | {peak:.0f} |", flush=True)
    peak, found = peak_mb(lambda: pipeline.locate(lvlm, pixels, QUESTION, settings))
    print(f"| locate | {peak:.0f} |", flush=True)
    peak, _ = peak_mb(lambda: pipeline.answer_from(lvlm, found))
    print(f"| answer | {peak:.0f} |", flush=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--capture", action="store_true")
    parser.add_argument("--picture", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.capture:
        return capture()
    return picture() if arguments.picture else soak(arguments.runs)


if __name__ == "__main__":
    sys.exit(main())
