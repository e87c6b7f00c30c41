"""Questions about a view, their answers and evidence, the captions, and the vocabulary.

Everything is lower case with punctuation split off by spaces, so that `text.split()` is the
tokenisation. Knows of `SeenObject`s, not of pixels or of models.
"""

import math
import random
from dataclasses import dataclass

from .scenes import COLOUR_PRIOR, COLOURS, COMPANIONS, SHAPES, SeenObject

# The first seven are evaluated; "where" only helps the model to learn places.
QUESTION_TYPES = ("digit", "colour", "shape", "exist", "rel", "reldigit", "which", "where")
TRAINING_SHARES = (0.25, 0.08, 0.08, 0.17, 0.19, 0.12, 0.05, 0.06)
EXIST_KINDS = ("random", "popular", "adversarial")  # POPE, arXiv 2305.10355

INSTRUCTION = "answer briefly ."
GENERIC_PROMPTS = (
    "write a general description of the image .",
    "write a general description of the image .",
    "write a general description of the image .",
    "describe the image .",
    "describe the picture .",
    "describe the scene .",
    "what is in the image ?",
    "what is in the picture ?",
)
CAPTION_OBJECTS = 3
MAX_QUESTION_WORDS = 15

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")
_WORDS = """
    what which where is do does can you see read name the a an there on in of to with has have
    contain digit number colour color shape object thing image picture scene left right above
    below over under top bottom centre write describe general description answer briefly
    yes no nothing ? . ,
"""
WORDS = (*_WORDS.split(), *"0123456789", *SHAPES, *COLOURS)
VOCABULARY = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *WORDS))}

_SIDE_PHRASES = {
    "left": ("left of", "left of", "to the left of", "on the left of"),
    "right": ("right of", "right of", "to the right of", "on the right of"),
    "above": ("above", "above", "above", "over"),
    "below": ("below", "below", "below", "under"),
}
# A relation is clear when the nearest neighbour on that side is this much nearer than the next.
_CLEAR_RATIO = 1.3
_CLEAR_SLANT = 0.75  # sideways offset over offset along the asked direction
_NEAR_SLANT = 1.25

_PRESENT = 0.05  # visible share from which an object makes a reference ambiguous
_READABLE = 0.8  # visible share from which it may be asked about


@dataclass(frozen=True)
class Question:
    """A question on a view. `evidence` indexes the view's objects: the target, then the anchor."""

    text: str
    answer: str
    type: str
    evidence: tuple[int, ...] = ()
    exist_kind: str | None = None  # POPE's kind, of a "no" question


def encode(text: str) -> list[int]:
    """Token ids of a lower-case text whose words and marks are separated by spaces."""
    return [VOCABULARY[word] for word in text.split()]


def ask(
    kind: str,
    seen: list[SeenObject],
    rng: random.Random,
    target: SeenObject | None = None,
    exist_kind: str | None = None,
) -> Question | None:
    """One question of a type, or None where the view allows none.

    With `target` the evidence's first object is that one. `exist_kind` asks for a "no" question
    of that kind; with neither, existence questions are "yes" half of the time.
    """
    if kind == "exist":
        if exist_kind is None and target is None and rng.random() < 0.5:
            exist_kind = rng.choice(EXIST_KINDS)
        if exist_kind:
            return _ask_absent(seen, rng, exist_kind)
        return _ask_present(seen, rng, target)
    readable = [s for s in seen if s.visible >= _READABLE]
    if not readable:
        return None
    if kind in ("rel", "reldigit"):
        return _ask_relation(kind, seen, readable, rng, target)
    chosen = target or rng.choice(readable)
    return _ASKERS[kind](chosen, seen, rng)


def caption(seen: list[SeenObject], objects: int = CAPTION_OBJECTS) -> str:
    """The most prominent objects, largest first: "yellow star 3 , red heart"."""
    readable = [s for s in seen if s.visible >= _READABLE]
    readable.sort(key=lambda s: -s.thing.side_px)
    names = [_full_name(s) for s in readable[:objects]]
    return " , ".join(names) or "nothing"


def _full_name(seen: SeenObject) -> str:
    digit = "" if seen.thing.digit is None else f" {seen.thing.digit}"
    return f"{seen.thing.colour} {seen.thing.shape}{digit}"


def _present(seen: list[SeenObject]) -> list[SeenObject]:
    return [s for s in seen if s.visible > _PRESENT]


def _refer(
    chosen: SeenObject, seen: list[SeenObject], rng: random.Random, hidden: str | None = None
) -> str | None:
    """An expression that only the chosen object fits and that leaves out the `hidden` property."""
    present = _present(seen)
    shape, colour = chosen.thing.shape, chosen.thing.colour
    options = []
    if hidden != "shape" and sum(s.thing.shape == shape for s in present) == 1:
        options.append(shape)
    if hidden != "colour" and sum(s.thing.colour == colour for s in present) == 1:
        options.append(f"{colour} {_noun(rng)}")
    if hidden is None:
        options += [f"{colour} {shape}"] * 2
    return rng.choice(options) if options else None


