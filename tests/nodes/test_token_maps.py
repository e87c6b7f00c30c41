"""Token maps as nodes put them out: the widget, the mask, and what the view is sent."""

from __future__ import annotations

import base64
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from .graphs import QUESTION, SMALL, all_of, hand_wired, pictures_batch
from .pack import node, part, run

WIDGET = "map_of_tokens"


@pytest.fixture
def image():
    return pictures_batch(2)


def ask(lvlm, image, **given):
    return run("LaserAnswer", lvlm=lvlm, image=image, question=QUESTION, **all_of(SMALL), **given)


def decode(lvlm, image, **given):
    settings = {**SMALL["decode"], **given}
    return run("LaserVATDecode", lvlm=lvlm, positive=image, question=QUESTION, **settings)


def test_the_mask_is_the_cores_map_of_the_tokens_that_are_named(lvlm, image):
    shown = ask(lvlm, image, map_of_tokens="2-3")
    pipeline, maps = part("laser_core.pipeline"), part("laser_core.output.token_maps")
    settings = part("laser_core.settings").LaserSettings.of(
        **{name: value for group in SMALL.values() for name, value in group.items()}
    )
    with lvlm.running() as model:
        result = pipeline.answer(model, image[:1], QUESTION, settings, token_maps=True)
    assert shown.token_map.shape == (2, 60, 90)
    assert torch.allclose(shown.token_map[0], maps.token_map(result, range(1, 3)), atol=1e-5)
    assert shown.answer[0] == result.answer.text


def test_vat_decode_with_context_and_boxes_gives_laser_answers_token_map(lvlm, image):
    decoding = {**SMALL["decode"], WIDGET: "1-"}
    hand = hand_wired(lvlm, image, decode=decoding)
    one = ask(lvlm, image, map_of_tokens="1-")
    assert hand.token_map.any()
    assert torch.allclose(hand.token_map, one.token_map, atol=1e-5)


def test_without_boxes_the_map_lies_on_the_crop(lvlm, image):
    crop = image[:, 10:50, 20:80]
    shown = decode(lvlm, crop, context=image, map_of_tokens="1")
    alone = decode(lvlm, crop, map_of_tokens="1")
    assert shown.token_map.shape == alone.token_map.shape == (2, 40, 60)
    assert shown.token_map.any() and alone.token_map.any()
    assert [len(answer.maps.grids) for answer in shown.trace.answers] == [1, 1]  # not the context's


def test_without_the_widget_no_map_is_made_unless_the_output_is_connected(lvlm, image, comfyui):
    graph = {"7": {"inputs": {}}, "8": {"inputs": {}}}
    instance = sys.modules["server"].PromptServer.instance
    instance.prompt_queue = SimpleNamespace(currently_running={0: (1, "id", graph, {}, [])})
    output = node("LaserVATDecode").RETURN_NAMES.index("token_map")
    seen, marks = [], []
    for link in (output - 1, output):
        graph["8"]["inputs"] = {"mask": ["7", link]}
        shown = decode(lvlm, image, unique_id="7")
        seen.append((shown.token_map is not None, shown.ui["laser_looked"][0] is not None))
        marks.append(node("LaserVATDecode").IS_CHANGED(unique_id="7"))
    assert seen == [(False, False), (True, True)]
    assert marks[0] != marks[1]  # or ComfyUI's cache would serve the run without maps
    everything = decode(lvlm, image, map_of_tokens="1-")
    assert shown.token_map.any()
    assert torch.equal(shown.token_map, everything.token_map)


def test_tokens_that_an_answer_lacks_give_an_empty_mask_and_a_line(lvlm, image):
    shown = decode(lvlm, image, map_of_tokens="no such words")
    assert not shown.token_map.any()
    assert all("the answer has no tokens 'no such words'" in line for line in shown.report)


@pytest.mark.parametrize("node_id", ["LaserAnswer", "LaserVATDecode"])
def test_numbers_of_no_token_are_refused_before_a_picture_is_read(node_id, lvlm, image):
    lvlm.read = lvlm.running = lambda *_: pytest.fail("the model was asked")
    name = "image" if node_id == "LaserAnswer" else "positive"
    with pytest.raises(ValueError, match="write tokens as"):
        run(node_id, lvlm=lvlm, **{name: image}, question=QUESTION, map_of_tokens="0-2")


def test_a_view_is_sent_the_place_and_a_file_of_small_maps(lvlm, image, comfyui, tmp_path):
    view = decode(lvlm, image, map_of_tokens="1-2").ui["laser_looked"][0]
    assert (view["asked"], view["span"]) == ("1-2", [0, 2])
    assert len(json.dumps(view)) < 500
    file = json.loads((tmp_path / "temp" / view["levels"]["filename"]).read_text("utf-8"))
    columns, rows = view["tile"]
    levels = np.frombuffer(base64.b64decode(file["levels"]), np.uint8)
    levels = levels.reshape(-1, rows, columns)
    assert len(levels) == 4  # every token, for clicks on others
    assert list(levels.max((1, 2))) == [255] * 4
    assert len(base64.b64decode(file["colours"])) == 3 * len(base64.b64decode(file["cover"])) == 768


def test_maps_for_the_page_are_at_most_32_cells_a_side(comfyui, tmp_path):
    views, results = part("nodes.views"), part("laser_core.results")
    geometry = part("laser_core.geometry")
    whole = geometry.Window(0, 0, 640, 640)
    grid = geometry.Grid(64, 64, geometry.Box(*whole))
    rows = torch.rand(1, 1, 64 * 64).expand(500, 1, -1)
    maps = results.TokenMaps(
        rows, torch.zeros(1, 64 * 64), (grid,), (whole,), (640, 640), results.Band()
    )
    token = results.TokenRecord("a", 1, 0.0, None, 1.0, 1.0, None, ())
    answer = results.Answer("a", (token,) * 500, "max tokens", maps=maps)
    settings = part("laser_core.settings").LaserSettings()
    view = views.token_map_view(Image.new("RGB", (640, 640)), answer, settings)
    assert view["tile"] == (32, 32)
    assert (tmp_path / "temp" / view["levels"]["filename"]).stat().st_size < 700_000
