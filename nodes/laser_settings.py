"""LASER Settings: every setting that LASER Answer does not carry itself. Runs no model."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..laser_core.settings import LaserSettings
from .handles import SettingsHandle
from .laser_answer import CARRIED
from .widgets import CATEGORY, SETTINGS, preset_widget, widgets

ADDED = (
    "multiple_of", "locate_instruction", "max_thinking_tokens", "repetition_penalty", "looks",
    "read_at",
)  # fmt: skip
"""At the end, in this order: saved workflows hold values by their place."""


class LaserSettingsNode:
    DESCRIPTION = (
        "Holds every setting that LASER Answer does not show. Connect it to LASER Answer's input "
        "'settings'. It then decides all of them, whatever preset is chosen there."
    )
    SEARCH_ALIASES = (
        "laser", "options", "parameters", "preset", "advanced settings", "paper", "設定",
        "プリセット", "设置", "预设",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "choose"
    RETURN_TYPES = (SETTINGS,)
    RETURN_NAMES = ("settings",)
    OUTPUT_TOOLTIPS = ("The settings, for LASER Answer. Preview Any shows them as text.",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        groups = [type(group) for group in vars(LaserSettings()).values()]
        names = [[s.name for s in fields(group) if s.name not in CARRIED] for group in groups]
        own = [widgets(group, *some) for group, some in zip(groups, names, strict=True) if some]
        found = {name: widget for group in own for name, widget in group.items()}
        return {
            "required": {},
            "optional": {
                "preset": preset_widget(),
                **{name: found[name] for name in found if name not in ADDED},
                **{name: found[name] for name in ADDED},
            },
        }

    def choose(self, preset: str = "default", **values: Any):
        chosen = LaserSettings.of(preset, **values).by_name
        return (SettingsHandle({k: v for k, v in chosen.items() if k not in CARRIED}),)
