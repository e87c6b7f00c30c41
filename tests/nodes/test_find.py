"""LASER Find, LASER Pick and LASER Check: batches, what they hand out, and what they refuse."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from PIL import Image

from .graphs import handle_of, pictures_batch
from .pack import ROOT, part, run


@cache
def demo():
    load = part("laser_core.models.loading").load_lvlm
    settings = part("laser_core.settings").LoadSettings()
    return part("nodes.handles").LvlmHandle(lambda: (load("demo"), None), settings)


@cache
def scenes():
    """Two pictures of 256 x 256: the picnic and the farm."""
    names = ("scene_picnic.jpg", "scene_farm.jpg")
    pictures = [Image.open(ROOT / "pictures" / name).convert("RGB") for name in names]
    to_tensor = part("laser_core.pictures").to_tensor
    return torch.cat([to_tensor(picture.resize((256, 256))) for picture in pictures])


def find(**given):
    return run("LaserFind", **{"lvlm": demo(), "image": scenes(), "phrases": "dog\ntent", **given})


def test_a_batch_gives_masks_points_and_scores_picture_by_picture_phrase_by_phrase():
    both = find()
    assert both.masks.shape == both.heat_maps.shape == (4, 256, 256)
    for outputs in (both.points, both.negative_points, both.scores, both.found):
        assert len(outputs) == 4
    assert len(both.boxes) == len(both.bbox) == len(both.json) == len(both.report) == 2
    for index, picture in enumerate(scenes()):
        alone = find(image=picture[None])
        assert torch.equal(alone.masks, both.masks[2 * index : 2 * index + 2])
        assert alone.boxes == both.boxes[index : index + 1]
        assert alone.points == both.points[2 * index : 2 * index + 2]


def test_boxes_are_labelled_by_their_phrase_and_hold_the_mask():
    found = find(image=scenes()[:1])
    [[box]] = found.boxes
    assert box["label"] == "dog" and box["score"] == found.scores[0] > 0.9
    assert found.bbox == [[[box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"]]]]
    rows, columns = found.masks[0].nonzero(as_tuple=True)
    assert (int(columns.min()), int(rows.min())) == (box["x"], box["y"])
    assert found.found == [True, False]
    assert found.masks[1].sum() == found.heat_maps[1].sum() == 0
    assert found.points[1] == "[]"


def test_points_are_json_of_pixels_on_the_mask():
    found = find(image=scenes()[:1])
    points = json.loads(found.points[0])
    assert points
    for point in points:
        assert set(point) == {"x", "y"}
        assert found.masks[0, point["y"], point["x"]] == 1
    for point in json.loads(found.negative_points[0]):
        assert found.masks[0, point["y"], point["x"]] == 0


def test_masks_of_boxes_fill_the_box():
    plain, filled = find(image=scenes()[:1]), find(image=scenes()[:1], masks_of_boxes=True)
    [[box]] = filled.boxes
    assert filled.boxes == plain.boxes
    assert filled.masks[0].sum() == box["width"] * box["height"]


def test_blank_lines_are_no_phrases_and_none_is_refused():
    assert find(image=scenes()[:1], phrases="\n dog \n\n").masks.shape[0] == 1
    with pytest.raises(ValueError, match=r"^write what to find, one phrase a line"):
        find(phrases=" \n ")


def test_laser_settings_reach_find():
    settings = run("LaserSettings", looks=1, min_side_px=64).settings
    report = json.loads(find(image=scenes()[:1], phrases="dog", settings=settings).json[0])
    x1, _, x2, _ = report["things"][0]["looked"]
    assert x2 - x1 == 128  # half the sides, which the default minimum would not allow


def candidates():
    masks = torch.zeros(3, 256, 256)
    masks[0, 220:248, 85:115] = 1  # the cheese
    masks[1, 165:200, 185:215] = 1  # the dog
    return masks


def test_pick_hands_out_the_candidate_as_it_came():
    picked = run(
        "LaserPick", lvlm=demo(), image=scenes()[:1], phrase="dog", masks=0.75 * candidates()
    )
    assert picked.index == 1 and picked.found is True
    assert torch.equal(picked.mask, 0.75 * candidates()[1:2])
    assert picked.boxes[0][0]["x"] == 185 and picked.boxes[0][0]["label"] == "dog"
    assert 0.5 <= picked.score <= 1 and 0 < picked.margin <= 1
    [view] = picked.ui["laser_tokens"]
    assert view["text"].startswith("dog: candidate 1 ") and "demo model" in view["notice"]


def test_pick_takes_boxes_and_says_none():
    boxes = [[{"x": 85, "y": 220, "width": 30, "height": 28},
              {"x": 185, "y": 165, "width": 30, "height": 35}]]  # fmt: skip
    given = {"lvlm": demo(), "image": scenes()[:1], "candidate_boxes": boxes}
    assert run("LaserPick", **given, phrase="dog").index == 1
    none = run("LaserPick", **given, phrase="tent")
    assert (none.index, none.found, none.boxes) == (-1, False, [[]])
    assert none.mask.shape == (1, 256, 256) and none.mask.sum() == 0


MISTAKES = {
    "no candidates": ({}, "connect masks or candidate_boxes"),
    "both kinds": (
        {"masks": torch.ones(1, 256, 256), "candidate_boxes": []}, "connect masks or candidate"
    ),
    "no box": ({"candidate_boxes": [[]]}, "connect candidates, masks or boxes"),
    "two pictures": ({"masks": torch.ones(1, 256, 256), "image": None}, "connect one picture"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_pick_says_what_is_missing(mistake):
    given, said = MISTAKES[mistake]
    given = {"lvlm": demo(), "image": scenes()[:1], "phrase": "dog", **given}
    given["image"] = scenes() if given["image"] is None else given["image"]
    with pytest.raises(ValueError, match=f"^{said}"):
        run("LaserPick", **given)


def test_check_gives_a_boolean_an_index_and_a_probability_for_each_picture():
    asked = {"lvlm": demo(), "image": scenes(), "question": "is there a dog?"}
    checked = run("LaserCheck", **asked)
    assert checked.is_first == [index == 0 for index in checked.index]
    assert checked.option[0] == "yes" and checked.probability[0] > 0.9
    assert checked.unsure[0] is False
    assert run("LaserCheck", **asked, unsure_below=1.0).unsure == [True, True]
    turned = run("LaserCheck", **asked, options="no\nyes")
    assert turned.is_first == [not first for first in checked.is_first]


def test_boxes_of_windows_carry_the_question_and_points():
    image = pictures_batch(1)
    lvlm, question = handle_of(), " what colour is the square ? "
    attention = run("LaserContrastiveAttention", lvlm=lvlm, image=image, question=question)
    evidence = run("LaserVAQLayerSelect", attention=attention.attention).evidence
    cut = run("LaserConViCrop", image=image, evidence=evidence, min_side_px=20)
    answered = run("LaserAnswer", lvlm=lvlm, image=image, question=question, max_tokens=2)
    for made in (cut, answered):
        [[box]] = made.boxes
        assert box["label"] == question.strip()
        [points] = map(json.loads, made.points)
        assert points
        for point in points:
            assert 0 <= point["x"] - box["x"] < box["width"]
            assert 0 <= point["y"] - box["y"] < box["height"]


# ---- tasks -------------------------------------------------------------------------------------


def asked_of(report: str) -> dict:
    return json.loads(report)["asked"]


def answer(**given):
    return run("LaserAnswer", lvlm=handle_of(), image=pictures_batch(1), max_tokens=1, **given)


def test_a_task_needs_no_question_and_is_added_to_one():
    caption = answer(question="", task="detailed caption")
    assert asked_of(caption.json[0])["answering"] == "Describe the image in detail."
    both = answer(question="where is the cat ?", task="detailed caption")
    said = asked_of(both.json[0])["answering"]
    assert said == "Describe the image in detail.\nwhere is the cat ?"


def test_short_answer_is_an_instruction_that_ones_own_replaces():
    short = "Answer the question using a single word or phrase."
    given = {"question": "where is the cat ?", "task": "short answer"}
    assert asked_of(answer(**given).json[0])["answering"] == f"where is the cat ?\n{short}"
    own = answer(**given, instruction="Read the text").json[0]
    assert asked_of(own)["answering"] == "where is the cat ?\nRead the text"


def test_a_file_in_the_user_folder_adds_tasks(comfyui, tmp_path):
    comfyui.folder_paths.get_user_directory = lambda: str(tmp_path)
    file = tmp_path / "laser_prompts.json"
    choices = lambda: part("nodes.laser_answer")._task_widget()[0]  # noqa: E731
    before = list(choices())
    own = {"count": {"question": "How many", "instruction": "number"}, "sky": "Is the sky blue ?"}
    file.write_text(json.dumps(own))
    assert list(choices()) == [*before, "count", "sky"]
    counted = asked_of(answer(question="cats ?", task="count").json[0])["answering"]
    assert counted == "How many\ncats ?\nnumber"
    file.write_text("{")
    assert list(choices()) == before
    with pytest.raises(ValueError, match=r"^fix laser_prompts.json in the user folder"):
        answer(question="cats ?", task="count")
    file.unlink()
    with pytest.raises(ValueError, match=r"^choose another task, or put it into laser_prompts"):
        answer(question="cats ?", task="count")