def _noun(rng: random.Random) -> str:
    return "object" if rng.random() < 0.8 else "thing"


def _colour_word(rng: random.Random) -> str:
    return rng.choice(("colour", "color"))


def _digit_word(rng: random.Random) -> str:
    return rng.choice(("digit", "number"))


def _what(rng: random.Random) -> str:
    return "what" if rng.random() < 0.85 else "which"


def _picture(rng: random.Random) -> str:
    return rng.choice(("image", "image", "picture", "scene"))


def _index(seen: list[SeenObject], chosen: SeenObject) -> int:
    return next(i for i, s in enumerate(seen) if s is chosen)


def _ask_digit(chosen: SeenObject, seen: list[SeenObject], rng: random.Random) -> Question | None:
    name = _refer(chosen, seen, rng)
    if name is None or chosen.thing.digit is None:
        return None
    word = _digit_word(rng)
    text = rng.choices(
        (
            f"{_what(rng)} {word} is on the {name} ?",
            f"what is the {word} on the {name} ?",
            f"{_what(rng)} {word} does the {name} have ?",
            f"read the {word} on the {name} .",
        ),
        (0.7, 0.1, 0.1, 0.1),
    )[0]
    return Question(text, str(chosen.thing.digit), "digit", (_index(seen, chosen),))


def _ask_colour(chosen: SeenObject, seen: list[SeenObject], rng: random.Random) -> Question | None:
    name = _refer(chosen, seen, rng, hidden="colour")
    if name is None:
        return None
    word = _colour_word(rng)
    text = rng.choices(
        (
            f"{_what(rng)} {word} is the {name} ?",
            f"what is the {word} of the {name} ?",
            f"name the {word} of the {name} .",
        ),
        (0.75, 0.15, 0.1),
    )[0]
    return Question(text, chosen.thing.colour, "colour", (_index(seen, chosen),))


def _ask_shape(chosen: SeenObject, seen: list[SeenObject], rng: random.Random) -> Question | None:
    name = _refer(chosen, seen, rng, hidden="shape")
    if name is None:
        return None
    text = rng.choices(
        (
            f"{_what(rng)} shape is the {name} ?",
            f"what is the shape of the {name} ?",
            f"name the shape of the {name} .",
        ),
        (0.75, 0.15, 0.1),
    )[0]
    return Question(text, chosen.thing.shape, "shape", (_index(seen, chosen),))


def _ask_which(chosen: SeenObject, seen: list[SeenObject], rng: random.Random) -> Question | None:
    """The object that carries a given digit: its shape or its colour."""
    digit = chosen.thing.digit
    if digit is None or sum(s.thing.digit == digit for s in _present(seen)) != 1:
        return None
    number = f"{_digit_word(rng)} {digit}"
    evidence = (_index(seen, chosen),)
    if rng.random() < 0.5:
        text = f"{_what(rng)} shape has the {number} ?"
        return Question(text, chosen.thing.shape, "which", evidence)
    text = f"{_what(rng)} {_colour_word(rng)} is the {_noun(rng)} with the {number} ?"
    return Question(text, chosen.thing.colour, "which", evidence)


def _ask_where(chosen: SeenObject, seen: list[SeenObject], rng: random.Random) -> Question | None:
    """One of four corners or the centre, where the place is clear-cut."""
    name = _refer(chosen, seen, rng)
    if name is None:
        return None
    across = (chosen.box[0] + chosen.box[2]) / 2 - 0.5
    down = (chosen.box[1] + chosen.box[3]) / 2 - 0.5
    if max(abs(across), abs(down)) < 0.12:
        answer = "centre"
    elif min(abs(across), abs(down)) > 0.08:
        answer = f"{'top' if down < 0 else 'bottom'} {'left' if across < 0 else 'right'}"
    else:
        return None
    text = f"where is the {name} ?"
    if rng.random() < 0.2:
        text = f"where in the {_picture(rng)} is the {name} ?"
    return Question(text, answer, "where", (_index(seen, chosen),))


_ASKERS = {
    "digit": _ask_digit,
    "colour": _ask_colour,
    "shape": _ask_shape,
    "which": _ask_which,
    "where": _ask_where,
}


