"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tools.markdown import markdown

from .measure import BOTH, CROP, PICTURE
from .statistics import Figure
from .summary import PLAIN_DECODING

LEGEND = (
    "In per cent, with 95 % intervals from a bootstrap over pictures (paired, for gains); "
    "* marks a difference that is resolved: its interval excludes zero."
)


def per_cent(figure: Figure) -> str:
    if not figure.items:
        return ""
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def gain(figure: Figure) -> str:
    interval = f"[{100 * figure.low:+.1f}, {100 * figure.high:+.1f}]"
    return f"{100 * figure.value:+.1f} {interval}{' *' if figure.resolved else ''}"


def titled(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"**{title}**\n\n{markdown(header, rows)}"


def lines_of(rows: dict[str, Any]) -> Iterable[tuple[str, str, str, dict, dict]]:
    """Row, answer input, label, the row's figures, and those of that answer input."""
    for name, figures in rows.items():
        for answer_input in (PICTURE, CROP, BOTH):
            if answer_input in figures:
                label = name if answer_input == PICTURE else f"{name}, {answer_input}"
                yield name, answer_input, label, figures, figures[answer_input]


def main_table(gains: dict[str, dict[str, Any]]) -> str:
    """gains: the same rows summarised against several references, by the reference's name."""
    header = ["answer input", "accuracy", *(f"gain over {name}" for name in gains)]
    header += ["window holds the evidence", "map mass on the evidence (its area)"]
    header += ["forward tokens", "with VAT"]
    rows = next(iter(gains.values()))
    return titled(
        "Accuracy, windows and cost",
        header,
        (
            [
                label,
                per_cent(by_input["accuracy"]["all"]),
                *(_gain_of(against[name], answer_input) for against in gains.values()),
                per_cent(figures["held"]),
                _aggregation(figures),
                f"{by_input['tokens']:.0f}",
                f"{by_input['tokens with VAT']:.0f}",
            ]
            for name, answer_input, label, figures, by_input in lines_of(rows)
        ),
    )


def _aggregation(figures: dict[str, Any]) -> str:
    share = per_cent(figures["aggregation"])
    return share and f"{share} ({100 * figures['area'].value:.1f})"


def _gain_of(figures: dict[str, Any], answer_input: str) -> str:
    gains = figures[answer_input]["gain"]
    return gain(gains["all"]) if gains else ""


def group_table(rows: dict[str, Any]) -> str:
    first = next(iter(lines_of(rows)))[-1]["accuracy"]
    groups = [name for name in first if name != "all"]
    return titled(
        "Accuracy by evidence size, question type and prior",
        ["answer input", *(f"{name} ({first[name].items})" for name in groups)],
        (
            [label, *(per_cent(by_input["accuracy"][name]) for name in groups)]
            for _, _, label, _, by_input in lines_of(rows)
        ),
    )


def vat_table(title: str, rows: dict[str, Any]) -> str:
    """Accuracy and gain over alpha 0, a column per decoding and group."""
    first = next(iter(next(iter(rows.values())).values()))
    decodings = [name for name in first if name != PLAIN_DECODING]
    groups = list(first[PLAIN_DECODING])
    body = []
    for row, inputs in rows.items():
        for answer_input, by_decoding in inputs.items():
            for group in groups:
                label = row if answer_input == PICTURE else f"{row}, {answer_input}"
                body.append(
                    [
                        label,
                        group,
                        per_cent(by_decoding[PLAIN_DECODING][group]["accuracy"]),
                        *(gain(by_decoding[name][group]["gain"]) for name in decodings),
                    ]
                )
    return titled(title, ["answer input", "items", PLAIN_DECODING, *decodings], body)


def existence_table(rows: dict[str, Any]) -> str:
    first = next(iter(next(iter(rows.values())).values()))[PLAIN_DECODING]
    kinds = [kind for kind in first if kind != "all"]
    columns = [f"{kind}: {name}" for kind in kinds for name in ("accuracy", "F1", "yes")]
    body = []
    for row, inputs in rows.items():
        for answer_input, by_decoding in inputs.items():
            for decoding, by_kind in by_decoding.items():
                label = row if answer_input == PICTURE else f"{row}, {answer_input}"
                label += "" if decoding == PLAIN_DECODING else f", {decoding}"
                cells = [per_cent(figure) for kind in kinds for figure in by_kind[kind].values()]
                body.append([label, *cells])
    return titled("Yes or no: POPE's three settings", ["answer input", *columns], body)


def histogram_table(histogram: dict[str, dict[int, Figure]]) -> str:
    layers = list(next(iter(histogram.values())))
    return titled(
        "Layer of the highest VAQ, share of questions",
        ["type", *map(str, layers)],
        ([name, *(per_cent(by_layer[n]) for n in layers)] for name, by_layer in histogram.items()),
    )
