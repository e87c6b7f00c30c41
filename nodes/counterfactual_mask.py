"""Counterfactual Mask: the picture with its evidence blocked (step 8, Eq. 7)."""

from __future__ import annotations

from typing import Any

from ..laser_core.settings import CounterfactualSettings
from .batches import (
    batch_of,
    crops_of,
    evidence_of,
    on_white,
    pictures_of,
    size_of,
    windows_of,
)
from .widgets import (
    BOUNDING_BOX,
    CATEGORY,
    EVIDENCE_SOCKET,
    IMAGE_SOCKET,
    MASK_SOCKET,
    settings_from,
    widgets,
)

USUAL_MEAN_COLOUR = (122, 116, 104)  # of CLIP, which most vision towers were made with
FILLS = ("mean", "blur", "noise")  # 'visual tokens' exists inside a model alone
FILL_HELP = (
    "What replaces the evidence. mean: the model's mean colour (CLIP's, where only a mask is "
    "connected); blur: the picture, blurred; noise: random pixels. LASER Settings also offers "
    "'visual tokens', which works only inside the model."
)


class CounterfactualMask:
    DESCRIPTION = (
        "Blocks the evidence on the picture, or what any mask covers; it needs no model. VAT "
        "Decode compares the answers with and without it. A mask is blocked whole, whatever the "
        "amount; where nothing was found, nothing is blocked."
    )
    SEARCH_ALIASES = (
        "laser", "counterfactual", "block", "mask out", "hide object", "ablate", "explain",
        "隠す", "マスク", "反事実", "遮挡", "遮罩", "反事实",
    )  # fmt: skip
    CATEGORY = CATEGORY
    FUNCTION = "block"
    RETURN_TYPES = ("IMAGE", "MASK", "IMAGE")
    RETURN_NAMES = ("counterfactual", "patches", "counterfactual_context")
    OUTPUT_TOOLTIPS = (
        "The picture without its evidence, cut to the windows if boxes are connected.",
        "What is blocked, as a mask of the picture's size.",
        "The whole picture without its evidence, for VAT Decode's input of the same name.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {"image": IMAGE_SOCKET},
            "optional": {
                **widgets(
                    CounterfactualSettings, "amount", "fill",
                    fill={"choices": FILLS, "help": FILL_HELP},
                ),
                "evidence": EVIDENCE_SOCKET,
                "mask": MASK_SOCKET,
                "boxes": (
                    BOUNDING_BOX,
                    {"tooltip": "The windows, from Con-ViCrop. The evidence inside them is "
                                "blocked, and the picture is cut to them.",
                     "forceInput": True},  # or the canvas makes it an editor of one box
                ),
            },
        }  # fmt: skip

    def block(self, image: Any, evidence=None, mask=None, boxes=None, **values: Any):
        import torch

        from ..laser_core.pictures import to_tensor
        from ..laser_core.steps.counterfactual import block, mask_patches, select_patches

        chosen = settings_from(CounterfactualSettings, values)
        batch = batch_of(image)
        count, size = len(batch), size_of(batch)
        items = evidence_of(count, size, evidence, mask)
        looks = None if boxes is None else windows_of(boxes, count, size)
        colour = USUAL_MEAN_COLOUR if evidence is None else evidence.mean_colour
        masks = torch.zeros(count, size[1], size[0])
        blocked = torch.empty(*masks.shape, 3)
        for index, (picture, item) in enumerate(zip(pictures_of(batch), items, strict=True)):
            blocked[index] = on_white(batch[index])
            if not item.degenerate:
                windows = () if looks is None else looks[index]
                masks[index] = mask_patches(select_patches(item, chosen, windows), item)
                inside = masks[index] > 0
                filled = to_tensor(block(picture, masks[index], chosen, colour))[0]
                blocked[index][inside] = filled[inside]
        cut = blocked if looks is None else crops_of(blocked, looks)
        return cut, masks, blocked
