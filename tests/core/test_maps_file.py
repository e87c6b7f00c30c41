"""Attention maps that leave the tool: the file, the page, and how results show themselves."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import laser_core
from laser_core.models.loading import load_lvlm
from laser_core.output.maps_file import load_maps, save_maps
from laser_core.output.maps_page import MOST_CELLS, maps_page
from laser_core.output.report import report
from laser_core.output.token_maps import token_evidence
from laser_core.pipeline import answer_from, locate
from laser_core.settings import LaserSettings
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import WITH_STATES

QUESTION = "what </script> is the square ?"


@pytest.fixture(scope="module")
def found():
    settings = LaserSettings.of(adaptive=0.0, max_tokens=4, min_side_px=30)
    return locate(lvlm_of("qwen2_5_vl"), noise_picture((90, 60)), QUESTION, settings)


@pytest.fixture(scope="module")
def answered(found):
    return answer_from(lvlm_of("qwen2_5_vl"), found, token_maps=True)


def content_of(page):
    return json.loads(re.search(r"const content = (.*);\n", page)[1])


def test_a_file_gives_back_maps_geometry_and_what_they_are_of(found, tmp_path):
    save_maps(found, tmp_path / "maps.npz", "a model")
    back = load_maps(tmp_path / "maps.npz")
    assert torch.equal(back.maps.with_query, found.maps.with_query)
    assert torch.equal(back.maps.without_query, found.maps.without_query)
    assert torch.equal(back.evidence, found.evidence.map)
    for name in ("grid", "picture_size", "band"):
        assert getattr(back.maps, name) == getattr(found.maps, name)
    assert back.maps.certainty == pytest.approx(found.maps.certainty)
    assert back.about["question"] == QUESTION
    assert back.about["settings"]["crop"]["scale"] == found.settings.crop.scale


def test_a_file_gives_back_where_each_token_looked(answered, tmp_path):
    save_maps(answered, tmp_path / "maps.npz")
    back, maps = load_maps(tmp_path / "maps.npz"), answered.answer.maps
    assert back.tokens == tuple(token.text for token in answered.answer.tokens)
    assert torch.equal(back.token_maps.rows, maps.rows)
    assert torch.equal(back.token_maps.without_query, maps.without_query)
    for name in ("grids", "windows", "picture_size", "band"):
        assert getattr(back.token_maps, name) == getattr(maps, name)


def test_numpy_alone_reads_it_as_the_schema_says(found, tmp_path):
    save_maps(found, tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz", allow_pickle=False) as file:
        layers, heads, rows, columns = file["with_query"].shape
        x1, y1, x2, y2 = file["view"]
        row, column = rows - 1, columns - 1
        width, height = (x2 - x1) / columns, (y2 - y1) / rows
        corner = x1 + column * width, y1 + row * height
    assert (layers, heads) == found.maps.with_query.shape[:2]
    assert found.maps.grid.cell_box(row, column)[:2] == pytest.approx(corner)


@pytest.mark.parametrize("model_type", WITH_STATES)
def test_file_page_and_report_name_layers_by_their_place_in_the_decoder(model_type, tmp_path):
    lvlm = lvlm_of(model_type)
    found = locate(lvlm, noise_picture((90, 60)), QUESTION)
    with_maps = [n for n in range(4) if n not in lvlm.state_layers]
    save_maps(found, tmp_path / "maps.npz")
    with np.load(tmp_path / "maps.npz") as file:
        assert (file["layers"].tolist(), int(file["decoder_layers"])) == (with_maps, 4)
    assert load_maps(tmp_path / "maps.npz").maps.band == found.maps.band
    page, told = content_of(maps_page(found)), report(found, lvlm)["layer"]
    assert page["numbers"] == told["numbers"] == with_maps
    assert page["layer"] == told["index"] == found.evidence.choice.layer
    assert len(page["vaq"]) == len(told["vaq"]) == 2
    assert (page["layer"] in with_maps, told["count"]) == (True, 4)


def without(name, arrays):
    return {other: value for other, value in arrays.items() if other != name}


def of_version(version, arrays):
    about = json.loads(str(arrays["about"]))
    return {**arrays, "about": np.array(json.dumps({**about, "version": version}))}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: without("view", arrays), "it lacks view"),
        (lambda arrays: {**arrays, "about": np.array("[]")}, "does not say what it is"),
        (lambda arrays: {**arrays, "about": np.array('{"schema": "x"}')}, "its schema is 'x'"),
        (lambda arrays: of_version(3, arrays), "update this package"),
        (lambda arrays: {**arrays, "evidence": np.zeros((1, 1))}, "its maps differ in shape"),
        (lambda arrays: {**arrays, "view": np.zeros((2, 2))}, "view has 2 dimensions"),
    ],
)
def test_a_file_of_another_schema_is_refused_by_name(found, tmp_path, change, says):
    path = tmp_path / "maps.npz"
    save_maps(found, path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **change(arrays))
    with pytest.raises(ValueError, match=says):
        load_maps(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda arrays: without("token_grids", arrays), "it lacks token_grids"),
        (lambda arrays: {**arrays, "token_rows": np.zeros((1, 2))}, "token_rows has 2 dimensions"),
        (lambda arrays: {**arrays, "tokens": np.array(["a"])}, "its tokens' maps differ in shape"),
    ],
)
def test_token_maps_of_another_schema_are_refused_by_name(answered, tmp_path, change, says):
    path = tmp_path / "maps.npz"
    save_maps(answered, path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    np.savez(path, **change(arrays))
    with pytest.raises(ValueError, match=says):
        load_maps(path)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "maps.npz").write_bytes(data)
    with pytest.raises(ValueError, match="choose a file of maps"):
        load_maps(tmp_path / "maps.npz")


def test_a_page_holds_every_map_and_asks_no_network(found):
    page = maps_page(found, "a model")
    content = content_of(page)
    assert content["question"] == QUESTION  # which did not end the script
    assert page.count("</script>") == 1
    assert not re.search(r"(src|href)=|https?:|@import|fetch\(", page)
    layers, heads = found.maps.with_query.shape[:2]
    for name, maps in content["maps"].items():
        rows, columns = maps["shape"][2:]
        assert maps["shape"][:2] == [layers, heads], name
        levels = np.frombuffer(base64.b64decode(maps["levels"]), np.uint8)
        assert levels.size == layers * heads * rows * columns


def test_a_pages_levels_are_shares_of_each_maps_largest_value():
    found = locate(lvlm_of("qwen2_5_vl"), noise_picture((90, 60)), "what is the square ?")
    maps = content_of(maps_page(found))["maps"]["with the question"]
    shape = maps["shape"]
    levels = np.frombuffer(base64.b64decode(maps["levels"]), np.uint8).reshape(shape)
    own = found.maps.with_query.numpy()
    assert max(shape[2:]) <= MOST_CELLS
    assert list(own.shape) == shape
    expected = np.round(own / own.max((2, 3), keepdims=True) * 255)
    assert np.abs(levels - expected).max() <= 1


def test_a_page_shows_where_each_word_looked(answered, found):
    tokens = content_of(maps_page(answered))["tokens"]
    written = answered.answer.written
    assert tokens["texts"] == [token.text for token in written]
    levels = np.frombuffer(base64.b64decode(tokens["levels"]), np.uint8)
    levels = levels.reshape(len(written), *tokens["shape"])
    evidence = token_evidence(answered.answer.maps, found.settings)
    for own, one in zip(levels, evidence, strict=False):
        assert np.abs(own - (one.map / one.map.max() * 255).round().numpy()).max() <= 1
    assert content_of(maps_page(found))["tokens"] is None


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.names = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)


def test_results_show_picture_and_words_in_a_notebook():
    lvlm, picture = load_lvlm(), noise_picture((224, 224))
    question = "is there a dog?"
    for result in (laser_core.locate(lvlm, picture, question),
                   laser_core.answer(lvlm, picture, question, with_plain=True)):  # fmt: skip
        shown = result._repr_html_()
        tags = Tags()
        tags.feed(shown)
        assert tags.names[0] == "img"
        assert question in shown
    assert "plain model: " in shown


def test_a_question_cannot_add_tags_to_a_notebook(found):
    laser_core.locate  # noqa: B018  what a user has asked for before there is a result
    assert "</script>" not in found._repr_html_()
