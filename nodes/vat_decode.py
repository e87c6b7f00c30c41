"""VAT Decode: the answer, weighed with and without the evidence (steps 9-10, Eqs. 10-11)."""

from __future__ import annotations

from typing import Any

from ..laser_core.output.sentences import describe_answer
from ..laser_core.settings import (
    AnswerSettings,
    DecodeSettings,
    LaserSettings,
    PromptSettings,
)
from .batches import batch_of, size_of
from .handles import TraceHandle
from .runtime import DrawsWhatIsConnected, NodeProgress, ViewProgress, ui
from .shown_pictures import shown_pictures
from .token_maps import MAP_OF_TOKENS, TOKEN_MAP, TOKEN_MAP_TOOLTIP, TokenMapOutput
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

UNCUT = "read from the whole picture: nothing was found, or Con-ViCrop is bypassed"

SURE = (
    "Skip the comparison with the counterfactual when the first token is at least this probable. "
    "0: always compare."
)


class VATDecode(DrawsWhatIsConnected):
    DESCRIPTION = (
        "Answers the question and favours words that are likelier with the evidence than without "
        "it (Visual Activation of Tokens, VAT). Without a counterfactual, decoding is plain. With "
        "a context the model sees picture and crop, and native-resolution models (Qwen-VL) get "
        "the crop enlarged."
    )
    SEARCH_ALIASES = (
        "laser", "vqa", "question", "ask", "answer", "caption", "describe", "image to text",
        "interrogate", "explain", "contrastive decoding", "vat", "質問", "回答", "画像説明",
        "画像からテキスト", "キャプション", "提问", "问答", "描述", "图生文", "图像描述", "反推",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its view is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "decode"
    DRAWN = (TOKEN_MAP,)
    RETURN_TYPES = ("STRING", TRACE, "STRING", "STRING", "MASK")
    RETURN_NAMES = ("answer", "trace", "json", "report", TOKEN_MAP)
    OUTPUT_IS_LIST = (True, False, True, True, False)
    OUTPUT_TOOLTIPS = (
        "The answer; one per picture.",
        "Every token with its probability with and without the evidence.",
        "Everything about the answer as JSON, with its text at its key 'answer'; one per picture.",
        "The answer, its number of tokens, its time and, if it stopped early, the reason; one per "
        "picture.",
        f"{TOKEN_MAP_TOOLTIP} With context and boxes connected it lies on the context, else on the "
        "first crop of each picture.",
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "lvlm": LVLM_SOCKET,
                "positive": (
                    "IMAGE",
                    {"tooltip": "What the answer is read from: Con-ViCrop's crop, or a whole "
                                "picture. Several crops of one picture follow one another."},
                ),
                "question": QUESTION,
            },
            "optional": {
                **widgets(AnswerSettings, "answer_input"),
                **widgets(DecodeSettings, "alpha", "beta", "max_tokens", "temperature", "seed"),
                **widgets(AnswerSettings, "instruction"),
                **widgets(DecodeSettings, "top_p", "top_k"),
                **widgets(PromptSettings, "system", "framing"),
                **widgets(AnswerSettings, "crop_budget"),
                **widgets(DecodeSettings, "adaptive", adaptive={"help": SURE}),
                "counterfactual": (
                    "IMAGE",
                    {"tooltip": "The positive picture without its evidence, from Counterfactual "
                                "Mask. Not connected: plain decoding."},
                ),
                "context": (
                    "IMAGE",
                    {"tooltip": "The whole picture that the crop was cut from. With answer_input "
                                "'picture + crop' the model sees it before the crop. It also sets "
                                "how far native-resolution models enlarge the crop."},
                ),
                "counterfactual_context": (
                    "IMAGE",
                    {"tooltip": "The whole picture without its evidence, from Counterfactual "
                                "Mask. Connect it where the evidence is certain, such as a mask "
                                "you drew. Not connected: both streams see the same context, "
                                "which is faster and forgives a window that misses."},
                ),
                "boxes": (
                    BOUNDING_BOX,
                    {"tooltip": "Con-ViCrop's windows. They tell which crops belong to which "
                                "picture. With the context connected, each crop is read at its "
                                "own size instead of its batch's.",
                     "forceInput": True},  # or the canvas makes it an editor of one box
                ),
                **widgets(DecodeSettings, "max_thinking_tokens", "repetition_penalty"),
                **MAP_OF_TOKENS,
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
        map_of_tokens: str = "",
        unique_id: str | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        **values: Any,
    ):
        from ..laser_core.files import to_json
        from ..laser_core.output.report import report_answer
        from ..laser_core.steps.decode import decode

        settings = settings_from_groups(values)
        shown = shown_pictures(positive, counterfactual, context, counterfactual_context, boxes)
        size = size_of(batch_of(positive if shown[0].windows is None else context))
        maps = TokenMapOutput(self, unique_id, map_of_tokens, len(shown), size)
        progress, live = NodeProgress(len(shown)), ViewProgress(unique_id, extra_pnginfo)
        answers, reports, lines, views = [], [], [], []
        with lvlm.running() as model:
            for one in shown:
                progress.next_picture()
                streams = one.streams(model, question, settings)
                watch = one.watch(model, streams[0].prompt, settings) if maps.asked else None
                answer = decode(model, *streams, settings.decode, progress, live.text, watch)
                answers.append(answer)
                notes = [UNCUT] if one.uncut else []
                content = report_answer(answer, question, model, settings, lvlm.settings, notes)
                reports.append(to_json(content))
                mapped = maps.add(answer, one.looked_on, settings)
                said = [describe_answer(answer), *notes, mapped, model.notice]
                lines.append("; ".join(filter(None, said)))
                views.append({**token_view(answer, model.notice), "uncut": one.uncut})
        texts = [answer.text for answer in answers]
        return {
            "ui": ui(lines, laser_tokens=views, laser_looked=maps.views),
            "result": (texts, TraceHandle(answers), reports, lines, maps.masks),
        }


def settings_from_groups(values: dict[str, Any]) -> LaserSettings:
    return LaserSettings(
        prompt=settings_from(PromptSettings, values),
        answer=settings_from(AnswerSettings, values),
        decode=settings_from(DecodeSettings, values),
    )
