"""What the method gains on the demo model: accuracy on held-out items with ground-truth boxes.

    python -m tools.benchmarks.bench_quality [main] [--items N] [--seed N] [--json FILE]
    python -m tools.benchmarks.bench_quality ablations    # one setting changed at a time
    python -m tools.benchmarks.bench_quality looks        # when to look, where, and whom to believe
    python -m tools.benchmarks.bench_quality card         # what the model can do without the method

Reported figures come from the test split. The development split serves to choose layers and the
threshold of `adaptive`, and for the ablations. Records are kept in --cache, item by item,
and a stopped run continues. The demo model answers in one word of one token, so the logits of the
first token decide.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.settings import LaserSettings, LoadSettings
from tools.benchmarks.quality import card, tables
from tools.benchmarks.quality.records import measure
from tools.benchmarks.quality.rows import (
    BOTH,
    LASER,
    LASER_BOTH,
    LOOKS,
    ORACLE,
    ORACLE_BOTH,
    PAPER,
    PAPER_INSIDE,
    PLAIN,
    RANDOM,
    RAW,
    WEIGHED_WHOLE,
    Row,
    ablation_rows,
    fixed_layer,
    look_rows,
    main_rows,
    vicrop,
)
from tools.benchmarks.quality.summary import (
    Answers,
    compare_looks,
    curve_of_looks,
    differences,
    layer_histogram,
    plain_data,
    summarise_existence,
    summarise_looks,
    summarise_rows,
    summarise_vat,
    vat_after_looks,
)
from tools.demo_model.world import held_out_items, prior_items

PRIOR_GROUPS = ("all", "against the prior", "with the prior")
# Scenes of a split are numbered from 0 for each seed: sets with different seeds share none.
EXISTENCE_SEED, PRIOR_SEED = 1_000, 2_000
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 1.0)
LOCATED, WHOLE_SCENE = ("number", "owner", "colour", "rel", "bigger"), ("exist",)


class Bench:
    """A model, and where its records are kept."""

    def __init__(self, lvlm: Lvlm, cache: Path, seed: int, threads: int) -> None:
        torch.set_num_threads(threads)
        self.lvlm, self.cache, self.seed = lvlm, cache / lvlm.name, seed
        self.layers = len(lvlm.attention_modules)

    def answers(self, name: str, items: list, rows: list[Row]) -> Answers:
        return Answers(measure(self.lvlm, items, rows, self.cache / f"{name}.jsonl", self.seed))

    def chosen_layers(self, count: int) -> tuple[int, int, dict[str, Any]]:
        """The best fixed layer and ViCrop's, by accuracy with picture + crop on other pictures."""
        families = [
            [dataclasses.replace(make(n), vat=False) for n in range(self.layers)]
            for make in (fixed_layer, vicrop)
        ]
        rows = [PLAIN, *families[0], *families[1]]
        answers = self.answers("layers-dev", held_out_items("dev", count, self.seed), rows)
        right = [[answers.right(row.name, BOTH).mean() for row in rows] for rows in families]
        best, vicrops = (int(np.argmax(accuracies)) for accuracies in right)
        return best, vicrops, summarise_rows(answers, rows)


