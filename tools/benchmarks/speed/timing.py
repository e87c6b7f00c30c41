"""How ways are timed against each other, and what happens where memory runs out."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from laser_core.out_of_memory import is_out_of_memory

Result = TypeVar("Result")
Run = Callable[[], Any]


class Clock:
    """Seconds of process time on the CPU, of the clock on a GPU."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def __call__(self, run: Run) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        read = time.perf_counter if self.gpu else time.process_time
        started = read()
        run()
        if self.gpu:
            torch.cuda.synchronize()
        return read() - started

    def interleaved(
        self, runs: dict[str, Run], rounds: int, base: str = "plain"
    ) -> dict[str, dict[str, float]]:
        """Each run's median seconds, and its ratio to `base`; a warm-up round first.

        Every round begins with another run. One for which memory does not suffice in the warm-up
        is left out with a note; for `base` itself the error is raised.
        """
        self(runs[base])
        names = [
            name
            for name, run in runs.items()
            if name == base or unless_full(name, partial(self, run)) is not None
        ]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for name in rotated(names, number):
                seconds[name].append(self(runs[name]))
        return {
            name: {"seconds": float(np.median(taken)), **ratio_of(taken, seconds[base])}
            for name, taken in seconds.items()
        }


def rotated(names: Sequence[str], number: int) -> list[str]:
    """The names in order, starting `number` places later, so that the first one changes."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def ratio_of(taken: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """Median of the rounds' own ratios; spread: half the distance of their quartiles."""
    ratios = np.array(taken) / np.array(base)
    low, high = np.percentile(ratios, (25, 75))
    return {"ratio": float(np.median(ratios)), "spread": float(high - low) / 2}


def unless_full(label: str, run: Callable[[], Result]) -> Result | None:
    """What `run` returns; None, with a note, where memory does not suffice for it."""
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        first_line = str(error).partition("\n")[0]
    # Only here: the error no longer holds the tensors of the run
    print(f"{label}: left out, {first_line}", file=sys.stderr, flush=True)
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where there is no GPU
    return None
