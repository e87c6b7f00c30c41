"""One item at a time: where every row looks, and what the model then says.

Rows share the item's maps and prompts: an item's streams are collected first, equal ones once, and
answered in batches. Knows rows and items; knows no statistics.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from laser_core.evaluation.methods import random_window
from laser_core.evaluation.metrics import holds
from laser_core.geometry import Box, Window, whole_picture
from laser_core.models.chat import Stream
from laser_core.models.lvlm import Lvlm
from laser_core.pipeline import locate
from laser_core.results import AttentionMaps, Counterfactual, Evidence, Location, Placement
from laser_core.settings import AnswerSettings, LaserSettings, PromptSettings
from laser_core.steps.answer_input import make_crops_stream, make_negative_stream, make_plain_stream
from laser_core.steps.attention import read_attention
from laser_core.steps.counterfactual import block, mask_patches, select_patches
from laser_core.steps.decode import mix_logits
from laser_core.steps.vaq import make_evidence_of_mask
from tools.benchmarks.quality.first_token import first_logits
from tools.benchmarks.quality.rows import DEFAULTS, PICTURE, Row, changed
from tools.demo_model.world import HeldOutItem, oracle_window

BETAS = (0.0, 0.1, 0.5)


def decoding_name(alpha: float, beta: float) -> str:
    return f"alpha {alpha:g}" + (f", beta {beta:g}" if beta else "")


# (alpha, beta). At alpha 0 beta changes nothing: it never drops the likeliest token.
NO_VAT = (0.0, 0.0)
DECODINGS = (NO_VAT, *((alpha, beta) for alpha in (0.5, 1.0, 2.0) for beta in BETAS))
PLAIN_DECODING = decoding_name(*NO_VAT)
DEFAULT_DECODING = decoding_name(DEFAULTS.decode.alpha, DEFAULTS.decode.beta)


@dataclass(frozen=True)
class Look:
    """Where a row looks.

    windows: none where the row answers from the picture alone. evidence: what VAT blocks, None
    where the row has no VAT.
    to_look, to_block: decoder tokens spent to find the windows, and those spent on the evidence.
    """

    windows: tuple[Window, ...]
    evidence: Evidence | None
    to_look: int = 0
    to_block: int = 0


class ItemRun:
    """All rows on one item."""

    def __init__(self, lvlm: Lvlm, item: HeldOutItem, rng: np.random.Generator) -> None:
        lvlm.release()
        self.lvlm, self.item, self.rng = lvlm, item, rng
        self.whole = lvlm.encode(item.picture)
        self.plain = make_plain_stream(lvlm, self.whole, item.question, LaserSettings())
        self._maps: dict[PromptSettings, AttentionMaps] = {}
        self._streams: dict[tuple, Stream] = {}

    def records(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        """By row name: windows, shares, layer, and by answer input the words and the tokens."""
        looks = {row.name: self._look(row) for row in rows}
        plans = {row.name: self._plan(row, looks[row.name]) for row in rows}
        keys = list(self._streams)
        logits = first_logits(self.lvlm, [self._streams[key] for key in keys])
        said = dict(zip(keys, logits, strict=True))
        return {
            row.name: {
                **self._shares(row, looks[row.name]),
                "answers": {
                    name: self._answers(said, looks[row.name], positive, negative)
                    for name, (positive, negative) in plans[row.name].items()
                },
            }
            for row in rows
        }

    # ---- where a row looks ---------------------------------------------------------------------

    def _look(self, row: Row) -> Look:
        true = oracle_window(self.item) if row.finder == "oracle" else None
        if true:
            return Look((Window(*true),), self._true_evidence())
        if row.finder == "none" and not row.vat:
            return Look((), None)
        found, reading = self._locate(row.settings), self._tokens_to_locate(row)
        if row.finder == "none":  # without a window, the method's evidence is what VAT blocks
            return Look((), found.evidence, to_block=reading)
        if row.finder in ("random", "grid"):
            window = self._placed_window(row)
            return Look((window,), found.evidence, to_block=reading if row.vat else 0)
        # Where the object is absent there is no true window: the oracle looks as LASER does.
        return Look(found.placement.windows, found.evidence, to_look=reading)

    def _locate(self, settings: LaserSettings) -> Location:
        if settings.prompt not in self._maps:
            self._maps[settings.prompt] = read_attention(
                self.lvlm, self.whole, self.item.question, settings.prompt
            )
        maps = self._maps[settings.prompt]
        item = self.item
        return locate(self.lvlm, item.picture, item.question, settings, read=lambda *_: maps)

    def _tokens_to_locate(self, row: Row) -> int:
        """Decoder tokens of the two branches, which share the picture's prefix."""
        text = self.lvlm.query_free_text(row.settings.prompt)
        free = self.lvlm.prompt([self.whole], text)
        return self.plain.prompt.length + free.length - self.plain.prompt.prefix_length

    def _placed_window(self, row: Row) -> Window:
        """At random, or the row's place of three rows of three; of the size that is set."""
        width, height = self.item.picture.size
        crop = row.settings.crop
        least = crop.min_side_px
        side_x, side_y = (
            max(round(crop.scale * side), min(least, side)) for side in (width, height)
        )
        if row.finder == "grid":
            across, down = row.cell % 3, row.cell // 3
            x, y = across * (width - side_x) // 2, down * (height - side_y) // 2
            return Window(x, y, x + side_x, y + side_y)
        return random_window(self.item.picture, Window(0, 0, side_x, side_y), self.rng)

    def _true_evidence(self) -> Evidence:
        """The asked object's box, and the anchor's."""
        width, height = self.item.picture.size
        mask = torch.zeros(height, width)
        for x1, y1, x2, y2 in self.item.evidence_boxes:
            mask[max(round(y1), 0) : round(y2), max(round(x1), 0) : round(x2)] = 1
        return make_evidence_of_mask(mask)

    def _shares(self, row: Row, look: Look) -> dict[str, Any]:
        """Windows, what they hold, Attention Aggregation, and the layer of the highest VAQ.

        held: whether a window holds the object asked about; held all: and the anchor it is
        described by.
        """
        record: dict[str, Any] = {"windows": look.windows}
        if self.item.evidence_boxes:
            boxes = [Box(*box) for box in self.item.evidence_boxes]
            record["area"] = boxes[0].area / Box(*whole_picture(self.item.picture.size)).area
            if look.windows:
                held = [any(holds(window, box) for window in look.windows) for box in boxes]
                record |= {"held": float(held[0]), "held all": float(all(held))}
            if row.finder == "laser" and not look.evidence.degenerate:
                record["aggregation"] = look.evidence.share_in(boxes[0])
        if row.finder == "laser" and look.evidence.choice:
            record["layer"] = look.evidence.choice.layer
        return record

    # ---- what it then says ---------------------------------------------------------------------

    def _plan(self, row: Row, look: Look) -> dict[str, tuple[tuple, tuple | None]]:
        """By answer input the keys of the positive and the negative stream."""
        if not look.windows:
            return {PICTURE: self._pair(row, look, PICTURE)}
        return {name: self._pair(row, look, name) for name in row.inputs}

    def _pair(self, row: Row, look: Look, answer_input: str) -> tuple[tuple, tuple | None]:
        positive = (answer_input, look.windows)
        if positive not in self._streams:
            self._streams[positive] = self._positive(*positive)
        if not row.vat or look.evidence.degenerate:
            return positive, None
        settings = row.settings.counterfactual
        patches = select_patches(look.evidence, settings, look.windows)
        if not patches.any():
            return positive, None
        mask = mask_patches(patches, look.evidence)
        digest = hashlib.sha256(mask.numpy().tobytes()).digest()
        negative = (*positive, settings, digest)
        if negative not in self._streams:
            self._streams[negative] = self._negative(positive, row, look, mask)
        return positive, negative

    def _positive(self, answer_input: str, windows: tuple[Window, ...]) -> Stream:
        if not windows:
            return self.plain
        crops = [self.item.picture.crop(window) for window in windows]
        settings = changed(answer=AnswerSettings(answer_input))
        return make_crops_stream(self.lvlm, self.whole, crops, self.item.question, settings)

    def _negative(self, positive: tuple, row: Row, look: Look, mask: torch.Tensor) -> Stream:
        answer_input, windows = positive
        fill, question = row.settings.counterfactual, self.item.question
        blocked = None
        if fill.fill != "visual tokens":
            blocked = block(self.item.picture, mask, fill, self.lvlm.mean_colour)
        if not windows:
            prompt = make_plain_stream(self.lvlm, blocked, question, row.settings).prompt
            return Stream(prompt)
        answer = AnswerSettings(answer_input)
        settings = changed(answer=answer, counterfactual=row.settings.counterfactual)
        placement = Placement(windows, (0.0,) * len(windows))
        found = Location(
            self.item.picture, self.whole, question, settings, None, look.evidence, placement
        )
        hidden = Counterfactual(mask, blocked)
        return make_negative_stream(self.lvlm, found, self._streams[positive].prompt, hidden)

    def _answers(
        self, said: dict[tuple, torch.Tensor], look: Look, positive: tuple, negative: tuple | None
    ) -> dict[str, Any]:
        """Words said by decoding; decoder tokens in all, without and with the second stream.

        certainty: probability of the likeliest word without VAT.
        """
        streams = [self._streams[positive]]
        cost = look.to_look + self._tokens(streams, found=look.to_look > 0)
        certainty = float(said[positive].softmax(-1).max())
        record: dict[str, Any] = {"tokens": cost, "certainty": certainty}
        without, decodings = None, DECODINGS[:1]
        if negative is not None:
            streams.append(self._streams[negative])
            spent = look.to_look + look.to_block
            record["tokens with VAT"] = spent + self._tokens(streams, found=spent > 0)
            without, decodings = said[negative], DECODINGS
        record["said"] = {
            decoding_name(*decoding): self._word(mix_logits(said[positive], without, *decoding))
            for decoding in decodings
        }
        return record

    def _tokens(self, streams: Sequence[Stream], found: bool) -> int:
        """Of these prompts; found: the picture's prefix was read before, for the maps."""
        total = 0
        for stream in streams:
            known = stream.prompt.prefix_length if found and stream.shared_prefix else 0
            total += stream.prompt.length - known
            found = found or stream.shared_prefix
        return total

    def _word(self, logits: torch.Tensor) -> str:
        return self.lvlm.tokenizer.decode([int(logits.argmax())]).strip()
