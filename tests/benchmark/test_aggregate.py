"""Attention Aggregation on the demo model, from generated files, by the command itself."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from laser_core.command_line import cli
from laser_core.evaluation import attention_aggregation as aggregate
from laser_core.evaluation import measuring
from laser_core.evaluation.attention_aggregation import KINDS, describe, measure, summarise
from laser_core.evaluation.refcoco import read_items
from laser_core.files import to_plain
from laser_core.geometry import Box, Grid
from laser_core.models.loading import load_lvlm
from laser_core.pipeline import locate
from laser_core.results import Evidence
from laser_core.settings import ContrastSettings, LaserSettings, LayerSettings
from laser_core.steps.vaq import SMALLEST_DIVISOR, contrast, select_layer

from .refcoco import write_formats

COUNT = 6


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refcoco")
    write_formats(folder, COUNT)
    return folder


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The results of a run from start to end, in one process."""
    out = tmp_path_factory.mktemp("whole") / "out.jsonl"
    assert cli.main(command(data, out)) == 0
    return out


def command(data, out, *more, rows="own.jsonl"):
    return ["aggregate", str(data / rows), str(data / "pictures"), "--out", str(out), *more]


def lines_of(out):
    return [json.loads(line) for line in out.read_text().splitlines()]


# ---- the measure -------------------------------------------------------------------------------


def test_the_share_is_that_of_a_picture_painted_pixel_by_pixel():
    """Cells of the map as pixels of their own; the box cuts through them, padding lies outside."""
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.random((4, 5)), dtype=torch.float32)
    grid = Grid(4, 5, Box(-10, 0, 40, 40))  # cells of 10 px; the first column is padding
    found = Evidence(values, grid, (40, 40))
    pixels = np.kron(values.double().numpy(), np.ones((10, 10)))[:, 10:]
    box = Box(7, 13, 33, 40)
    expected = pixels[13:40, 7:33].sum() / pixels.sum()
    assert found.share_in(box) == pytest.approx(expected, rel=1e-9)
    assert found.share_in(Box(-50, -50, 90, 90)) == pytest.approx(1)
    assert found.share_in(Box(50, 50, 90, 90)) == 0


def test_a_map_of_zeros_has_no_share():
    found = Evidence(torch.zeros(2, 2), Grid(2, 2, Box(0, 0, 4, 4)), (4, 4))
    assert math.isnan(found.share_in(Box(0, 0, 2, 2)))


def test_an_item_is_measured_in_the_layer_and_heads_that_vaq_chooses(data):
    lvlm, settings = load_lvlm("demo"), LaserSettings(layer=LayerSettings(rule="argmax"))
    item = read_items(data / "own.jsonl")[0]
    line = measure(lvlm, item, data / "pictures", settings)
    picture = data / "pictures" / item.picture
    found = locate(lvlm, aggregate.read_picture(picture), item.question, settings)
    contrasted = contrast(found.maps, settings.contrast)
    choice = select_layer(contrasted, settings.layer, found.maps.band)
    assert line["layer"] == choice.layer
    heads = choice.heads[choice.layer]
    q, free = (m[choice.layer] for m in (found.maps.with_query, found.maps.without_query))
    maps = {
        "contrastive": torch.relu(q - free)[heads].mean(0),
        "raw": q[heads].mean(0),
        "relative": q.mean(0) / free.mean(0).clamp(min=SMALLEST_DIVISOR * free.mean()),
    }
    for kind, values in maps.items():
        by_hand = Evidence(values, found.maps.grid, found.picture.size)
        assert line[kind] == pytest.approx(by_hand.share_in(item.box), rel=1e-5), kind
    width, height = found.picture.size
    assert line["area"] == pytest.approx(item.box.area / (width * height))
    window = Box(*found.placement.windows[0])
    assert line["window"] == pytest.approx(item.box.intersect(window).area / item.box.area)


def test_every_kind_of_map_is_measured():
    assert ContrastSettings.__dataclass_fields__["kind"].metadata["choices"] == KINDS


# ---- the command -------------------------------------------------------------------------------


