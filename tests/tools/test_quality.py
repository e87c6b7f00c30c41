"""The quality benchmark measures what the method does: its shortcuts against the ordinary path."""

import json
import math

import numpy as np
import pytest

from laser_core.answer_input import negative_stream, plain_stream, positive_stream
from laser_core.counterfactual import block, evidence_patches, patch_mask
from laser_core.decode import decode
from laser_core.loading import load_lvlm
from laser_core.pipeline import answer, locate
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    DecodeSettings,
    LaserSettings,
)
from tools.demo_model.world import held_out_items
from tools.quality import summary, tables
from tools.quality.first_token import first_logits
from tools.quality.measure import BOTH, CROP, ItemRun, measure
from tools.quality.rows import LASER, ORACLE, PLAIN, RANDOM, fixed_layer
from tools.quality.statistics import Bootstrap, f1

ROWS = [PLAIN, LASER, fixed_layer(2), ORACLE, RANDOM]


@pytest.fixture(scope="module")
def lvlm():
    return load_lvlm("demo")


@pytest.fixture(scope="module")
def items():
    return held_out_items("dev", 8, seed=77)


@pytest.mark.parametrize("fill", ["mean", "visual tokens"])
def test_batched_first_logits_are_those_decode_notes(lvlm, items, fill):
    item, once = items[0], DecodeSettings(max_tokens=1)
    blocking = CounterfactualSettings(fill=fill)
    for name in (CROP, BOTH):
        settings = LaserSettings(answer=AnswerSettings(name), counterfactual=blocking)
        found = locate(lvlm, item.picture, item.question, settings)
        looks = found.placement.windows, item.question, settings
        positive = positive_stream(lvlm, item.picture, *looks, found.inputs)
        mask = patch_mask(
            evidence_patches(found.evidence, blocking, looks[0]), found.evidence, blocking
        )
        blocked = (
            None if fill == "visual tokens" else block(item.picture, mask, blocking, (9, 9, 9))
        )
        negative = negative_stream(lvlm, positive, blocked, mask, *looks)
        plain = plain_stream(lvlm, found.inputs, item.question, settings.prompt)
        logits = first_logits(lvlm, [plain, positive, negative, positive])
        token = decode(lvlm, positive, negative, once).tokens[0]
        assert logits[1, token.token_id].item() == pytest.approx(token.logit_with, abs=1e-4)
        assert logits[2, token.token_id].item() == pytest.approx(token.logit_without, abs=1e-4)
        assert logits[3].tolist() == pytest.approx(logits[1].tolist(), abs=1e-4)
        token = decode(lvlm, plain, None, DecodeSettings(alpha=0, max_tokens=1)).tokens[0]
        assert logits[0, token.token_id].item() == pytest.approx(token.logit_with, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("answer_input", [CROP, BOTH])
def test_laser_says_in_the_table_what_it_says_to_users(lvlm, items, alpha, answer_input):
    settings = LaserSettings(
        answer=AnswerSettings(answer_input), decode=DecodeSettings(alpha=alpha, max_tokens=4)
    )
    for item in items[:4]:
        record = ItemRun(lvlm, item, np.random.default_rng(0)).records([PLAIN, LASER])
        said = record["LASER"]["answers"][answer_input]["said"][f"alpha {alpha:g}"]
        result = answer(lvlm, item.picture, item.question, settings, with_plain=True)
        assert said == result.answer.text.split()[0]
        assert record["plain"]["answers"]["picture"]["said"]["alpha 0"] == result.plain.text
        assert record["LASER"]["window"] == result.location.placement.windows[0]


def test_forward_tokens_are_what_the_decoder_is_fed(lvlm, items):
    fed, item = [], items[0]
    hook = lvlm.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: fed.append(kwargs["inputs_embeds"].shape[1]),
        with_kwargs=True,
    )
    try:
        for name in (CROP, BOTH):
            for alpha in (0.0, 1.0):
                lvlm.release()
                fed.clear()
                settings = LaserSettings(
                    answer=AnswerSettings(name), decode=DecodeSettings(alpha=alpha, max_tokens=1)
                )
                answer(lvlm, item.picture, item.question, settings)
                spent = sum(fed) + (alpha > 0)  # both streams' last tokens run as one batch
                record = ItemRun(lvlm, item, np.random.default_rng(0)).records([LASER])
                told = record["LASER"]["answers"][name]
                assert told["tokens with VAT" if alpha else "tokens"] == spent
    finally:
        hook.remove()


