"""Contrastive Attention: what the question adds to the model's attention (steps 1-3, Eq. 3)."""

from __future__ import annotations

from typing import Any

from ..laser_core.settings import ContrastSettings, PromptSettings
from .batches import Drawings, batch_of, pictures_of
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
    SEARCH_ALIASES = (
        "laser", "attention map", "visual grounding", "heat map", "heatmap", "saliency",
        "explain", "ヒートマップ", "注意マップ", "可視化", "説明可能", "热力图", "注意力",
        "可视化", "可解释",
    )  # fmt: skip
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
                **widgets(PromptSettings, "locate_instruction", "query_free", "framing", "system"),
                **widgets(PromptSettings, "read_at"),
            },
            "hidden": UNIQUE_ID,
        }

    def read(self, lvlm: Any, image: Any, question: str, unique_id=None, **values: Any):
        from ..laser_core.output.drawing import at_drawn_size
        from ..laser_core.output.layer_sheet import layer_sheet
        from ..laser_core.settings import LayerSettings
        from ..laser_core.steps.vaq import contrast, select_layer

        batch = batch_of(image)
        prompt, compare = (
            settings_from(group, values) for group in (PromptSettings, ContrastSettings)
        )
        progress = NodeProgress(len(batch), stages={})
        maps, shown, sheets = [], [], Drawings(len(batch))
        with lvlm.running() as model:
            for picture in pictures_of(batch):
                progress.next_picture()
                one = lvlm.read(model, picture, question, prompt, progress)
                added = contrast(one, compare)
                choice = select_layer(added, LayerSettings(), one.band)
                maps.append(one)
                shown.append(at_drawn_size(picture))
                sheet = layer_sheet(picture, added.mean(1), one.grid, choice.vaq, choice.numbers)
                sheets.add(sheet)
            colour = model.mean_colour
        return AttentionHandle(shown, maps, compare, colour, question.strip()), sheets.batch
