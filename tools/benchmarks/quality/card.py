"""The figures of the demo model's card: accuracy by kind and size, and what captions name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from laser_core.evaluation.intervals import Bootstrap, Estimate
from laser_core.models.lvlm import Lvlm
from laser_core.settings import DecodeSettings, LaserSettings
from laser_core.steps.answer_input import make_plain_stream
from laser_core.steps.decode import decode
from tools.benchmarks.quality.rows import BOTH, CROP, ORACLE, PICTURE, PLAIN, Row
from tools.benchmarks.quality.summary import Answers
from tools.demo_model.things import NAMES
from tools.demo_model.world import HeldOutItem

ROWS: tuple[Row, ...] = tuple(dataclasses.replace(row, vat=False) for row in (PLAIN, ORACLE))
# What the model sees: the picture, what is asked about in a window, or both
SEEN = {
    "whole picture": (PLAIN.name, PICTURE),
    "true window": (ORACLE.name, CROP),
    "both": (ORACLE.name, BOTH),
}
_REQUEST = "describe the picture ."


def accuracy_by_kind(answers: Answers) -> dict[str, dict[str, Estimate]]:
    """By group of items and by what the model sees."""
    groups = answers.groups()
    kinds = {name: some for name, some in groups.items() if name.startswith("type ")}
    for kind, chosen in kinds.items():
        for size in ("large", "medium", "small"):
            groups[f"{kind}, {size}"] = chosen & groups[size]
    exist_kind = np.array([item.exist_kind or "" for item in answers.items])
    for kind in dict.fromkeys(exist_kind[exist_kind != ""]):
        groups[f"absent, {kind}"] = exist_kind == kind
    return {
        group: {
            seen: answers.bootstrap.mean(answers.right(*row), chosen) for seen, row in SEEN.items()
        }
        for group, chosen in groups.items()
        if chosen.any()
    }


def captions(lvlm: Lvlm, items: Sequence[HeldOutItem]) -> dict[str, Estimate]:
    """What the model names when asked to describe each picture."""
    there, absent = [], []
    for item in items:
        stream = make_plain_stream(lvlm, lvlm.encode(item.picture), _REQUEST, LaserSettings())
        words = set(decode(lvlm, stream, None, DecodeSettings()).text.split())
        present = {thing.name for thing in item.scene.things}
        named = words & set(NAMES)
        there.append(len(named & present))
        absent.append(len(named - present))
    bootstrap = Bootstrap(range(len(items)))
    right, wrong = np.array(there, float), np.array(absent, float)
    return {
        "things named that are there": bootstrap.mean(right),
        "captions with three of them": bootstrap.mean((right >= 3).astype(float)),
        "of the things named, absent": bootstrap.ratio(wrong, right + wrong),
    }
