"""Generated pictures: coloured shapes that carry digits, on a cluttered background.

A scene is plain data (`Scene`); `render` turns it into a picture of any size. Knows nothing of
questions, models or training. All coordinates are scene pixels: `SCENE_SIDE_PX` a side, x to the
right, y down; boxes are (x1, y1, x2, y2).
"""

import functools
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCENE_SIDE_PX = 448
MODEL_SIDE_PX = 96

COLOURS = {
    "red": (214, 36, 36),
    "green": (36, 150, 56),
    "blue": (36, 72, 214),
    "yellow": (242, 218, 40),
    "orange": (246, 138, 24),
    "purple": (136, 52, 176),
    "pink": (248, 136, 186),
    "cyan": (48, 204, 216),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "hexagon", "cross")

# Relative frequency of each shape: the first four are the "popular" ones of POPE's second kind.
SHAPE_WEIGHTS = dict(zip(SHAPES, (1.5, 1.5, 1.5, 1.5, 1.2, 1.0, 1.0, 1.0), strict=True))

# What the world makes likely, and so what a model may answer without looking: value, probability.
COLOUR_PRIOR = {"star": ("yellow", 0.75), "heart": ("red", 0.75), "hexagon": ("green", 0.75)}
DIGIT_PRIOR = {
    "triangle": (3, 0.6),
    "square": (4, 0.6),
    "hexagon": (6, 0.6),
    "diamond": (8, 0.6),
}
# A scene with the first shape tends to hold the second as well (adversarial existence questions).
COMPANIONS = {"heart": "star", "square": "triangle"}
COMPANION_PROBABILITY = 0.75
NO_DIGIT_PROBABILITY = 0.08

# Object side in scene pixels. Small ones are 8-12 px at the model's resolution, 15-24 after 2x.
SIZE_RANGES_PX = {"small": (36, 56), "medium": (62, 92), "large": (108, 150)}

# Digit height as a share of the radius: how much room each shape leaves in its middle.
_DIGIT_SCALE = {
    "circle": 1.44,
    "square": 1.5,
    "triangle": 1.06,
    "star": 1.06,
    "heart": 1.2,
    "diamond": 1.2,
    "hexagon": 1.5,
    "cross": 1.0,
}
_DIGIT_SHIFT = {"triangle": 0.2, "heart": -0.08}  # down the picture, in radii


