"""The demo world tells the truth about its pictures, and they look the same however drawn."""

import collections
import dataclasses
import io
import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tools.demo_model import drawing, example_scenes, questions, scenes, things, world
from tools.demo_model.batches import make_batch, slot_lengths
from tools.demo_model.patch_labels import NO_DIGIT, patch_labels

SIDE, GRID = 224, 14


@pytest.fixture(scope="module")
def items():
    return world.held_out_items("dev", 108, seed=5)


def dev_scene(index):
    return scenes.sample_scene(world.scene_generator("dev", 5, index))


def pixels(scene, side=SIDE):
    return np.asarray(world.draw_scene(scene, side)).astype(int)


# ---- scenes and pictures -----------------------------------------------------------------------


def test_a_scene_is_the_same_every_time():
    assert dev_scene(3) == dev_scene(3)
    assert np.array_equal(pixels(dev_scene(3)), pixels(dev_scene(3)))


def test_splits_and_seeds_share_no_scene():
    backgrounds = [
        scenes.sample_scene(world.scene_generator(split, seed, index)).background
        for split, seed, index in itertools.product(world.SPLITS, range(3), range(10))
    ]
    assert len(set(backgrounds)) == len(backgrounds)


def test_unknown_split_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="train, dev, test"):
        world.held_out_items("validation", 3)


def test_the_world_is_imported_without_torch():
    code = "import sys, tools.demo_model.world; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_thing_is_drawn_inside_its_boxes_but_for_its_shadow_and_turn():
    scene = dev_scene(0)
    for index, thing in enumerate(scene.things):
        rest = scene.things[:index] + scene.things[index + 1 :]
        bare = pixels(dataclasses.replace(scene, things=rest))
        rows, columns, _ = np.nonzero(np.abs(pixels(scene) - bare) > 40)
        x1s, y1s, x2s, y2s = zip(*thing.boxes, strict=True)
        slack = 0.12 * thing.side * SIDE + 1
        assert min(x1s) * SIDE - slack <= columns.min() and columns.max() <= max(x2s) * SIDE + slack
        assert min(y1s) * SIDE - slack <= rows.min() and rows.max() <= max(y2s) * SIDE + slack
        assert columns.max() - columns.min() > 0.6 * (thing.box[2] - thing.box[0]) * SIDE


def test_a_picture_is_the_same_at_any_size():
    large = Image.fromarray(pixels(dev_scene(1), 4 * SIDE).astype(np.uint8))
    reduced = np.asarray(large.resize((SIDE, SIDE), Image.Resampling.BOX)).astype(int)
    assert np.abs(reduced - pixels(dev_scene(1))).mean() < 2


