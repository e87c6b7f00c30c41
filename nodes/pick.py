"""LASER Pick: which candidate a phrase names. Thin over laser_core/recipes/pick.py."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_pick
from ..laser_core.settings import LaserSettings
from .batches import batch_of, box_lists, pictures_of, regions_of, size_of, window_on
from .runtime import NodeProgress, ui
from .views import choice_view, preview
from .widgets import (
    BOUNDING_BOX,
    CATEGORY,
    LVLM_SOCKET,
    OTHER_SETTINGS,
    preset_widget,
    values_of,
)


class LaserPick:
    DESCRIPTION = (
        "Picks the one of several candidates that a phrase names: masks of any segmenter, or "
        "boxes. It ranks them by where the model looks, reads the best few as crops, and says "
        "none where none is meant. The mask stays exact to the pixel."
    )
    SEARCH_ALIASES = (
        "laser", "pick", "choose mask", "select mask", "filter masks", "sam", "segment",
        "referring expression", "which one", "rank", "マスクを選ぶ", "選択", "セグメント",
        "选择遮罩", "挑选", "分割",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its picture is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "pick"
    RETURN_TYPES = ("MASK", BOUNDING_BOX, "INT", "FLOAT", "FLOAT", "BOOLEAN", "STRING")
    RETURN_NAMES = ("mask", "boxes", "index", "score", "margin", "found", "report")
    OUTPUT_TOOLTIPS = (
        "The candidate that was picked, as it came; empty where none is meant.",
        "Its box as x, y, width, height in pixels, labelled by the phrase; none where none is "
        "meant.",
        "Which candidate it is, counted from 0; -1 where none is meant.",
        "How sure the model is that it is what the phrase names, 0 to 1.",
        "How far it lies ahead of the next candidate, 0 to 1.",
        "Whether a candidate was picked.",
        "The candidates' shares in words.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "lvlm": LVLM_SOCKET,
                "image": (
                    "IMAGE",
                    {"tooltip": "The one picture that the candidates are of. Transparent parts "
                                "become white."},
                ),
                "phrase": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "What the candidate is: 'dog', 'the bottle left of the clock'.",
                    },
                ),
            },
            "optional": {
                "masks": (
                    "MASK",
                    {"tooltip": "The candidates: a batch of masks of the picture's size, as a "
                                "segmenter gives one for each thing."},
                ),
                "candidate_boxes": (
                    BOUNDING_BOX,
                    {"tooltip": "The candidates as boxes, where there are no masks.",
                     "forceInput": True},  # or the canvas makes it an editor of one box
                ),
                "preset": preset_widget(),
                "settings": OTHER_SETTINGS,
            },
        }  # fmt: skip

    def pick(
        self,
        lvlm: Any,
        image: Any,
        phrase: str,
        masks: Any = None,
        candidate_boxes: Any = None,
        preset: str = "default",
        settings: Any = None,
    ):
        import torch

        from ..laser_core.recipes.pick import pick

        batch = batch_of(image)
        if len(batch) != 1:
            raise ValueError(
                f"connect one picture: the candidates are of one, and image has {len(batch)}"
            )
        size = size_of(batch)
        candidates = _candidates(masks, candidate_boxes, size)
        chosen = LaserSettings.of(preset, **values_of(settings))
        progress = NodeProgress()
        progress.next_picture()
        [picture] = pictures_of(batch)
        with lvlm.running() as model:
            picked = pick(model, picture, candidates, phrase, chosen, progress)
            notice = model.notice
        line = describe_pick(picked)
        said = "; ".join(filter(None, [line, notice]))
        index = picked.index
        mask = torch.zeros(1, size[1], size[0]) if index is None else candidates[index][None]
        box = None if index is None else picked.candidates[index].box
        boxes = [] if box is None else [
            {"x": box.x1, "y": box.y1, "width": box.width, "height": box.height,
             "score": picked.score, "label": phrase.strip()}
        ]  # fmt: skip
        shown = picture.copy()
        shown.paste((86, 180, 233), mask=_opacity(mask[0]))
        return {
            "ui": ui(
                [said],
                images=[entry for entry in [preview(shown)] if entry],
                laser_tokens=[choice_view(line, notice)],
            ),
            "result": (
                mask, [boxes], -1 if index is None else index, picked.score, picked.margin,
                index is not None, said,
            ),
        }  # fmt: skip


def _candidates(masks: Any, boxes: Any, size: tuple[int, int]) -> list:
    """Masks (H, W) of the candidates. ValueError for none, and for masks of another size."""
    if masks is not None and boxes is not None:
        raise ValueError("connect masks or candidate_boxes, not both: each would be a candidate")
    if masks is not None:
        given = masks.detach().cpu().float()
        return list(given.reshape(-1, *given.shape[-2:]))
    if boxes is None:
        raise ValueError("connect masks or candidate_boxes: there is nothing to pick from")
    [own] = box_lists(boxes, 1)
    return list(regions_of([[window_on(box, size) for box in own]], size)) if own else []


def _opacity(mask: Any) -> Any:
    """How much of a colour lies over a picture where a mask is, as a PIL mask."""
    from PIL import Image

    return Image.fromarray((mask.clamp(0, 1) * 140).byte().numpy())
