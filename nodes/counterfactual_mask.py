"""Counterfactual Mask: the picture with its evidence blocked (step 8, Eq. 7)."""

from __future__ import annotations

from typing import Any

from ..laser_core.settings import CounterfactualSettings
from .batches import evidence_of, image_of, pictures_of, windows_of
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
    SEARCH_ALIASES = ("laser", "counterfactual", "block", "mask out", "hide object", "ablate")
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

        from ..laser_core.steps.counterfactual import block, mask_patches, select_patches

        chosen = settings_from(CounterfactualSettings, values)
        pictures = pictures_of(image)
        items = evidence_of(pictures, evidence, mask)
        looks = [[] for _ in pictures] if boxes is None else windows_of(boxes, pictures)
        colour = USUAL_MEAN_COLOUR if evidence is None else evidence.mean_colour
        masks, blocked, cut = [], [], []
        for picture, item, windows in zip(pictures, items, looks, strict=True):
            if item.degenerate:
                masks.append(torch.zeros(picture.height, picture.width))
                blocked.append(picture)
            else:
                masks.append(mask_patches(select_patches(item, chosen, windows), item))
                blocked.append(block(picture, masks[-1], chosen, colour))
            cut += [blocked[-1].crop(window) for window in windows] or [blocked[-1]]
        return image_of(cut), torch.stack(masks), image_of(blocked)
