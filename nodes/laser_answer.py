"""LASER Answer: the whole method in one node (steps 1-10)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..laser_core.output.sentences import (
    describe_answer,
    describe_evidence,
    describe_looks,
    plain_line,
)
from ..laser_core.settings import (
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
)
from ..laser_core.tasks import AS_ASKED, TASKS, Task, read_tasks
from .batches import (
    Drawings,
    batch_of,
    boxes_of,
    crops_of,
    masks_of,
    pictures_of,
    points_of,
    size_of,
    window_by_hand,
)
from .runtime import (
    DrawsWhatIsConnected,
    NodeProgress,
    ViewProgress,
    free_bytes,
    prompts_file,
    ui,
)
from .token_maps import MAP_OF_TOKENS, TOKEN_MAP, TOKEN_MAP_TOOLTIP, TokenMapOutput
from .views import looks_view, token_view, window_view
from .widgets import (
    BOUNDING_BOX,
    CATEGORY,
    IMAGE_SOCKET,
    LVLM_SOCKET,
    NODE_ON_PAGE,
    OTHER_SETTINGS,
    POINTS_TOOLTIP,
    QUESTION,
    WINDOW_BY_HAND,
    OpenChoices,
    preset_widget,
    values_of,
    widgets,
)

if TYPE_CHECKING:
    from ..laser_core.models.lvlm import Lvlm
    from ..laser_core.results import LaserAnswer

CARRIED = ("answer_input", "scale", "max_tokens", "temperature", "seed", "instruction")
"""The settings that people change most; LASER Settings has all others."""


class LaserAnswerNode(DrawsWhatIsConnected):
    DESCRIPTION = (
        "Finds what the question is about, looks there closely and answers: the whole method in "
        "one node. The other nodes do the same step by step."
    )
    SEARCH_ALIASES = (
        "laser", "vqa", "vlm", "llm", "multimodal", "question", "ask", "answer", "caption",
        "describe", "image to text", "interrogate", "detect", "locate", "explain",
        "visual grounding", "質問", "回答", "画像説明", "画像からテキスト", "キャプション",
        "検出", "視覚的質問応答", "提问", "问答", "视觉问答", "描述", "图生文", "图像描述",
        "反推", "检测", "定位",
    )  # fmt: skip
    CATEGORY = CATEGORY
    OUTPUT_NODE = True  # its view is a result: nothing needs to follow
    HAS_INTERMEDIATE_OUTPUT = True  # also sent again where a part of the graph is run
    FUNCTION = "answer"
    DRAWN = ("overlay", TOKEN_MAP)
    RETURN_TYPES = (
        "STRING", "STRING", "IMAGE", "IMAGE", "MASK", BOUNDING_BOX, "STRING", "STRING", "STRING",
        "MASK",
    )  # fmt: skip
    RETURN_NAMES = (
        "answer", "plain_answer", "crop", "overlay", "heat_map", "boxes", "json", "report",
        "points", TOKEN_MAP,
    )  # fmt: skip
    OUTPUT_IS_LIST = (True, True, False, False, False, False, True, True, True, False)
    OUTPUT_TOOLTIPS = (
        "The answer; one per picture.",
        "The model's answer without the method; empty if with_plain is off.",
        "The crops: what the windows show. One per picture, or several, in the order of the "
        "pictures.",
        "The picture with its heat map and windows, a colour bar and a legend: a drawing to look "
        "at.",
        "The evidence as a mask of the picture's size: 1 where it is strongest.",
        "The windows as x, y, width, height in pixels; one list per picture.",
        "Everything about the run as JSON, with the answer as text at its key 'answer'; one per "
        "picture.",
        "The answer, its number of tokens, its time and, if it stopped early, the reason. Then "
        "the plain answer and where the evidence comes from; one per picture.",
        POINTS_TOOLTIP,
        TOKEN_MAP_TOOLTIP,
    )

    @classmethod
    def IS_CHANGED(cls, unique_id: str | None = None, task: str = AS_ASKED, **_: Any) -> str:
        """As for every node that draws, and what the task says: its file may have changed."""
        try:
            said = _task(task)
        except ValueError:
            said = None  # which the run says
        return f"{super().IS_CHANGED(unique_id)} {said}"

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
                **widgets(AnswerSettings, "instruction", instruction={"advanced": True}),
                "mask": (
                    "MASK",
                    {"tooltip": "Where to look: any mask of the picture's size. It replaces the "
                                "evidence the model would find. One for all pictures, or one for "
                                "each."},
                ),
                "settings": OTHER_SETTINGS,
                "override": WINDOW_BY_HAND,
                "task": _task_widget(),
                **MAP_OF_TOKENS,
                "look_for": (
                    "STRING",
                    {
                        "default": "",
                        "advanced": True,
                        "tooltip": "What to look for, where it is not the question itself, such as "
                        "'the sign above the door'. The question is still the one that is "
                        "answered. Empty: the question.",
                    },
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
        override: str = "",
        task: str = AS_ASKED,
        map_of_tokens: str = "",
        look_for: str = "",
        unique_id: str | None = None,
        extra_pnginfo: dict[str, Any] | None = None,
        **values: Any,
    ):
        import torch

        from ..laser_core import pipeline
        from ..laser_core.engine.together import run_together
        from ..laser_core.files import to_json
        from ..laser_core.output.drawing import overlay
        from ..laser_core.output.heat import heat_map
        from ..laser_core.output.report import report

        chosen = _task(task)
        question = chosen.asked(question)
        values["instruction"] = values.get("instruction", "").strip() or chosen.instruction
        settings = LaserSettings.of(preset, **values_of(settings), **values)
        batch, draws = batch_of(image), self.draws(unique_id)
        count, size = len(batch), size_of(batch)
        # All checked before the first answer
        by_hand = window_by_hand(override, size)
        maps = TokenMapOutput(self, unique_id, map_of_tokens, count, size)
        masks = [None] * count if mask is None else list(masks_of(mask, count, size))
        progress, live = NodeProgress(count), ViewProgress(unique_id, extra_pnginfo)
        answers, plain, reports, lines, points = [], [], [], [], []
        placements, drawings = [], Drawings(count)
        heats = torch.empty(count, size[1], size[0])
        tokens, windows = [], []
        with lvlm.running() as model:
            model.check_answers()

            def answered(own: Lvlm, item: tuple) -> LaserAnswer:
                index, picture, one_mask = item
                shown = progress.of(index)
                location = pipeline.locate(
                    own,
                    picture,
                    question,
                    settings,
                    shown,
                    mask=one_mask,
                    window=by_hand,
                    look_for=look_for,
                    read=lvlm.read,
                )
                found = location.evidence, location.placement
                live.windows(window_view(picture, *found, by_hand=location.by_hand))
                on_text = live.text if own is model else None  # of several at once, none is shown
                return pipeline.answer_from(
                    own,
                    location,
                    with_plain=with_plain,
                    token_maps=maps.asked,
                    progress=shown,
                    on_text=on_text,
                )

            items = zip(range(count), pictures_of(batch), masks, strict=True)
            results = run_together(model, items, answered, free_bytes=free_bytes)
            for index, result in enumerate(results):
                if isinstance(result, Exception):
                    raise result
                progress.done(index)
                location = result.location  # with the windows of the look that is believed
                # Of a picture only what is put out is kept
                windows.append(
                    window_view(
                        location.picture,
                        location.evidence,
                        location.placement,
                        by_hand=location.by_hand,
                    )
                )
                answers.append(result.answer.text)
                plain.append("" if result.plain is None else result.plain.text)
                reports.append(to_json(report(result, model, load=lvlm.settings)))
                mapped = maps.add(result.answer, location.picture, settings)
                lines.append([*_lines(result, model.notice), *filter(None, [mapped])])
                view = token_view(result.answer, model.notice)
                tokens.append({**view, **looks_view(result.looks, result.believed)})
                placements.append(location.placement)
                points.append(points_of(location.evidence, location.placement))
                heats[index].copy_(heat_map(location.evidence))
                if draws:
                    drawings.add(overlay(location))
        shown = [line for one in lines for line in one]
        label = question.strip() if mask is None else "evidence"
        return {
            "ui": ui(
                shown, laser_tokens=tokens, laser_windows=windows, laser_plain=plain,
                laser_looked=maps.views,
            ),
            "result": (
                answers, plain, crops_of(batch, [place.windows for place in placements]),
                drawings.batch if draws else None, heats, boxes_of(placements, label)[0],
                reports, ["\n".join(one) for one in lines], points, maps.masks,
            ),
        }  # fmt: skip


def _task_widget() -> tuple:
    """The tasks, with the user's own where their file can be read."""
    try:
        names = list(read_tasks(prompts_file()))
    except ValueError:
        names = list(TASKS)  # the file's error is said when one of its tasks is run
    tooltip = (
        "What to ask. as asked: your question. caption, detailed caption, tags and read the text "
        "need none; yours is added to theirs. A file laser_prompts.json in ComfyUI's user folder "
        "adds your own."
    )
    return OpenChoices(names), {"default": AS_ASKED, "tooltip": tooltip}


def _task(name: str) -> Task:
    """Raises ValueError for a task that there is none of, and for an unreadable file of tasks."""
    known = TASKS if name in TASKS else read_tasks(prompts_file())
    if name not in known:
        raise ValueError(
            f"choose another task, or put it into laser_prompts.json: there is no {name!r}"
        )
    return known[name]


def _lines(result: LaserAnswer, notice: str) -> list[str]:
    """What the node says of a picture. notice: of the model, '' for none."""
    lines = [describe_answer(result.answer)]
    if result.plain is not None:
        lines.append(plain_line(result.plain.text))
    looks = describe_looks(result.looks, result.believed)
    return [*lines, *filter(None, [looks, describe_evidence(result.location.evidence), notice])]
