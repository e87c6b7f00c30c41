"""What the method gains on the demo model: accuracy on held-out items with ground-truth boxes.

    python tools/bench_quality.py [--items 1050] [--seed 0] [--model demo] [--json FILE]

Every row answers the same items of the test split; the best fixed layer is chosen on the
development split. Intervals are 95 % from a bootstrap over pictures; a difference to the plain
model is resolved where its paired interval excludes zero.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from laser_core.answer_input import negative_stream, plain_stream, positive_stream
from laser_core.counterfactual import block, evidence_patches, patch_mask
from laser_core.crop import place_windows
from laser_core.decode import decode
from laser_core.geometry import Box, Window, whole_picture
from laser_core.loading import load_lvlm
from laser_core.lvlm import Lvlm
from laser_core.pipeline import Location, locate
from laser_core.results import Evidence
from laser_core.settings import AnswerSettings, LaserSettings, LayerSettings
from laser_core.vaq import contrast, evidence, select_layer
from tools.demo_model.world import HeldOutItem, held_out_items, oracle_window

RESAMPLES = 2000
CROP, BOTH = "crop", "picture + crop"
SETTINGS = {
    answer_input: LaserSettings(answer=AnswerSettings(answer_input=answer_input))
    for answer_input in (CROP, BOTH)
}


@dataclass(frozen=True)
class Row:
    """A way to answer: name and, for each item, (answer, window or None)."""

    name: str
    answers: list[str]
    windows: list[Window | None]


class Bench:
    """Items, and for each the maps of its one reading."""

    def __init__(self, lvlm: Lvlm, items: Sequence[HeldOutItem], seed: int, note: str) -> None:
        self.lvlm, self.items, self.note = lvlm, items, note
        self.rng = np.random.default_rng(seed)
        self.found: list[Location] = []
        self._each(lambda index: self.found.append(self._locate(items[index])))

    def _locate(self, item: HeldOutItem) -> Location:
        return locate(self.lvlm, item.picture, item.question)

    def _each(self, work: Callable[[int], None], name: str = "maps") -> None:
        started = time.time()
        for index in range(len(self.items)):
            work(index)
            if index % 50 == 49 or index + 1 == len(self.items):
                seconds = time.time() - started
                line = f"\r{self.note} {name}: {index + 1} / {len(self.items)}, {seconds:.0f} s "
                print(line, end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)

    def row(
        self,
        name: str,
        place: Callable[[int], tuple[Window | None, Evidence | None]],
        answer_input: str,
        alpha: float = 0.0,
    ) -> Row:
        """Answer every item from the window that `place` gives; no window: the picture alone."""
        row = Row(name, [], [])

        def work(index: int) -> None:
            window, found = place(index)
            row.answers.append(self._answer(index, window, found, SETTINGS[answer_input], alpha))
            row.windows.append(window)

        self._each(work, name)
        return row

    def _answer(
        self,
        index: int,
        window: Window | None,
        found: Evidence | None,
        settings: LaserSettings,
        alpha: float,
    ) -> str:
        lvlm, item = self.lvlm, self.items[index]
        decoding = dataclasses.replace(settings.decode, alpha=alpha, max_tokens=4)
        if window is None:
            plain = plain_stream(lvlm, self.found[index].inputs, item.question, settings.prompt)
            return decode(lvlm, plain, None, decoding).text
        looks = [window], item.question, settings
        positive, negative = (
            positive_stream(lvlm, item.picture, *looks, self.found[index].inputs),
            None,
        )
        if alpha > 0 and not found.degenerate:
            patches = evidence_patches(found, settings.counterfactual, [window])
            mask = patch_mask(patches, found, settings.counterfactual)
            blocked = block(item.picture, mask, settings.counterfactual, lvlm.mean_colour)
            negative = negative_stream(lvlm, positive, blocked, mask, *looks)
        return decode(lvlm, positive, negative, decoding).text

    # ---- ways to place the window --------------------------------------------------------------

    def laser(self, index: int) -> tuple[Window, Evidence]:
        found = self.found[index]
        return found.placement.windows[0], found.evidence

    def fixed_layer(self, layer: int) -> Callable[[int], tuple[Window, Evidence]]:
        def place(index: int) -> tuple[Window, Evidence]:
            maps, settings = self.found[index].maps, LaserSettings()
            contrasted = contrast(maps, settings.contrast)
            choice = select_layer(contrasted, LayerSettings(layer=layer))
            found = evidence(contrasted, choice, maps)
            if found.degenerate:
                return whole_picture(found.picture_size), found
            return place_windows(found, settings.crop).windows[0], found

        return place

    def oracle(self, index: int) -> tuple[Window | None, None]:
        box = oracle_window(self.items[index])
        return (Window(*box) if box else self.random(index)[0]), None

    def random(self, index: int) -> tuple[Window, None]:
        width, height = self.items[index].picture.size
        side_x, side_y = max(width // 2, min(224, width)), max(height // 2, min(224, height))
        x, y = self.rng.integers(0, width - side_x + 1), self.rng.integers(0, height - side_y + 1)
        return Window(int(x), int(y), int(x) + side_x, int(y) + side_y), None


def best_fixed_layer(lvlm: Lvlm, items: int, seed: int) -> int:
    """The layer whose crops answer best on the development split, picture + crop."""
    bench = Bench(lvlm, held_out_items("dev", items, seed), seed, "dev")
    layers = bench.found[0].maps.layers
    rows = [bench.row(f"layer {n}", bench.fixed_layer(n), BOTH) for n in range(layers)]
    scores = [correct(row, bench.items).mean() for row in rows]
    print("development accuracy by fixed layer:", *(f"{100 * s:.1f}" for s in scores))
    return int(np.argmax(scores))


def correct(row: Row, items: Sequence[HeldOutItem]) -> np.ndarray:
    """(items,) 1.0 where the first word is the right one."""
    words = [answer.split()[:1] for answer in row.answers]
    return np.array([float(word == [item.answer]) for word, item in zip(words, items, strict=True)])


def interval(values: np.ndarray, pictures: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling pictures (items of one go together)."""
    _, group = np.unique(pictures, return_inverse=True)
    sums, counts = np.bincount(group, values), np.bincount(group)
    draws = np.random.default_rng(seed).integers(0, len(sums), (RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def holds_evidence(window: Window | None, item: HeldOutItem) -> float:
    """1.0 if the window holds at least 90 % of the asked object's box; NaN without a box."""
    if not item.evidence_boxes or window is None:
        return float("nan")
    box = Box(*item.evidence_boxes[0])
    return float(box.intersect(Box(*window)).area >= 0.9 * box.area)


def summarise(rows: Sequence[Row], items: Sequence[HeldOutItem]) -> list[dict]:
    """Every figure of every row, by group of items."""
    pictures = np.array([item.scene_index for item in items])
    groups = {"all": np.ones(len(items), bool)}
    for size in ("small", "medium", "large", "none"):
        groups[f"evidence {size}"] = np.array([item.size_class == size for item in items])
    for kind in dict.fromkeys(item.type for item in items):
        groups[f"type {kind}"] = np.array([item.type == kind for item in items])
    conflict = np.array([item.conflict is True for item in items])
    groups["against the prior"] = conflict
    plain = correct(rows[0], items)
    out = []
    for row in rows:
        right = correct(row, items)
        figures = {}
        for name, chosen in groups.items():
            gain = right[chosen] - plain[chosen]
            figures[name] = {
                "n": int(chosen.sum()),
                "accuracy": float(right[chosen].mean()),
                "interval": interval(right[chosen], pictures[chosen]),
                "gain": float(gain.mean()),
                "gain_interval": interval(gain, pictures[chosen]),
            }
        held = [
            holds_evidence(window, item) for window, item in zip(row.windows, items, strict=True)
        ]
        share = None if np.isnan(held).all() else float(np.nanmean(held))
        out.append({"row": row.name, "windows_holding_evidence": share, "groups": figures})
    return out


def table(summary: list[dict]) -> str:
    """Markdown: accuracy in per cent with interval, gain over plain; groups without interval."""
    names = list(summary[0]["groups"])
    counts = [f"{name} ({summary[0]['groups'][name]['n']})" for name in names[1:]]
    lines = [
        "| answer input | accuracy, 95 % interval | gain over plain | window holds evidence | "
        + " | ".join(counts)
        + " |"
    ]
    lines.append("|---" * (4 + len(counts)) + "|")
    for entry in summary:
        whole = entry["groups"]["all"]
        low, high = whole["interval"]
        gain_low, gain_high = whole["gain_interval"]
        mark = "" if gain_low <= 0 <= gain_high else " *"
        gain = f"{100 * whole['gain']:+.1f} [{100 * gain_low:+.1f}, {100 * gain_high:+.1f}]{mark}"
        held = entry["windows_holding_evidence"]
        cells = [
            entry["row"],
            f"{100 * whole['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
            "" if entry is summary[0] else gain,
            "" if held is None else f"{100 * held:.0f} %",
            *(f"{100 * entry['groups'][name]['accuracy']:.1f}" for name in names[1:]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--items", type=int, default=1050)
    parser.add_argument("--dev-items", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.time()
    lvlm = load_lvlm(options.model)
    layer = best_fixed_layer(lvlm, options.dev_items, options.seed)
    bench = Bench(lvlm, held_out_items("test", options.items, options.seed), options.seed, "test")
    rows = [
        bench.row("plain", lambda index: (None, None), BOTH),
        bench.row("oracle crop only", bench.oracle, CROP),
        bench.row("picture + oracle crop", bench.oracle, BOTH),
        bench.row("LASER crop only", bench.laser, CROP),
        bench.row("LASER picture + crop", bench.laser, BOTH),
        bench.row("LASER crop only, VAT alpha 1", bench.laser, CROP, alpha=1.0),
        bench.row("LASER picture + crop, VAT alpha 1", bench.laser, BOTH, alpha=1.0),
        bench.row(f"best fixed layer ({layer}), picture + crop", bench.fixed_layer(layer), BOTH),
        bench.row("picture + random crop", bench.random, BOTH),
    ]
    summary = summarise(rows, bench.items)
    print(table(summary))
    print("* resolved: the paired 95 % interval of the gain excludes zero")
    layers = bench.found[0].maps.layers
    chosen = np.bincount([found.choice.layer for found in bench.found], minlength=layers)
    print("layers chosen by VAQ:", *chosen)
    print(f"{time.time() - started:.0f} s")
    if options.json:
        record = {"items": options.items, "seed": options.seed, "best_fixed_layer": layer}
        record |= {"layer_histogram": chosen.tolist(), "rows": summary}
        options.json.write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    main()