def test_a_batch_is_drawn_as_single_pictures_are():
    some = [dev_scene(index) for index in range(3)]
    layers = torch.zeros(3, drawing.MOST_LAYERS, 6)
    for row, scene in enumerate(some):
        placed = drawing.layers_of(scene)
        layers[row, : len(placed)] = torch.tensor(placed)
    used = sorted({int(texture) for texture in layers[..., 0].flatten()})
    atlas = drawing.Atlas(only=used)
    backgrounds = torch.tensor([scene.background for scene in some])
    views = torch.tensor([scenes.WHOLE, scenes.WHOLE, (0.25, 0.5, 0.5)])
    drawn = 255 * drawing.draw(atlas, layers, backgrounds, views, SIDE, oversample=1)
    drawn = drawn.permute(0, 2, 3, 1).numpy()
    for scene, picture in zip(some[:2], drawn, strict=False):
        assert np.abs(picture - pixels(scene)).mean() < 2
    quarter = pixels(some[2], 2 * SIDE)[SIDE : 2 * SIDE, SIDE // 2 : 3 * SIDE // 2]
    assert np.abs(drawn[2] - quarter).mean() < 2


def test_things_carry_their_usual_number_half_of_the_time():
    rng, usual = random.Random(1), []
    for _ in range(1000):
        usual += [
            thing.tag.number == things.USUAL_NUMBER[thing.name]
            for thing in scenes.sample_scene(rng).things
            if thing.tag and thing.name in things.USUAL_NUMBER
        ]
    assert np.mean(usual) == pytest.approx(things.USUAL_NUMBER_SHARE, abs=0.05)


# ---- questions ---------------------------------------------------------------------------------


def test_items_are_balanced_and_repeatable(items):
    again = world.held_out_items("dev", 108, seed=5)
    assert [(i.question, i.answer) for i in again] == [(i.question, i.answer) for i in items]
    cells = collections.Counter((i.type, i.size_class) for i in items if i.type != "exist")
    assert len(cells) == 15 and set(cells.values()) == {6}
    exist = [i for i in items if i.type == "exist"]
    assert collections.Counter(i.answer for i in exist) == {"yes": 9, "no": 9}
    assert collections.Counter(i.exist_kind for i in exist if i.answer == "no") == dict.fromkeys(
        questions.EXIST_KINDS, 3
    )


def meant(item, word_list=things.NAMES):
    """Things of the scene that the question's words can mean, by name and colour."""
    words = item.question.split()
    found = []
    for index, word in enumerate(words):
        if word in word_list:
            colour = words[index - 1] if words[index - 1] in things.COLOURS else None
            found.append(
                [
                    thing
                    for thing in item.scene.things
                    if thing.name == word and colour in (None, thing.colour)
                ]
            )
    return found


def test_a_number_question_means_one_thing_and_asks_for_its_tag(items):
    for item in (item for item in items if item.type == "number"):
        [[thing]] = meant(item)
        assert item.answer == str(thing.tag.number)


def test_an_owner_question_asks_for_the_only_thing_with_the_number(items):
    for item in (item for item in items if item.type == "owner"):
        number = next(int(word) for word in item.question.split() if word.isdigit())
        owners = [t.name for t in item.scene.things if t.tag and t.tag.number == number]
        assert owners == [item.answer]


def test_a_colour_question_asks_for_the_colour_of_one_thing(items):
    for item in (item for item in items if item.type == "colour"):
        [[thing]] = meant(item)
        assert item.answer == thing.colour
        assert item.conflict == (thing.colour != things.USUAL_COLOUR[thing.name])


def test_what_a_question_says_is_there_is_there(items):
    for item in (item for item in items if item.type == "exist"):
        [found] = meant(item)
        assert (item.answer == "yes") == bool(found) == bool(item.evidence_boxes)


def test_the_answer_to_a_relation_is_the_nearest_thing_on_that_side(items):
    sides = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "over": (0, -1)}
    sides |= {"below": (0, 1), "under": (0, 1)}
    for item in (item for item in items if item.type == "rel"):
        [[anchor]] = meant(item)
        right, down = next(sides[word] for word in item.question.split() if word in sides)
        distances = {}
        for thing in item.scene.things:
            x, y = thing.x - anchor.x, thing.y - anchor.y
            along, sideways = x * right + y * down, abs(x * down) + abs(y * right)
            if thing is not anchor and along > sideways:
                distances[thing.name] = (x**2 + y**2) ** 0.5
        assert min(distances, key=distances.get) == item.answer


def test_the_bigger_thing_is_bigger(items):
    for item in (item for item in items if item.type == "bigger"):
        [[one], [other]] = meant(item)
        choose = max if "bigger" in item.question else min
        assert choose((one, other), key=lambda thing: thing.side).name == item.answer


def test_a_caption_names_the_largest_things():
    for index in range(20):
        scene = dev_scene(index)
        caption = questions.Asker(random.Random(index), scene.things).caption()
        sides: dict[str, float] = {}
        for thing in scene.things:
            sides[thing.name] = max(thing.side, sides.get(thing.name, 0))
        largest = sorted(sides, key=lambda name: -sides[name])
        named = [part.split()[-1] for part in re.split(" , | and ", caption.answer)]
        assert named == largest[: len(named)]


def test_the_oracle_window_holds_the_evidence_inside_the_picture(items):
    for item in items:
        box = world.oracle_window(item)
        if box is None:
            assert not item.evidence_boxes
            continue
        side = world.PICTURE_SIDE_PX
        assert min(box) >= 0 and max(box) <= side
        assert box[2] - box[0] == box[3] - box[1] >= side // 2
        for x1, y1, x2, y2 in item.evidence_boxes:
            assert box[0] - 1 <= x1 and box[1] - 1 <= y1 and x2 <= box[2] + 1 and y2 <= box[3] + 1


def test_prior_items_are_half_against_the_prior():
    found = world.prior_items("dev", 24)
    assert collections.Counter(i.conflict for i in found) == {True: 12, False: 12}


