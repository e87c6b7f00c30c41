"""What the views on the canvas are sent: maps where they belong, bounded in size, plain values."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from .graphs import QUESTION
from .pack import part, run

views = part("nodes.views")
Box, Grid = (getattr(part("laser_core.geometry"), name) for name in ("Box", "Grid"))
results = part("laser_core.results")


@pytest.fixture
def files(comfyui, tmp_path):
    """Opens what a view names."""
    return lambda entry: tmp_path / "temp" / entry["filename"]


def evidence_of(cells, size, view=None, choice=None):
    cells = torch.as_tensor(cells, dtype=torch.float32)
    grid = Grid(*cells.shape, view or Box(0, 0, *size))
    return results.Evidence(cells, grid, size, choice)


def vaq_view(layers, size=(96, 64), layer=0, view=None, by_hand=False):
    count = len(layers)
    heads, numbers = torch.zeros(count, 1).long(), tuple(range(count))
    choice = results.LayerChoice(
        layer, torch.rand(count), heads, {layer: 1.0}, "", numbers, count=count
    )
    evidence = evidence_of(layers[layer], size, view, choice)
    picture = Image.new("RGB", size, "grey")
    return views.vaq_view(picture, evidence, layers, choice, by_hand)


def answer_of(count, text="word "):
    token = results.TokenRecord(text, 1, 2.5, 1.0, 0.5, 0.6, 0.1, (
        results.Alternative("other", 2, 0.2, 0.3, 0.4),
    ))  # fmt: skip
    end = dataclasses.replace(token, text="</s>")
    return results.Answer(text * count, (token,) * count + (end,), "end of answer")


def tile_of(sheet, maps, index):
    width, height = maps["tile"]
    row, column = divmod(index, maps["across"])
    gutter = maps["gutter"]
    left = column * (width + 2 * gutter) + gutter
    top = row * (height + 2 * gutter) + gutter
    return np.asarray(sheet)[top : top + height, left : left + width]


def test_every_layers_map_is_a_tile_of_its_own(files):
    layers = torch.rand(7, 4, 6) + 0.01
    maps = vaq_view(layers)["maps"]
    sheet = Image.open(files(maps["image"]))
    assert sheet.mode == "P"
    for index, layer in enumerate(layers):
        expected = (layer / layer.max() * 255).round().byte().numpy()
        assert np.array_equal(tile_of(sheet, maps, index), expected)


def test_a_tile_goes_on_in_its_gutter(files):
    """Drawn smooth, it must not take on the colours of the layer beside it."""
    maps = vaq_view(torch.rand(4, 3, 5) + 0.01)["maps"]
    sheet = np.asarray(Image.open(files(maps["image"])))
    tile = np.pad(tile_of(sheet, maps, 3), maps["gutter"], mode="edge")
    assert np.array_equal(sheet[-tile.shape[0] :, -tile.shape[1] :], tile)


def test_a_tile_has_the_colours_and_the_cover_of_the_drawings(files):
    heat = part("laser_core.output.heat")
    maps = vaq_view(torch.tensor([[[0.0, 1.0]]]))["maps"]
    weakest, strongest = tile_of(Image.open(files(maps["image"])).convert("RGBA"), maps, 0)[0]
    assert weakest[3] == round(255 * heat.COVER_LEAST)
    assert strongest[3] == round(255 * heat.COVER_MOST)
    from matplotlib import colormaps

    ends = colormaps[heat.COLOUR_MAP]([0.0, 1.0], bytes=True)[:, :3]
    assert [list(weakest[:3]), list(strongest[:3])] == ends.tolist()


def test_a_tile_says_where_on_the_picture_it_lies():
    """The model sees a square around a wide picture: the padded rows are not sent."""
    layers = torch.rand(1, 6, 6) + 0.01
    layers[0, 3, 1] = 9.0
    view = vaq_view(layers, size=(60, 20), view=Box(0, -20, 60, 40))
    assert view["maps"]["tile"] == (6, 2)
    assert view["maps"]["place"] == (0, 0, 1, 1)
    assert view["maps"]["peaks"] == [pytest.approx((1.5 / 6, 0.75))]


def test_a_map_without_evidence_has_no_peak(files):
    layers = torch.stack([torch.rand(3, 3), torch.zeros(3, 3), torch.full((3, 3), torch.nan)])
    peaks = vaq_view(layers)["maps"]["peaks"]
    assert peaks[0] is not None
    assert peaks[1:] == [None, None]


def test_pictures_and_maps_are_bounded(files):
    """64 layers of a 64 x 64 map on a large photograph, and a still finer map."""
    size = (4000, 3000)
    for cells in (64, 128):
        view = vaq_view(torch.rand(64, cells, cells), size)
        assert view["size"] == size
        assert Image.open(files(view["picture"])).size == (512, 384)
        assert view["maps"]["tile"] == (64, 64)
        assert files(view["maps"]["image"]).stat().st_size < 400_000
        values = part("laser_core.files").to_plain(view)
        assert len(json.dumps(values)) < 8_000


def test_a_choice_by_hand_says_what_the_rule_would_choose(lvlm, image, comfyui):
    attention = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    by_rule = run("LaserVAQLayerSelect", attention=attention.attention)
    other = 1 - min(by_rule.layer[0], 1)
    by_hand = run("LaserVAQLayerSelect", attention=attention.attention, layer=other)
    shown = by_hand.ui["laser_vaq"][0]
    assert (shown["layer"], shown["by_hand"]) == (other, True)
    assert shown["rule_layer"] == by_rule.layer[0] == by_rule.ui["laser_vaq"][0]["rule_layer"]
    assert not by_rule.ui["laser_vaq"][0]["by_hand"]
    assert shown["weights"] == by_rule.ui["laser_vaq"][0]["weights"]


def test_the_chosen_layers_map_is_the_evidence(lvlm, image, files):
    attention = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=QUESTION)
    found = run("LaserVAQLayerSelect", attention=attention.attention, rule="argmax")
    maps = found.ui["laser_vaq"][0]["maps"]
    tile = tile_of(Image.open(files(maps["image"])), maps, found.layer[0])
    cells, _ = part("laser_core.output.heat").on_picture(
        found.evidence.items[0].map[None], found.evidence.items[0].grid, (90, 60)
    )
    assert np.array_equal(tile, (cells[0] / cells.max() * 255).round().byte().numpy())


@pytest.mark.parametrize("override, by_hand", [("", False), ("5, 5, 40, 30", True)])
def test_a_window_by_hand_is_told_from_one_that_was_placed(image, comfyui, override, by_hand):
    mask = torch.zeros(60, 90)
    mask[10:20, 10:20] = 1
    shown = run("LaserConViCrop", image=image, mask=mask, override=override, min_side_px=20)
    view = shown.ui["laser_windows"][0]
    assert view["by_hand"] is by_hand
    assert view["windows"] == [shown.bbox[0][0]]
    assert view["shares"] == [1.0]


def test_a_window_by_hand_needs_no_map(image, comfyui):
    view = run("LaserConViCrop", image=image, override="5, 5, 40, 30").ui["laser_windows"][0]
    assert view["maps"] is view["shares"] is None
    assert view["picture"]
    assert not view["nothing_found"]


def test_a_short_answer_travels_whole():
    view = views.token_view(answer_of(views.FIRST_TOKENS))
    assert len(view["tokens"]) == view["count"] == views.FIRST_TOKENS
    assert view["all_tokens"] is None
    assert view["tokens"][0] == {
        "text": "word ", "vat": 1.5, "with": 0.6, "without": 0.1,
        "alternatives": [["other", 0.3, 0.4]],
    }  # fmt: skip


def test_the_token_that_ends_an_answer_is_not_shown_and_the_last_of_a_cut_off_one_is():
    answer = answer_of(3)
    assert [token["text"] for token in views.token_view(answer)["tokens"]] == ["word "] * 3
    cut = dataclasses.replace(answer, stop_reason="max tokens")
    assert views.token_view(cut)["count"] == 4


def test_a_long_answer_travels_as_a_page_and_a_file(files):
    view = views.token_view(answer_of(2000))
    assert len(view["tokens"]) == views.FIRST_TOKENS
    tokens = json.loads(files(view["all_tokens"]).read_text("utf-8"))
    assert len(tokens) == view["count"] == 2000
    assert tokens[:1] == view["tokens"][:1]
    assert len(json.dumps(view)) < 40_000


def test_without_comfyui_views_name_no_file(monkeypatch):
    monkeypatch.setattr(views, "temp_file", lambda suffix: None)
    assert vaq_view(torch.rand(2, 3, 3))["picture"] is None
    assert views.token_view(answer_of(200))["all_tokens"] is None


def test_progress_is_sent_seldom_and_bounded(comfyui, monkeypatch):
    runtime = part("nodes.runtime")
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(runtime.time, "monotonic", lambda: clock.now)
    live = runtime.ViewProgress("3", None)
    for count in range(1, 201):
        clock.now += 0.01
        live.text("x" * 100 * count)
    texts = [shown["text"] for _, shown in comfyui.shown]
    assert 15 <= len(texts) <= 21
    assert max(map(len, texts)) == runtime.TEXT_CHARACTERS