def main_part(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The table on the test split, printed and as data."""
    layer, vicrop_layer, chosen_on = bench.chosen_layers(options.dev_items)
    rows, seed = main_rows(layer, vicrop_layer), options.seed
    yardsticks = [PAPER, LASER_BOTH, fixed_layer(layer), vicrop(vicrop_layer), RAW]
    few = [PLAIN, LASER, *yardsticks, ORACLE, ORACLE_BOTH, RANDOM]
    main = bench.answers("main", held_out_items("test", options.items, seed), rows)
    existence_items = held_out_items(
        "test", options.existence_items, seed + EXISTENCE_SEED, types=("exist",)
    )
    existence = bench.answers("existence", existence_items, few)
    prior_set = prior_items("test", options.prior_items, seed + PRIOR_SEED)
    prior = bench.answers("prior", prior_set, few)
    over_plain = summarise_rows(main, rows)
    summary = {
        "fixed layers, development split": chosen_on,
        "rows": over_plain,
        "rows against the paper's rule": summarise_rows(main, rows, reference=PAPER),
        "LASER against": differences(main, LASER, [*yardsticks, PAPER_INSIDE, WEIGHED_WHOLE]),
        "VAT": summarise_vat(main, rows, ["all", "small", "medium", "large", "absent"]),
        "VAT, prior": summarise_vat(prior, few, PRIOR_GROUPS),
        "prior": summarise_rows(prior, few),
        "existence": summarise_existence(existence, few),
        "layers": layer_histogram(main, LASER, bench.layers),
    }
    print(f"best fixed layer {layer}, ViCrop's {vicrop_layer}, chosen on the development split")
    for part in (
        tables.main_table(
            {"plain": over_plain, "the paper's rule": summary["rows against the paper's rule"]}
        ),
        tables.differences_table(LASER.name, summary["LASER against"]),
        tables.group_table(over_plain),
        tables.group_table(over_plain, "plain"),
        tables.vat_table("VAT: gain over alpha 0", summary["VAT"]),
        tables.vat_table("VAT and priors", summary["VAT, prior"]),
        tables.existence_table(summary["existence"]),
        tables.histogram_table(summary["layers"]),
    ):
        print("\n" + part)
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
    print(tables.main_table({"the defaults": summary["rows"]}))
    print("\n" + tables.group_table(summary["rows"], "the defaults"))
    print("\n" + tables.vat_table("VAT: gain over alpha 0", summary["VAT"]))
    return summary


def looks_part(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """Looking closer only when unsure, by every rule, with its controls."""
    enough, seed = LaserSettings().decode.adaptive, options.seed
    rows, (rule, ways) = look_rows(), next(iter(LOOKS.items()))
    items = held_out_items(options.split, options.items, seed, types=LOCATED)
    answers = bench.answers(f"looks-{options.split}-{seed}", items, rows)
    others = held_out_items(
        options.split, options.existence_items, seed + EXISTENCE_SEED, types=WHOLE_SCENE
    )
    harmless = bench.answers(f"looks-{options.split}-{seed}-whole", others, rows)
    summary = {
        "looks": summarise_looks(answers, LOOKS, enough),
        "against": compare_looks(answers, LOOKS, enough),
        "curve": curve_of_looks(answers, LOOKS, THRESHOLDS),
        "VAT": vat_after_looks(answers, ways, enough),
        "whole scene": summarise_looks(harmless, {rule: ways}, enough),
    }
    print(tables.looks_table(summary["looks"]))
    print("\n" + tables.looks_against(f"{rule}, {len(ways)} looks, the surest", summary["against"]))
    print("\n" + tables.curve_table(summary["curve"]))
    print("\n" + tables.looks_against("VAT after looking, without VAT", summary["VAT"]))
    print(f"\n{', '.join(WHOLE_SCENE)}:\n" + tables.looks_table(summary["whole scene"]))
    return summary


def card_part(bench: Bench, options: argparse.Namespace) -> dict[str, Any]:
    """The tables of the model's card."""
    items = held_out_items("test", options.items, options.seed)
    accuracy = card.accuracy_by_kind(bench.answers("card", items, list(card.ROWS)))
    named = card.captions(bench.lvlm, items[: options.captions])
    print(tables.card_table(accuracy))
    print("\n" + tables.captions_table(named))
    return {"accuracy": accuracy, "captions": named}


PARTS = {"main": main_part, "ablations": ablations, "looks": looks_part, "card": card_part}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("part", nargs="?", choices=PARTS, default="main")
    parser.add_argument("--items", type=int, default=1050)
    parser.add_argument("--existence-items", type=int, default=300, help="yes/no questions more")
    parser.add_argument("--prior-items", type=int, default=200, help="half against the prior")
    parser.add_argument("--dev-items", type=int, default=300, help="that choices are made on")
    parser.add_argument("--split", choices=("dev", "test"), default="test", help="of the looks")
    parser.add_argument("--captions", type=int, default=200, help="pictures that are described")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="demo", help="demo, or the folder of a demo model")
    parser.add_argument("--cache", type=Path, default=Path("laser-out/quality"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    started = time.time()
    lvlm = load_lvlm(options.model, LoadSettings(precision="fp32"))
    bench = Bench(lvlm, options.cache, options.seed, options.threads)
    summary = PARTS[options.part](bench, options)
    print("\n" + tables.LEGEND)
    print(f"{time.time() - started:.0f} s")
    if options.json:
        record = {"items": options.items, "seed": options.seed, "model": options.model}
        options.json.write_text(json.dumps(record | plain_data(summary), indent=1), "utf-8")


if __name__ == "__main__":
    main()
