"""From records to estimates with intervals, in dictionaries. Knows no model, file or table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from laser_core.evaluation.intervals import Bootstrap, Estimate
from tools.benchmarks.quality.measure import (
    BOTH,
    CROP,
    DECODINGS,
    DEFAULT_DECODING,
    PICTURE,
    PLAIN_DECODING,
    decoding_name,
)
from tools.benchmarks.quality.records import Measured
from tools.benchmarks.quality.rows import PLAIN, Row
from tools.demo_model.world import EXIST_KINDS


class Answers:
    """One set of items with every row's answers as arrays."""

    def __init__(self, measured: Measured) -> None:
        self.items, self.records = measured.items, measured.records
        self.bootstrap = Bootstrap([item.scene_index for item in self.items])
        self.truth = np.array([item.answer for item in self.items])
        self.types = np.array([item.type for item in self.items])

    def said(self, row: str, answer_input: str, decoding: str = PLAIN_DECODING) -> np.ndarray:
        """(items,) words; where nothing could be blocked, plain decoding's."""
        words = [record[row]["answers"][answer_input]["said"] for record in self.records]
        return np.array([word.get(decoding, word[PLAIN_DECODING]) for word in words])

    def right(self, row: str, answer_input: str, decoding: str = PLAIN_DECODING) -> np.ndarray:
        return (self.said(row, answer_input, decoding) == self.truth).astype(float)

    def certainty(self, row: str, answer_input: str) -> np.ndarray:
        """(items,) probability of the likeliest word without VAT."""
        return np.array([one[row]["answers"][answer_input]["certainty"] for one in self.records])

    def column(self, row: str, name: str) -> np.ndarray:
        """(items,) of a number of the record, NaN where it has none."""
        return np.array([record[row].get(name, np.nan) for record in self.records], dtype=float)

    def groups(self) -> dict[str, np.ndarray]:
        size = np.array([item.size_class for item in self.items])
        conflict = np.array([item.conflict for item in self.items])
        chosen = {"all": np.ones(len(self.items), bool)}
        chosen |= {name: size == name for name in ("small", "medium", "large")}
        chosen |= {"absent": size == "none"}
        chosen |= {f"type {name}": self.types == name for name in dict.fromkeys(self.types)}
        prior = {"against the prior": conflict == True, "with the prior": conflict == False}  # noqa: E712
        return {name: some for name, some in (chosen | prior).items() if some.any()}


def inputs_of(row: Row) -> tuple[str, ...]:
    return (PICTURE,) if row.finder == "none" else (CROP, BOTH)


def decodings_of(row: Row) -> tuple[str, ...]:
    """Without VAT, and where the row has a counterfactual stream, as VAT is set by default."""
    return (PLAIN_DECODING, DEFAULT_DECODING) if row.vat else (PLAIN_DECODING,)


def summarise_rows(answers: Answers, rows: Sequence[Row], reference: Row = PLAIN) -> dict[str, Any]:
    """By row: windows and maps, and by answer input and decoding accuracy, gain and cost.

    Gains are over `reference` with the same answer input and decoding, None where it has no such
    answer; over the model alone where that is the reference.
    """
    mean, groups = answers.bootstrap.mean, answers.groups()
    out: dict[str, Any] = {}
    for row in rows:
        figures: dict[str, Any] = {
            name: mean(answers.column(row.name, name))
            for name in ("held", "held all", "aggregation", "area")
        }
        for answer_input in inputs_of(row):
            cost = [record[row.name]["answers"][answer_input] for record in answers.records]
            figures[answer_input] = {}
            for decoding in decodings_of(row):
                right = answers.right(row.name, answer_input, decoding)
                key = "tokens" if decoding == PLAIN_DECODING else "tokens with VAT"
                over = _reference(answers, reference, answer_input, decoding)
                itself = row == reference and (row != PLAIN or decoding == PLAIN_DECODING)
                figures[answer_input][decoding] = {
                    "accuracy": {name: mean(right, some) for name, some in groups.items()},
                    "gain": None
                    if over is None or itself
                    else {name: mean(right - over, some) for name, some in groups.items()},
                    "tokens": float(np.mean([one.get(key, one["tokens"]) for one in cost])),
                }
        out[row.name] = figures
    return out


def _reference(answers: Answers, row: Row, answer_input: str, decoding: str) -> np.ndarray | None:
    """Of each item whether the reference is right, None where it has no such answer."""
    if row is PLAIN:
        return answers.right(row.name, PICTURE)
    if answer_input in inputs_of(row) and decoding in decodings_of(row):
        return answers.right(row.name, answer_input, decoding)
    return None


def differences(
    answers: Answers, row: Row, others: Sequence[Row]
) -> dict[str, dict[str, Estimate]]:
    """How much better `row` is than each of the others with the same answer input and decoding.

    Also compares its crop alone with its picture + crop.
    """
    mean = answers.bootstrap.mean
    out: dict[str, dict[str, Estimate]] = {}
    for other in others:
        out[other.name] = {
            f"{answer_input}, {decoding}": mean(
                answers.right(row.name, answer_input, decoding)
                - answers.right(other.name, answer_input, decoding)
            )
            for answer_input in (CROP, BOTH)
            for decoding in decodings_of(other)
        }
    out["itself with the crop alone"] = {
        f"{BOTH}, {decoding}": mean(
            answers.right(row.name, BOTH, decoding) - answers.right(row.name, CROP, decoding)
        )
        for decoding in decodings_of(row)
    }
    return out


