"""One item at a time: where every row looks, and what the model then says.

Rows share the item's maps, encoded pictures and prompts: an item's streams are collected first,
equal ones once, and answered in batches. Records go to a file line by line, so that a run that was
stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laser_core.answer_input import crops_stream, negative_stream, plain_stream
from laser_core.attention import read_attention
from laser_core.counterfactual import block, evidence_patches, patch_mask
from laser_core.families import PictureInputs
from laser_core.geometry import Box, Window, whole_picture
from laser_core.lvlm import Lvlm
from laser_core.pipeline import Location, locate
from laser_core.prefill import Stream
from laser_core.results import AttentionMaps, Evidence
from laser_core.settings import AnswerSettings, LaserSettings, PromptSettings
from laser_core.two_streams import mix_logits
from laser_core.vaq import evidence_of_mask
from tools.demo_model.world import HeldOutItem, oracle_window

from .first_token import first_logits
from .rows import Row, changed

PICTURE, CROP, BOTH = "picture", "crop", "picture + crop"
WITH_CROP = {name: changed(answer=AnswerSettings(name)) for name in (CROP, BOTH)}

# (alpha, beta); beta changes nothing at alpha 0, where the likeliest token is never implausible.
NO_VAT = (0.0, 0.0)
DECODINGS = (NO_VAT, *((alpha, beta) for alpha in (0.5, 1.0, 2.0) for beta in (0.0, 0.1)))

HELD_SHARE = 0.9  # of the asked object's box, from which a window holds the evidence


@dataclass(frozen=True)
class Look:
    """Where a row looks: window, the map it came from, decoder tokens spent on finding it."""

    window: Window | None = None
    evidence: Evidence | None = None
    tokens: int = 0


def decoding_name(alpha: float, beta: float) -> str:
    return f"alpha {alpha:g}" + (f", beta {beta:g}" if beta else "")


class ItemRun:
    """All rows on one item."""

    def __init__(self, lvlm: Lvlm, item: HeldOutItem, rng: np.random.Generator) -> None:
        lvlm.release()
        self.lvlm, self.item, self.rng = lvlm, item, rng
        self.whole = lvlm.encode(item.picture)
        self.plain = plain_stream(lvlm, self.whole, item.question, PromptSettings())
        self._maps: dict[PromptSettings, AttentionMaps] = {}
        self._crops: dict[Window, PictureInputs] = {}
        self._streams: dict[tuple, Stream] = {}

    def records(self, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
        """By row name: window, shares, layer, and by answer input the words and the tokens."""
        looks = {row.name: self._look(row) for row in rows}
        plans = {row.name: self._plan(row, looks[row.name]) for row in rows}
        keys = list(self._streams)
        logits = first_logits(self.lvlm, [self._streams[key] for key in keys])
        said = dict(zip(keys, logits, strict=True))
        return {
            row.name: {
                **self._shares(looks[row.name]),
                "answers": {
                    name: self._answers(said, looks[row.name].tokens, *streams)
                    for name, streams in plans[row.name].items()
                },
            }
            for row in rows
        }

    # ---- where a row looks ---------------------------------------------------------------------

    def _look(self, row: Row) -> Look:
        if row.finder == "laser":
            found = self._locate(row.settings)
            return Look(found.placement.windows[0], found.evidence, self._tokens_to_locate(row))
        if row.finder == "none":  # without a window, the method's evidence is what VAT blocks
            return Look(None, self._locate(row.settings).evidence)
        if row.finder == "oracle":
            box = oracle_window(self.item)
            window = Window(*box) if box else self._random_window()
            return Look(window, self._true_evidence())
        return Look(self._random_window(), self._locate(row.settings).evidence)

    def _locate(self, settings: LaserSettings) -> Location:
        if settings.prompt not in self._maps:
            self._maps[settings.prompt] = read_attention(
                self.lvlm, self.whole, self.item.question, settings.prompt
            )
        maps = self._maps[settings.prompt]
        return locate(self.lvlm, self.item.picture, self.item.question, settings, maps=maps)

    def _tokens_to_locate(self, row: Row) -> int:
        """Decoder tokens of the two branches, which share the picture's prefix."""
        free = self.lvlm.query_free_text(row.settings.prompt)
        free = self.lvlm.prompt([self.whole], free).length
        return self.plain.prompt.length + free - self.plain.prompt.prefix_length

    def _random_window(self) -> Window:
        width, height = self.item.picture.size
        side_x, side_y = max(width // 2, min(224, width)), max(height // 2, min(224, height))
        x = int(self.rng.integers(0, width - side_x + 1))
        y = int(self.rng.integers(0, height - side_y + 1))
        return Window(x, y, x + side_x, y + side_y)

    def _true_evidence(self) -> Evidence | None:
        """The asked object's box, and the anchor's; None where nothing asked about is there."""
        if not self.item.evidence_boxes:
            return None
        width, height = self.item.picture.size
        mask = torch.zeros(height, width)
        for x1, y1, x2, y2 in self.item.evidence_boxes:
            mask[max(round(y1), 0) : round(y2), max(round(x1), 0) : round(x2)] = 1
        return evidence_of_mask(mask)

    def _shares(self, look: Look) -> dict[str, Any]:
        """Window, whether it holds the evidence, Attention Aggregation, and the layers' weights."""
        record: dict[str, Any] = {"window": look.window}
        if self.item.evidence_boxes:
            box = Box(*self.item.evidence_boxes[0])
            record["area"] = box.area / Box(*whole_picture(self.item.picture.size)).area
            if look.window is not None:
                inside = box.intersect(Box(*look.window)).area
                record["held"] = float(inside >= HELD_SHARE * box.area)
            found = look.evidence
            if found is not None and found.choice is not None and not found.degenerate:
                rows, columns = (np.array(s) for s in found.grid.shares_inside(box))
                record["aggregation"] = float(rows @ found.map.numpy() @ columns) / found.mass
        if look.evidence is not None and look.evidence.choice is not None:
            record["layer"] = look.evidence.choice.layer
        return record

    # ---- what it then says ---------------------------------------------------------------------

    def _plan(self, row: Row, look: Look) -> dict[str, tuple[tuple, tuple | None]]:
        """By answer input the keys of the positive and the negative stream."""
        if look.window is None:
            return {PICTURE: self._pair(row, look, PICTURE)}
        return {name: self._pair(row, look, name) for name in (CROP, BOTH)}

    def _pair(self, row: Row, look: Look, answer_input: str) -> tuple[tuple, tuple | None]:
        positive = (answer_input, look.window)
        if positive not in self._streams:
            self._streams[positive] = self._positive(answer_input, look.window)
        if not row.vat or look.evidence is None or look.evidence.degenerate:
            return positive, None
        settings = row.settings.counterfactual
        windows = [] if look.window is None else [look.window]
        patches = evidence_patches(look.evidence, settings, windows)
        if not patches.any():
            return positive, None
        mask = patch_mask(patches, look.evidence, settings)
        digest = hashlib.sha256(mask.numpy().tobytes()).digest()
        negative = (*positive, settings, digest)
        if negative not in self._streams:
            self._streams[negative] = self._negative(positive, row, mask)
        return positive, negative

    def _positive(self, answer_input: str, window: Window | None) -> Stream:
        if window is None:
            return self.plain
        if window not in self._crops:
            crop = self.item.picture.crop(window)
            self._crops[window] = self.lvlm.encode(crop, tokens=self.whole.token_count)
        settings = WITH_CROP[answer_input]
        crops = [self._crops[window]]
        return crops_stream(self.lvlm, self.whole, crops, self.item.question, settings)

    def _negative(self, positive: tuple, row: Row, mask: torch.Tensor) -> Stream:
        answer_input, window = positive
        fill, question = row.settings.counterfactual, self.item.question
        blocked = None
        if fill.fill != "visual tokens":
            blocked = block(self.item.picture, mask, fill, self.lvlm.mean_colour)
        if window is None:
            prompt = plain_stream(self.lvlm, blocked, question, row.settings.prompt).prompt
            return Stream(prompt)
        settings = changed(
            answer=AnswerSettings(answer_input), counterfactual=row.settings.counterfactual
        )
        return negative_stream(
            self.lvlm, self._streams[positive], blocked, mask, [window], question, settings
        )

    def _answers(
        self,
        said: dict[tuple, torch.Tensor],
        tokens: int,
        positive: tuple,
        negative: tuple | None,
    ) -> dict[str, Any]:
        """Words said by decoding, and decoder tokens in all without and with the second stream."""
        cost = tokens + self._tokens(self._streams[positive])
        record: dict[str, Any] = {"tokens": cost}
        decodings = [NO_VAT]
        if negative is not None:
            record["tokens with VAT"] = cost + self._tokens(self._streams[negative])
            decodings = DECODINGS
        without = None if negative is None else said[negative]
        record["said"] = {
            decoding_name(*decoding): self._word(mix_logits(said[positive], without, *decoding))
            for decoding in decodings
        }
        return record

    def _tokens(self, stream: Stream) -> int:
        shared = stream.prompt.prefix_length if stream.shared_prefix else 0
        # The plain answer has no maps to share the prefix with.
        return stream.prompt.length - (0 if stream is self.plain else shared)

    def _word(self, logits: torch.Tensor) -> str:
        return self.lvlm.tokenizer.decode([int(logits.argmax())]).strip()


@dataclass
class Measured:
    """Items of one set and, for each, the rows' records."""

    items: list[HeldOutItem]
    records: list[dict[str, dict[str, Any]]] = field(default_factory=list)


def measure(
    lvlm: Lvlm, items: Sequence[HeldOutItem], rows: Sequence[Row], file: Path, seed: int
) -> Measured:
    """Every row on every item; `file` holds a line for each item done, and is continued."""
    header: dict[str, Any] = {"model": lvlm.name, "seed": seed, "items": len(items)}
    header["rows"] = {row.name: row.settings.to_dict() for row in rows}
    measured = Measured(list(items), _resumed(file, header)[: len(items)])
    started, done = time.time(), len(measured.records)
    with file.open("a", encoding="utf-8") as out:
        for index in range(done, len(items)):
            rng = np.random.default_rng([seed, index])
            record = ItemRun(lvlm, items[index], rng).records(rows)
            out.write(json.dumps(record) + "\n")
            out.flush()
            measured.records.append(json.loads(json.dumps(record)))
            if index % 25 == 24 or index + 1 == len(items):
                seconds = time.time() - started
                line = f"\r{file.stem}: {index + 1} / {len(items)}, {seconds:.0f} s "
                print(line, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return measured


def _resumed(file: Path, header: dict[str, Any]) -> list[dict[str, Any]]:
    """The records that `file` holds; it is left with whole lines only."""
    header = json.loads(json.dumps(header))
    text = file.read_text("utf-8") if file.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # a line without its end was cut off
    if lines and json.loads(lines[0]) != header:
        raise ValueError(
            f"remove {file}, or choose another --cache folder: it holds the records of other "
            f"rows, settings or seeds"
        )
    lines = lines or [json.dumps(header)]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(line + "\n" for line in lines), "utf-8")
    return [json.loads(line) for line in lines[1:]]
