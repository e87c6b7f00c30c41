"""The example pictures: what people ask about them, and what README shows of them."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from laser_core import pipeline
from laser_core.models.loading import DEMO, load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.pictures import read_picture
from laser_core.results import LaserAnswer
from laser_core.settings import LoadSettings
from tools.demo_model.example_scenes import EXAMPLES, FOLDER, SIDE_PX, example_scene
from tools.demo_model.scenes import Thing
from tools.demo_model.things import NAMES

ROOT = Path(__file__).parents[2]
# Three questions a picture: the plain answer is wrong; LASER looks at the thing and is right
SHOWN = {
    "picnic": [
        "what number is on the bee?",
        "what number is on the cake?",
        "what number is on the apple?",
    ],
    "farm": [
        "what number is on the sunflower?",
        "what number is on the sheep?",
        "which object has the number 52?",
    ],
    "toys": [
        "which object has the number 16?",
        "which object has the number 9?",
        "what number is on the duck?",
    ],
    "street": [
        "what number is on the airplane?",
        "which object has the number 92?",
        "what number is on the umbrella?",
    ],
    "beach": [
        "what number is on the glasses?",
        "what number is on the bucket?",
        "which object has the number 37?",
    ],
    "music": [
        "what number is on the candle?",
        "what number is on the clock?",
        "which object has the number 65?",
    ],
}
# Typed as people type: picture, kind, question, right answer. {dog}: the number on the dog
TYPED = [
    ("picnic", "number", "What's the number on the dog?", "{dog}"),
    ("picnic", "number", "WHICH number is on the tree", "{tree}"),
    ("picnic", "exist", "is there any dog?", "yes"),
    ("picnic", "exist", "Is there a penguin in the photo?", "no"),
    ("picnic", "colour", "What color is the apple?", "red"),
    ("picnic", "bigger", "which is bigger, the tree or the bee?", "tree"),
    ("picnic", "caption", "Describe the picture", "three things"),
    ("picnic", "rel", "what is to the right of the tree?", "bee"),
    ("picnic", "rel", "what is to the left of the watermelon?", "cake"),
    ("picnic", "rel", "what is under the dog?", "apple"),
    ("farm", "number", "what number can you see on the tractor ?", "{tractor}"),
    ("farm", "number", "the cow has which number?", "{cow}"),
    ("farm", "owner", "what is the object with the number {bucket}?", "bucket"),
    ("farm", "exist", "is there any cow?", "yes"),
    ("farm", "exist", "Do you see a whale?", "no"),
    ("farm", "colour", "What colour is the bucket?", "blue"),
    ("farm", "bigger", "What is smaller, the house or the sheep?", "sheep"),
    ("farm", "caption", "what do you see?", "three things"),
    ("toys", "number", "Read the number on the panda.", "{panda}"),
    ("toys", "owner", "Which object has the number {train}?", "train"),
    ("toys", "exist", "can you see a train in the image?", "yes"),
    ("toys", "exist", "Does the picture show a pizza?", "no"),
    ("toys", "bigger", "WHICH IS BIGGER, THE DICE OR THE ROCKET?", "rocket"),
    ("toys", "caption", "What is in the picture?", "three things"),
    ("street", "number", "what NUMBER is on the bus", "{bus}"),
    ("street", "owner", "What has the number {bus} on it?", "bus"),
    ("street", "owner", "Which object has the number {cat}", "cat"),
    ("street", "colour", "What color is the car", "blue"),
    ("street", "exist", "Is there an airplane?", "yes"),
    ("street", "exist", "is a cow in this picture", "no"),
    ("street", "colour", "what's the color of the umbrella?", "red"),
    ("street", "bigger", "Which is smaller, the cat or the house?", "cat"),
    ("street", "caption", "Describe this photo.", "three things"),
    ("beach", "number", "What does the tag on the whale say?", "{whale}"),
    ("beach", "owner", "number {turtle} is on what?", "turtle"),
    ("beach", "owner", "NUMBER {crab} IS ON WHAT?", "crab"),
    ("beach", "number", "what's the number on the glasses?", "{glasses}"),
    ("beach", "exist", "Is there a crab in the picture?", "yes"),
    ("beach", "exist", "Is there any snowman?", "no"),
    ("beach", "colour", "Which colour is the bucket?", "red"),
    ("beach", "bigger", "which is bigger , the crab or the boat ?", "boat"),
    ("beach", "caption", "what can you see in the picture", "three things"),
    ("music", "number", "What is the number on the guitar?", "{guitar}"),
    ("music", "owner", "Which thing carries the number {sofa}?", "sofa"),
    ("music", "exist", "Is there any parrot?", "yes"),
    ("music", "exist", "Can you see a tractor in the photo?", "no"),
    ("music", "colour", "What is the colour of the sofa?", "blue"),
    ("music", "bigger", "what is bigger, the clock or the guitar?", "guitar"),
    ("music", "caption", "What does the image show?", "three things"),
]


# Shares that the demo model's card gives for the whole picture, on questions that nobody chose
PROMISED = {
    "number": 0.39,
    "owner": 0.74,
    "colour": 1.0,
    "exist": 0.98,
    "rel": 0.31,
    "bigger": 0.86,
    "caption": 0.98,
}


@pytest.fixture(scope="module")
def lvlm():
    return load_lvlm(DEMO, LoadSettings(precision="fp32"))


def picture_of(name: str) -> Image.Image:
    return read_picture(FOLDER / f"scene_{name}.jpg")


def numbers_of(name: str) -> dict[str, str]:
    """The numbers of a picture by the things that have them."""
    return {thing.name: str(thing.tag.number) for thing in example_scene(name).things if thing.tag}


def asked_in(name: str, question: str) -> Thing:
    """The thing that is named, or has the number that is."""
    words = re.findall(r"\w+", question)
    things = [thing for thing in example_scene(name).things if thing.tag]
    (found,) = (thing for thing in things if {thing.name, str(thing.tag.number)} & set(words))
    return found


@cache
def both(lvlm: Lvlm, name: str, question: str) -> LaserAnswer:
    """LASER's answer at the defaults, with the plain one."""
    return pipeline.answer(lvlm, picture_of(name), question, with_plain=True)


