"""Sorts VAT Decode's pictures, crops and counterfactuals by picture. Runs no model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..laser_core.settings import LaserSettings
from .batches import (
    batch_of,
    box_lists,
    cut_out,
    grouped,
    on_white,
    resized,
    shared_out,
    size_of,
    spread,
    unchanged,
    windows_of,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..laser_core.geometry import Window


@dataclass(frozen=True)
class Shown:
    """What is shown of one picture: its crops, the picture itself, and both without evidence.

    windows: of the crops on the picture, None where that is not known.
    """

    crops: list[Image.Image]
    blocked_crops: list[Image.Image] | None
    context: Image.Image | None
    blocked_context: Image.Image | None
    windows: list[Window] | None

    @property
    def uncut(self) -> bool:
        """True when the crop is the whole picture, as where Con-ViCrop is bypassed."""
        return (
            self.context is not None and len(self.crops) == 1 and _same(self.crops[0], self.context)
        )

    @property
    def nothing_found(self) -> bool:
        """True when the crop is the whole picture and nothing is blocked: then it is shown once."""
        return self.uncut and _same((self.blocked_crops or self.crops)[0], self.context)

    @property
    def looked_on(self) -> Image.Image:
        """What token maps lie on: the picture, or a first crop whose place on it is not known."""
        return self.crops[0] if self.windows is None else self.context

    def watch(self, model: Any, prompt: Any, settings: LaserSettings) -> Any:
        """What says where each token of the prompt's answer looked."""
        from ..laser_core.geometry import whole_picture
        from ..laser_core.steps.answer_input import make_watch

        size, windows = self.looked_on.size, self.windows
        if self.nothing_found:  # and shown once
            windows = []
        elif windows is None:
            before = len(prompt.pictures) - len(self.crops)
            windows = [None] * before + [whole_picture(size)] + [None] * (len(self.crops) - 1)
        return make_watch(model, prompt, windows, size, settings)

    def streams(self, model: Any, question: str, settings: LaserSettings) -> tuple[Any, Any]:
        """The positive stream and, where there is a counterfactual, what makes the negative one."""
        from ..laser_core.steps.answer_input import make_crops_stream, make_plain_stream

        if self.nothing_found:
            return make_plain_stream(model, self.context, question, settings), None
        if self.context is None:
            return self._without_context(model, question, settings)
        whole = model.encode(self.context, settings.prompt.framing)
        positive = make_crops_stream(model, whole, self.crops, question, settings)
        if self.blocked_crops is None or settings.decode.alpha == 0:
            return positive, None

        def negative() -> Any:
            seen, shared = whole, self.blocked_context is None
            if not shared and settings.answer.answer_input == "picture + crop":
                seen = model.encode(self.blocked_context, settings.prompt.framing)
            return make_crops_stream(
                model, seen, self.blocked_crops, question, settings, shared, like=positive.prompt
            )

        return positive, negative

    def _without_context(
        self, model: Any, question: str, settings: LaserSettings
    ) -> tuple[Any, Any]:
        """Each crop is read as an ordinary picture: nothing says how far to enlarge it."""
        from ..laser_core.steps.answer_input import make_crops_stream, make_plain_stream

        if self.blocked_crops is None and len(self.crops) == 1:
            return make_plain_stream(model, self.crops[0], question, settings), None
        alone = dataclasses.replace(settings.answer, answer_input="crop")
        crop_alone = dataclasses.replace(settings, answer=alone)

        def stream(crops: list[Image.Image]) -> Any:
            encoded = [model.encode(crop, settings.prompt.framing) for crop in crops]
            return make_crops_stream(model, encoded[0], encoded, question, crop_alone)

        blocked = self.blocked_crops if settings.decode.alpha else None
        return stream(self.crops), None if blocked is None else partial(stream, blocked)


def shown_pictures(
    positive: Any, counterfactual: Any, context: Any, counterfactual_context: Any, boxes: Any
) -> list[Shown]:
    """The batches sorted out by picture. ValueError where their lengths do not fit."""
    crops = batch_of(positive, "positive")
    contexts = None if context is None else batch_of(context, "context")
    sizes = _crops_per_picture(len(crops), contexts, boxes)
    count = len(sizes)
    blocked = [None] * count
    if counterfactual is not None:
        given = batch_of(counterfactual, "counterfactual")
        if len(given) != len(crops):
            raise ValueError(
                f"connect one counterfactual for each positive picture: there are {len(given)} "
                f"for {len(crops)}"
            )
        blocked = grouped(given, sizes)
    blocked_contexts = [None] * count
    if counterfactual_context is not None:
        if contexts is None:
            raise ValueError("connect context too: there is a counterfactual_context without one")
        given = batch_of(counterfactual_context, "counterfactual_context")
        blocked_contexts = spread(list(given), count, "counterfactual context")
    whole, windows = [None] * count, [None] * count
    if contexts is not None:
        whole = spread(list(contexts), count, "context picture")
        if boxes is not None:
            windows = windows_of(boxes, count, size_of(contexts))
    parts = zip(grouped(crops, sizes), blocked, whole, blocked_contexts, windows, strict=True)
    return [_shown(*one) for one in parts]


def _shown(
    crops: list, blocked: list | None, context: Any, blocked_context: Any, windows: Any
) -> Shown:
    """One picture's, from tensors (h, w, C); crops that their batch enlarged at their own size."""
    from ..laser_core.pictures import to_picture

    if windows is not None:
        crops = _own(crops, context, windows)
        if blocked is not None and blocked_context is not None:
            blocked = _own(blocked, blocked_context, windows)
        if blocked is not None:  # both streams read as many tokens
            pairs = zip(blocked, crops, strict=True)
            blocked = [resized(on_white(one), *crop.shape[:2]) for one, crop in pairs]
    return Shown(
        [to_picture(crop) for crop in crops],
        None if blocked is None else [to_picture(crop) for crop in blocked],
        None if context is None else to_picture(context),
        None if blocked_context is None else to_picture(blocked_context),
        windows,
    )


def _crops_per_picture(crops: int, contexts: Any, boxes: Any) -> list[int]:
    if boxes is not None:
        lists = box_lists(boxes, None if contexts is None else len(contexts))
        sizes = [max(len(one), 1) for one in lists]
        shared_out(sizes, crops)
        return sizes
    if contexts is None:
        return [1] * crops
    if crops % len(contexts):
        raise ValueError(
            f"connect Con-ViCrop's boxes too: {crops} crops cannot be shared equally among "
            f"{len(contexts)} context pictures"
        )
    return [crops // len(contexts)] * len(contexts)


def _own(crops: list, picture: Any, windows: list[Window]) -> list:
    """What the windows show, where a crop is that at the size of its batch; edited ones stay."""
    own = [cut_out(picture, window) for window in windows]
    pairs = zip(crops, own, strict=True)
    return [mine if unchanged(on_white(crop), mine) else crop for crop, mine in pairs]


def _same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()
