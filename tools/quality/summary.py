"""From records to figures: a dictionary ready for JSON, every figure with its interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.demo_model.world import EXIST_KINDS

from .measure import BOTH, CROP, DECODINGS, NO_VAT, PICTURE, Measured, decoding_name
from .rows import PLAIN, Row
from .statistics import Bootstrap, Figure, f1

PLAIN_DECODING = decoding_name(*NO_VAT)


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


def summarise_rows(answers: Answers, rows: Sequence[Row], reference: Row = PLAIN) -> dict[str, Any]:
    """By row: windows, maps and cost, and by answer input accuracy and gain in every group.

    Gains are over `reference` with the same answer input, or over the plain model where that is
    the reference.
    """
    mean, groups = answers.bootstrap.mean, answers.groups()
    out: dict[str, Any] = {}
    for row in rows:
        figures: dict[str, Any] = {
            name: mean(answers.column(row.name, name)) for name in ("held", "aggregation", "area")
        }
        for answer_input in inputs_of(row):
            right = answers.right(row.name, answer_input)
            other = PICTURE if reference.finder == "none" else answer_input
            gain = None
            if row is not reference and (other in inputs_of(reference)):
                gain = right - answers.right(reference.name, other)
            cost = [record[row.name]["answers"][answer_input] for record in answers.records]
            figures[answer_input] = {
                "accuracy": {name: mean(right, some) for name, some in groups.items()},
                "gain": gain is not None and {n: mean(gain, some) for n, some in groups.items()},
                "tokens": float(np.mean([c["tokens"] for c in cost])),
                "tokens with VAT": float(
                    np.mean([c.get("tokens with VAT", c["tokens"]) for c in cost])
                ),
            }
        out[row.name] = figures
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
            for decoding in (PLAIN_DECODING, decoding_name(1.0, 0.0)):
                if decoding != PLAIN_DECODING and not row.vat:
                    continue
                said = answers.said(row.name, answer_input, decoding)
                by_input = out.setdefault(row.name, {}).setdefault(answer_input, {})
                by_input[decoding] = {
                    name: _pope(answers, said, kind == name) for name in EXIST_KINDS
                } | {"all": _pope(answers, said, kind != "")}
    return out


def _pope(answers: Answers, said: np.ndarray, chosen: np.ndarray) -> dict[str, Figure]:
    said_yes, yes = (said == "yes").astype(float), (answers.truth == "yes").astype(float)
    return {
        "accuracy": answers.bootstrap.mean((said == answers.truth).astype(float), chosen),
        "F1": answers.bootstrap.of(f1, [said_yes * yes, said_yes, yes], chosen),
        "yes": answers.bootstrap.mean(said_yes, chosen),
    }


def layer_histogram(answers: Answers, row: Row, layers: int) -> dict[str, dict[int, Figure]]:
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
    if isinstance(value, Figure):
        figure = dataclasses.asdict(value) | {"resolved": value.resolved}
        return figure if value.items else None
    if isinstance(value, dict):
        return {str(key): plain_data(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain_data(entry) for entry in value]
    return value
