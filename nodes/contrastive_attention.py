"""Contrastive Attention: what the question adds to the model's attention (steps 1-3, Eq. 3)."""

from __future__ import annotations

from typing import Any

from ..laser_core.settings import ContrastSettings, PromptSettings
from .batches import image_of, pictures_of
from .handles import AttentionHandle
from .runtime import NodeProgress
from .widgets import (
    ATTENTION,
    CATEGORY,
    IMAGE_SOCKET,
    LVLM_SOCKET,
    QUESTION,
    UNIQUE_ID,
    settings_from,
    widgets,
)


class ContrastiveAttention:
    DESCRIPTION = (
        "Reads each picture with and without the question and compares where the model looks, in "
        "every layer. VAQ Layer Select then weighs the layers."
    )
    SEARCH_ALIASES = ("laser", "attention map", "visual grounding", "heat map", "saliency")
    CATEGORY = CATEGORY
    FUNCTION = "read"
    RETURN_TYPES = (ATTENTION, "IMAGE")
    RETURN_NAMES = ("attention", "layers")
    OUTPUT_TOOLTIPS = (
        "The attention of every layer and head, for VAQ Layer Select.",
        "One sheet per picture: what the question adds in every layer. Each map is scaled to its "
        "own strongest patch. The layer with the highest VAQ is framed.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "lvlm": LVLM_SOCKET,
                "image": IMAGE_SOCKET,
                "question": QUESTION,
            },
            "optional": {
                **widgets(ContrastSettings, "kind"),
                **widgets(PromptSettings, "instruction", "query_free", "framing", "system"),
            },
            "hidden": UNIQUE_ID,
        }

    def read(self, lvlm: Any, image: Any, question: str, unique_id=None, **values: Any):
        from ..laser_core.output.drawing import on_one_size
        from ..laser_core.output.layer_sheet import layer_sheet
        from ..laser_core.settings import LayerSettings
        from ..laser_core.steps.vaq import contrast, select_layer

        pictures = pictures_of(image)
        prompt, compare = (
            settings_from(group, values) for group in (PromptSettings, ContrastSettings)
        )
        progress = NodeProgress(len(pictures), stages={})
        maps = []
        with lvlm.running() as model:
            for picture in pictures:
                progress.next_picture()
                maps.append(lvlm.read(model, picture, question, prompt, progress))
            colour = model.mean_colour
        sheets = []
        for picture, one in zip(pictures, maps, strict=True):
            added = contrast(one, compare)
            vaq = select_layer(added, LayerSettings()).vaq
            sheets.append(layer_sheet(picture, added.mean(1), one.grid, vaq))
        return AttentionHandle(pictures, maps, compare, colour), image_of(on_one_size(sheets))
