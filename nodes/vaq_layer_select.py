"""VAQ Layer Select: scores layers by how much the question moves them (steps 4-6)."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_evidence
from ..laser_core.settings import LayerSettings
from .batches import Drawings
from .handles import EvidenceHandle
from .runtime import DrawsWhatIsConnected, ui
from .views import vaq_view
from .widgets import ATTENTION, CATEGORY, EVIDENCE, UNIQUE_ID, settings_from, widgets


class VAQLayerSelect(DrawsWhatIsConnected):
    DESCRIPTION = (
        "Scores every layer by how much the question moves its attention (Visual Activation by "
        "Query, VAQ). The evidence is joined from the layers where the model's family is known to "
        "look: at each patch the largest share counts. With rule argmax, as in the paper, it is "
        "the best layer alone."
    )
    SEARCH_ALIASES = (
        "laser", "layer", "visual activation by query", "heat map", "heatmap", "grounding",
        "locate", "detect", "segment", "explain", "ヒートマップ", "位置", "検出", "セグメント",
        "热力图", "定位", "检测", "分割",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its view is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
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
            "hidden": UNIQUE_ID,
        }

    def select(self, attention: Any, unique_id: str | None = None, **values: Any):
        import dataclasses

        import torch

        from ..laser_core.output.drawing import drawing, vaq_chart
        from ..laser_core.output.heat import heat_map
        from ..laser_core.steps.vaq import contrast, make_evidence, map_layer, select_layer

        chosen = settings_from(LayerSettings, values)
        by_rule, draws = dataclasses.replace(chosen, layer=-1), self.draws(unique_id)
        width, height = attention.maps[0].picture_size
        heats = torch.empty(len(attention.maps), height, width)
        count, items, views = len(heats), [], []
        drawings, charts = Drawings(count), Drawings(count)
        for picture, maps, heat in zip(attention.pictures, attention.maps, heats, strict=True):
            added = contrast(maps, attention.contrast)
            choice = select_layer(added, chosen, maps.band)
            item = make_evidence(added, choice, maps)
            layers = torch.stack([map_layer(added, choice, layer) for layer in choice.numbers])
            rule = select_layer(added, by_rule, maps.band)
            items.append(item)
            views.append(vaq_view(picture, item, layers, rule, chosen.layer >= 0))
            charts.add(vaq_chart(choice))
            heat.copy_(heat_map(item))
            if draws:
                drawings.add(drawing(picture, item))
        reports = [describe_evidence(item) for item in items]
        return {
            "ui": ui(reports, laser_vaq=views),
            "result": (
                EvidenceHandle(items, attention.mean_colour, attention.question), heats,
                drawings.batch if draws else None,
                [item.choice.layer for item in items], reports, charts.batch,
            ),
        }  # fmt: skip