def _ask_relation(
    kind: str,
    seen: list[SeenObject],
    readable: list[SeenObject],
    rng: random.Random,
    target: SeenObject | None,
) -> Question | None:
    """The clear nearest neighbour of an anchor: its shape, colour or both ("rel"), or its digit."""
    anchor = rng.choice(readable)
    side = rng.choice(tuple(_SIDE_PHRASES))
    neighbour = _neighbour(anchor, _present(seen), side)
    if neighbour is None or neighbour.visible < _READABLE:
        return None
    if target is not None and neighbour is not target:
        return None
    name = _refer(anchor, seen, rng)
    if name is None:
        return None
    thing = neighbour.thing
    evidence = (_index(seen, neighbour), _index(seen, anchor))
    place = f"{rng.choice(_SIDE_PHRASES[side])} the {name} ?"
    if kind == "reldigit":
        if thing.digit is None:
            return None
        text = f"{_what(rng)} {_digit_word(rng)} is {place}"
        return Question(text, str(thing.digit), kind, evidence)
    draw = rng.random()
    if draw < 0.4:
        return Question(f"{_what(rng)} shape is {place}", thing.shape, kind, evidence)
    if draw < 0.85:
        text = f"{_what(rng)} {_colour_word(rng)} is the {_noun(rng)} {place}"
        if rng.random() < 0.3:
            text = f"{_what(rng)} {_colour_word(rng)} is {place}"
        return Question(text, thing.colour, kind, evidence)
    return Question(f"what is {place}", f"{thing.colour} {thing.shape}", kind, evidence)


def _neighbour(anchor: SeenObject, present: list[SeenObject], side: str) -> SeenObject | None:
    """The nearest object on one side of the anchor, or None where it is not clear-cut."""
    candidates = []
    for other in present:
        if other is anchor:
            continue
        right = other.thing.centre_x - anchor.thing.centre_x
        down = other.thing.centre_y - anchor.thing.centre_y
        along, aside = {
            "left": (-right, down),
            "right": (right, down),
            "above": (-down, right),
            "below": (down, right),
        }[side]
        if along > 0 and abs(aside) < along * _NEAR_SLANT:
            candidates.append((math.hypot(right, down), abs(aside) / along, other))
    if not candidates:
        return None
    candidates.sort(key=lambda c: c[0])
    distance, slant, nearest = candidates[0]
    crowded = len(candidates) > 1 and candidates[1][0] < distance * _CLEAR_RATIO
    return None if crowded or slant > _CLEAR_SLANT else nearest


def _ask_present(
    seen: list[SeenObject], rng: random.Random, target: SeenObject | None
) -> Question | None:
    readable = [s for s in seen if s.visible >= _READABLE]
    if not readable:
        return None
    chosen = target or rng.choice(readable)
    name = chosen.thing.shape
    if rng.random() < 0.6:
        name = f"{chosen.thing.colour} {name}"
    return Question(_exist_text(name, rng), "yes", "exist", (_index(seen, chosen),))


def _ask_absent(seen: list[SeenObject], rng: random.Random, exist_kind: str) -> Question | None:
    present = {(s.thing.shape, s.thing.colour) for s in _present(seen)}
    shapes = {shape for shape, _ in present}
    for _ in range(12):
        shape, colour = _ABSENT_NAMES[exist_kind](present, rng)
        if shape is None or (shape, colour) in present or (colour is None and shape in shapes):
            continue
        name = f"{colour} {shape}" if colour else shape
        return Question(_exist_text(name, rng), "no", "exist", (), exist_kind)
    return None


def _random_name(present: set, rng: random.Random) -> tuple[str | None, str | None]:
    """Any shape, with or without a colour."""
    return rng.choice(SHAPES), rng.choice(tuple(COLOURS)) if rng.random() < 0.6 else None


def _popular_name(present: set, rng: random.Random) -> tuple[str | None, str | None]:
    """One of the world's most frequent shapes, in its usual colour where it has one."""
    shape = rng.choice(("circle", "square", "triangle", "star"))
    usual = COLOUR_PRIOR.get(shape, (rng.choice(tuple(COLOURS)), 0))[0]
    return shape, usual if rng.random() < 0.6 else None


def _adversarial_name(present: set, rng: random.Random) -> tuple[str | None, str | None]:
    """What usually comes with something present, or a present shape in another present colour."""
    if not present:
        return None, None
    ordered = sorted(present)  # sets of strings iterate in an order of their own in each process
    shape, _ = rng.choice(ordered)
    if shape in COMPANIONS and rng.random() < 0.6:
        return COMPANIONS[shape], None
    if shape in COLOUR_PRIOR and rng.random() < 0.4:
        return shape, COLOUR_PRIOR[shape][0]
    return shape, rng.choice(ordered)[1]


_ABSENT_NAMES = {
    "random": _random_name,
    "popular": _popular_name,
    "adversarial": _adversarial_name,
}


def _exist_text(name: str, rng: random.Random) -> str:
    article = "an" if name[0] in "aeiou" else "a"
    thing = f"{article} {name}"
    return rng.choices(
        (
            f"is there {thing} ?",
            f"is there {thing} in the {_picture(rng)} ?",
            f"can you see {thing} ?",
            f"do you see {thing} ?",
            f"does the {_picture(rng)} contain {thing} ?",
        ),
        (0.4, 0.4, 0.07, 0.06, 0.07),
    )[0]