def test_every_word_of_the_world_is_in_the_vocabulary_and_no_other():
    rng = random.Random(0)
    texts = [questions.INSTRUCTION, *map(str, range(100))]
    for _ in range(1500):
        asker = questions.Asker(rng, scenes.sample_scene(rng).things)
        asked = [asker.caption(), *(asker.ask(kind) for kind in questions.KINDS)]
        texts += [text for one in asked if one for text in (one.text, one.answer)]
    used = {word for text in texts for word in text.split()} | {"nothing"}  # of no patch
    assert used == set(questions.VOCABULARY) - set(questions.SPECIAL_TOKENS)


# ---- what the training sees --------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    arrays = make_batch(random.Random(4), 12, False, (6,), 0.1)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_patch_labels_name_the_thing_and_the_number_at_their_centres(batch):
    views = torch.tensor([scenes.WHOLE] * len(batch["boxes"]))
    thing, tens, ones, colour = patch_labels(batch["boxes"], views, GRID)

    def patch_at(x1, y1, x2, y2):
        return int((y1 + y2) / 2 * GRID) * GRID + int((x1 + x2) / 2 * GRID)

    named = read = 0
    for row, boxes in enumerate(batch["boxes"].numpy()):
        for name, *box, number, tx1, ty1, tx2, ty2, own_colour in boxes[boxes[:, 0] >= 0]:
            tag = (tx1, ty1, tx2, ty2)
            if box[2] - box[0] > 0.2 and tens[row, patch_at(*box)] == NO_DIGIT:
                assert thing[row, patch_at(*box)] == name + 1
                named += 1
            if number >= 0:
                at = patch_at(*tag)
                assert 10 * tens[row, at] + ones[row, at] == number
                assert thing[row, at] == name + 1
                assert colour[row, at] in (own_colour, -100)
                read += 1
    assert named > 5 and read > 20


def test_slots_hold_a_question_the_opening_and_the_answer(batch):
    words, lengths = list(questions.VOCABULARY), slot_lengths((6,))
    for tokens, weights in zip(batch["tokens"], batch["weights"], strict=True):
        slots = zip(tokens.split(lengths), weights.split(lengths), strict=True)
        for slot, weight in slots:
            if not weight.any():
                continue
            first = int(weight.nonzero()[0])
            assert words[slot[first - 1]] == "ASSISTANT:"
            answer = [words[token] for token in slot[weight > 0]]
            assert answer[-1] == "</s>"
            question = " ".join(words[token] for token in slot[: first - 1])
            if question.startswith("is there"):
                assert answer[0] in ("yes", "no")


# ---- shipped files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", example_scenes.EXAMPLES)
def test_a_shipped_example_is_the_one_the_tool_paints_and_small(name):
    path = example_scenes.FOLDER / f"scene_{name}.jpg"
    fresh, kept = Image.open(io.BytesIO(example_scenes.paint_example(name))), Image.open(path)
    fresh, kept = (np.asarray(one).astype(int) for one in (fresh, kept))
    assert fresh.shape == kept.shape == (1024, 1024, 3)
    assert np.abs(fresh - kept).mean() < 1
    assert path.stat().st_size <= 400_000


@pytest.mark.parametrize("name", example_scenes.EXAMPLES)
def test_nothing_in_an_example_is_ambiguous_or_hidden(name):
    things = example_scenes.example_scene(name).things
    numbers = [thing.tag.number for thing in things if thing.tag]
    assert 6 <= len(things) <= 8 and len({thing.name for thing in things}) == len(things)
    assert len(numbers) >= 6 and len(set(numbers)) == len(numbers)
    boxes = [(thing, box) for thing in things for box in thing.boxes]
    assert all(0 <= edge <= 1 for _, box in boxes for edge in box)
    for (thing, box), (other, beside) in itertools.combinations(boxes, 2):
        apart = box[2] < beside[0] or beside[2] < box[0] or box[3] < beside[1] or beside[3] < box[1]
        assert thing is other or apart, (thing.name, other.name)


def test_the_notice_of_the_sprites_is_beside_them():
    notice = (Path(world.__file__).parent / "sprites" / "NOTICE.md").read_text("utf-8")
    assert "Copyright (c) Microsoft Corporation" in notice
    assert "MIT" in notice
