"""VAT Decode: the answer that leans on the evidence (steps 9-10, Eqs. 10-11)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..laser_core.output.sentences import describe_answer
from ..laser_core.settings import (
    AnswerSettings,
    DecodeSettings,
    LaserSettings,
    PromptSettings,
)
from .handles import TraceHandle
from .runtime import NodeProgress, ViewProgress, ui
from .shown_pictures import shown_pictures
from .views import token_view
from .widgets import (
    BOUNDING_BOX,
    CATEGORY,
    LVLM_SOCKET,
    NODE_ON_PAGE,
    QUESTION,
    TRACE,
    settings_from,
    widgets,
)

if TYPE_CHECKING:
    pass


class VATDecode:
    DESCRIPTION = (
        "Answers the question from the positive picture, and favours words that are likelier with "
        "the evidence than without it (Visual Activation of Tokens). With no counterfactual it is "
        "the model's plain answer. With the context picture the model sees picture and crop, and "
        "models of native resolution (Qwen-VL) get the crop enlarged; without it the positive "
        "picture is read as it is."
    )
    SEARCH_ALIASES = ("laser", "vqa", "caption", "ask", "answer", "contrastive decoding", "vat")
    CATEGORY = CATEGORY
    HAS_INTERMEDIATE_OUTPUT = True  # its view is sent again when the node is cached
    FUNCTION = "decode"
    RETURN_TYPES = ("STRING", TRACE, "STRING", "STRING")
    RETURN_NAMES = ("answer", "trace", "json", "report")
    OUTPUT_IS_LIST = (True, False, True, True)
    OUTPUT_TOOLTIPS = (
        "The answer; one per picture.",
        "Every token with its probability in both streams.",
        "Everything about the answer as JSON; one per picture.",
        "The answer with its number of tokens, its time and why it stopped; one per picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "lvlm": LVLM_SOCKET,
                "positive": (
                    "IMAGE",
                    {"tooltip": "What the answer is read from: the crop of Con-ViCrop, or a whole "
                                "picture. Several crops of a picture follow one another."},
                ),
                "question": QUESTION,
            },
            "optional": {
                **widgets(AnswerSettings, "answer_input"),
                **widgets(DecodeSettings, "alpha", "beta", "max_tokens", "temperature", "seed"),
                **widgets(PromptSettings, "instruction"),
                **widgets(DecodeSettings, "top_p", "top_k"),
                **widgets(PromptSettings, "system", "framing"),
                **widgets(AnswerSettings, "crop_budget"),
                **widgets(DecodeSettings, "adaptive"),
                "counterfactual": (
                    "IMAGE",
                    {"tooltip": "The positive picture without its evidence, from Counterfactual "
                                "Mask. Not connected: plain decoding."},
                ),
                "context": (
                    "IMAGE",
                    {"tooltip": "The whole picture the crop was cut from. The model sees it before "
                                "the crop (answer_input 'picture + crop'); in any case it sets how "
                                "far a crop is enlarged on models of native resolution."},
                ),
                "counterfactual_context": (
                    "IMAGE",
                    {"tooltip": "The whole picture without its evidence, from Counterfactual "
                                "Mask: for evidence that is sure, as a mask of yours. Not "
                                "connected: both streams see the same context, which is faster "
                                "and forgives a window that missed."},
                ),
                "boxes": (
                    BOUNDING_BOX,
                    {"tooltip": "The windows of Con-ViCrop: they tell how many crops each picture "
                                "has, and with the context connected each crop is read at its own "
                                "size, whatever the others of its batch have.",
                     "forceInput": True},  # or the canvas makes it an editor of one box
                ),
            },
            "hidden": NODE_ON_PAGE,
        }  # fmt: skip

    def decode(
        self,
        lvlm: Any,
        positive: Any,
        question: str,
        counterfactual: Any = None,
        context: Any = None,
        counterfactual_context: Any = None,
        boxes: Any = None,
        unique_id: str | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        **values: Any,
    ):
        from ..laser_core.files import to_json
        from ..laser_core.output.report import report_answer
        from ..laser_core.steps.decode import decode

        settings = settings_from_groups(values)
        shown = shown_pictures(positive, counterfactual, context, counterfactual_context, boxes)
        progress, live = NodeProgress(len(shown)), ViewProgress(unique_id, extra_pnginfo)
        answers, reports = [], []
        with lvlm.running() as model:
            for one in shown:
                progress.next_picture()
                streams = one.streams(model, question, settings)
                answer = decode(model, *streams, settings.decode, progress, live.text)
                answers.append(answer)
                content = report_answer(answer, question, model, settings, lvlm.settings)
                reports.append(to_json(content))
        texts = [answer.text for answer in answers]
        lines = [describe_answer(answer) for answer in answers]
        return {
            "ui": ui(lines, laser_tokens=[token_view(answer) for answer in answers]),
            "result": (texts, TraceHandle(answers), reports, lines),
        }


def settings_from_groups(values: dict[str, Any]) -> LaserSettings:
    return LaserSettings(
        prompt=settings_from(PromptSettings, values),
        answer=settings_from(AnswerSettings, values),
        decode=settings_from(DecodeSettings, values),
    )