def test_a_stopped_run_continues_with_the_same_records(lvlm, items, tmp_path):
    whole = measure(lvlm, items[:3], ROWS, tmp_path / "whole.jsonl", seed=0)
    part = tmp_path / "part.jsonl"
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    part.write_text("".join(lines[:2]) + lines[2][:40])  # the second item's line was cut off
    assert measure(lvlm, items[:3], ROWS, part, seed=0).records == whole.records
    assert part.read_text() == "".join(lines)


def test_records_of_other_rows_are_not_continued(lvlm, items, tmp_path):
    file = tmp_path / "records.jsonl"
    measure(lvlm, items[:1], [PLAIN], file, seed=0)
    with pytest.raises(ValueError, match=r"remove .*records\.jsonl, or choose another --cache"):
        measure(lvlm, items[:1], [PLAIN, LASER], file, seed=0)


def test_items_of_one_picture_are_drawn_together():
    # Two pictures of two items that agree: a resample's mean is 0, 1/2 or 1, never 1/4.
    figure = Bootstrap([7, 7, 9, 9]).mean(np.array([1.0, 1, 0, 0]))
    assert (figure.value, figure.low, figure.high) == (0.5, 0.0, 1.0)
    assert not figure.resolved


def test_an_interval_is_as_wide_as_theory_says():
    values = (np.arange(400) % 4 == 0).astype(float)
    figure = Bootstrap(range(400)).mean(values)
    width = 2 * 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert figure.value == 0.25
    assert figure.high - figure.low == pytest.approx(width, rel=0.08)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    said, yes = np.array([1.0, 1, 1, 0, 0]), np.array([1.0, 0, 1, 1, 0])
    precision, recall = 2 / 3, 2 / 3
    figure = Bootstrap(range(5)).of(f1, [said * yes, said, yes], np.ones(5, bool))
    assert figure.value == pytest.approx(2 * precision * recall / (precision + recall))


def test_every_figure_of_the_tables_has_an_interval(lvlm, items, tmp_path):
    answers = summary.Answers(measure(lvlm, items, ROWS, tmp_path / "all.jsonl", seed=0))
    rows = summary.summarise_rows(answers, ROWS)
    right = answers.right("LASER", BOTH) - answers.right("plain", "picture")
    assert rows["LASER"][BOTH]["gain"]["all"].value == pytest.approx(right.mean())
    assert rows["oracle"]["held"].value == 1.0
    text = tables.main_table({"plain": rows}) + tables.group_table(rows)
    text += tables.vat_table("VAT", summary.summarise_vat(answers, ROWS, ["all"]))
    text += tables.existence_table(summary.summarise_existence(answers, ROWS))
    text += tables.histogram_table(summary.layer_histogram(answers, LASER, 8))
    assert "nan" not in text
    json.dumps(summary.plain_data(rows), allow_nan=False)


def test_each_pope_setting_is_half_yes(lvlm, tmp_path):
    items = held_out_items("dev", 12, seed=3, types=("exist",))
    answers = summary.Answers(measure(lvlm, items, [PLAIN], tmp_path / "pope.jsonl", seed=0))
    kinds = summary.summarise_existence(answers, [PLAIN])["plain"]["picture"]["alpha 0"]
    assert {name: figure["yes"].items for name, figure in kinds.items()} == {
        "random": 4, "popular": 4, "adversarial": 4, "all": 12,
    }  # fmt: skip
    said = answers.said("plain", "picture")
    assert kinds["all"]["yes"].value == pytest.approx((said == "yes").mean())
