"""The quality benchmark measures what the method does: its shortcuts against the ordinary path."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laser_core.evaluation.intervals import Bootstrap
from laser_core.geometry import Box, Window
from laser_core.models.loading import load_lvlm
from laser_core.pipeline import answer, locate
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
)
from laser_core.steps.answer_input import (
    make_negative_stream,
    make_plain_stream,
    make_positive_stream,
)
from laser_core.steps.counterfactual import make_counterfactual
from laser_core.steps.decode import decode
from tools.benchmarks.quality import card, summary, tables
from tools.benchmarks.quality.first_token import first_logits
from tools.benchmarks.quality.measure import PLAIN_DECODING, ItemRun, Look, decoding_name
from tools.benchmarks.quality.records import Measured, measure
from tools.benchmarks.quality.rows import (
    BOTH,
    CROP,
    LASER,
    LOOKS,
    ORACLE,
    PICTURE,
    PLAIN,
    RANDOM,
    RULES,
    Row,
    changed,
    fixed_layer,
)
from tools.demo_model.world import held_out_items

ROWS = [PLAIN, LASER, fixed_layer(2), ORACLE, RANDOM]


@pytest.fixture(scope="module")
def lvlm():
    return load_lvlm("demo")


@pytest.fixture(scope="module")
def items():
    return held_out_items("dev", 8, seed=77)


@pytest.mark.parametrize(("fill", "answer_input"), [("mean", CROP), ("visual tokens", BOTH)])
def test_batched_first_logits_are_those_decode_notes(lvlm, items, fill, answer_input):
    item, once = items[0], DecodeSettings(max_tokens=1)
    blocking = CounterfactualSettings(fill=fill)
    settings = LaserSettings(answer=AnswerSettings(answer_input), counterfactual=blocking)
    found = locate(lvlm, item.picture, item.question, settings)
    positive = make_positive_stream(lvlm, found)
    hidden = make_counterfactual(found, (9, 9, 9))
    negative = make_negative_stream(lvlm, found, positive.prompt, hidden)
    plain = make_plain_stream(lvlm, found.inputs, item.question, settings)
    logits = first_logits(lvlm, [plain, positive, negative, positive])
    token = decode(lvlm, positive, negative, once).tokens[0]
    assert logits[1, token.token_id].item() == pytest.approx(token.logit_with, abs=1e-4)
    assert logits[2, token.token_id].item() == pytest.approx(token.logit_without, abs=1e-4)
    assert logits[3].tolist() == pytest.approx(logits[1].tolist(), abs=1e-4)
    token = decode(lvlm, plain, None, DecodeSettings(alpha=0, max_tokens=1)).tokens[0]
    assert logits[0, token.token_id].item() == pytest.approx(token.logit_with, abs=1e-4)


@pytest.fixture(scope="module")
def tabled(lvlm):
    """Items, and what the table is made of for them."""
    asked = held_out_items("test", 6, seed=11)[::5]
    return [
        (item, ItemRun(lvlm, item, np.random.default_rng(0)).records([PLAIN, LASER]))
        for item in asked
    ]


@pytest.mark.parametrize("alpha", [0.0, 2.0])
@pytest.mark.parametrize("answer_input", [CROP, BOTH])
def test_laser_says_in_the_table_what_it_says_to_users(lvlm, tabled, alpha, answer_input):
    settings = LaserSettings(
        answer=AnswerSettings(answer_input),
        decode=DecodeSettings(alpha=alpha, adaptive=0, max_tokens=4),
    )
    decoding = decoding_name(alpha, settings.decode.beta if alpha else 0.0)
    decided_by_beta = 0
    for item, record in tabled:
        said = record["LASER"]["answers"][answer_input]["said"]
        result = answer(lvlm, item.picture, item.question, settings, with_plain=True)
        assert said[decoding] == result.answer.text.split()[0]
        assert record["plain"]["answers"]["picture"]["said"]["alpha 0"] == result.plain.text
        assert record["LASER"]["windows"] == result.location.placement.windows
        decided_by_beta += said["alpha 2"] != said[decoding_name(2.0, settings.decode.beta)]
    assert decided_by_beta  # so that the wrong beta would show


def test_forward_tokens_are_what_the_decoder_is_fed(lvlm, items):
    fed, item = [], items[0]
    record = ItemRun(lvlm, item, np.random.default_rng(0)).records([LASER])
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
                    answer=AnswerSettings(name),
                    decode=DecodeSettings(alpha=alpha, adaptive=0, max_tokens=1),
                )
                answer(lvlm, item.picture, item.question, settings)
                spent = sum(fed) + (alpha > 0)  # both streams' last tokens run as one batch
                told = record["LASER"]["answers"][name]
                assert told["tokens with VAT" if alpha else "tokens"] == spent
    finally:
        hook.remove()


def test_forward_tokens_of_the_rows_that_need_no_window(lvlm, items):
    record = ItemRun(lvlm, items[0], np.random.default_rng(0)).records([PLAIN, LASER, ORACLE])
    plain, laser, oracle = (record[row.name]["answers"] for row in (PLAIN, LASER, ORACLE))
    prompt = plain[PICTURE]["tokens"]
    prefix = make_plain_stream(lvlm, items[0].picture, items[0].question, LaserSettings())
    own = prompt - prefix.prompt.prefix_length  # what follows the picture, read once more
    located = laser[CROP]["tokens"] - oracle[CROP]["tokens"]
    # What VAT blocks is found by both branches; the blocked picture's prompt is read in full
    assert plain[PICTURE]["tokens with VAT"] == located + own + prompt
    # Nothing before it read the oracle's prefix, and its two streams share it
    assert oracle[BOTH]["tokens"] == laser[BOTH]["tokens"] - located + prompt - own
    assert oracle[BOTH]["tokens with VAT"] - oracle[BOTH]["tokens"] == (
        laser[BOTH]["tokens with VAT"] - laser[BOTH]["tokens"]
    )


def test_several_windows_say_what_they_say_to_users(lvlm, items):
    small = CropSettings(windows=2, scale=0.3, min_side_px=1)
    settings = changed(crop=small, decode=DecodeSettings(alpha=0, adaptive=0, max_tokens=4))
    for item in items[:2]:
        result = answer(lvlm, item.picture, item.question, settings)
        record = ItemRun(lvlm, item, np.random.default_rng(0)).records(
            [Row("two", "laser", settings)]
        )
        assert record["two"]["windows"] == result.location.placement.windows
        assert len(record["two"]["windows"]) == 2
        assert record["two"]["answers"][BOTH]["said"]["alpha 0"] == result.answer.text.split()[0]


def test_the_oracle_looks_where_laser_does_for_what_is_not_there(lvlm):
    items = held_out_items("dev", 6, seed=5, types=("exist",))
    absent = next(item for item in items if not item.evidence_boxes)
    record = ItemRun(lvlm, absent, np.random.default_rng(0)).records([LASER, ORACLE])
    assert record["true window"] == {
        name: value for name, value in record["LASER"].items() if name != "layer"
    }


def test_a_window_holds_a_relation_only_with_its_anchor(lvlm):
    item = next(item for item in held_out_items("dev", 40, seed=1) if len(item.evidence_boxes) == 2)
    run = ItemRun(lvlm, item, np.random.default_rng(0))
    found = locate(lvlm, item.picture, item.question).evidence
    (x1, y1, x2, y2), anchor = item.evidence_boxes
    alone = Window(math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))
    assert Box(*anchor).intersect(Box(*alone)).area < 0.9 * Box(*anchor).area
    shares = run._shares(RANDOM, Look((alone,), found))
    assert (shares["held"], shares["held all"]) == (1.0, 0.0)
    width, height = item.picture.size
    shares = run._shares(RANDOM, Look((Window(0, 0, width, height),), found))
    assert (shares["held"], shares["held all"]) == (1.0, 1.0)
    most = Window(math.floor(x1), math.floor(y1), round(x1 + 0.8 * (x2 - x1)), math.ceil(y2))
    assert run._shares(RANDOM, Look((most,), found))["held"] == 0.0


def test_a_stopped_run_continues_with_the_same_records(lvlm, items, tmp_path):
    file = tmp_path / "records.jsonl"
    rows = [PLAIN, RANDOM]  # the one that draws
    whole = measure(lvlm, items[:2], rows, file, seed=0)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + lines[1][:40])  # stopped in the second item's line
    assert measure(lvlm, items[:2], rows, file, seed=0).records == whole.records
    assert file.read_text() == "".join(lines)


def test_records_of_other_rows_are_not_continued(lvlm, items, tmp_path):
    file = tmp_path / "records.jsonl"
    measure(lvlm, items[:1], [PLAIN], file, seed=0)
    before = file.read_bytes()
    with pytest.raises(SystemExit, match=r"remove .*records\.\*, or choose another --cache"):
        measure(lvlm, items[:1], [PLAIN, LASER], file, seed=0)
    assert file.read_bytes() == before


def test_records_of_other_weights_are_not_continued(lvlm, items, tmp_path):
    file, weight = tmp_path / "records.jsonl", lvlm.model.get_output_embeddings().weight
    measure(lvlm, items[:1], [PLAIN], file, seed=0)
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(SystemExit, match="made with weights"):
            measure(lvlm, items[:1], [PLAIN], file, seed=0)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1


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
    figure = Bootstrap(range(5)).of(summary.f1, [said * yes, said, yes], np.ones(5, bool))
    assert figure.value == pytest.approx(2 * precision * recall / (precision + recall))


def test_every_figure_of_the_tables_has_an_interval(lvlm, items, tmp_path):
    answers = summary.Answers(measure(lvlm, items[:4:3], ROWS, tmp_path / "all.jsonl", seed=0))
    rows = summary.summarise_rows(answers, ROWS)
    for decoding in ("alpha 0", summary.DEFAULT_DECODING):
        gain = answers.right("LASER", BOTH, decoding) - answers.right("plain", "picture")
        told = rows["LASER"][BOTH][decoding]["gain"]["all"]
        assert told.value == pytest.approx(gain.mean())
        over = answers.right("LASER", BOTH, decoding) - answers.right("layer 2", BOTH, decoding)
        told = summary.differences(answers, LASER, [fixed_layer(2)])["layer 2"]
        assert told[f"{BOTH}, {decoding}"].value == pytest.approx(over.mean())
    assert rows["true window"]["held"].value == 1.0
    text = tables.main_table({"plain": rows}) + tables.group_table(rows)
    text += tables.group_table(rows, "plain")
    text += tables.differences_table("LASER", summary.differences(answers, LASER, [RANDOM]))
    text += tables.vat_table("VAT", summary.summarise_vat(answers, ROWS, ["all"]))
    text += tables.existence_table(summary.summarise_existence(answers, ROWS))
    text += tables.histogram_table(summary.layer_histogram(answers, LASER, 10))
    assert "nan" not in text
    json.dumps(summary.plain_data(rows), allow_nan=False)


def test_each_pope_setting_is_half_yes(lvlm, tmp_path):
    items = held_out_items("dev", 6, seed=3, types=("exist",))
    answers = summary.Answers(measure(lvlm, items, [PLAIN], tmp_path / "pope.jsonl", seed=0))
    kinds = summary.summarise_existence(answers, [PLAIN])["plain"]["picture"]["alpha 0"]
    assert {name: figure["yes"].items for name, figure in kinds.items()} == {
        "random": 2, "popular": 2, "adversarial": 2, "all": 6,
    }  # fmt: skip
    said = answers.said("plain", "picture")
    assert kinds["all"]["yes"].value == pytest.approx((said == "yes").mean())


def test_small_details_are_read_in_the_true_window_and_often_missed_before(lvlm):
    """At least 15 points apart, on held-out questions on small evidence."""
    items = held_out_items("test", 36, 7, types=("number", "owner"))
    right = {"whole picture": [], "true window": []}
    for item in (item for item in items if item.size_class == "small"):
        record = ItemRun(lvlm, item, np.random.default_rng(0)).records(card.ROWS)
        for seen, hits in right.items():
            row, answer_input = card.SEEN[seen]
            hits.append(record[row]["answers"][answer_input]["said"][PLAIN_DECODING] == item.answer)
    assert np.mean(right["true window"]) >= 0.6
    assert np.mean(right["whole picture"]) + 0.15 <= np.mean(right["true window"])


# ---- looks -------------------------------------------------------------------------------------


def looked_items():
    """Sure at once; after one look; surest in the second look; never surer than at once."""

    def record(*readings):
        inputs = {"plain": PICTURE, "one": BOTH, "two": BOTH}
        return {
            name: {"answers": {seen: {"certainty": sure, "said": {summary.PLAIN_DECODING: word}}}}
            for (name, seen), (sure, word) in zip(inputs.items(), readings, strict=True)
        }

    items = [
        SimpleNamespace(scene_index=index, answer="7", type="number", size_class="", conflict=None)
        for index in range(4)
    ]
    records = [
        record((0.9, "no"), (0.99, "7"), (0.99, "7")),
        record((0.2, "no"), (0.95, "7"), (0.99, "no")),
        record((0.2, "no"), (0.3, "no"), (0.4, "7")),
        record((0.5, "7"), (0.3, "no"), (0.4, "no")),
    ]
    return summary.Answers(Measured(items, records))


def test_looks_are_read_while_unsure_and_the_surest_reading_is_believed():
    answers, looks = looked_items(), [Row("one"), Row("two")]
    index, read = summary.believed(answers, looks, enough=0.9)
    assert index.tolist() == [0, 1, 2, 0]
    assert read.tolist() == [0, 1, 2, 2]
    assert summary.right_as_believed(answers, looks, index).tolist() == [0.0, 1.0, 1.0, 1.0]


def test_looks_in_the_table_are_what_the_defaults_answer(lvlm, tmp_path):
    drawn, looks = held_out_items("test", 13, seed=11), LOOKS[RULES[0]]
    items = [drawn[0], drawn[1], drawn[12]]
    rows = [PLAIN, *looks]
    answers = summary.Answers(measure(lvlm, items, rows, tmp_path / "a.jsonl", seed=0))
    settings = LaserSettings(decode=DecodeSettings(max_tokens=4))
    index, _ = summary.believed(answers, looks, settings.decode.adaptive)
    assert len(set(index)) > 1  # of the plain reading and a look's
    right = summary.right_as_believed(answers, looks, index)
    for number, item in enumerate(items):
        said = answer(lvlm, item.picture, item.question, settings).answer.text.split()[0]
        assert (said == item.answer) == right[number]
