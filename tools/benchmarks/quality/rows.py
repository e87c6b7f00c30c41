"""The rows of the benchmark: ways to find a window, each a setting of the method or a yardstick."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from laser_core.settings import (
    DRAFTED,
    ContrastSettings,
    CounterfactualSettings,
    CropSettings,
    LaserSettings,
    LayerSettings,
    PromptSettings,
)

DEFAULTS = LaserSettings()
PICTURE, CROP, BOTH = "picture", "crop", "picture + crop"


OTHER_PLACEMENTS = ("peak", "top patches box", "adaptive")
OTHER_FILLS = ("blur", "noise", "visual tokens")


@dataclass(frozen=True)
class Row:
    """A way to answer.

    finder: "none" (the picture alone), "laser" (what `settings` find), "oracle" (around the true
    boxes), "random", or "grid" (the window number `cell` of three rows of three). vat: whether the
    counterfactual stream is measured as well. inputs: what the windows are read with.
    """

    name: str
    finder: str = "laser"
    settings: LaserSettings = DEFAULTS
    vat: bool = False
    inputs: tuple[str, ...] = (CROP, BOTH)
    cell: int = 0


def changed(**groups: Any) -> LaserSettings:
    """The defaults with some groups of settings replaced."""
    return dataclasses.replace(DEFAULTS, **groups)


PLAIN = Row("plain", "none", vat=True)
LASER = Row("LASER", vat=True)
BLOCKED_BOTH = changed(counterfactual=CounterfactualSettings(block="picture and crop"))
LASER_BOTH = Row("LASER, both blocked", settings=BLOCKED_BOTH, vat=True)
# The paper's rule: one layer, and the window's whole inside counts. The two changes one by one:
ONE_LAYER, WHOLE_WINDOW = LayerSettings(rule="argmax"), CropSettings(margin=0.0)
PAPER = Row("the paper's rule", settings=changed(layer=ONE_LAYER, crop=WHOLE_WINDOW), vat=True)
PAPER_INSIDE = Row("one layer, the window's inside", settings=changed(layer=ONE_LAYER))
WEIGHED_WHOLE = Row("layers weighed, the whole window", settings=changed(crop=WHOLE_WINDOW))
RAW = Row("raw attention", settings=changed(contrast=ContrastSettings("raw")), vat=True)
ORACLE = Row("true window", "oracle", vat=True)
ORACLE_BOTH = Row("true window, both blocked", "oracle", BLOCKED_BOTH, vat=True)
RANDOM = Row("random window", "random", vat=True)


def fixed_layer(layer: int) -> Row:
    return Row(f"layer {layer}", settings=changed(layer=LayerSettings(layer=layer)), vat=True)


def vicrop(layer: int) -> Row:
    """ViCrop's relative attention (arXiv 2502.17422) at a fixed layer."""
    settings = changed(
        prompt=PromptSettings(query_free="generic question"),
        contrast=ContrastSettings("relative"),
        layer=LayerSettings(layer=layer),
    )
    return Row(f"ViCrop relative, layer {layer}", settings=settings, vat=True)


def main_rows(best_layer: int, vicrop_layer: int) -> list[Row]:
    """The table's rows; the layers were chosen on other pictures."""
    return [
        PLAIN,
        LASER,
        LASER_BOTH,
        PAPER,
        PAPER_INSIDE,
        WEIGHED_WHOLE,
        fixed_layer(best_layer),
        vicrop(vicrop_layer),
        RAW,
        ORACLE,
        ORACLE_BOTH,
        RANDOM,
    ]


# ---- looks: windows that are read beside the picture, one after the other -----------------------

SECOND = 0.7 * DEFAULTS.crop.scale  # of the picture's sides


def look(name: str, scale: float = DEFAULTS.crop.scale, finder: str = "laser", **more: Any) -> Row:
    """A window of this size, by a rule's name or placed without one."""
    rule = {"layer": LayerSettings(rule=name)} if finder == "laser" else {}
    if name == "argmax":  # as the paper has it
        rule["layer"] = LayerSettings(rule=name, first_depth=0.0, last_depth=1.0)
    margin = 0.0 if name == "argmax" else DEFAULTS.crop.margin
    settings = changed(crop=CropSettings(scale=scale, margin=margin), **rule)
    title = f"{name}, {scale:.2g} of the sides"
    return Row(title, finder, settings, inputs=(BOTH,), **more)


def at_last_token(row: Row) -> Row:
    """The row with its attention read at the end of a draft (CARVE, arXiv 2509.06461)."""
    settings = dataclasses.replace(row.settings, prompt=PromptSettings(read_at=DRAFTED))
    return dataclasses.replace(row, name=f"{row.name}, at the last token", settings=settings)


RULES = ("max", "fuse", "argmax", "heads")
GRID = [look(f"grid {cell}", finder="grid", cell=cell) for cell in range(9)]
TRUE = look("true window", finder="oracle")
LOOKS: dict[str, list[Row]] = {
    **{rule: [look(rule), look(rule, SECOND)] for rule in RULES},
    f"{RULES[0]}, at the last token": [
        at_last_token(look(RULES[0])),
        at_last_token(look(RULES[0], SECOND)),
    ],
    "random windows": [look("random", finder="random"), look("random", SECOND, "random")],
    "the 3 x 3 grid": GRID,
    "true window": [TRUE],
}
"""What is read in turn while the model is unsure. The first is the rule that ships."""


def look_rows() -> list[Row]:
    """Every window of any of them, and the picture alone; with VAT where it might be on."""
    rows = [row for looks in LOOKS.values() for row in looks]
    with_vat = LOOKS[RULES[0]]
    return [
        dataclasses.replace(PLAIN, vat=False),
        *(dataclasses.replace(row, vat=row in with_vat) for row in rows),
    ]


def ablation_rows() -> list[Row]:
    """The defaults, and each open point of the method changed alone."""
    return [PLAIN, LASER, LASER_BOTH, PAPER, PAPER_INSIDE, WEIGHED_WHOLE, *_changes()]


def _changes() -> Iterator[Row]:
    layer = {
        "top heads 1": LayerSettings(top_heads=1),
        "top heads 2": LayerSettings(top_heads=2),
    }
    crop = {"margin 0.2": CropSettings(margin=0.2), "windows 2": CropSettings(windows=2)}
    crop |= {name: CropSettings(placement=name) for name in OTHER_PLACEMENTS}
    fill = {f"fill {name}": CounterfactualSettings(fill=name) for name in OTHER_FILLS}
    fill |= {f"amount {share:g}": CounterfactualSettings(share) for share in (0.02, 0.1, 0.2)}
    groups: dict[str, dict[str, Any]] = {"layer": layer, "crop": crop, "counterfactual": fill}
    for group, changes in groups.items():
        for name, change in changes.items():
            yield Row(name, settings=changed(**{group: change}), vat=group == "counterfactual")
