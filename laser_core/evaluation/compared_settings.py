"""Which settings `compare` carries out. Knows their names; imports no torch."""

from __future__ import annotations

from typing import Any

from ..settings import LaserSettings

NOT_CARRIED_OUT = ("windows", "amount", "fill", "block", "looks", "alpha", "beta", "adaptive")
"""Every method's first window is read once and believed, and there is no second stream."""


def carried_out(settings: LaserSettings) -> dict[str, Any]:
    """The settings that a comparison follows, by group, for its record."""
    groups = {
        group: {name: value for name, value in own.items() if name not in NOT_CARRIED_OUT}
        for group, own in settings.to_dict().items()
    }
    return {"preset": settings.preset, **{group: own for group, own in groups.items() if own}}
