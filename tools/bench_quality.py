"""What the method gains on a demo model: accuracy on held-out items with ground-truth boxes.

    python tools/bench_quality.py [--items 1050] [--seed 0] [--model demo] [--json FILE]
    python tools/bench_quality.py --ablations    # every open point of the method changed alone

The table answers the same items of the test split with every row; the layers of the fixed-layer
rows are chosen on the development split, and so are the ablations measured there. Records are kept
in --cache, item by item: a run that was stopped continues. The decoders of the demo models answer
in one word of one token, so the first token's logits decide; `tests/tools/test_quality.py` holds
them against `decode`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from laser_core.loading import load_lvlm
from laser_core.lvlm import Lvlm
from laser_core.settings import LoadSettings
from tools.demo_model.world import held_out_items, prior_items
from tools.quality import tables
from tools.quality.measure import BOTH, measure
from tools.quality.rows import (
    LASER,
    PAPER,
    PLAIN,
    Row,
    ablation_rows,
    fixed_layer,
    main_rows,
    vicrop,
)
from tools.quality.summary import (
    Answers,
    layer_histogram,
    plain_data,
    summarise_existence,
    summarise_rows,
    summarise_vat,
)

PRIOR_GROUPS = ("all", "against the prior", "with the prior")
# Scenes of a split are numbered from 0 for each seed: sets with seeds of their own share none.
EXISTENCE_SEED, PRIOR_SEED = 1_000, 2_000


class Bench:
    """A model, and where its records are kept."""

    def __init__(self, lvlm: Lvlm, cache: Path, seed: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.lvlm, self.cache, self.seed = lvlm, cache, seed
        self.layers = len(lvlm.attention_modules)

    def answers(self, name: str, items: list, rows: list[Row]) -> Answers:
        return Answers(measure(self.lvlm, items, rows, self.cache / f"{name}.jsonl", self.seed))

    def chosen_layers(self, count: int) -> tuple[int, int, dict[str, Any]]:
        """The best fixed layer and ViCrop's, by accuracy with picture + crop on other pictures."""
        families = [[make(n) for n in range(self.layers)] for make in (fixed_layer, vicrop)]
        items = held_out_items("dev", count, self.seed)
        answers = self.answers("layers-dev", items, [PLAIN, *families[0], *families[1]])
        summary = summarise_rows(answers, [PLAIN, *families[0], *families[1]])
        best = [
            max(
                range(self.layers),
                key=lambda n: summary[rows[n].name][BOTH]["accuracy"]["all"].value,
            )
            for rows in families
        ]
        return best[0], best[1], summary


def table(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The table on the test split, printed and as data."""
    layer, vicrop_layer, chosen_on = bench.chosen_layers(options.dev_items)
    rows = main_rows(bench.layers, layer, vicrop_layer)
    if options.rows:
        rows = [row for row in rows if row is PLAIN or any(n in row.name for n in options.rows)]
    few = [row for row in rows if row.vat]
    seed = options.seed
    main = bench.answers("main", held_out_items("test", options.items, seed), rows)
    existence_items = held_out_items(
        "test", options.existence_items, seed + EXISTENCE_SEED, types=("exist",)
    )
    existence = bench.answers("existence", existence_items, few)
    prior_set = prior_items("test", options.prior_items, seed + PRIOR_SEED)
    prior = bench.answers("prior", prior_set, few)
    summary = {
        "fixed layers, development split": chosen_on,
        "rows": summarise_rows(main, rows),
        "VAT": summarise_vat(main, rows, ["all", "small", "medium", "large", "absent"]),
        "VAT, prior": summarise_vat(prior, few, PRIOR_GROUPS),
        "prior": summarise_rows(prior, few),
        "existence": summarise_existence(existence, few),
    }
    print(f"best fixed layer {layer}, ViCrop's {vicrop_layer}, chosen on the development split\n")
    gains = {"plain": summary["rows"]}
    if PAPER in rows:
        gains["the paper's rule"] = summarise_rows(main, rows, reference=PAPER)
        summary["rows against the paper's rule"] = gains["the paper's rule"]
    print(tables.main_table(gains), end="\n\n")
    print(tables.group_table(summary["rows"]), end="\n\n")
    print(tables.vat_table("VAT: gain over alpha 0", summary["VAT"]), end="\n\n")
    print(tables.vat_table("VAT and priors", summary["VAT, prior"]), end="\n\n")
    print(tables.existence_table(summary["existence"]), end="\n\n")
    if LASER in rows:
        summary["layers"] = layer_histogram(main, LASER, bench.layers)
        print(tables.histogram_table(summary["layers"]), end="\n\n")
    return {"best layer": layer, "ViCrop layer": vicrop_layer} | summary


def ablations(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Every open point changed alone, against the defaults, on the development split."""
    rows = ablation_rows()
    items = held_out_items("dev", options.items, options.seed)
    answers = bench.answers("ablations", items, rows)
    summary = {
        "rows": summarise_rows(answers, rows, reference=LASER),
        "VAT": summarise_vat(answers, rows, ["all"]),
    }
    print(tables.main_table({"the defaults": summary["rows"]}), end="\n\n")
    print(tables.vat_table("VAT: gain over alpha 0", summary["VAT"]), end="\n\n")
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--items", type=int, default=1050)
    parser.add_argument("--existence-items", type=int, default=300, help="yes/no questions more")
    parser.add_argument("--prior-items", type=int, default=200, help="half against the prior")
    parser.add_argument("--dev-items", type=int, default=300, help="that layers are chosen on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo", help="demo, or the folder of a demo model")
    parser.add_argument("--rows", nargs="+", help="only rows whose name holds one of these")
    parser.add_argument("--ablations", action="store_true")
    parser.add_argument("--cache", type=Path, default=Path("laser-out/quality"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    started = time.time()
    lvlm = load_lvlm(options.model, LoadSettings(precision="fp32"))
    bench = Bench(lvlm, options.cache, options.seed, options.threads)
    summary = (ablations if options.ablations else table)(bench, options)
    print(tables.LEGEND)
    print(f"{time.time() - started:.0f} s")
    if options.json:
        record = {"items": options.items, "seed": options.seed, "model": options.model}
        options.json.write_text(json.dumps(record | plain_data(summary), indent=1), "utf-8")


if __name__ == "__main__":
    main()
