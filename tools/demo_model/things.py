"""What there is in the demo world, and what is likely there. Knows no places and no pictures."""

import itertools
import random

_THINGS = """
dog/dogs cat/cats horse/horses cow/cows pig/pigs sheep/sheep elephant/elephants giraffe/giraffes
zebra/zebras rabbit/rabbits fox/foxes panda/pandas lion/lions monkey/monkeys frog/frogs
turtle/turtles whale/whales octopus crab/crabs penguin/penguins owl/owls duck/ducks parrot/parrots
butterfly/butterflies bee/bees snail/snails spider/spiders
apple/apples banana/bananas orange/oranges lemon/lemons grapes strawberry/strawberries
cherry/cherries watermelon/watermelons pineapple/pineapples pear/pears carrot/carrots corn
mushroom/mushrooms broccoli eggplant/eggplants bread cheese burger/burgers pizza/pizzas donut/donuts
cake/cakes
car/cars bus/buses truck/trucks tractor/tractors bicycle/bicycles train/trains airplane/airplanes
rocket/rockets boat/boats
hammer/hammers scissors key/keys candle/candles ladder/ladders bucket/buckets chair/chairs
sofa/sofas laptop/laptops camera/cameras phone/phones clock/clocks book/books pencil/pencils
backpack/backpacks shoe/shoes boot/boots cap/caps hat/hats crown/crowns glasses shirt/shirts
dress/dresses umbrella/umbrellas balloon/balloons gift/gifts ball/balls guitar/guitars drum/drums
dice kite/kites
bone/bones cactus tree/trees sunflower/sunflowers star/stars house/houses tent/tents snowman
"""
_FORMS = [entry.split("/") for entry in _THINGS.split()]
NAMES = [forms[0] for forms in _FORMS]
PLURALS = {forms[0]: forms[1] for forms in _FORMS if len(forms) == 2}  # of those that are counted
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