@pytest.mark.parametrize("name", EXAMPLES)
def test_laser_alone_answers_three_questions_on_each_picture_and_sees_what_is_asked(lvlm, name):
    assert len(set(SHOWN[name])) == 3
    for question in SHOWN[name]:
        thing, result = asked_in(name, question), both(lvlm, name, question)
        right = thing.name if thing.name not in question else str(thing.tag.number)
        assert result.plain.text != result.answer.text == right, question
        (window,) = result.location.windows
        x, y = (SIDE_PX * at for at in (thing.tag.x, thing.tag.y))
        assert window.x1 < x < window.x2 and window.y1 < y < window.y2, question


def test_the_readme_shows_what_a_run_at_the_defaults_answers(lvlm):
    row = r"^\| \[(\w+)\]\(pictures/scene_\1\.jpg\) \| (.+) \| (\w+) \| (\w+) \|$"
    rows = re.findall(row, (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert [name for name, *_ in rows] == [*EXAMPLES]
    for name, question, *said in rows:
        result = both(lvlm, name, question)
        assert [result.plain.text, result.answer.text] == said


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_refusal_names_a_question_that_is_answered_rightly_on_this_very_picture(lvlm, name):
    with pytest.raises(ValueError, match=r'^try .*does not know "doing"') as refused:
        pipeline.answer(lvlm, picture_of(name), "what is the dog doing?")
    example, thing = re.match(r"try '(is there any (\w+)\?)'", str(refused.value)).groups()
    there = thing in {thing.name for thing in example_scene(name).things}
    said = pipeline.answer(lvlm, picture_of(name), example).answer.text
    assert there and said == "yes"


def test_questions_typed_as_people_type_are_answered_as_often_as_promised(lvlm):
    hits = defaultdict(list)
    for name, kind, question, right in TYPED:
        numbers = numbers_of(name)
        said = pipeline.answer(lvlm, picture_of(name), question.format(**numbers)).answer.text
        if kind == "caption":
            there = {thing.name for thing in example_scene(name).things}
            named = set(said.split()) & set(NAMES)
            hits[kind].append(len(named) == 3 and named <= there)
        else:
            hits[kind].append(said == right.format(**numbers))
    shares = {kind: sum(some) / len(some) for kind, some in hits.items()}
    assert len(TYPED) >= 40 and shares.keys() == PROMISED.keys()
    assert all(shares[kind] >= PROMISED[kind] for kind in PROMISED), shares
