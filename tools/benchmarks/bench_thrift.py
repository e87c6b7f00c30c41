"""What spending less costs on the demo model: `adaptive`, and fewer tokens for the crop.

    python -m tools.benchmarks.bench_thrift [--dev-items 1400] [--items 1050] [--json FILE]

adaptive: the threshold is chosen on the development split (the lowest at which a loss of more than
a point is excluded, by the 95 % interval, in every mode: of the estimates themselves the luckiest
would be chosen) and reported on the test split, against answering everything in full. Passes are
the prompts read in full: 1 to look, 1 for each stream, 1 more where the picture is blocked too.
Budget: of the demo Qwen2.5-VL, whose grid follows the picture; a budget is raised to what magnifies
the crop (see `crop_budget`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laser_core import pipeline
from laser_core.evaluation.intervals import Bootstrap
from laser_core.files import write_atomically
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    DecodeSettings,
    LaserSettings,
)
from tools.benchmarks.quality.summary import plain_data
from tools.benchmarks.quality.tables import gain
from tools.build.markdown import markdown
from tools.demo_model.world import HeldOutItem, held_out_items

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
BUDGETS = (1.0, 0.5625, 0.39, 0.25)
LOSS = 0.01  # of accuracy, that a threshold must exclude
CHECKED = 200  # test items answered by the option itself too


def _settings(answer_input: str, alpha: float, block: str = "crop") -> LaserSettings:
    return LaserSettings(
        counterfactual=CounterfactualSettings(block=block),
        answer=AnswerSettings(answer_input),
        decode=DecodeSettings(alpha=alpha, max_tokens=4),
    )


MODES = {
    "crop, alpha 0": _settings("crop", 0.0),
    "crop, alpha 1": _settings("crop", 1.0),
    "picture + crop, alpha 0": _settings("picture + crop", 0.0),
    "picture + crop, alpha 1": _settings("picture + crop", 1.0),
    "picture + crop, alpha 1, block both": _settings("picture + crop", 1.0, "picture and crop"),
}
PASSES = dict(zip(MODES, (2, 3, 2, 3, 4), strict=True))


def right(text: str, item: HeldOutItem) -> float:
    return float(text.split()[:1] == [item.answer])


@dataclasses.dataclass
class Answers:
    """What every outcome of `adaptive` would have answered to the items, and how sure it was.

    full: by mode; alone: the positive stream's, by answer input; plain. Each (items,), 1.0 where
    right. sure, alone_sure: probability of the likeliest first token of the plain answer and of
    the positive stream's. An option's threshold chooses between them: `outcome`.
    """

    items: Sequence[HeldOutItem]
    full: dict[str, np.ndarray]
    alone: dict[str, np.ndarray]
    plain: np.ndarray
    sure: np.ndarray
    alone_sure: dict[str, np.ndarray]

    def outcome(self, mode: str, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(right, crop skipped, counterfactual skipped) of every item; threshold 0: in full."""
        settings = MODES[mode]
        none = np.zeros(len(self.items), bool)
        if not threshold:
            return self.full[mode], none, none
        first = self.sure >= threshold
        second = none
        if settings.decode.alpha:
            second = ~first & (self.alone_sure[settings.answer.answer_input] >= threshold)
        alone = self.alone[settings.answer.answer_input]
        right_now = np.where(first, self.plain, np.where(second, alone, self.full[mode]))
        return right_now, first, second

    def rows(self, thresholds: Sequence[float]) -> list[dict[str, Any]]:
        bootstrap = Bootstrap([item.scene_index for item in self.items])
        rows = []
        for mode in MODES:
            for threshold in (0.0, *thresholds):
                now, first, second = self.outcome(mode, threshold)
                change = now - self.full[mode]
                passes = np.where(first, 1, np.where(second, 2, PASSES[mode]))
                rows.append({
                    "mode": mode,
                    "adaptive": threshold,
                    "accuracy": float(now.mean()),
                    "change": bootstrap.mean(change),
                    "crop_skipped": float(first.mean()),
                    "counterfactual_skipped": float(second.mean()),
                    "passes": float(passes.mean()),
                })  # fmt: skip
        return rows


