"""Phrases on a picture: what is read of them, and the masks, boxes and points made of it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import with_article
from laser_core.output.masks import box_of, cleaned_mask, level_of, peaks, points_json
from laser_core.recipes.find import find
from laser_core.recipes.pick import pick
from laser_core.results import Candidate, Picked
from laser_core.settings import FindSettings, LaserSettings, PromptSettings
from laser_core.steps.presence import read_presence
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reciting import chain, reciting_lvlm
from tools.testbed.reference import eager_rows, next_logits
from tools.testbed.tiny import REPRESENTATIVES, WITH_MASKS, WITH_STATES

PICNIC = Path(__file__).parents[2] / "pictures" / "scene_picnic.jpg"
PHRASES = ["dog", "a red car", "the clock on the left"]


@cache
def demo():
    return load_lvlm("demo")


@cache
def picnic():
    return Image.open(PICNIC).convert("RGB").resize((512, 512))


# ---- one reading for all phrases ---------------------------------------------------------------


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_rows_of_many_phrases_equal_eager_attention(model_type):
    lvlm, picture = lvlm_of(model_type), noise_picture()
    seen = read_presence(lvlm, picture, PHRASES)
    inputs = lvlm.encode(picture)
    for one, phrase in zip(seen, PHRASES, strict=True):
        question = lvlm.presence_question(phrase)
        prompts = lvlm.branch_prompts(inputs, question, PromptSettings())
        for row, prompt in zip((one.maps.with_query, one.maps.without_query), prompts, strict=True):
            torch.testing.assert_close(row.flatten(2), eager_rows(lvlm, prompt), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_MASKS])
def test_presence_is_the_librarys_share_of_yes_among_yes_and_no(model_type):
    lvlm, picture = lvlm_of(model_type), noise_picture()
    inputs, index = lvlm.encode(picture), lvlm.tokenizer.convert_tokens_to_ids
    for one, phrase in zip(read_presence(lvlm, picture, PHRASES), PHRASES, strict=True):
        question = lvlm.presence_question(phrase)
        asked, _ = lvlm.branch_prompts(inputs, question, PromptSettings())
        probabilities = next_logits(lvlm, asked, []).softmax(-1)
        # "Yes" and "No" are unknown words of the tiny vocabulary, the same one: they tell nothing
        yes, no = (float(probabilities[index(word)]) for word in ("yes", "no"))
        assert one.presence == pytest.approx(yes / (yes + no), abs=1e-5)


def test_the_picture_is_read_once_for_all_phrases():
    lvlm, runs = lvlm_of("llava", fresh=True), []
    tower = lvlm.body.get_submodule("vision_tower")
    hook = tower.register_forward_hook(lambda *_: runs.append(1))
    read_presence(lvlm, noise_picture(), PHRASES)
    hook.remove()
    assert runs == [1]


@pytest.mark.parametrize(
    ("phrase", "asked"),
    [("dog", "a dog"), ("owl", "an owl"), ("the dog", "a dog"), ("two dogs", "two dogs"),
     ("the", "a the"), ("犬", "犬"), ("Eiffel tower", "an Eiffel tower")],
)  # fmt: skip
def test_an_article_stands_where_english_has_one(phrase, asked):
    assert with_article(phrase) == asked


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_every_family_finds_and_the_window_lies_on_the_picture(model_type):
    lvlm, size = lvlm_of(model_type), (180, 120)
    settings = LaserSettings.of(min_side_px=40)
    for found in find(lvlm, noise_picture(size), ["dog", "red ball"], settings):
        assert found.mask.shape == found.heat.shape == size[::-1]
        assert found.looked is not None and found.closer is not None
        x1, y1, x2, y2 = found.closer.grid.view
        middle = (x1 + x2) / 2, (y1 + y2) / 2
        window = found.looked
        assert abs(middle[0] - (window.x1 + window.x2) / 2) < 1
        assert abs(middle[1] - (window.y1 + window.y2) / 2) < 1
        assert found.closer.share_in(window) == pytest.approx(1.0)


def test_an_interrupt_is_heeded_while_a_thing_is_looked_at():
    calls = []

    def progress(stage, done, total):
        calls.append(stage)
        if stage == "looking closer":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find(lvlm_of("llava"), noise_picture((180, 120)), ["dog"], LaserSettings.of(min_side_px=40),
             progress=progress)  # fmt: skip
    assert "reading the picture" in calls


# ---- masks, boxes, points ----------------------------------------------------------------------


def flooded(mask: np.ndarray, start: tuple[int, int]) -> set[tuple[int, int]]:
    """The slow, obvious way: the pixels connected with one."""
    seen, edge = {start}, [start]
    while edge:
        y, x = edge.pop()
        for near in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
            inside = 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1]
            if inside and near not in seen and mask[near] == mask[start]:
                seen.add(near)
                edge.append(near)
    return seen


@pytest.mark.parametrize("seed", range(12))
def test_a_cleaned_mask_is_the_part_with_most_heat_with_its_holes_filled(seed):
    rng = np.random.default_rng(seed)
    hot = rng.random((9, 13)) < 0.4 + 0.03 * seed
    heat = torch.from_numpy(np.where(hot, rng.uniform(0.5, 1.0, hot.shape), 0.0))
    parts = [flooded(hot, tuple(start)) for start in np.argwhere(hot)]
    main = max(parts, key=lambda part: sum(float(heat[at]) for at in part))
    expected = np.zeros_like(hot)
    expected[tuple(zip(*main, strict=True))] = True
    outside = np.pad(~expected, 1, constant_values=True)
    reached = flooded(outside, (0, 0))
    for y, x in np.argwhere(~expected):
        expected[y, x] = (y + 1, x + 1) not in reached
    assert (cleaned_mask(heat, 1.0).numpy() == expected).all()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_the_level_is_that_of_the_fewest_pixels_with_the_share(share):
    heat = torch.rand(20, 30, generator=torch.Generator().manual_seed(1)).double()
    above = heat[heat >= level_of(heat, share)]
    assert above.sum() >= share * heat.sum() > above.sum() - above.min()


def test_nothing_warm_gives_an_empty_mask_without_box_and_points():
    nothing = torch.zeros(5, 7)
    mask = cleaned_mask(nothing, 0.4)
    assert not mask.any()
    assert box_of(mask) is None
    assert peaks(nothing, mask, 3, 1.0) == ()
    assert points_json(()) == "[]"


def test_peaks_are_the_strongest_that_lie_apart():
    heat = torch.zeros(10, 10)
    heat[2, 3], heat[2, 4], heat[8, 8], heat[5, 0] = 1.0, 0.9, 0.7, 0.4
    everywhere = torch.ones(10, 10, dtype=torch.bool)
    assert peaks(heat, everywhere, 3, 3.0) == ((3, 2), (8, 8))  # 0.4 is less than half
    assert json.loads(points_json(((3, 2),))) == [{"x": 3, "y": 2}]


# ---- find and pick on the demo model -----------------------------------------------------------


def test_what_is_there_is_found_and_what_is_not_is_told():
    dog, tent = find(demo(), picnic(), ["dog", "tent"])
    assert dog.found and dog.score > 0.9
    assert not tent.found and tent.score < 0.1
    assert not tent.mask.any() and not tent.boxes and not tent.points and not tent.heat.any()
    x, y = dog.points[0]
    assert 360 < x < 430 and 320 < y < 420  # where the dog sits
    assert bool(dog.mask[y, x])
    assert dog.boxes[0] == box_of(dog.mask)
    assert all(not dog.mask[y, x] for x, y in dog.negative_points)


def test_a_phrase_that_is_a_question_is_answered_and_the_answer_is_looked_for():
    asked, named = find(demo(), picnic(), ["which object has the number 24?", "apple"])
    assert asked.name == "apple"
    assert asked.boxes == named.boxes


def test_phrases_are_found_alike_alone_and_together():
    together = find(demo(), picnic(), ["dog", "cheese"])
    for one in together:
        [alone] = find(demo(), picnic(), [one.phrase])
        assert alone.score == pytest.approx(one.score, abs=1e-4)
        assert alone.boxes == one.boxes


def test_finder_model_says_that_a_family_writes_no_boxes():
    with pytest.raises(ValueError, match=r"^choose finder 'attention': .* writes no boxes"):
        find(demo(), picnic(), ["dog"], finding=FindSettings(finder="model"))
    [found] = find(demo(), picnic(), ["dog"], finding=FindSettings(finder="both"))
    assert found.found and "found by attention" in found.note


@pytest.mark.parametrize("phrases", [[""], ["dog", "  "]], ids=str)
def test_an_empty_phrase_is_refused(phrases):
    with pytest.raises(ValueError, match=r"^write what to find"):
        find(demo(), picnic(), phrases)


def test_no_phrase_is_refused():
    with pytest.raises(ValueError, match=r"^write what to find"):
        find(demo(), picnic(), [])


def writing(boxes: str):
    """A Qwen2-VL that writes these boxes, and says yes where "yes" and "no" are compared."""
    links = [*chain([boxes, "<|im_end|>"]), ("\n", "yes", 2.0)]
    return reciting_lvlm(links, kind="qwen2_vl", tokens=[boxes])


def test_finder_model_takes_the_boxes_that_the_model_writes():
    lvlm = writing("(100,250),(500,750)(0,0),(90,90)")
    [found] = find(lvlm, noise_picture((200, 100)), ["dog"], finding=FindSettings(finder="model"))
    assert found.boxes == ((20, 25, 100, 75), (0, 0, 18, 9))
    assert box_of(found.mask) == found.boxes[0] and int(found.mask.sum()) == 80 * 50
    assert found.points == ((60, 50),)


def test_finder_both_takes_the_written_box_with_most_evidence_first():
    lvlm, picture = writing("(0,0),(90,90)(100,150),(900,850)"), noise_picture((200, 100))
    [found] = find(lvlm, picture, ["dog"], finding=FindSettings(finder="both"))
    shares = [found.evidence.share_in(box) for box in found.boxes]
    assert found.boxes[0] == (20, 15, 180, 85)
    assert shares == sorted(shares, reverse=True)


def test_where_the_model_writes_no_box_attention_finds_it_and_says_so():
    lvlm, picture = writing("none"), noise_picture((200, 100))
    [both] = find(lvlm, picture, ["dog"], finding=FindSettings(finder="both"))
    [attention] = find(lvlm, picture, ["dog"])
    assert both.boxes == attention.boxes != ()
    assert "wrote no box" in both.note
    [alone] = find(lvlm, picture, ["dog"], finding=FindSettings(finder="model"))
    assert not alone.found


def test_a_candidate_is_picked_by_its_phrase():
    masks = torch.zeros(3, 512, 512)
    masks[0, 330:400, 370:430] = 1  # the dog
    masks[1, 440:496, 170:230] = 1  # the cheese
    for phrase, index in (("dog", 0), ("cheese", 1), ("tent", None)):
        picked = pick(demo(), picnic(), list(masks), phrase)
        assert picked.index == index
        assert picked.candidates[2].box is None and picked.shares[2] == 0
        assert 0 <= picked.margin <= 1


def test_nothing_is_picked_where_nothing_is_looked_at():
    nowhere = Picked("dog", "dog", 1.0, (Candidate(None, 0.0), Candidate(None, 0.0, 1.0)), 0.5)
    assert nowhere.index is None and nowhere.shares == [0, 0] and nowhere.margin == 0


def test_candidates_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"^resize the mask to the picture"):
        pick(demo(), picnic(), [torch.ones(4, 4)], "dog")
    with pytest.raises(ValueError, match=r"^connect candidates"):
        pick(demo(), picnic(), [], "dog")
