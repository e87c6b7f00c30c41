"""Counts of what a device is asked to do: tensor operations, and forwards of a model's parts.

Knows PyTorch's dispatcher and the parts of a model; knows no step of the method. A GPU waits for
each operation to be asked for, so these counts stand for its time where there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from laser_core.models.lvlm import Lvlm


class Operations(TorchDispatchMode):
    """Context manager: by name, the operations that compute or copy; views and bookkeeping not."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not _is_view(func):
            self.by_name[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def count(self) -> int:
        return self.by_name.total()


def _is_view(func: Any) -> bool:
    """Whether it returns other strides of the same storage, or storage that nothing was put in."""
    name = str(func.overloadpacket)
    aliases = [value.alias_info for value in func._schema.returns]
    shows = bool(aliases) and all(alias and not alias.is_write for alias in aliases)
    return shows or name in ("aten._unsafe_view", "aten.empty", "aten.detach", "aten.new_empty")


@contextmanager
def forwards(lvlm: Lvlm) -> Iterator[Counter[str]]:
    """Inside, counts the forwards of the "decoder" and of the vision "tower"."""
    counts: Counter[str] = Counter()
    parts = {"decoder": lvlm.model.get_decoder(), "tower": vision_tower(lvlm)}

    def noting(name: str) -> Any:
        return lambda *_: counts.update([name])

    hooks = [part.register_forward_hook(noting(name)) for name, part in parts.items()]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def vision_tower(lvlm: Lvlm) -> torch.nn.Module:
    """What turns pixels into features."""
    body: Any = lvlm.body
    return body.visual if hasattr(body, "visual") else body.vision_tower
