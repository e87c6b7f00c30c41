"""Questions about what a view shows, their answers, captions, and every word of the model.

Everything is lower case with punctuation split off by blanks, so that `text.split()` is the
tokenisation. Knows things and views; knows nothing of pixels or models.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from .scenes import Thing
from .things import (
    COLOURS,
    COMPANIONS,
    MASS,
    NAMES,
    POPULAR,
    USUAL_COLOUR,
    USUAL_NUMBER,
)

EXIST_KINDS = ("random", "popular", "adversarial")  # POPE, arXiv 2305.10355
INSTRUCTION = "answer briefly ."
CAPTION_THINGS = 3

_TEMPLATES = {
    "number": (
        "what number is on the {x} ?",
        "which number is on the {x} ?",
        "what is the number on the {x} ?",
        "what number does the {x} have ?",
        "read the number on the {x} .",
        "what number can you see on the {x} ?",
        "what does the tag on the {x} say ?",
        "the {x} has which number ?",
    ),
    "owner": (
        "what object has the number {n} ?",
        "which object has the number {n} ?",
        "what has the number {n} on it ?",
        "which thing carries the number {n} ?",
        "what is the object with the number {n} ?",
        "number {n} is on what ?",
    ),
    "colour": (
        "what colour is the {x} ?",
        "which colour is the {x} ?",
        "what is the colour of the {x} ?",
        "what color is the {x} ?",
        "what is the color of the {x} ?",
        "which colour does the {x} have ?",
    ),
    "exist": (
        "is there {a} in the {picture} ?",
        "is there {a} ?",
        "do you see {a} ?",
        "can you see {a} in the {picture} ?",
        "does the {picture} contain {a} ?",
        "is {a} in this {picture} ?",
        "does the {picture} show {a} ?",
    ),
    "rel": (
        "what is {side} the {x} ?",
        "which object is {side} the {x} ?",
        "what object is {side} the {x} ?",
        "what do you see {side} the {x} ?",
        "which thing is {side} the {x} ?",
    ),
    "bigger": ("which is {size} , the {x} or the {y} ?", "what is {size} , the {x} or the {y} ?"),
    "caption": (
        "describe the {picture} .",
        "describe this {picture} .",
        "what is in the {picture} ?",
        "what do you see ?",
        "what can you see in the {picture} ?",
        "what does the {picture} show ?",
        "write a general description of the image .",
    ),
}
_SIDES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "above": (0, -1), "below": (0, 1)}
_PICTURES = ("image", "picture", "photo")
KINDS = tuple(kind for kind in _TEMPLATES if kind != "caption")

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "USER:", "ASSISTANT:")


def _words() -> list[str]:
    """Every word of questions and answers, in the order of the shipped weights' rows."""
    texts = [
        *(template for templates in _TEMPLATES.values() for template in templates),
        *(phrase for phrases in _SIDES.values() for phrase in phrases),
        INSTRUCTION,
        *_PICTURES,
        "a an and , yes no some bigger smaller nothing",
        *COLOURS,
        *NAMES,
    ]
    words = (word for text in texts for word in text.split() if not word.startswith("{"))
    return [*dict.fromkeys(words), *map(str, range(100))]


VOCABULARY = {word: index for index, word in enumerate((*SPECIAL_TOKENS, *_words()))}
# A relation is clear where one thing lies nearer than the others on that side (1.3 times as far)
# and not too far off the direction: offset sideways over offset along it.
_CLEAR_RATIO, _CLEAR_SLANT, _NEAR_SLANT = 1.3, 0.75, 1.25
_CLEAR_SIZES = 1.43


@dataclass(frozen=True, slots=True)
class Question:
    """kind: one of `KINDS`, "caption", or "free" for one without words.

    asked: what must be seen, None where nothing is there to be seen. named: all things that the
    answer depends on. exist_kind: POPE's, of a "no" question. against_prior: whether the answer is
    not the world's usual one, None where there is no usual one.
    """

    kind: str
    text: str
    answer: str
    asked: Thing | None = None
    named: tuple[Thing, ...] = ()
    exist_kind: str | None = None
    against_prior: bool | None = None


def encode(text: str) -> list[int]:
    """Token ids of a lower-case text whose words and marks are separated by blanks."""
    return [VOCABULARY[word] for word in text.split()]


def with_article(noun: str) -> str:
    """ "a dog", "an owl", "some bread" """
    if noun in MASS:
        return f"some {noun}"
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


