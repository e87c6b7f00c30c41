"""What there is in the demo world, and what is likely there. Knows no places and no pictures."""

import itertools
import random

_THINGS = """
dog cat horse cow pig sheep elephant giraffe zebra rabbit fox panda lion monkey frog turtle whale
octopus crab penguin owl duck parrot butterfly bee snail spider
apple banana orange lemon grapes strawberry cherry watermelon pineapple pear carrot corn mushroom
broccoli eggplant bread cheese burger pizza donut cake
car bus truck tractor bicycle train airplane rocket boat
hammer scissors key candle ladder bucket chair sofa laptop camera phone clock book pencil backpack
shoe boot cap hat crown glasses shirt dress umbrella balloon gift ball guitar drum dice kite
bone cactus tree sunflower star house tent snowman
"""
NAMES = _THINGS.split()
MASS = {"grapes", "corn", "bread", "cheese", "broccoli", "scissors", "glasses"}  # "some bread"

COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black"]
# Things that come in every colour, with the usual one.
USUAL_COLOUR = {
    "car": "red", "balloon": "red", "book": "blue", "cap": "blue", "umbrella": "purple",
    "backpack": "pink", "dress": "blue", "shirt": "green", "bucket": "blue", "boot": "black",
    "apple": "red", "sofa": "purple",
}  # fmt: skip
LOOKS: list[tuple[str, str | None]] = [
    *((name, None) for name in NAMES if name not in USUAL_COLOUR),
    *itertools.product(USUAL_COLOUR, COLOURS),
]
"""(thing, colour or None): one texture each."""

# What a model may answer without looking: numbers, colours and companions that are likely.
USUAL_NUMBER = {
    "banana": 7, "dog": 12, "cat": 9, "car": 42, "bus": 8, "train": 55, "apple": 3, "house": 21,
    "boat": 64, "rocket": 99, "ball": 10, "clock": 5, "book": 31, "horse": 2, "cake": 18,
    "pizza": 4, "duck": 6, "truck": 77, "elephant": 50, "shirt": 23, "gift": 25, "airplane": 80,
    "owl": 13, "frog": 36,
}  # fmt: skip
COMPANION = {
    "dog": "bone", "cat": "ball", "monkey": "banana", "rabbit": "carrot", "bee": "sunflower",
    "car": "house", "tent": "tree", "hammer": "ladder", "cake": "candle", "burger": "pizza",
    "laptop": "phone", "horse": "hat", "penguin": "snowman", "boat": "whale", "frog": "snail",
    "cow": "tractor", "book": "glasses", "guitar": "drum", "umbrella": "boot", "pear": "grapes",
    "balloon": "gift", "cactus": "spider", "backpack": "pencil", "sofa": "clock", "lion": "zebra",
}  # fmt: skip
USUAL_NUMBER_SHARE, USUAL_COLOUR_SHARE, COMPANION_SHARE = 0.5, 0.6, 0.5
COMPANIONS = {
    name: sorted(
        {b for a, b in COMPANION.items() if a == name}
        | {a for a, b in COMPANION.items() if b == name}
    )
    for name in NAMES
}
_RANKS = list(range(len(NAMES)))
random.Random(5).shuffle(_RANKS)
POPULARITY = {name: (4 + rank) ** -0.5 for name, rank in zip(NAMES, _RANKS, strict=True)}
"""Relative frequency of each thing."""
POPULAR = [name for name, frequency in POPULARITY.items() if frequency >= 0.19]
_CUMULATED = list(itertools.accumulate(POPULARITY.values()))


def random_name(rng: random.Random) -> str:
    """A thing, by its popularity."""
    return rng.choices(NAMES, cum_weights=_CUMULATED)[0]


def usual_colour(name: str, rng: random.Random) -> str | None:
    """A colour for a thing, None for those that come in one look only."""
    if name not in USUAL_COLOUR:
        return None
    return USUAL_COLOUR[name] if rng.random() < USUAL_COLOUR_SHARE else rng.choice(COLOURS)
