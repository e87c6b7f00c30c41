"""What a run takes of its device's memory, and how much is free there. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

FreeBytes = Callable[[torch.device], int]
"""Bytes that a run may still take on a device."""


@dataclass
class Taken:
    """bytes: the most that tensors held, beyond what they held before; None where not known."""

    bytes: int | None = None


@contextmanager
def measured(device: torch.device, wanted: bool = True) -> Iterator[Taken]:
    """What is run inside, measured where `wanted` and where the device counts its memory."""
    taken, module = Taken(), _counting(device)
    if not wanted or module is None:
        yield taken
        return
    module.reset_peak_memory_stats(device)
    before = module.memory_allocated(device)
    yield taken
    taken.bytes = module.max_memory_allocated(device) - before


def free_bytes(device: torch.device) -> int:
    """Free on a device that counts its memory, or held there by PyTorch without being used."""
    module = _counting(device)
    free, _ = module.mem_get_info(device)
    return free + module.memory_reserved(device) - module.memory_allocated(device)


def empty_cache(device: torch.device) -> None:
    """Give back what PyTorch holds there without using it."""
    if device.type != "cpu":
        torch.get_device_module(device).empty_cache()


def _counting(device: torch.device) -> Any:
    """PyTorch's module for the device's type, where that counts; else None."""
    if device.type == "cpu":
        return None
    module = torch.get_device_module(device)
    counts = all(hasattr(module, name) for name in ("max_memory_allocated", "mem_get_info"))
    return module if counts else None
