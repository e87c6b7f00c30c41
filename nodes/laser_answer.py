"""LASER Answer: the whole method in one node (steps 1-10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..laser_core.settings import (
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    PromptSettings,
)
from .batches import boxes_of, image_of, masks_of, pictures_of
from .handles import describe, summary
from .runtime import NodeProgress, ViewProgress, ui
from .views import token_view, window_view
from .widgets import (
    BOUNDING_BOX,
    CATEGORY,
    IMAGE_SOCKET,
    LVLM_SOCKET,
    NODE_ON_PAGE,
    QUESTION,
    SETTINGS,
    preset_widget,
    widgets,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..laser_core.pipeline import LaserAnswer, Location
    from ..laser_core.results import Placement

CARRIED = ("answer_input", "scale", "max_tokens", "temperature", "seed", "instruction")
"""The settings that people turn; all others are LASER Settings'."""


class LaserAnswerNode:
    DESCRIPTION = (
        "Finds what the question is about, looks there closely and answers: the whole method in "
        "one node. The other nodes do the same step by step."
    )
    SEARCH_ALIASES = ("laser", "vqa", "caption", "ask", "answer", "visual grounding", "vlm")
    CATEGORY = CATEGORY
    HAS_INTERMEDIATE_OUTPUT = True  # its view is sent again when the node is cached
    FUNCTION = "answer"
    RETURN_TYPES = ("STRING", "STRING", "IMAGE", "IMAGE", "MASK", BOUNDING_BOX, "STRING", "STRING")
    RETURN_NAMES = (
        "answer", "plain_answer", "crop", "overlay", "heat_map", "boxes", "json", "report",
    )  # fmt: skip
    OUTPUT_IS_LIST = (True, True, False, False, False, False, True, True)
    OUTPUT_TOOLTIPS = (
        "The answer; one per picture.",
        "What the model says without the method; empty when it was not asked for.",
        "What the windows show: one per picture, or several in the order of the pictures.",
        "The picture with its heat map and windows, a colour bar and a legend: a drawing to show.",
        "The evidence as a mask of the picture's size: 1 where it is strongest.",
        "The windows as x, y, width, height in pixels: a list per picture.",
        "Everything about the run as JSON; one per picture.",
        "The answer with its number of tokens, its time and why it stopped, the plain answer and "
        "where the evidence comes from; one per picture.",
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
                "preset": preset_widget(),
                **widgets(AnswerSettings, "answer_input"),
                **widgets(CropSettings, "scale"),
                **widgets(DecodeSettings, "max_tokens", "temperature", "seed"),
                "with_plain": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Also give the model's answer without the method, to compare.",
                    },
                ),
                **widgets(PromptSettings, "instruction", instruction={"advanced": True}),
                "mask": (
                    "MASK",
                    {"tooltip": "Where to look, as any mask of the picture's size, instead of the "
                                "evidence the model finds. One for all pictures, or one each."},
                ),
                "settings": (
                    SETTINGS,
                    {"tooltip": "From LASER Settings, which then decides every setting that this "
                                "node lacks. Not connected: the preset decides them."},
                ),
            },
            "hidden": NODE_ON_PAGE,
        }  # fmt: skip

    def answer(
        self,
        lvlm: Any,
        image: Any,
        question: str,
        preset: str = "default",
        with_plain: bool = True,
        mask: Any = None,
        settings: Any = None,
        unique_id: str | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        **values: Any,
    ):
        from ..laser_core import pipeline
        from ..laser_core.files import to_json
        from ..laser_core.output.report import report

        others = {} if settings is None else settings.values
        settings = LaserSettings.of(preset, **others, **values)
        pictures = pictures_of(image)
        masks = [None] * len(pictures) if mask is None else masks_of(mask, pictures)
        progress, live = NodeProgress(len(pictures)), ViewProgress(unique_id, extra_pnginfo)
        found, windows, reports = [], [], []
        with lvlm.running() as model:
            for picture, one_mask in zip(pictures, masks, strict=True):
                progress.next_picture()
                location = None
                if not model.unknown_words(question):  # else the answer says which words it knows
                    inputs, maps = model.encode(picture, settings.prompt.framing), None
                    if one_mask is None:
                        maps = lvlm.read(model, inputs, question, settings.prompt, progress)
                    location = pipeline.locate(
                        model, picture, question, settings, progress,
                        inputs=inputs, maps=maps, mask=one_mask,
                    )  # fmt: skip
                windows.append(_windows(picture, location))
                live.windows(windows[-1])
                result = pipeline.answer(
                    model, picture, question, settings,
                    location=location, with_plain=with_plain, progress=progress, on_text=live.text,
                )  # fmt: skip
                found.append(result)
                reports.append(
                    to_json(report(result, question, model, settings, load=lvlm.settings))
                )
        return _outputs(pictures, found, windows, reports)


def drawn(picture: Image.Image, location: Location | None) -> Image.Image:
    """The picture with its heat map and windows; alone where nothing was looked for."""
    from ..laser_core.output.drawing import drawing

    if location is None:
        return drawing(picture)
    return drawing(picture, location.evidence, location.placement)


def _placement(picture: Image.Image, location: Location | None) -> Placement:
    """The windows; the whole picture where nothing was looked for."""
    from ..laser_core.geometry import whole_picture
    from ..laser_core.results import Placement

    if location is None:
        return Placement((whole_picture(picture.size),), (0.0,))
    return location.placement


def _windows(picture: Image.Image, location: Location | None) -> dict[str, Any]:
    """What the node's view shows of them."""
    evidence = None if location is None else location.evidence
    return window_view(picture, evidence, _placement(picture, location))


def _outputs(
    pictures: list[Image.Image],
    found: list[LaserAnswer],
    windows: list[dict[str, Any]],
    reports: list[str],
) -> dict[str, Any]:
    import torch

    from ..laser_core.output.drawing import on_one_size
    from ..laser_core.output.heat import heat_map

    crops, overlays, heats, placements = [], [], [], []
    for picture, result in zip(pictures, found, strict=True):
        location = result.location
        placement = _placement(picture, location)
        heat = torch.zeros(picture.height, picture.width)
        if location is not None:
            heat = heat_map(location.evidence)
        crops += [picture.crop(window) for window in placement.windows]
        overlays.append(drawn(picture, location))
        heats.append(heat)
        placements.append(placement)
    answers = [result.answer.text for result in found]
    plain = ["" if result.plain is None else result.plain.text for result in found]
    views = [token_view(result.answer) for result in found]
    lines = [_lines(result) for result in found]
    shown = [line for one in lines for line in one]
    return {
        "ui": ui(shown, laser_tokens=views, laser_windows=windows, laser_plain=plain),
        "result": (
            answers, plain, image_of(crops), image_of(on_one_size(overlays)), torch.stack(heats),
            boxes_of(placements)[0], reports, ["\n".join(one) for one in lines],
        ),
    }  # fmt: skip


def _lines(result: LaserAnswer) -> list[str]:
    """What the node says of a picture."""
    lines = [summary(result.answer)]
    if result.location is not None:
        if result.plain is not None:
            lines.append(f"plain model: {result.plain.text or '(an empty answer)'}")
        lines.append(describe(result.location.evidence))
    return lines
