"""LASER Find: words in; masks, boxes and points out. Thin over laser_core/recipes/find.py."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_finding
from ..laser_core.settings import FindSettings, LaserSettings
from .batches import Drawings, batch_of, labelled_boxes, pictures_of, size_of
from .runtime import DrawsWhatIsConnected, NodeProgress, ui
from .views import preview
from .widgets import (
    BBOX,
    BOUNDING_BOX,
    CATEGORY,
    IMAGE_SOCKET,
    LVLM_SOCKET,
    OTHER_SETTINGS,
    UNIQUE_ID,
    preset_widget,
    settings_from,
    values_of,
    widgets,
)

STAGES = {
    "answering plainly": (0.0, 0.1),
    "reading the picture": (0.1, 0.3),
    "looking closer": (0.3, 1.0),
}
PREVIEWS = 16  # pictures of a batch that are shown on the node


class LaserFind(DrawsWhatIsConnected):
    DESCRIPTION = (
        "Finds what you name: a mask, a heat map, boxes and points for each phrase, and whether "
        "it is there at all. The picture is read once for all phrases, then each thing is looked "
        "at closely."
    )
    SEARCH_ALIASES = (
        "laser", "find", "detect", "locate", "point", "ground", "grounding", "segment", "mask",
        "text to mask", "text to box", "referring expression", "sam", "points editor", "bbox",
        "検出", "探す", "位置", "マスク", "セグメント", "查找", "检测", "定位", "分割", "遮罩",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its picture is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "find"
    RETURN_TYPES = (
        "MASK", "MASK", BOUNDING_BOX, BBOX, "STRING", "STRING", "FLOAT", "BOOLEAN", "IMAGE",
        "STRING", "STRING",
    )  # fmt: skip
    RETURN_NAMES = (
        "masks", "heat_maps", "boxes", "bbox", "points", "negative_points", "scores", "found",
        "overlay", "json", "report",
    )  # fmt: skip
    OUTPUT_IS_LIST = (
        False, False, False, False, True, True, True, True, False, True, True,
    )  # fmt: skip
    OUTPUT_TOOLTIPS = (
        "A cleaned mask for each phrase, picture by picture; empty where it was not found.",
        "The evidence for each phrase as a soft mask, picture by picture: 1 where it is strongest.",
        "What was found as x, y, width, height in pixels, labelled by phrase; one list per "
        "picture.",
        "The same boxes as x1, y1, x2, y2 in pixels, as SAM nodes take them; one list per picture.",
        "Points on the thing as JSON, for SAM nodes and points editors; one text per phrase, "
        "picture by picture.",
        "Points off the thing, where else the model looked, as JSON; one text per phrase, picture "
        "by picture.",
        "How sure the model is that the thing is there, 0 to 1; one per phrase, picture by "
        "picture.",
        "Whether the thing was found; one per phrase, picture by picture.",
        "The picture with masks, boxes, names and points: a drawing to look at.",
        "Everything that was found as JSON; one text per picture.",
        "What was found, a line per phrase; one text per picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "lvlm": LVLM_SOCKET,
                "image": IMAGE_SOCKET,
                "phrases": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "What to find, one phrase a line: 'dog', 'the red car', 'the "
                        "sign that says open'. A line that ends with a question mark is answered "
                        "first, and the answer is looked for.",
                    },
                ),
            },
            "optional": {
                "preset": preset_widget(),
                **widgets(FindSettings),
                "masks_of_boxes": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "Make each mask the whole box of the thing: for inpainting with "
                        "room around it.",
                        "advanced": True,
                    },
                ),
                "settings": OTHER_SETTINGS,
            },
            "hidden": UNIQUE_ID,
        }

    def find(
        self,
        lvlm: Any,
        image: Any,
        phrases: str,
        preset: str = "default",
        masks_of_boxes: bool = False,
        settings: Any = None,
        unique_id: str | None = None,
        **values: Any,
    ):
        import torch

        from ..laser_core.files import to_json
        from ..laser_core.output.found import found_drawing, found_report
        from ..laser_core.output.masks import points_json
        from ..laser_core.recipes.find import find

        asked = [line.strip() for line in phrases.splitlines() if line.strip()]
        chosen = LaserSettings.of(preset, **values_of(settings))
        finding = settings_from(FindSettings, values)
        batch, draws = batch_of(image), self.draws(unique_id)
        count, (width, height) = len(batch), size_of(batch)
        masks, heats = (torch.zeros(count * len(asked), height, width) for _ in range(2))
        found: list[list] = []
        previews, drawings, reports, lines = [], Drawings(count), [], []
        progress = NodeProgress(count, STAGES)
        with lvlm.running() as model:
            for index, picture in enumerate(pictures_of(batch)):
                progress.next_picture()
                things = find(model, picture, asked, chosen, finding, progress)
                if draws or index < PREVIEWS:
                    drawing = found_drawing(picture, things)
                    if index < PREVIEWS:
                        previews.append(preview(drawing))
                    if draws:
                        drawings.add(drawing)
                for place, one in enumerate(things, index * len(asked)):
                    masks[place], heats[place] = _mask(one, masks_of_boxes), one.heat
                reports.append(to_json(found_report(things, notice=model.notice)))
                lines.append([*map(describe_finding, things), *filter(None, [model.notice])])
                found.append([_without_maps(one) for one in things])
        boxes, corners = labelled_boxes(found)
        each = [one for things in found for one in things]
        shown = [line for one in lines for line in one]
        return {
            "ui": ui(shown, images=[entry for entry in previews if entry]),
            "result": (
                masks, heats, boxes, corners,
                [points_json(one.points) for one in each],
                [points_json(one.negative_points) for one in each],
                [one.score for one in each], [one.found for one in each],
                drawings.batch if draws else None, reports, ["\n".join(one) for one in lines],
            ),
        }  # fmt: skip


def _mask(one: Any, of_box: bool) -> Any:
    """A finding's mask, or its first box filled."""
    if not of_box or not one.boxes:
        return one.mask
    mask = one.mask.clone()
    x1, y1, x2, y2 = one.boxes[0]
    mask[y1:y2, x1:x2] = True
    return mask


def _without_maps(one: Any) -> Any:
    """Of a video only what is put out is kept."""
    from dataclasses import replace

    nothing = one.mask[:0]
    return replace(one, mask=nothing, heat=nothing, closer=None)
