"""From records to estimates with intervals, in dictionaries. Knows no model, file or table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from laser_core.evaluation.intervals import Bootstrap, Estimate
from tools.benchmarks.quality.measure import (
    DECODINGS,
    DEFAULT_DECODING,
    PLAIN_DECODING,
    decoding_name,
)
from tools.benchmarks.quality.records import Measured
from tools.benchmarks.quality.rows import BOTH, CROP, PICTURE, PLAIN, Row
from tools.demo_model.world import EXIST_KINDS

TWO_THINGS = ("rel", "bigger", "owner")
HELD = ("held", "held all", "aggregation")


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
    return (PICTURE,) if row.finder == "none" else row.inputs


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


def believed(
    answers: Answers, looks: Sequence[Row], enough: float
) -> tuple[np.ndarray, np.ndarray]:
    """(items,) the index of the reading that is believed, 0 the plain one, and how many were read.

    As the method does it: a look is read while no reading is as sure as `enough`; of all that were
    read the surest is believed, the earlier of equals.
    """
    surest = answers.certainty(PLAIN.name, PICTURE)
    index, read = np.zeros(len(surest), int), np.zeros(len(surest), int)
    for count, row in enumerate(looks, 1):
        certainty, unsure = answers.certainty(row.name, BOTH), surest < enough
        read += unsure
        better = unsure & (certainty > surest)
        index[better], surest = count, np.where(better, certainty, surest)
    return index, read


def right_as_believed(
    answers: Answers, looks: Sequence[Row], index: np.ndarray, decoding: str = PLAIN_DECODING
) -> np.ndarray:
    """(items,) whether the reading with this index is right; the plain one is never contrasted."""
    plain = answers.right(PLAIN.name, PICTURE)
    return np.choose(index, [plain, *(answers.right(row.name, BOTH, decoding) for row in looks)])


def summarise_looks(
    answers: Answers, looks: dict[str, list[Row]], enough: float
) -> dict[str, dict[str, Any]]:
    """By name: accuracy, gain over plain by group, windows read, and what the windows hold."""
    mean, groups = answers.bootstrap.mean, answers.groups()
    two = np.isin(answers.types, TWO_THINGS)
    groups |= {"two things": two, "one thing": ~two}
    plain = answers.right(PLAIN.name, PICTURE)

    def figures(right: np.ndarray, read: np.ndarray, first: Row | None) -> dict[str, Any]:
        columns = {name: answers.column(first.name, name) for name in HELD} if first else {}
        return {
            "accuracy": mean(right),
            "gain": {name: mean(right - plain, some) for name, some in groups.items()},
            "reads": float(read.mean()),
            **{name: mean(column) for name, column in columns.items()},
        }

    none = np.zeros(len(plain))
    out = {"plain": figures(plain, none, None)}
    for name, rows in looks.items():
        out[f"{name}: one look, believed"] = figures(
            answers.right(rows[0].name, BOTH), none + 1, rows[0]
        )
        for count in (1, len(rows)) if len(rows) < 9 else (9,):
            index, read = believed(answers, rows[:count], enough)
            right = right_as_believed(answers, rows[:count], index)
            title = f"{name}: {count} look{'s' * (count > 1)}, the surest"
            out[title] = figures(right, read, rows[0])
    return out


def compare_looks(
    answers: Answers, looks: dict[str, list[Row]], enough: float
) -> dict[str, Estimate]:
    """How much better the first of them is than each other way, and than believing one look."""
    mean = answers.bootstrap.mean
    (first, rows), *others = looks.items()
    right = right_as_believed(answers, rows, believed(answers, rows, enough)[0])
    out = {}
    for name, other in [(first, rows[:1]), *others]:
        index, _ = believed(answers, other, enough)
        out[f"{name}, the surest of {len(other) + 1}"] = mean(
            right - right_as_believed(answers, other, index)
        )
    for name in (first, "argmax", "random windows"):
        out[f"{name}, one look believed"] = mean(right - answers.right(looks[name][0].name, BOTH))
    return out


def curve_of_looks(
    answers: Answers, looks: dict[str, list[Row]], thresholds: Sequence[float]
) -> dict[str, dict[float, dict[str, Any]]]:
    """By name and threshold: gain over plain and windows read."""
    plain, mean = answers.right(PLAIN.name, PICTURE), answers.bootstrap.mean
    out: dict[str, dict[float, dict[str, Any]]] = {}
    for name, rows in looks.items():
        for enough in thresholds:
            index, read = believed(answers, rows, enough)
            gain = mean(right_as_believed(answers, rows, index) - plain)
            out.setdefault(name, {})[enough] = {"gain": gain, "reads": float(read.mean())}
    return out


def vat_after_looks(answers: Answers, rows: Sequence[Row], enough: float) -> dict[str, Estimate]:
    """What VAT changes in the answers that looks gave, by alpha and beta."""
    index, _ = believed(answers, rows, enough)
    without = right_as_believed(answers, rows, index)
    return {
        decoding_name(*decoding): answers.bootstrap.mean(
            right_as_believed(answers, rows, index, decoding_name(*decoding)) - without
        )
        for decoding in DECODINGS[1:]
    }


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
