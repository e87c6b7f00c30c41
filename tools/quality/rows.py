"""The rows of the benchmark: ways to find a window, each a setting of the method or a yardstick."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from laser_core.settings import (
    ContrastSettings,
    CounterfactualSettings,
    CropSettings,
    LaserSettings,
    LayerSettings,
    PromptSettings,
)

DEFAULTS = LaserSettings()


OTHER_PLACEMENTS = ("centroid", "peak", "top patches box", "adaptive")
OTHER_FILLS = ("black", "grey", "blur", "noise", "visual tokens")


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
# The paper's rule: one layer, and the window's whole inside counts.
PAPER = Row(
    "the paper's rule",
    settings=changed(layer=LayerSettings(rule="argmax"), crop=CropSettings(margin=0.0)),
    vat=True,
)
RAW = Row("raw attention", settings=changed(contrast=ContrastSettings("raw")), vat=True)
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
        PAPER,
        *(fixed_layer(layer, vat=layer == best_layer) for layer in range(layers)),
        vicrop(vicrop_layer, vat=True),
        RAW,
        ORACLE,
        RANDOM,
    ]


def ablation_rows() -> list[Row]:
    """The defaults, and each open point of the method changed alone."""
    return [PLAIN, LASER, PAPER, *_changes()]


def _changes() -> Iterator[Row]:
    layer = {
        "the layer of the highest VAQ": LayerSettings(rule="argmax"),
        "the 3 best layers": LayerSettings(fused_layers=3),
        "top heads 1": LayerSettings(top_heads=1),
        "top heads 2": LayerSettings(top_heads=2),
    }
    crop = {f"margin {margin:g}": CropSettings(margin=margin) for margin in (0.0, 0.2)}
    crop |= {name: CropSettings(placement=name) for name in OTHER_PLACEMENTS}
    fill = {f"fill {name}": CounterfactualSettings(fill=name) for name in OTHER_FILLS}
    fill |= {f"amount {share:g}": CounterfactualSettings(share) for share in (0.02, 0.1, 0.2)}
    fill |= {"block both": CounterfactualSettings(block="picture and crop")}
    for group, changes in {"layer": layer, "crop": crop, "counterfactual": fill}.items():
        for name, change in changes.items():
            yield Row(name, settings=changed(**{group: change}), vat=group == "counterfactual")
