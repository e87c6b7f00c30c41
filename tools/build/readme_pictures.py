"""The README's two pictures, drawn from one run of the demo model: the strip and the method.

python -m tools.build.readme_pictures

Writes pictures/strip.webp and pictures/method.webp. Knows the results of the method, not how they
are made. Run it again when the demo model, its pictures or a default has changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from laser_core.models.loading import DEMO, load_lvlm
from laser_core.output.drawing import CHOSEN_COLOUR, FUSED_COLOUR, WINDOW_COLOUR
from laser_core.output.heat import covered
from laser_core.pictures import read_picture
from laser_core.pipeline import LaserAnswer, answer
from laser_core.results import Evidence, LayerChoice
from laser_core.settings import DecodeSettings, LaserSettings

FOLDER = Path(__file__).resolve().parents[2] / "pictures"
PICTURE, QUESTION, RIGHT = "scene_picnic.jpg", "what number is on the bee?", "6"
EVERY_STEP = LaserSettings(decode=DecodeSettings(alpha=1.0, adaptive=1.0))

DPI = 100
INK, FAINT = "#1f2328", "#656d76"
WRONG_COLOUR, RIGHT_COLOUR = "#b3261e", "#1a7f37"


def main() -> None:
    result = shown_run()
    for name, picture in {"strip": strip(result), "method": method(result)}.items():
        picture.save(FOLDER / f"{name}.webp", quality=88, method=6)
        print(f"written: {FOLDER / name}.webp, {picture.width} x {picture.height}")


def shown_run() -> LaserAnswer:
    """The run of all pictures. Raises SystemExit for one that shows nothing."""
    picture = read_picture(FOLDER / PICTURE)
    result = answer(load_lvlm(DEMO), picture, QUESTION, EVERY_STEP, with_plain=True)
    said = result.plain.text, result.answer.text
    if said[0] == RIGHT or said[1] != RIGHT:
        raise SystemExit(
            f"choose a picture and a question that the plain model gets wrong and LASER right: "
            f"{QUESTION!r} on {PICTURE} gave {said[0]!r} and {said[1]!r}, right is {RIGHT!r}"
        )
    return result


def strip(result: LaserAnswer) -> Image.Image:
    """Three panels: the plain answer, where LASER looked, its answer from the close-up."""
    side, gap, top = 440, 36, 112
    sheet = Sheet(3 * side + 4 * gap, top + side + 84)
    sheet.write(sheet.width / 2, 14, f"“{result.location.question}”", size_px=31, style="italic")
    location, window = result.location, result.location.placement.windows[0]
    panels = [
        ("The model alone", location.picture, f"“{result.plain.text}”  ✗", WRONG_COLOUR),
        ("Where LASER looks", under_heat(location.evidence, location.picture), "", INK),
        ("LASER zooms in", location.picture.crop(window), f"“{result.answer.text}”  ✓",
         RIGHT_COLOUR),
    ]  # fmt: skip
    for index, (title, picture, said, colour) in enumerate(panels):
        left = gap + index * (side + gap)
        sheet.write(left + side / 2, 68, title, size_px=27, weight="bold")
        sheet.show(left, top, side, picture, window if index == 1 else None)
        sheet.write(left + side / 2, top + side + 12, said, size_px=48, color=colour, weight="bold")
        if index == 1:
            below = left + side / 2, top + side + 26
            sheet.write(*below, "attention the question adds", size_px=25, color=FAINT)
        if index:
            sheet.arrow((left - gap + 3, top + side / 2), (left - 1, top + side / 2))
    return sheet.picture()


def method(result: LaserAnswer) -> Image.Image:
    """The ten steps from left to right, with the run's own maps, layers and probabilities."""
    location, token = result.location, result.answer.tokens[0]
    maps, window = location.maps, location.placement.windows[0]
    blocked = result.counterfactual.picture.crop(window)
    side, upper, lower = 236, 104, 404
    middle = (upper + lower + side) / 2
    read, weighed, located, shown, decoded = 24, 342, 652, 962, 1276
    sheet = Sheet(1520, lower + side + 24)

    titles = {
        read: "1-2  Read twice", weighed: "3-5  Compare", located: "6-7  Locate",
        shown: "8-9  Zoom, block", decoded: "10  Decode",
    }  # fmt: skip
    for left, title in titles.items():
        sheet.write(left, 16, title, size_px=27, weight="bold", ha="left")

    def pair(left: float, *rows: tuple[str, Image.Image]) -> None:
        for top, (label, picture) in zip((upper, lower), rows, strict=True):
            sheet.write(left, top - 34, label, ha="left")
            sheet.show(left, top, side, picture)

    pair(
        read,
        ("with the question", mean_attention(maps.with_query, result)),
        ("without it", mean_attention(maps.without_query, result)),
    )
    sheet.write(weighed, middle - side / 2 - 34, "VAQ of each layer", ha="left")
    vaq_bars(sheet.axes(weighed, middle - side / 2, side, side - 8), location.evidence.choice)
    sheet.write(located, middle - side / 2 - 34, "evidence and window", ha="left")
    heat = under_heat(location.evidence, location.picture)
    sheet.show(located, middle - side / 2, side, heat, window)
    beside = "picture + window"
    pair(shown, (beside, location.picture.crop(window)), (f"{beside}, blocked", blocked))

    centre = decoded + 108
    says = "“{}”: {:.0%}"
    said = token.text.strip()
    with_it = says.format(said, token.probability_with)
    without_it = says.format(said, token.probability_without)
    sheet.write(centre, upper + side / 2 - 34, with_it, size_px=30)
    sheet.write(centre, lower + side / 2 + 6, without_it, size_px=30)
    sheet.write(centre, middle - 52, r"$z_+ + \alpha\,(z_+ - z_-)$", size_px=26, color=FAINT)
    sheet.write(centre, middle - 10, f"“{said}”", size_px=52, color=RIGHT_COLOUR, weight="bold")

    for start, ends in (
        (read + side, ((weighed, middle - 40), (weighed, middle + 40))),
        (shown + side, ((decoded, upper + side / 2), (decoded, lower + side / 2))),
    ):
        for top, (x, y) in zip((upper, lower), ends, strict=True):
            sheet.arrow((start + 8, top + side / 2), (x - 8, y))
    sheet.arrow((weighed + side + 8, middle), (located - 8, middle))
    for top, y in ((upper, middle - 40), (lower, middle + 40)):
        sheet.arrow((located + side + 8, y), (shown - 8, top + side / 2))
    sheet.arrow((centre, upper + side / 2 + 12), (centre, middle - 62))
    sheet.arrow((centre, lower + side / 2 - 4), (centre, middle + 62))
    return sheet.picture()