def summarise_vat(answers: Answers, rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Any]:
    """By row, answer input and decoding: accuracy, and its gain over alpha 0, by group."""
    mean, chosen = answers.bootstrap.mean, answers.groups()
    out: dict[str, Any] = {}
    for row in rows:
        for answer_input in inputs_of(row) if row.vat else ():
            before = answers.right(row.name, answer_input)
            for decoding in DECODINGS:
                right = answers.right(row.name, answer_input, decoding_name(*decoding))
                figures = {
                    group: {
                        "accuracy": mean(right, chosen[group]),
                        "gain": mean(right - before, chosen[group]),
                    }
                    for group in groups
                    if group in chosen
                }
                by_input = out.setdefault(row.name, {}).setdefault(answer_input, {})
                by_input[decoding_name(*decoding)] = figures
    return out


def adaptive_outcome(
    answers: Answers, row: Row, answer_input: str, decoding: str, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(items,) each: right, crop left out, comparison left out, as `adaptive` decides."""
    crop_out = answers.certainty(PLAIN.name, PICTURE) >= threshold
    sure = answers.certainty(row.name, answer_input) >= threshold
    comparison_out = ~crop_out & sure & (decoding != PLAIN_DECODING)
    right = np.select(
        [crop_out, comparison_out],
        [answers.right(PLAIN.name, PICTURE), answers.right(row.name, answer_input)],
        answers.right(row.name, answer_input, decoding),
    )
    return right, crop_out, comparison_out


def summarise_adaptive(
    answers: Answers, row: Row, thresholds: Sequence[float]
) -> dict[str, dict[float, dict[str, Any]]]:
    """By answer input and decoding, and by threshold: the change against answering in full.

    passes: prompts read in full: one to look, one for each stream.
    """
    mean = answers.bootstrap.mean
    out: dict[str, dict[float, dict[str, Any]]] = {}
    for answer_input in inputs_of(row):
        for decoding in decodings_of(row):
            full, by_threshold = answers.right(row.name, answer_input, decoding), {}
            for threshold in thresholds:
                asked = answers, row, answer_input, decoding, threshold
                right, crop_out, comparison_out = adaptive_outcome(*asked)
                most = 2 if decoding == PLAIN_DECODING else 3
                by_threshold[threshold] = {
                    "in full": mean(full),
                    "change": mean(right - full),
                    "crop left out": mean(crop_out.astype(float)),
                    "comparison left out": mean(comparison_out.astype(float)),
                    "passes": float(np.select([crop_out, comparison_out], [1, 2], most).mean()),
                }
            out[f"{answer_input}, {decoding}"] = by_threshold
    return out


def lowest_safe(adaptive: dict[str, dict[float, dict[str, Any]]], loss: float) -> float | None:
    """The lowest threshold at which every interval excludes a larger loss of accuracy."""
    thresholds = next(iter(adaptive.values()))
    safe = (
        threshold
        for threshold in thresholds
        if all(rows[threshold]["change"].low >= -loss for rows in adaptive.values())
    )
    return min(safe, default=None)


def summarise_existence(answers: Answers, rows: Sequence[Row]) -> dict[str, Any]:
    """POPE's figures (arXiv 2305.10355) in its three settings: accuracy, F1, share of "yes".

    The "yes" questions are dealt to the settings in turn, so that each is half "yes".
    """
    yes = answers.truth == "yes"
    kind = np.array([item.exist_kind or "" for item in answers.items])
    kind[yes] = [EXIST_KINDS[index % len(EXIST_KINDS)] for index in range(int(yes.sum()))]
    out: dict[str, Any] = {}
    for row in rows:
        for answer_input in inputs_of(row):
            for decoding in decodings_of(row):
                said = answers.said(row.name, answer_input, decoding)
                by_input = out.setdefault(row.name, {}).setdefault(answer_input, {})
                by_input[decoding] = {
                    name: _pope(answers, said, kind == name) for name in EXIST_KINDS
                } | {"all": _pope(answers, said, kind != "")}
    return out


def _pope(answers: Answers, said: np.ndarray, chosen: np.ndarray) -> dict[str, Estimate]:
    said_yes, yes = (said == "yes").astype(float), (answers.truth == "yes").astype(float)
    return {
        "accuracy": answers.bootstrap.mean((said == answers.truth).astype(float), chosen),
        "F1": answers.bootstrap.of(f1, [said_yes * yes, said_yes, yes], chosen),
        "yes": answers.bootstrap.mean(said_yes, chosen),
    }


def f1(sums: np.ndarray) -> np.ndarray:
    """From the sums of true positives, said positives and actual positives."""
    return 2 * sums[0] / (sums[1] + sums[2])


def layer_histogram(answers: Answers, row: Row, layers: int) -> dict[str, dict[int, Estimate]]:
    """By question type the share of questions for which each layer had the highest VAQ."""
    layer = answers.column(row.name, "layer")
    return {
        name: {
            number: answers.bootstrap.mean((layer == number).astype(float), answers.types == name)
            for number in range(layers)
        }
        for name in dict.fromkeys(answers.types)
    }


def plain_data(value: Any) -> Any:
    """Figures as dictionaries, for JSON; None where there are no items."""
    if isinstance(value, Estimate):
        return dataclasses.asdict(value) if value.items else None
    if isinstance(value, dict):
        return {str(key): plain_data(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_data(entry) for entry in value]
    return value
