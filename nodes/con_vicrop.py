"""Con-ViCrop: the window of the picture that holds the evidence (step 7)."""

from __future__ import annotations

from itertools import repeat
from typing import Any

from ..laser_core.output.sentences import window_line
from ..laser_core.settings import CropSettings
from .batches import (
    Drawings,
    batch_of,
    boxes_of,
    crops_of,
    evidence_of,
    pictures_of,
    points_of,
    regions_of,
    size_of,
    window_by_hand,
)
from .runtime import DrawsWhatIsConnected, ui
from .views import window_view
from .widgets import (
    BBOX,
    BOUNDING_BOX,
    CATEGORY,
    EVIDENCE_SOCKET,
    IMAGE_SOCKET,
    MASK_SOCKET,
    POINTS_TOOLTIP,
    UNIQUE_ID,
    WINDOW_BY_HAND,
    settings_from,
    widgets,
)


class ConViCrop(DrawsWhatIsConnected):
    DESCRIPTION = (
        "Cuts out the window that holds most of the evidence, or of any mask; it needs no model. "
        "Where nothing was found, the window is the whole picture. Crops of different sizes are "
        "enlarged to the largest width and height of their batch."
    )
    SEARCH_ALIASES = (
        "laser", "crop", "zoom", "crop by mask", "vicrop", "region of interest", "detect",
        "locate", "detailer", "切り抜き", "拡大", "検出", "位置", "ディテーラー", "裁剪", "放大",
        "检测", "定位", "细节修复",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its view is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "crop"
    RETURN_TYPES = ("IMAGE", "MASK", BOUNDING_BOX, BBOX, "IMAGE", "STRING")
    RETURN_NAMES = ("crop", "region", "boxes", "bbox", "overlay", "points")
    OUTPUT_IS_LIST = (False, False, False, False, False, True)
    OUTPUT_TOOLTIPS = (
        "The crops: what the windows show. One per picture, or several, in the order of the "
        "pictures.",
        "Where each crop was cut out, as a mask of the picture's size. For Paste Back or "
        "inpainting; one per crop.",
        "The windows as x, y, width, height in pixels; one list per picture.",
        "The windows as x1, y1, x2, y2 in pixels, as SAM nodes take them; one list per picture.",
        "The picture with its heat map and windows, a colour bar and a legend: a drawing to look "
        "at.",
        POINTS_TOOLTIP,
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {"image": IMAGE_SOCKET},
            "optional": {
                **widgets(CropSettings, "scale", "min_side_px", "placement", "margin", "windows"),
                "override": WINDOW_BY_HAND,
                **widgets(CropSettings, "multiple_of"),
                "evidence": EVIDENCE_SOCKET,
                "mask": MASK_SOCKET,
            },
            "hidden": UNIQUE_ID,
        }

    def crop(
        self,
        image: Any,
        override: str = "",
        evidence: Any = None,
        mask: Any = None,
        unique_id: str | None = None,
        **values: Any,
    ):
        from ..laser_core.output.drawing import drawing
        from ..laser_core.results import Placement
        from ..laser_core.steps.crop import place_windows

        chosen = settings_from(CropSettings, values)
        batch, draws = batch_of(image), self.draws(unique_id)
        size = size_of(batch)
        by_hand = window_by_hand(override, size)
        if by_hand is not None and evidence is None and mask is None:
            items = repeat(None, len(batch))
        else:
            items = evidence_of(len(batch), size, evidence, mask)
        placements, views, points, drawings = [], [], [], Drawings(len(batch))
        for picture, item in zip(pictures_of(batch), items, strict=True):
            if by_hand is None:
                placement = place_windows(item, chosen)
            else:
                placement = Placement((by_hand,), (_share(item, by_hand),))
            placements.append(placement)
            points.append(points_of(item, placement))
            views.append(window_view(picture, item, placement, by_hand=by_hand is not None))
            if draws:
                drawings.add(drawing(picture, item, placement))
        windows = [placement.windows for placement in placements]
        bounding, corners = boxes_of(placements, _asked(evidence, mask))
        return {
            "ui": ui(window_lines(placements), laser_windows=views),
            "result": (
                crops_of(batch, windows),
                regions_of(windows, size),
                bounding,
                corners,
                drawings.batch if draws else None,
                points,
            ),
        }


def window_lines(placements: list) -> list[str]:
    """Windows in words, one line each."""
    return [
        window_line(window, share)
        for placement in placements
        for window, share in zip(placement.windows, placement.shares, strict=True)
    ]


def _asked(evidence: Any, mask: Any) -> str:
    """What the windows are of: the question the evidence was found with."""
    return "evidence" if evidence is None or mask is not None else evidence.question


def _share(item: Any, window: Any) -> float:
    """The share of the evidence inside a window; 0 where there is none."""
    return 0.0 if item is None or item.degenerate else item.share_in(window)
