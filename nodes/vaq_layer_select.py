"""VAQ Layer Select: the layer the question moves most, and its evidence map (steps 4-6)."""

from __future__ import annotations

from typing import Any

from ..laser_core.settings import LayerSettings
from .batches import image_of
from .handles import EvidenceHandle, describe
from .runtime import ui
from .views import overlay
from .widgets import ATTENTION, CATEGORY, EVIDENCE, settings_from, widgets


class VAQLayerSelect:
    DESCRIPTION = (
        "Scores every layer by how much the question moves its attention (Visual Activation by "
        "Query) and takes the evidence from the best one."
    )
    SEARCH_ALIASES = ("laser", "layer", "visual activation by query", "heat map", "grounding")
    CATEGORY = CATEGORY
    FUNCTION = "select"
    RETURN_TYPES = (EVIDENCE, "MASK", "IMAGE", "INT", "STRING")
    RETURN_NAMES = ("evidence", "heat_map", "overlay", "layer", "report")
    OUTPUT_IS_LIST = (False, False, False, True, True)
    OUTPUT_TOOLTIPS = (
        "Where the question looks, for Con-ViCrop and Counterfactual Mask.",
        "The evidence as a mask of the picture's size: 1 where it is strongest.",
        "The picture under its heat map.",
        "The chosen layer, counted from 0; one per picture.",
        "Why this layer, in a sentence; one per picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "attention": (ATTENTION, {"tooltip": "The maps, from Contrastive Attention."}),
                **widgets(
                    LayerSettings,
                    "top_heads", "rule", "layer", "fused_layers", "first_depth", "last_depth",
                ),
            }
        }  # fmt: skip

    def select(self, attention: Any, **values: Any):
        import torch

        from ..laser_core.render import heat_map
        from ..laser_core.vaq import contrast, evidence, select_layer

        chosen = settings_from(LayerSettings, values)
        items = []
        for maps in attention.maps:
            contrasted = contrast(maps, attention.contrast)
            items.append(evidence(contrasted, select_layer(contrasted, chosen), maps))
        overlays = [
            overlay(picture, item) for picture, item in zip(attention.pictures, items, strict=True)
        ]
        handle = EvidenceHandle(items, attention.mean_colour)
        reports = [describe(item) for item in items]
        heat = torch.stack([heat_map(item) for item in items])
        layers = [item.choice.layer for item in items]
        return {
            "ui": ui(reports, overlays, laser_vaq=[_bars(item) for item in items]),
            "result": (handle, heat, image_of(overlays), layers, reports),
        }


def _bars(item: Any) -> dict[str, Any]:
    """What a chart of one picture's layers needs."""
    return {
        "vaq": item.choice.vaq,
        "layer": item.choice.layer,
        "weights": item.choice.weights,
        "nothing_found": item.degenerate,
    }
