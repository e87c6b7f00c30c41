"""LASER Check: a question with given options. Thin over laser_core/recipes/check.py."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_check
from ..laser_core.settings import LaserSettings
from .batches import batch_of, pictures_of
from .runtime import NodeProgress, ui
from .views import choice_view, looks_view
from .widgets import (
    CATEGORY,
    IMAGE_SOCKET,
    LVLM_SOCKET,
    OTHER_SETTINGS,
    QUESTION,
    preset_widget,
    values_of,
)


class LaserCheck:
    DESCRIPTION = (
        "Asks a question whose possible answers you give, yes and no or others, and says how "
        "likely each one is. The first option switches what follows."
    )
    SEARCH_ALIASES = (
        "laser", "check", "yes no", "boolean", "if", "condition", "switch", "classify", "choice",
        "multiple choice", "filter", "probability", "判定", "条件", "分類", "選択", "はい いいえ",
        "判断", "分类", "选择", "是否",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # it shows the probabilities: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "check"
    RETURN_TYPES = ("BOOLEAN", "INT", "STRING", "FLOAT", "BOOLEAN", "STRING")
    RETURN_NAMES = ("is_first", "index", "option", "probability", "unsure", "report")
    OUTPUT_IS_LIST = (True, True, True, True, True, True)
    OUTPUT_TOOLTIPS = (
        "Whether the first option is the likeliest: true for yes. For a switch; one per picture.",
        "Which option is the likeliest, counted from 0; one per picture.",
        "The likeliest option; one per picture.",
        "Its probability among the options, 0 to 1; one per picture.",
        "Whether its probability lies below unsure_below; one per picture.",
        "Every option with its probability, the likeliest first; one per picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {"lvlm": LVLM_SOCKET, "image": IMAGE_SOCKET, "question": QUESTION},
            "optional": {
                "options": (
                    "STRING",
                    {
                        "default": "yes\nno",
                        "multiline": True,
                        "tooltip": "The possible answers, one a line. Write them as the model "
                        "would answer: each counts as written and with a capital first letter.",
                    },
                ),
                "unsure_below": (
                    "FLOAT",
                    {
                        "default": 0.7,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.01,
                        "tooltip": "The answer counts as unsure where the likeliest option is less "
                        "probable than this.",
                    },
                ),
                "preset": preset_widget(),
                "settings": OTHER_SETTINGS,
            },
        }

    def check(
        self,
        lvlm: Any,
        image: Any,
        question: str,
        options: str = "yes\nno",
        unsure_below: float = 0.7,
        preset: str = "default",
        settings: Any = None,
    ):
        from ..laser_core.recipes.check import check

        given = [line for line in options.splitlines() if line.strip()]
        chosen = LaserSettings.of(preset, **values_of(settings))
        batch, checked = batch_of(image), []
        progress = NodeProgress(len(batch))
        with lvlm.running() as model:
            for picture in pictures_of(batch):
                progress.next_picture()
                checked.append(check(model, picture, question, given, chosen, progress, lvlm.read))
            notice = model.notice
        likeliest = [one.probabilities[one.index] for one in checked]
        unsure = [probability < unsure_below for probability in likeliest]
        said = [describe_check(*pair) for pair in zip(checked, unsure, strict=True)]
        lines = ["; ".join(filter(None, [line, notice])) for line in said]
        views = [
            choice_view(
                describe_check(one, unsure=False),
                notice,
                unsure=doubted,
                **looks_view(one.looks, one.believed),
            )
            for one, doubted in zip(checked, unsure, strict=True)
        ]
        return {
            "ui": ui(lines, laser_tokens=views),
            "result": (
                [one.index == 0 for one in checked],
                [one.index for one in checked],
                [one.options[one.index] for one in checked],
                likeliest,
                unsure,
                lines,
            ),
        }