class Asker:
    """Asks about the things of a view; never about those it cuts."""

    def __init__(
        self, rng: random.Random, things: Sequence[Thing], cut: Sequence[Thing] = ()
    ) -> None:
        self.rng, self.things, self.cut = rng, tuple(things), tuple(cut)
        self.by_name: dict[str, list[Thing]] = {}
        for thing in self.things:
            self.by_name.setdefault(thing.name, []).append(thing)
        self.cut_names = {thing.name for thing in self.cut}

    def ask(self, kind: str) -> Question | None:
        """A question of a kind, None where this try found none to ask."""
        return getattr(self, f"_{kind}")()

    def caption(self) -> Question | None:
        """The largest things, largest first; asked for with a request or with no words at all."""
        largest: dict[str, Thing] = {}
        for thing in sorted(self.things, key=lambda thing: -thing.side):
            largest.setdefault(thing.name, thing)
        named = tuple(largest.values())[:CAPTION_THINGS]
        if not named:
            return None
        if self.rng.random() < 0.35:
            return Question("free", "", named[0].name, named[0], named[:1])
        *others, last = (
            with_article(f"{thing.colour} {thing.name}" if thing.colour else thing.name)
            for thing in named
        )
        answer = f"{' , '.join(others)} and {last}" if others else last
        return Question("caption", self._text("caption"), answer, named[0], named)

    # ---- the kinds -----------------------------------------------------------------------------

    def _number(self) -> Question | None:
        thing = self._some_tagged()
        name = thing and self._reference(thing)
        if not name:
            return None
        usual, number = USUAL_NUMBER.get(thing.name), thing.tag.number
        return self._about(
            "number",
            str(number),
            thing,
            x=name,
            against_prior=None if usual is None else number != usual,
        )

    def _owner(self) -> Question | None:
        thing = self._some_tagged()
        if thing is None:
            return None
        usual = [name for name, number in USUAL_NUMBER.items() if number == thing.tag.number]
        against = thing.name not in usual if usual else None
        return self._about("owner", thing.name, thing, n=thing.tag.number, against_prior=against)

    def _colour(self) -> Question | None:
        coloured = [thing for thing in self.things if thing.colour and self._is_alone(thing)]
        if not coloured:
            return None
        thing = self.rng.choice(coloured)
        against = thing.colour != USUAL_COLOUR[thing.name]
        return self._about("colour", thing.colour, thing, x=thing.name, against_prior=against)

    def _exist(self) -> Question | None:
        if self.things and self.rng.random() < 0.5:
            thing = self.rng.choice(self.things)
            coloured = thing.colour and self.rng.random() < 0.3
            name = f"{thing.colour} {thing.name}" if coloured else thing.name
            return self._about("exist", "yes", thing, a=with_article(name))
        kind = self.rng.choice(EXIST_KINDS)
        for _ in range(12):
            absent = self._absent(kind)
            if absent is not None:
                text = self._text("exist", a=with_article(absent))
                return Question("exist", text, "no", exist_kind=kind)
        return None

    def _absent(self, kind: str) -> str | None:
        """What is not there: anything, a popular thing, or a companion or other colour."""
        if kind == "adversarial":
            if not self.things:
                return None
            thing = self.rng.choice(self.things)
            if thing.colour and self.rng.random() < 0.4:
                colour = self.rng.choice(COLOURS)
                worn = {other.colour for other in self.by_name[thing.name]}
                known = thing.name in self.cut_names or colour in worn
                return None if known else f"{colour} {thing.name}"
            if not COMPANIONS[thing.name]:
                return None
            name = self.rng.choice(COMPANIONS[thing.name])
        else:
            name = self.rng.choice(POPULAR if kind == "popular" else NAMES)
        return None if name in self.cut_names or name in self.by_name else name

    def _rel(self) -> Question | None:
        if not self.things:
            return None
        anchor = self.rng.choice(self.things)
        name, side = self._reference(anchor), self.rng.choice(list(_SIDES))
        found = self._neighbour(anchor, side)
        if not name or found is None:
            return None
        phrase = self.rng.choice(_SIDES[side])
        return self._about("rel", found.name, found, anchor, x=name, side=phrase)

    def _neighbour(self, anchor: Thing, side: str) -> Thing | None:
        """The nearest thing on a side, None where that is arguable."""
        right, down = _DIRECTIONS[side]
        found = []
        for thing in (*self.things, *self.cut):
            x, y = thing.x - anchor.x, thing.y - anchor.y
            along, sideways = x * right + y * down, abs(x * down) + abs(y * right)
            if along > 0:
                found.append((math.hypot(x, y), sideways / along, thing))
        clear = [entry for entry in found if entry[1] < _CLEAR_SLANT]
        if not clear:
            return None
        nearest, _, best = min(clear, key=lambda entry: entry[0])
        arguable = any(
            thing is not best and slant < _NEAR_SLANT and distance < nearest * _CLEAR_RATIO
            for distance, slant, thing in found
        )
        return None if arguable or best in self.cut else best

    def _bigger(self) -> Question | None:
        alone = [thing for thing in self.things if self._is_alone(thing)]
        if len(alone) < 2:
            return None
        one, other = self.rng.sample(alone, 2)
        if 1 / _CLEAR_SIZES < one.side / other.side < _CLEAR_SIZES:
            return None
        size = self.rng.choice(("bigger", "smaller"))
        right = max if size == "bigger" else min
        best = right(one, other, key=lambda thing: thing.side)
        rest = other if best is one else one
        return self._about("bigger", best.name, best, rest, x=one.name, y=other.name, size=size)

    # ---- words ---------------------------------------------------------------------------------

    def _about(
        self,
        kind: str,
        answer: str,
        asked: Thing,
        *others: Thing,
        against_prior: bool | None = None,
        **parts: object,
    ) -> Question:
        text = self._text(kind, **parts)
        return Question(kind, text, answer, asked, (asked, *others), None, against_prior)

    def _text(self, kind: str, **parts: object) -> str:
        template = self.rng.choice(_TEMPLATES[kind])
        return template.format(picture=self.rng.choice(_PICTURES), **parts)

    def _some_tagged(self) -> Thing | None:
        tagged = [thing for thing in self.things if thing.tag is not None]
        return self.rng.choice(tagged) if tagged else None

    def _is_alone(self, thing: Thing) -> bool:
        return len(self.by_name[thing.name]) == 1 and thing.name not in self.cut_names

    def _reference(self, thing: Thing) -> str | None:
        """Words that mean this thing alone, None where there are none."""
        same = self.by_name[thing.name]
        if thing.name in self.cut_names:
            return None
        if len(same) == 1:
            coloured = thing.colour and self.rng.random() < 0.3
            return f"{thing.colour} {thing.name}" if coloured else thing.name
        if thing.colour and sum(other.colour == thing.colour for other in same) == 1:
            return f"{thing.colour} {thing.name}"
        return None
