"""VAQ Layer Select: scores layers by how much the question moves them (steps 4-6)."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_evidence
from ..laser_core.settings import LayerSettings
from .batches import image_of
from .handles import EvidenceHandle
from .runtime import ui
from .views import vaq_view
from .widgets import ATTENTION, CATEGORY, EVIDENCE, settings_from, widgets


class VAQLayerSelect:
    DESCRIPTION = (
        "Scores every layer by how much the question moves its attention (Visual Activation by "
        "Query, VAQ). The evidence is the average of all layers, weighted by that score. With "
        "rule argmax, as in the paper, it is the best layer alone."
    )
    SEARCH_ALIASES = ("laser", "layer", "visual activation by query", "heat map", "grounding")
    CATEGORY = CATEGORY
    HAS_INTERMEDIATE_OUTPUT = True  # its view is sent again when the node is cached
    FUNCTION = "select"
    RETURN_TYPES = (EVIDENCE, "MASK", "IMAGE", "INT", "STRING", "IMAGE")
    RETURN_NAMES = ("evidence", "heat_map", "overlay", "layer", "report", "chart")
    OUTPUT_IS_LIST = (False, False, False, True, True, False)
    OUTPUT_TOOLTIPS = (
        "Where the question makes the model look, for Con-ViCrop and Counterfactual Mask.",
        "The evidence as a mask of the picture's size: 1 where it is strongest.",
        "The picture under its heat map, with a colour bar: a drawing to look at.",
        "The searched layer with the highest VAQ, or the layer you set. Counted from 0; one per "
        "picture.",
        "Which layers the evidence comes from, and why, in one sentence; one per picture.",
        "A bar chart of every layer's VAQ. The layers that the evidence comes from are coloured.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "attention": (ATTENTION, {"tooltip": "The maps, from Contrastive Attention."}),
            },
            "optional": widgets(
                LayerSettings, "top_heads", "rule", "layer", "first_depth", "last_depth"
            ),
        }

    def select(self, attention: Any, **values: Any):
        import dataclasses

        import torch

        from ..laser_core.output.drawing import drawing, on_one_size, vaq_chart
        from ..laser_core.output.heat import heat_map
        from ..laser_core.steps.vaq import contrast, make_evidence, map_layer, select_layer

        chosen = settings_from(LayerSettings, values)
        by_rule = dataclasses.replace(chosen, layer=-1)
        items, views = [], []
        for picture, maps in zip(attention.pictures, attention.maps, strict=True):
            added = contrast(maps, attention.contrast)
            choice = select_layer(added, chosen)
            items.append(make_evidence(added, choice, maps))
            layers = torch.stack([map_layer(added, choice, layer) for layer in range(maps.layers)])
            rule = select_layer(added, by_rule)
            views.append(vaq_view(picture, items[-1], layers, rule, chosen.layer >= 0))
        handle = EvidenceHandle(items, attention.mean_colour)
        reports = [describe_evidence(item) for item in items]
        heat = torch.stack([heat_map(item) for item in items])
        overlays = [
            drawing(picture, item) for picture, item in zip(attention.pictures, items, strict=True)
        ]
        charts = [vaq_chart(item.choice) for item in items]
        return {
            "ui": ui(reports, laser_vaq=views),
            "result": (
                handle, heat, image_of(on_one_size(overlays)),
                [item.choice.layer for item in items], reports, image_of(charts),
            ),
        }  # fmt: skip
