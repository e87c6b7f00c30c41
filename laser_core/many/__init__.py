"""Many pictures: where they come from, what a row says of each, where rows go, what runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .laser_map import LaserMap

__all__ = ["LaserMap"]


def __getattr__(name: str) -> Any:
    if name == "LaserMap":
        from .laser_map import LaserMap

        return LaserMap
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
