"""The summaries as Markdown tables. Knows estimates; computes none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from laser_core.evaluation.intervals import Estimate, in_words
from tools.benchmarks.quality.measure import PLAIN_DECODING
from tools.benchmarks.quality.rows import BOTH, CROP, PICTURE
from tools.benchmarks.quality.summary import HELD
from tools.build.markdown import markdown

LEGEND = (
    "In per cent, with 95 % intervals from a bootstrap over pictures (paired, for gains); "
    "* marks a difference that is resolved: its interval excludes zero."
)


def per_cent(figure: Estimate) -> str:
    return in_words(vars(figure), figure.items)


def gain(figure: Estimate) -> str:
    return in_words(vars(figure), figure.items, "+")


def titled(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return f"**{title}**\n\n{markdown(header, rows)}"


def labelled(row: str, answer_input: str, decoding: str = PLAIN_DECODING) -> str:
    parts = [row] if answer_input == PICTURE else [row, answer_input]
    return ", ".join(parts if decoding == PLAIN_DECODING else [*parts, f"VAT at {decoding}"])


def lines_of(rows: dict[str, Any]) -> Iterable[tuple[tuple[str, str, str], dict, dict]]:
    """(row, answer input, decoding), the row's figures, and those of that answer."""
    for name, figures in rows.items():
        for answer_input in (PICTURE, CROP, BOTH):
            for decoding, answer in figures.get(answer_input, {}).items():
                yield (name, answer_input, decoding), figures, answer


def main_table(gains: dict[str, dict[str, Any]]) -> str:
    """gains: the same rows summarised against several references, by the reference's name."""
    header = ["answer input", "accuracy", *(f"gain over {name}" for name in gains)]
    header += ["window holds what is asked about", "and its anchor"]
    header += ["map mass on it (its area)", "forward tokens"]
    body = []
    for line, figures, answer in lines_of(next(iter(gains.values()))):
        row, answer_input, decoding = line
        against = [rows[row][answer_input][decoding]["gain"] for rows in gains.values()]
        body.append(
            [
                labelled(*line),
                per_cent(answer["accuracy"]["all"]),
                *(gain(one["all"]) if one else "" for one in against),
                per_cent(figures["held"]),
                per_cent(figures["held all"]),
                _aggregation(figures),
                f"{answer['tokens']:.0f}",
            ]
        )
    return titled("Accuracy, windows and cost", header, body)


def _aggregation(figures: dict[str, Any]) -> str:
    share = per_cent(figures["aggregation"])
    return share and f"{share} ({100 * figures['area'].value:.1f})"


def group_table(rows: dict[str, Any], over: str = "") -> str:
    """Accuracy, or the gain over what `over` names, which the rows were summarised against."""
    what, shown = ("gain", gain) if over else ("accuracy", per_cent)
    title = f"Gain over {over}" if over else "Accuracy"
    lines = [(line, answer[what]) for line, _, answer in lines_of(rows) if answer[what]]
    groups = {name: figure.items for name, figure in lines[0][1].items() if name != "all"}
    return titled(
        f"{title} by evidence size, question type and prior",
        ["answer input", *(f"{name} ({items})" for name, items in groups.items())],
        ([labelled(*line), *(shown(figures[name]) for name in groups)] for line, figures in lines),
    )


def differences_table(name: str, differences: dict[str, dict[str, Estimate]]) -> str:
    columns = list(dict.fromkeys(key for row in differences.values() for key in row))
    return titled(
        f"{name} against the others, answered alike",
        ["against", *columns],
        (
            [other, *(gain(row[key]) if key in row else "" for key in columns)]
            for other, row in differences.items()
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
                body.append(
                    [
                        labelled(row, answer_input),
                        group,
                        per_cent(by_decoding[PLAIN_DECODING][group]["accuracy"]),
                        *(gain(by_decoding[name][group]["gain"]) for name in decodings),
                    ]
                )
    return titled(title, ["answer input", "items", PLAIN_DECODING, *decodings], body)


def looks_table(rows: dict[str, dict[str, Any]]) -> str:
    groups = ("small", "medium", "large", "one thing", "two things")
    header = ["way", "right", "gain over plain", *groups, "reads", "holds it", "all", "map mass"]
    body = [
        [
            name,
            per_cent(one["accuracy"]),
            gain(one["gain"]["all"]),
            *(gain(one["gain"][group]) if group in one["gain"] else "" for group in groups),
            f"{one['reads']:.2f}",
            *(per_cent(one[held]) if held in one else "" for held in HELD),
        ]
        for name, one in rows.items()
    ]
    return titled("Looking closer while the model is unsure", header, body)


def looks_against(name: str, others: dict[str, Estimate]) -> str:
    body = [[other, gain(difference)] for other, difference in others.items()]
    return titled(f"{name} less", ["way", "difference"], body)


def curve_table(rows: dict[str, dict[float, dict[str, Any]]]) -> str:
    header = ["way", "adaptive", "gain over plain", "reads"]
    body = [
        [name, f"{enough:g}", gain(one["gain"]), f"{one['reads']:.2f}"]
        for name, by_threshold in rows.items()
        for enough, one in by_threshold.items()
    ]
    return titled("The curve", header, body)


def existence_table(rows: dict[str, Any]) -> str:
    first = next(iter(next(iter(rows.values())).values()))[PLAIN_DECODING]
    kinds = [kind for kind in first if kind != "all"]
    columns = [f"{kind}: {name}" for kind in kinds for name in ("accuracy", "F1", "yes")]
    body = []
    for row, inputs in rows.items():
        for answer_input, by_decoding in inputs.items():
            for decoding, by_kind in by_decoding.items():
                cells = [per_cent(figure) for kind in kinds for figure in by_kind[kind].values()]
                body.append([labelled(row, answer_input, decoding), *cells])
    return titled("Yes or no: POPE's three settings", ["answer input", *columns], body)


def histogram_table(histogram: dict[str, dict[int, Estimate]]) -> str:
    layers = list(next(iter(histogram.values())))
    return titled(
        "Layer of the highest VAQ, share of questions",
        ["type", *map(str, layers)],
        ([name, *(per_cent(by_layer[n]) for n in layers)] for name, by_layer in histogram.items()),
    )


def card_table(accuracy: dict[str, dict[str, Estimate]]) -> str:
    """Accuracy by group, a column for what the model sees."""
    return markdown(
        ["items", "n", *accuracy["all"]],
        (
            [group, str(seen["both"].items), *map(per_cent, seen.values())]
            for group, seen in accuracy.items()
        ),
    )


def captions_table(named: dict[str, Estimate]) -> str:
    first, *shares = named.items()
    count = in_words(vars(first[1]), first[1].items, scale=1, digits=2)
    rows = [(first[0], count), *((name, per_cent(share)) for name, share in shares)]
    return markdown([f"captions of {first[1].items} pictures", ""], rows)
