"""The speed benchmark's results as rows of tables. Knows their names; measures nothing."""

from __future__ import annotations

from typing import Any

HEADERS = {
    "reading": ("model", "N", "way", "s", "time / plain", "extra peak MB", "/ plain"),
    "decoding": ("model", "plain, ms a token", "one stream", "two", "two / plain", "weights once"),
    "whole": (
        "model", "answer input", "crop tokens", "answer", "way", "s", "time / plain",
        "extra peak MB", "/ plain", "prefill tokens (/ plain)", "GFLOP", "floor / plain",
        "operations / floor",
    ),
    "batches": (
        "model", "pictures", "answer", "way", "s", "time / plain", "answers a second",
        "extra peak MB",
    ),
}  # fmt: skip


def rows_of(part: str, shape: str, table: dict[str, Any]) -> list[list[str]]:
    """The rows of one measurement of that part, by the header of the same name."""
    return _ROWS[part](shape, table)


def _reading(shape: str, table: dict[str, Any]) -> list[list[str]]:
    plain = table["plain"]
    return [
        [
            shape,
            str(plain["tokens"]),
            way,
            f"{one['seconds']:.3f}",
            _ratio(one, 3),
            f"{one['peak_mb']:.0f}",
            f"{one['peak_mb'] / plain['peak_mb']:.2f}",
        ]
        for way, one in table.items()
    ]


def _decoding(shape: str, table: dict[str, Any]) -> list[list[str]]:
    taken = [f"{table[f'{way}, ms']:.1f}" for way in ("plain", "one row", "two rows")]
    weights = f"{table['weights, ms']:.1f}" if "weights, ms" in table else ""
    return [[shape, *taken, _ratio(table), weights]]


def _whole(shape: str, table: dict[str, Any]) -> list[list[str]]:
    floor, rows = table["floor"], []
    for way, one in table["ways"].items():
        against = [f"{floor['ratio']:.2f}", f"{floor['operations_over_floor']:.3f}"]
        rows.append([
            shape,
            table["mode"],
            str(floor["crop_tokens"]),
            str(table["tokens"]),
            way,
            f"{one['seconds']:.2f}",
            _ratio(one),
            f"{one['peak_mb']:.0f}",
            f"{one['peak_mb'] / table['ways']['plain']['peak_mb']:.2f}",
            f"{one['prefill_tokens']} ({one['prefill_tokens_ratio']:.3f})",
            f"{one['gflop']:.1f}",
            *(against if way == "ours" else ["", ""]),
        ])  # fmt: skip
    return rows


def _batches(shape: str, table: dict[str, Any]) -> list[list[str]]:
    asked = [shape, str(table["pictures"]), str(table["tokens"])]
    return [
        [
            *asked,
            way,
            f"{one['seconds']:.2f}",
            _ratio(one),
            f"{one['answers_a_second']:.2f}",
            f"{one['peak_mb']:.0f}",
        ]
        for way, one in table["ways"].items()
    ]


def _ratio(one: dict[str, float], digits: int = 2) -> str:
    return f"{one['ratio']:.{digits}f} ± {one['spread']:.{digits}f}"


_ROWS = {
    "reading": _reading,
    "decoding": _decoding,
    "whole": _whole,
    "batches": _batches,
}