def test_every_item_has_a_line_in_its_order_and_the_summary_its_means(data, whole):
    lines = lines_of(whole)
    items = read_items(data / "own.jsonl")
    assert [line["id"] for line in lines] == [item.id for item in items]
    assert [line["box"] for line in lines] == [pytest.approx(item.box) for item in items]
    record = json.loads(whole.with_suffix(".run.json").read_text())
    for name, share in record["summary"]["shares"].items():
        values = [line[name] for line in lines]
        assert share["value"] == pytest.approx(np.mean(values), rel=1e-6)
        assert 0 <= share["low"] <= share["value"] <= share["high"] <= 1
        assert min(values) < max(values)
    assert sum(record["summary"]["best_layers"].values()) == COUNT
    names = {file.name for file in whole.parent.iterdir()}
    assert names == {"out.jsonl", "out.run.json", ".out.lock"}


def test_refers_refs_give_the_same_shares(data, whole, tmp_path):
    refs = command(data, tmp_path / "refs.jsonl", "--limit", "2", rows="refs.json")
    assert cli.main([*refs, "--instances", str(data / "instances.json")]) == 0
    for one, own in zip(lines_of(tmp_path / "refs.jsonl"), lines_of(whole)[:2], strict=True):
        assert [one[kind] for kind in KINDS] == [pytest.approx(own[kind]) for kind in KINDS]


def test_what_is_printed_says_the_figures(whole, data, capsys):
    assert cli.main(command(data, whole)) == 0
    out = capsys.readouterr().out
    summary = json.loads(whole.with_suffix(".run.json").read_text())["summary"]
    assert out.startswith(f"{COUNT} items on {COUNT} pictures, 0 failed; ")
    assert f"{100 * summary['shares']['contrastive']['value']:.1f} [" in out
    assert "the box's part of the picture (chance)" in out
    assert f"layer of the highest VAQ, or as set, of {summary['layers_of_model']}: " in out
    assert "chosen" not in out  # rule fuse, the default, uses all layers
    assert cli.main(command(data, whole, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == summary


def test_a_finished_run_is_not_measured_again_and_a_limit_is_widened(
    data, whole, tmp_path, monkeypatch
):
    out, asked = tmp_path / "out.jsonl", []

    def noted(lvlm, item, **given):
        asked.append(item.id)
        return measure(lvlm, item, **given)

    monkeypatch.setattr(aggregate, "measure", noted)
    assert cli.main(command(data, out, "--limit", "3")) == 0
    assert len(lines_of(out)) == len(asked) == 3
    assert cli.main(command(data, out)) == 0
    assert len(asked) == COUNT
    assert out.read_bytes() == whole.read_bytes()
    monkeypatch.setattr(measuring, "OwnModel", lambda *given: None)  # a call of it would fail
    assert cli.main(command(data, out, "--limit", "3")) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_other_settings_are_refused_and_the_results_stay(data, whole, capsys):
    before = whole.read_bytes()
    assert cli.main(command(data, whole, "--top-heads", "3")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("choose another --out, or repeat its run: ")
    assert error.endswith("was made with layer.top_heads 8, not 3")
    assert cli.main(command(data, whole, rows="lmms_lab.json")) == 2
    assert "was made with rows " in capsys.readouterr().err
    assert whole.read_bytes() == before


def test_failures_are_lines_and_reasons_and_are_tried_again(
    data, whole, tmp_path, monkeypatch, capsys
):
    out, picture = tmp_path / "out.jsonl", data / "pictures" / "COCO_train2014_000000000002.png"
    content = picture.read_bytes()

    def full_at_4(lvlm, item, **given):
        if item.id == "item 4":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return measure(lvlm, item, **given)

    monkeypatch.setattr(aggregate, "measure", full_at_4)
    picture.write_bytes(content[:100])
    try:
        assert cli.main(command(data, out)) == 0
    finally:
        picture.write_bytes(content)
    printed = capsys.readouterr().out
    assert f"{COUNT - 2} items on {COUNT - 2} pictures, 2 failed" in printed
    assert "failed 1: choose a smaller model or a --quantization: the memory is full" in printed
    failed = {line["id"]: line["error"] for line in lines_of(out) if "error" in line}
    assert set(failed) == {"item 2", "item 4"}
    assert failed["item 2"].startswith("save the picture again: ")
    monkeypatch.setattr(aggregate, "measure", measure)
    assert cli.main(command(data, out)) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_only_a_picture_that_is_still_to_be_measured_must_be_there(data, whole, tmp_path, capsys):
    picture = data / "pictures" / "COCO_train2014_000000000002.png"
    gone = picture.rename(tmp_path / picture.name)
    try:
        assert cli.main(command(data, whole)) == 0
        assert cli.main(command(data, tmp_path / "out.jsonl")) == 2
    finally:
        gone.rename(picture)
    assert f"1 of {COUNT} are missing, such as '{picture.name}'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"box": [900, 900, 950, 950]}, "correct the box: nothing of it lies on the picture"),
        ({"box": [9, 9, 9, 20]}, "correct the box: "),
        ({"question": "what breed is it ?"}, "try "),
        ({"question": ""}, "write what to look for: the question is empty"),
    ],
)
def test_if_nothing_can_be_measured_the_reason_is_the_error(data, tmp_path, capsys, row, message):
    first = json.loads((data / "own.jsonl").read_text().splitlines()[0])
    (tmp_path / "rows.json").write_text(json.dumps([{**first, **row}]))
    arguments = ["aggregate", str(tmp_path / "rows.json"), str(data / "pictures")]
    assert cli.main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(message)
    assert error.endswith("(nothing could be measured; 1 of 1 failed like this)")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--kind", "raw"), "leave out --kind: "),
        (("--limit", "-1"), "give --limit a number from 0"),
        (("--limit", "few"), "give --limit a whole number: it is 'few'"),
        (("--layre", "1"), r"did you mean --layer\? "),
        (("--alpha", "1"), "leave out --alpha: "),
        (("--model", "nowhere"), "choose 'demo', "),
    ],
)
def test_mistakes_are_one_line_with_the_remedy_first(data, tmp_path, capsys, more, message):
    assert cli.main(command(data, tmp_path / "out.jsonl", *more)) == 2
    assert re.match(message, capsys.readouterr().err.splitlines()[-1])
    assert not (tmp_path / "out.jsonl").exists()


