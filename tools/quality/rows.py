"""The rows of the benchmark: ways to find a window, each a setting of the method or a yardstick."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from laser_core.settings import (
    ContrastSettings,
    LaserSettings,
    LayerSettings,
    PromptSettings,
)

DEFAULTS = LaserSettings()
PAPER = LayerSettings(rule="argmax")


@dataclass(frozen=True)
class Row:
    """A way to answer.

    finder: "none" (the picture alone), "laser" (what `settings` find), "oracle" (around the true
    boxes) or "random". vat: whether the counterfactual stream is measured as well.
    """

    name: str
    finder: str = "laser"
    settings: LaserSettings = DEFAULTS
    vat: bool = False


def changed(**groups: Any) -> LaserSettings:
    """The defaults with some groups of settings replaced."""
    return dataclasses.replace(DEFAULTS, **groups)


PLAIN = Row("plain", "none", vat=True)
LASER = Row("LASER", vat=True)
RAW = Row(
    "raw attention, highest norm", settings=changed(contrast=ContrastSettings("raw")), vat=True
)
ORACLE = Row("oracle", "oracle", vat=True)
RANDOM = Row("random", "random", vat=True)


def fixed_layer(layer: int, vat: bool = False) -> Row:
    return Row(f"layer {layer}", settings=changed(layer=LayerSettings(layer=layer)), vat=vat)


def vicrop(layer: int, vat: bool = False) -> Row:
    """ViCrop's relative attention (arXiv 2502.17422) at a fixed layer."""
    settings = changed(
        prompt=PromptSettings(query_free="generic question"),
        contrast=ContrastSettings("relative"),
        layer=LayerSettings(layer=layer),
    )
    return Row(f"ViCrop relative, layer {layer}", settings=settings, vat=vat)


def main_rows(layers: int, best_layer: int, vicrop_layer: int) -> list[Row]:
    """The table's rows for a model of so many layers; both layers were chosen on other pictures."""
    return [
        PLAIN,
        LASER,
        *(fixed_layer(layer, vat=layer == best_layer) for layer in range(layers)),
        vicrop(vicrop_layer, vat=True),
        RAW,
        ORACLE,
        RANDOM,
    ]


def ablation_rows() -> list[Row]:
    """The defaults, and each open point of the method changed alone."""
    rows = [PLAIN, LASER]
    for name, groups, vat in _CHANGES:
        rows.append(Row(name, settings=changed(**groups), vat=vat))
    return rows


_CHANGES: list[tuple[str, dict[str, Any], bool]] = [
    *((f"rule {s.rule}, {n}", {"layer": s}, False) for n, s in (
        ("highest VAQ", LayerSettings(rule="argmax")),
        ("best 3", LayerSettings(rule="fuse", fused_layers=3)),
        ("all layers", LayerSettings(rule="fuse", fused_layers=256)),
    )),
    *((f"top heads {k}", {"layer": LayerSettings(top_heads=k)}, False) for k in (1, 2, 3, 4)),
]  # fmt: skip
