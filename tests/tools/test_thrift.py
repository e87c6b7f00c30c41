"""What the benchmark of spending less counts, on a handful of made-up items."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from laser_core.evaluation.intervals import Estimate
from laser_core.models.loading import load_lvlm
from tools.benchmarks.bench_thrift import MODES, Answers, budget_rows, lowest_safe
from tools.demo_model.world import held_out_items

DEFAULT = "picture + crop, alpha 1"


def answers():
    """Three items: sure at once, sure with the crop, never sure."""
    return Answers(
        items=[SimpleNamespace(scene_index=index) for index in range(3)],
        full={mode: np.array([1.0, 0.0, 1.0]) for mode in MODES},
        alone={kind: np.array([0.0, 1.0, 0.0]) for kind in ("crop", "picture + crop")},
        plain=np.array([0.0, 0.0, 0.0]),
        sure=np.array([0.9, 0.2, 0.2]),
        alone_sure={kind: np.array([0.9, 0.9, 0.2]) for kind in ("crop", "picture + crop")},
    )


def test_a_threshold_takes_the_first_answer_that_is_sure():
    right, crop_skipped, counterfactual_skipped = answers().outcome(DEFAULT, 0.8)
    assert right.tolist() == [0.0, 1.0, 1.0]
    assert crop_skipped.tolist() == [True, False, False]
    assert counterfactual_skipped.tolist() == [False, True, False]


def test_passes_count_what_was_not_skipped():
    rows = {(row["mode"], row["adaptive"]): row for row in answers().rows([0.8])}
    assert rows[DEFAULT, 0.0]["passes"] == 3
    assert rows[DEFAULT, 0.8]["passes"] == (1 + 2 + 3) / 3
    assert rows[DEFAULT, 0.8]["accuracy"] == pytest.approx(2 / 3)
    assert rows["crop, alpha 0", 0.8]["counterfactual_skipped"] == 0


@pytest.mark.parametrize(
    ("lows", "chosen"),
    [((-0.02, -0.005), 0.9), ((-0.005, -0.02), 0.5), ((0, 0), 0.5), ((-1, -1), 0)],
)
def test_the_lowest_threshold_that_excludes_a_loss_is_chosen(lows, chosen):
    rows = [
        {"adaptive": threshold, "change": Estimate(0.0, low, 0.01, 3)}
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
        for low in (lows[threshold > 0.85], 0.0)
    ]
    assert lowest_safe(rows) == chosen


def test_a_budget_shortens_the_prompt_of_a_native_resolution_model():
    rows = budget_rows(load_lvlm("demo-qwen"), held_out_items("test", 2))
    tokens = {(row["mode"], row["budget"]): row["prompt_tokens"] for row in rows}
    assert tokens["crop, alpha 0", 0.25] < 0.5 * tokens["crop, alpha 0", 1.0]
    assert tokens["picture + crop, alpha 0", 0.25] < 0.75 * tokens["picture + crop, alpha 0", 1.0]
    assert {row["change"].value for row in rows if row["budget"] == 1.0} == {0.0}