def test_a_bad_row_is_refused_before_a_model_is_loaded(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "OwnModel", lambda *given: None)  # a call of it would fail
    first = json.loads((data / "own.jsonl").read_text().splitlines()[0])
    (tmp_path / "rows.json").write_text(json.dumps([first, {**first, "id": 1, "image": None}]))
    arguments = ["aggregate", str(tmp_path / "rows.json"), str(data / "pictures")]
    assert cli.main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("fix row 2 of ")
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_is_none_is_refused(data, tmp_path, capsys):
    arguments = ["aggregate", str(data / "own.jsonl"), str(tmp_path / "nowhere")]
    assert cli.main([*arguments, "--out", str(tmp_path / "out.jsonl")]) == 2
    assert capsys.readouterr().err.startswith("choose an existing folder: ")


def test_ray_measures_the_same(data, whole, tmp_path):
    pytest.importorskip("ray.data", reason="pip install 'ray[data]' for --engine ray")
    out = tmp_path / "out.jsonl"
    assert cli.main(command(data, out, "--engine", "ray", "--workers", "1")) == 0
    assert out.read_bytes() == whole.read_bytes()


# ---- the summary -------------------------------------------------------------------------------


def line(picture, value, **more):
    shares = dict.fromkeys(aggregate.SHARES, value)
    return {"id": "", "picture": picture, "layer": 1, "layers": 8, **shares, **more}


def test_the_interval_resamples_pictures_with_all_their_items():
    """Ten equal items of one picture are one observation: the interval stays that of pictures."""
    rng = np.random.default_rng(1)
    values = rng.random(200)
    lines = [line(f"p{n}", value) for n, value in enumerate(values)]
    repeated = [line(f"p{n}", value) for n, value in enumerate(values) for _ in range(10)]
    raw, again = (summarise(given)["shares"]["raw"] for given in (lines, repeated))
    expected = 1.96 * values.std() / np.sqrt(200)
    assert values.mean() - raw.low == pytest.approx(expected, rel=0.1)
    assert raw.high - values.mean() == pytest.approx(expected, rel=0.1)
    assert (again.low, again.high) == pytest.approx((raw.low, raw.high))


def test_the_summary_counts_layers_and_failures():
    lines = [line("a", 0.1), line("a", 0.3, layer=5), line("b", 0.2, layer=5)]
    failed = [{"id": "", "picture": "c", "error": "too dark"}] * 2
    summary = summarise([*lines, *failed])
    assert (summary["items"], summary["measured"], summary["pictures"]) == (5, 3, 2)
    assert summary["best_layers"] == {"1": 1, "5": 2}
    assert summary["failed"] == {"too dark": 2}
    text = describe(to_plain(summary))
    assert text[0].startswith("3 items on 2 pictures, 2 failed")
    assert text[-2] == "layer of the highest VAQ, or as set, of 8: 5 (66.7%), 1 (33.3%)"
    assert text[-1] == "failed 2: too dark"