def mean_attention(attention: torch.Tensor, result: LaserAnswer) -> Image.Image:
    """One reading's attention (L, H, gh, gw) on the picture: the mean over layers and heads."""
    maps = result.location.maps
    seen = Evidence(attention.mean((0, 1)), maps.grid, maps.picture_size)
    return under_heat(seen, result.location.picture)


def vaq_bars(axes: Any, choice: LayerChoice) -> None:
    layers = range(len(choice.vaq))
    colours = [CHOSEN_COLOUR if layer == choice.layer else FUSED_COLOUR for layer in layers]
    axes.bar(layers, choice.vaq.numpy(), color=colours, width=0.76)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.set_yticks([])
    axes.set_xticks([0, len(layers) - 1], ["first", "last"])
    axes.tick_params(labelsize=14.5, length=0, labelcolor=FAINT)


def under_heat(evidence: Evidence, picture: Image.Image) -> Image.Image:
    return Image.fromarray(covered(picture, evidence, picture.size))


class Sheet:
    """A white sheet; places and sizes in pixels from its upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        size = width / DPI, height / DPI
        self.figure = Figure(figsize=size, dpi=DPI, facecolor="white")

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        bottom = self.height - top - height
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, bottom / h, width / w, height / h))

    def show(
        self, left: float, top: float, side: float, picture: Image.Image, window: Any = None
    ) -> None:
        """A picture, `side` wide, with a frame around `window` where one is given."""
        height = round(side * picture.height / picture.width)
        axes = self.axes(left, round(top), side, height)
        pixels = picture.resize((side, height), Image.Resampling.LANCZOS)
        axes.imshow(pixels, extent=(0, picture.width, picture.height, 0), interpolation="nearest")
        axes.axis("off")
        if window is not None:
            frame = Rectangle(
                (window.x1, window.y1), window.width, window.height, fill=False, clip_on=False,
                edgecolor=WINDOW_COLOUR, linewidth=2.2,
                path_effects=[withStroke(linewidth=4.4, foreground="black")],
            )  # fmt: skip
            axes.add_patch(frame)

    def write(self, x: float, y: float, text: str, size_px: float = 23, **how: Any) -> None:
        """Text whose upper middle is at (x, y), unless `how` says otherwise."""
        how = {"ha": "center", "va": "top", "color": INK, **how}
        points = size_px * 72 / DPI
        self.figure.text(x / self.width, 1 - y / self.height, text, fontsize=points, **how)

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        ends = [(x / self.width, 1 - y / self.height) for x, y in (start, end)]
        self.figure.add_artist(
            FancyArrowPatch(
                *ends,
                arrowstyle="-|>",
                mutation_scale=16,
                linewidth=1.6,
                color=FAINT,
                transform=self.figure.transFigure,
            )
        )

    def picture(self) -> Image.Image:
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


if __name__ == "__main__":
    main()