def answers_of(lvlm: Lvlm, items: Sequence[HeldOutItem], note: str) -> Answers:
    """Every mode's full answer to every item."""
    full: dict[str, list[float]] = {mode: [] for mode in MODES}
    alone_sure: dict[str, list[float]] = {"crop": [], "picture + crop": []}
    plain, sure = [], []
    started = time.time()
    for index, item in enumerate(items):
        found = pipeline.locate(lvlm, item.picture, item.question)
        sure.append(found.maps.certainty)
        for mode, settings in MODES.items():
            looks = dataclasses.replace(found, settings=settings)
            result = pipeline.answer_from(lvlm, looks, with_plain=not plain[index:])
            if result.plain is not None:
                plain.append(right(result.plain.text, item))
            full[mode].append(right(result.answer.text, item))
            if not settings.decode.alpha:
                best = max(one.probability_with for one in result.answer.tokens[0].alternatives)
                alone_sure[settings.answer.answer_input].append(best)
        if index % 50 == 49:
            seconds = time.time() - started
            line = f"\r{note}: {index + 1} / {len(items)}, {seconds:.0f} s "
            print(line, end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    arrays = {mode: np.array(values) for mode, values in full.items()}
    return Answers(
        items,
        arrays,
        {kind: arrays[f"{kind}, alpha 0"] for kind in alone_sure},
        np.array(plain),
        np.array(sure),
        {kind: np.array(values) for kind, values in alone_sure.items()},
    )


def agreement(lvlm: Lvlm, answers: Answers, threshold: float, mode: str, count: int) -> int:
    """How many of the first `count` items the option itself answers as `Answers` says."""
    settings = MODES[mode]
    decoding = dataclasses.replace(settings.decode, adaptive=threshold)
    settings = dataclasses.replace(settings, decode=decoding)
    expected, first, second = answers.outcome(mode, threshold)
    same = 0
    for index, item in enumerate(answers.items[:count]):
        result = pipeline.answer(lvlm, item.picture, item.question, settings)
        skipped = "crop" if first[index] else "counterfactual" if second[index] else ""
        same += right(result.answer.text, item) == expected[index] and result.skipped == skipped
    return same


def lowest_safe(rows: list[dict[str, Any]]) -> float:
    """The lowest threshold at which no mode's interval holds a larger loss than `LOSS`."""
    safe = [
        threshold
        for threshold in THRESHOLDS
        if all(row["change"].low >= -LOSS for row in rows if row["adaptive"] == threshold)
    ]
    return min(safe, default=0.0)


def budget_rows(lvlm: Lvlm, items: Sequence[HeldOutItem]) -> list[dict[str, Any]]:
    """Accuracy and length of the prompts with crops of fewer tokens; lvlm: native resolution."""
    bootstrap = Bootstrap([item.scene_index for item in items])
    kinds = ("crop, alpha 0", "picture + crop, alpha 0")
    scores = {(name, budget): [] for name in kinds for budget in BUDGETS}
    for item in items:
        found = pipeline.locate(lvlm, item.picture, item.question)
        for name, budget in scores:
            answer = dataclasses.replace(MODES[name].answer, crop_budget=budget)
            settings = dataclasses.replace(MODES[name], answer=answer)
            result = pipeline.answer_from(
                lvlm, dataclasses.replace(found, settings=settings)
            ).answer
            scores[name, budget].append((right(result.text, item), result.prompt_tokens[0]))
    rows = []
    for (name, budget), values in scores.items():
        (now, tokens), (full, _) = np.array(values).T, np.array(scores[name, 1.0]).T
        rows.append({
            "mode": name,
            "budget": budget,
            "accuracy": float(now.mean()),
            "change": bootstrap.mean(now - full),
            "prompt_tokens": float(tokens.mean()),
        })  # fmt: skip
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    key = "adaptive" if "adaptive" in rows[0] else "budget"
    more = key == "adaptive"
    header = ["answer input", key, "accuracy", "change, 95 % interval"]
    header += ["crop skipped", "counterfactual skipped", "passes"] if more else ["prompt tokens"]
    lines = []
    for row in rows:
        cells = [row["mode"], f"{row[key]:g}", _percent(row["accuracy"]), gain(row["change"])]
        if more:
            cells += [
                f"{_percent(row[f'{part}_skipped'])} %" for part in ("crop", "counterfactual")
            ]
            cells.append(f"{row['passes']:.2f}")
        else:
            cells.append(f"{row['prompt_tokens']:.0f}")
        lines.append(cells)
    return markdown(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--dev-items", type=int, default=1400)
    parser.add_argument("--items", type=int, default=1050)
    parser.add_argument("--budget-items", type=int, default=525)
    parser.add_argument("--adaptive", type=float, help="report this threshold, choose none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    lvlm = load_lvlm()
    dev, threshold = [], chosen.adaptive
    if threshold is None:
        items = held_out_items("dev", chosen.dev_items, chosen.seed)
        dev = answers_of(lvlm, items, "dev").rows(THRESHOLDS)
        threshold = lowest_safe(dev)
        print("development split:", table(dev), f"chosen: {threshold:g}", sep="\n\n", end="\n\n")
    items = held_out_items("test", chosen.items, chosen.seed)
    answers = answers_of(lvlm, items, "test")
    test = answers.rows([threshold])
    print("test split, plain", _percent(float(answers.plain.mean())) + ":", end="\n\n")
    print(table(test), end="\n\n", flush=True)
    default = "picture + crop, alpha 1"
    same = agreement(lvlm, answers, threshold, default, CHECKED)
    print(f"the option itself, {default}: the same in {same} of {CHECKED}", end="\n\n")
    items = held_out_items("test", chosen.budget_items, chosen.seed)
    budgets = budget_rows(load_lvlm("demo-qwen"), items)
    print("tokens of the crop, demo-qwen, test split:", table(budgets), sep="\n\n")
    if chosen.json:
        record = {"development": dev, "threshold": threshold, "test": test, "budgets": budgets}
        write_atomically(chosen.json, json.dumps(plain_data(record), indent=1))


if __name__ == "__main__":
    main()