@dataclass(frozen=True)
class SceneObject:
    """One shape: its looks, its centre and side in scene pixels."""

    shape: str
    colour: str
    digit: int | None
    size_class: str
    centre_x: float
    centre_y: float
    side_px: float
    tilt: float  # radians, clockwise
    tint: tuple[int, int, int]  # RGB actually painted: the colour with a little variation

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Bounding box (x1, y1, x2, y2): the outlines reach 0.6 sides from the centre."""
        reach = self.side_px * 0.6
        return (
            self.centre_x - reach,
            self.centre_y - reach,
            self.centre_x + reach,
            self.centre_y + reach,
        )


@dataclass(frozen=True)
class Clutter:
    """A distractor stroke: `kind` is "line", "ring" or "block"; `box` as ImageDraw takes it."""

    kind: str
    box: tuple[float, float, float, float]
    colour: tuple[int, int, int]
    width: int


@dataclass(frozen=True)
class Scene:
    """Everything `render` needs: the objects, and the background behind them."""

    objects: tuple[SceneObject, ...]
    clutter: tuple[Clutter, ...]
    background: tuple[float, float, float]  # RGB
    slope: tuple[float, float]  # brightness gradient down and across, in grey levels
    noise_index: int


def _ring(radii: tuple[float, ...], corners: int, turn: float = 0.0) -> np.ndarray:
    """(corners, 2) points around the origin, radii taken in turn, first one at the top."""
    angles = turn + 2 * np.pi * np.arange(corners) / corners
    radius = np.resize(np.array(radii), corners)
    return np.stack([radius * np.sin(angles), -radius * np.cos(angles)], axis=1)


def _heart() -> np.ndarray:
    t = 2 * np.pi * np.arange(60) / 60
    x = 16 * np.sin(t) ** 3 / 16.5
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 15
    return np.stack([x, y], axis=1)


def _cross(arm: float = 0.42) -> np.ndarray:
    quarter = [(-arm, -1), (arm, -1), (arm, -arm)]
    corners = []
    for _ in range(4):
        corners += quarter
        quarter = [(-y, x) for x, y in quarter]  # a quarter turn
    return np.array(corners)


# Outlines for a radius of 1, centred on the origin, (corners, 2) as (x, y).
OUTLINES = {
    "circle": _ring((1.0,), 48),
    "square": _ring((1.18,), 4, math.pi / 4),
    "triangle": _ring((1.2,), 3) + np.array([0.0, 0.18]),
    "star": _ring((1.12, 0.56), 10),
    "heart": _heart(),
    "diamond": np.array([(0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)]),
    "hexagon": _ring((1.05,), 6, math.pi / 6),
    "cross": _cross(),
}


def sample_scene(rng: random.Random, easy: bool = False) -> Scene:
    """Draw a scene; `easy` gives two to four medium or large objects (the curriculum's start)."""
    return Scene(
        objects=_sample_objects(rng, easy),
        clutter=tuple(_sample_clutter(rng) for _ in range(rng.randint(6, 22))),
        background=_sample_background(rng),
        slope=(rng.uniform(-26, 26), rng.uniform(-26, 26)),
        noise_index=rng.randrange(4),
    )


def _sample_objects(rng: random.Random, easy: bool) -> tuple[SceneObject, ...]:
    wanted = rng.randint(2, 4) if easy else rng.randint(3, 7)
    objects: list[SceneObject] = []
    companions: list[str] = []
    for _ in range(80):
        if len(objects) == wanted:
            break
        shape = companions.pop() if companions else _weighted_shape(rng)
        colour, digit = _sample_looks(rng, shape)
        if any((o.shape, o.colour) == (shape, colour) for o in objects):
            continue
        size_class = _sample_size_class(rng, objects, easy)
        side_px = rng.uniform(*SIZE_RANGES_PX[size_class])
        centre = _free_place(rng, objects, side_px)
        if centre is None:
            continue
        tint = tuple(min(255, max(0, v + rng.randint(-16, 16))) for v in COLOURS[colour])
        objects.append(
            SceneObject(
                shape, colour, digit, size_class, *centre, side_px, rng.uniform(-0.12, 0.12), tint
            )
        )
        companion = COMPANIONS.get(shape)
        present = any(o.shape == companion for o in objects)
        if companion and not present and rng.random() < COMPANION_PROBABILITY:
            companions.append(companion)
    return tuple(objects)


def _weighted_shape(rng: random.Random) -> str:
    return rng.choices(SHAPES, SHAPE_WEIGHTS.values())[0]


def _sample_looks(rng: random.Random, shape: str) -> tuple[str, int | None]:
    """A colour and a digit, following the world's priors."""
    colour = rng.choice(tuple(COLOURS))
    usual_colour, probability = COLOUR_PRIOR.get(shape, (colour, 0.0))
    if rng.random() < probability:
        colour = usual_colour
    digit = rng.randint(0, 9)
    usual_digit, probability = DIGIT_PRIOR.get(shape, (digit, 0.0))
    if rng.random() < probability:
        digit = usual_digit
    return colour, None if rng.random() < NO_DIGIT_PROBABILITY else digit


def _sample_size_class(rng: random.Random, objects: list[SceneObject], easy: bool) -> str:
    draw = rng.random()
    if easy:
        size_class = "large" if draw < 0.45 else "medium"
    else:
        size_class = "small" if draw < 0.5 else "medium" if draw < 0.8 else "large"
    if size_class == "large" and sum(o.size_class == "large" for o in objects) >= 2:
        return "medium"  # a third large one rarely finds a place
    return size_class


def _free_place(
    rng: random.Random, objects: list[SceneObject], side_px: float
) -> tuple[float, float] | None:
    reach = side_px * 0.6
    for _ in range(25):
        x = rng.uniform(reach, SCENE_SIDE_PX - reach)
        y = rng.uniform(reach, SCENE_SIDE_PX - reach)
        apart = (
            max(abs(x - o.centre_x), abs(y - o.centre_y)) > (side_px + o.side_px) * 0.58 + 4
            for o in objects
        )
        if all(apart):
            return x, y
    return None


def _sample_background(rng: random.Random) -> tuple[float, float, float]:
    """A muted colour: three quarters grey."""
    rgb = [rng.uniform(90, 215) for _ in range(3)]
    grey = sum(rgb) / 3
    return tuple(0.25 * v + 0.75 * grey for v in rgb)


def _sample_clutter(rng: random.Random) -> Clutter:
    x, y = rng.uniform(0, SCENE_SIDE_PX), rng.uniform(0, SCENE_SIDE_PX)
    grey = rng.uniform(60, 235)
    colour = tuple(int(min(255, max(0, grey + rng.uniform(-14, 14)))) for _ in range(3))
    kind = rng.choices(("line", "ring", "block"), (0.4, 0.3, 0.3))[0]
    if kind == "line":
        end = (x + rng.uniform(-120, 120), y + rng.uniform(-120, 120))
    else:
        end = (x + rng.uniform(4, 46), y + rng.uniform(4, 46))
    return Clutter(kind, (x, y, *end), colour, rng.randint(1, 4))


def render(scene: Scene, side_px: int = SCENE_SIDE_PX) -> Image.Image:
    """Paint a scene as an RGB picture of `side_px` x `side_px`."""
    scale = side_px / SCENE_SIDE_PX
    picture = _paint_background(scene, side_px)
    draw = ImageDraw.Draw(picture)
    for stroke in scene.clutter:
        _paint_clutter(draw, stroke, scale)
    for item in scene.objects:
        _paint_object(draw, item, scale)
    return picture


def _paint_background(scene: Scene, side_px: int) -> Image.Image:
    across = np.linspace(-1, 1, side_px, dtype=np.float32)
    shade = scene.slope[0] * across[:, None] + scene.slope[1] * across[None, :]
    shade = shade + _noise_bank(side_px)[scene.noise_index]  # HW, grey levels
    rgb = np.array(scene.background, dtype=np.float32) + shade[:, :, None]  # HW -> HW3
    return Image.fromarray(np.clip(rgb, 0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=2)
def _noise_bank(side_px: int) -> np.ndarray:
    """(4, side_px, side_px) float32 grain, fixed once and for all: it is the slowest part."""
    return np.random.default_rng(0).normal(0, 5, (4, side_px, side_px)).astype(np.float32)


def _paint_clutter(draw: ImageDraw.ImageDraw, stroke: Clutter, scale: float) -> None:
    box = [v * scale for v in stroke.box]
    width = max(1, round(stroke.width * scale))
    if stroke.kind == "line":
        draw.line(box, fill=stroke.colour, width=width)
    elif stroke.kind == "ring":
        draw.ellipse(box, outline=stroke.colour, width=width)
    else:
        draw.rectangle(box, fill=stroke.colour)


def _paint_object(draw: ImageDraw.ImageDraw, item: SceneObject, scale: float) -> None:
    radius = item.side_px / 2 * scale
    centre = np.array([item.centre_x, item.centre_y]) * scale
    cos, sin = math.cos(item.tilt), math.sin(item.tilt)
    turn = np.array([[cos, sin], [-sin, cos]])
    draw.polygon((OUTLINES[item.shape] @ turn * radius + centre).ravel().tolist(), fill=item.tint)
    if item.digit is None:
        return
    red, green, blue = item.tint
    bright = 0.3 * red + 0.59 * green + 0.11 * blue > 135
    at = (centre[0], centre[1] + _DIGIT_SHIFT.get(item.shape, 0.0) * radius)
    ink = (12, 12, 12) if bright else (250, 250, 250)
    font = _font(max(6, int(radius * _DIGIT_SCALE[item.shape])))
    draw.text(at, str(item.digit), font=font, fill=ink, anchor="mm")


@functools.cache
def _font(height_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(height_px)


@dataclass(frozen=True)
class SeenObject:
    """An object as one view shows it: the share of its box inside, its box as view fractions."""

    thing: SceneObject
    visible: float  # 0-1
    box: tuple[float, float, float, float]  # (x1, y1, x2, y2), 0-1 inside the view


@dataclass(frozen=True)
class Window:
    """A square window on the scene: left, top, side in scene pixels."""

    left: float
    top: float
    side: float


WHOLE = Window(0.0, 0.0, float(SCENE_SIDE_PX))


def seen_objects(scene: Scene, window: Window = WHOLE) -> list[SeenObject]:
    """How a window shows each of the scene's objects, in the scene's order."""
    origin = (window.left, window.top, window.left, window.top)
    seen = []
    for thing in scene.objects:
        box = tuple(
            (edge - start) / window.side for edge, start in zip(thing.box, origin, strict=True)
        )
        width = max(0.0, min(box[2], 1.0) - max(box[0], 0.0))
        height = max(0.0, min(box[3], 1.0) - max(box[1], 0.0))
        area = (box[2] - box[0]) * (box[3] - box[1])
        seen.append(SeenObject(thing, width * height / area, box))
    return seen


def cut_view(
    picture: Image.Image, window: Window, view_side_px: int = MODEL_SIDE_PX
) -> Image.Image:
    """The window's content at the model's resolution, as a crop and the image processor give it."""
    box = (window.left, window.top, window.left + window.side, window.top + window.side)
    return picture.resize((view_side_px, view_side_px), Image.Resampling.BICUBIC, box=box)


def sample_window(rng: random.Random, scene: Scene, side: float) -> Window:
    """A window of `side` scene pixels that mostly holds some object, not always in its middle."""
    x, y = rng.uniform(0, SCENE_SIDE_PX), rng.uniform(0, SCENE_SIDE_PX)
    if scene.objects and rng.random() > 0.1:
        thing = rng.choice(scene.objects)
        slack = max(0.0, (side - thing.side_px) * 0.42)
        x = thing.centre_x + rng.uniform(-slack, slack)
        y = thing.centre_y + rng.uniform(-slack, slack)
    limit = SCENE_SIDE_PX - side
    return Window(
        min(max(0.0, x - side / 2), limit), min(max(0.0, y - side / 2), limit), float(side)
    )
