"""Pictures people would publish: the evidence on its picture, and the VAQ of every layer.

Drawn with matplotlib's objects on its Agg canvas: no pyplot, no global state, no display. Knows
the method's results and no model. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..geometry import Window
from ..results import Evidence, LayerChoice, Placement
from .heat import blend, covered

if TYPE_CHECKING:
    from ..results import Location

WINDOW_COLOUR = "#2be8ff"  # in no part of the colour map
CHOSEN_COLOUR, FUSED_COLOUR, OTHER_COLOUR = "#d55e00", "#e69f00", "#8a97a6"  # Okabe and Ito's

# The picture is drawn so that its longer side has between these pixels, whatever its own size.
DRAWN_SIDE_PX = (560, 1024)  # of 720p video, a drawing then takes less than a frame
LEAST_DRAWN_PX = 24  # of the shorter side: a picture 1 pixel high is stretched to be seen
LEAST_WIDTH_PX = 480  # of the whole drawing: room for the legend
_DPI = 100


def overlay(location: Location) -> Image.Image:
    """The picture under its evidence map, with the windows, a colour bar and a legend.

    The longer side of the picture is drawn with 560 to 1024 pixels. Parts of the picture that the
    model did not see are striped. A degenerate map is described in words and covers nothing.
    """
    return drawing(location.picture, location.evidence, location.placement)


def drawing(
    picture: Image.Image, evidence: Evidence | None = None, placement: Placement | None = None
) -> Image.Image:
    """As `overlay`, of what there is: a picture, the evidence found in it, windows placed on it.

    With evidence, the picture may be smaller than it was when that was found.
    """
    size = picture.size if evidence is None else evidence.picture_size
    drawn = drawn_size(size)
    found = evidence is not None and not evidence.degenerate
    lines = _legend(evidence, placement)
    canvas = Canvas(drawn, lines, with_bar=found)
    canvas.draw_picture(covered(picture, evidence if found else None, drawn), size)
    if placement is not None and (found or evidence is None):
        canvas.draw_windows(placement.windows)
    if found:
        canvas.draw_colour_bar(picture)
    canvas.write(lines)
    return canvas.picture()


def at_drawn_size(picture: Image.Image) -> Image.Image:
    """The picture, no larger than it is drawn: `drawing` makes the same of it with its evidence."""
    size = drawn_size(picture.size)
    if size[0] * size[1] >= picture.width * picture.height:
        return picture
    return picture.resize(size, Image.Resampling.LANCZOS)


def vaq_chart(choice: LayerChoice) -> Image.Image:
    """A bar per layer, as high as its VAQ; the layers the evidence comes from stand out.

    Layers without a finite VAQ have no bar and are named below the chart.
    """
    from matplotlib.ticker import MaxNLocator

    vaq = choice.vaq.double().numpy()
    finite = np.isfinite(vaq)
    heights = np.where(finite, vaq, 0.0)
    figure = _figure(900, 440)
    axes = figure.add_axes((0.1, 0.16, 0.88, 0.73))
    colours = [_bar_colour(layer, choice) for layer in choice.numbers]
    axes.bar(choice.numbers, heights, color=colours, width=0.8)
    _label_bar(axes, choice.layer, heights[choice.numbers.index(choice.layer)])
    axes.set_xlim(-0.7, choice.count - 0.3)
    axes.set_ylim(0, max(heights.max() * 1.15, 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12)
    axes.set_xlabel("decoder layer, counted from 0", fontsize=13)
    axes.set_ylabel("Visual Activation by Query (VAQ)", fontsize=13)
    figure.text(0.03, 0.98, "\n".join(textwrap.wrap(choice.reason, 92)), fontsize=12, va="top")
    if not finite.all():
        broken = ", ".join(str(choice.numbers[row]) for row in np.flatnonzero(~finite))
        figure.text(0.98, 0.01, f"not finite: layer {broken}", fontsize=9, ha="right", va="bottom")
    return _pixels(figure)


# ---- the map on the picture --------------------------------------------------------------------


def drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which a picture of `size` is drawn."""
    long = max(size)
    scale = min(max(long, DRAWN_SIDE_PX[0]), DRAWN_SIDE_PX[1]) / long
    width, height = (max(LEAST_DRAWN_PX, round(side * scale)) for side in size)
    return width, height


def _legend(evidence: Evidence | None, placement: Placement | None) -> list[str]:
    windows = placement.windows if placement is not None else ()
    if evidence is None:
        return [_window_line(index, window, windows) for index, window in enumerate(windows, 1)]
    if evidence.degenerate:
        lines = ["nothing found: the answer is read from the whole picture"]
    else:
        shares = placement.shares if placement is not None else ()
        lines = [
            f"{_window_line(index, window, windows)}, {share:.0%} of the evidence"
            for index, (window, share) in enumerate(zip(windows, shares, strict=True), 1)
        ]
        unseen = evidence.grid.unseen_share(evidence.picture_size)
        if unseen > 0.001:
            lines.append(f"striped: not seen by the model ({unseen:.0%} of the picture)")
    if evidence.choice is not None:
        lines.append(_layers_line(evidence.choice))
    return lines


def _layers_line(choice: LayerChoice) -> str:
    if len(choice.weights) == 1:
        return f"layer {choice.layer} of {choice.count}"
    return f"{len(choice.weights)} of {choice.count} layers, most of all layer {choice.layer}"


def _window_line(index: int, window: Window, windows: Sequence[Window]) -> str:
    number = f" {index}" if len(windows) > 1 else ""
    return f"window{number}: {window.width} x {window.height} px"


# ---- drawing -----------------------------------------------------------------------------------


class Canvas:
    """A drawing with the picture on top, a colour bar and lines of legend below; pixels, y down."""

    def __init__(self, drawn_size: tuple[int, int], lines: Sequence[str], with_bar: bool) -> None:
        self.drawn_width, self.drawn_height = drawn_size
        self.margin = 14
        self.width = max(self.drawn_width, LEAST_WIDTH_PX) + 2 * self.margin
        self.font_px = max(15, round(self.width / 48))  # legible when the whole is shrunk
        self.line_px = round(self.font_px * 1.5)
        self.bar_top = self.drawn_height + 2 * self.margin
        self.lines_top = self.bar_top + (round(self.font_px * 2.9) if with_bar else 0)
        self.height = self.lines_top + len(lines) * self.line_px + self.margin // 2
        self.figure = _figure(self.width, self.height)

    def draw_picture(self, pixels: np.ndarray, size: tuple[int, int]) -> None:
        from matplotlib.transforms import Affine2D

        left, top = (self.width - self.drawn_width) // 2, self.height - self.margin
        self.figure.add_artist(_pixel_for_pixel(pixels, left, top - self.drawn_height))
        across, down = self.drawn_width / size[0], self.drawn_height / size[1]
        self.place = Affine2D().scale(across, -down).translate(left, top)

    def draw_windows(self, windows: Sequence[Window]) -> None:
        from matplotlib.patches import Rectangle
        from matplotlib.patheffects import withStroke

        thick = self._points(0.2)
        outline = [withStroke(linewidth=2 * thick, foreground="black")]
        for index, window in enumerate(windows, 1):
            corner = window.x1, window.y1
            frame = Rectangle(
                corner, window.width, window.height, fill=False, edgecolor=WINDOW_COLOUR,
                linewidth=thick, joinstyle="miter", path_effects=outline, transform=self.place,
            )  # fmt: skip
            self.figure.add_artist(frame)
            if len(windows) > 1:
                inset = self._points(0.35)
                self._note(
                    str(index), corner, (inset, -inset), va="top", color=WINDOW_COLOUR,
                    fontsize=self._points(1.15), fontweight="bold", path_effects=outline,
                )  # fmt: skip

    def draw_boxes(self, boxes: Sequence[Window], colour: str, label: str) -> None:
        """Boxes of one thing, its name on the first."""
        from matplotlib.patches import Rectangle
        from matplotlib.patheffects import withStroke

        thick = self._points(0.2)
        for index, box in enumerate(boxes):
            frame = Rectangle(
                (box.x1, box.y1), box.width, box.height, fill=False, edgecolor=colour,
                linewidth=thick, joinstyle="miter", transform=self.place,
                path_effects=[withStroke(linewidth=2 * thick, foreground="black")],
            )  # fmt: skip
            self.figure.add_artist(frame)
            if index == 0:
                self._note(
                    textwrap.shorten(label, 40), (box.x1, box.y1), (0, self._points(0.2)),
                    va="bottom", fontsize=self._points(0.9),
                    bbox={"facecolor": colour, "edgecolor": "none", "pad": self._points(0.1)},
                )  # fmt: skip

    def draw_points(self, points: Sequence[tuple[int, int]], marker: str, colour: str) -> None:
        from matplotlib.lines import Line2D

        for x, y in points:
            point = Line2D(
                [x + 0.5], [y + 0.5], marker=marker, color=colour, markersize=self._points(0.6),
                markeredgecolor="black", transform=self.place,
            )  # fmt: skip
            self.figure.add_artist(point)

    def draw_colour_bar(self, picture: Image.Image) -> None:
        """The colours as they look on a grey of the picture's mean brightness."""
        from matplotlib.patches import Rectangle

        width, height = round(0.5 * self.width), self.font_px
        grey = np.asarray(picture.convert("L")).mean()
        heat = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
        bar = blend(np.full((*heat.shape, 3), grey, dtype=np.float32), heat).astype(np.uint8)
        left, bottom = self.margin, self.height - self.bar_top - height
        self.figure.add_artist(_pixel_for_pixel(bar, left, bottom))
        frame = Rectangle((left, bottom), width, height, fill=False, transform=None, linewidth=0.8)
        self.figure.add_artist(frame)
        for value in (0, 0.5, 1):
            at = left + value * width, self.bar_top + 1.4 * height
            self._write(f"{value:g}", *at, ha="center", fontsize=self._points(0.85))
        self._write("evidence (1 = strongest)", 2 * self.margin + width, self.bar_top)

    def write(self, lines: Sequence[str]) -> None:
        """The legend, line by line."""
        for index, line in enumerate(lines):
            self._write(line, self.margin, self.lines_top + index * self.line_px)

    def picture(self) -> Image.Image:
        return _pixels(self.figure)

    def _write(self, text: str, left: float, top: float, **style: Any) -> None:
        style = {"va": "top", "fontsize": self._points(1)} | style
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)

    def _note(
        self, text: str, at: tuple[int, int], offset: tuple[float, float], **style: Any
    ) -> None:
        """Text beside a place of the picture; offset: in points, y up."""
        from matplotlib.text import Annotation

        style |= {"xycoords": self.place, "textcoords": "offset points"}
        self.figure.add_artist(Annotation(text, at, offset, **style))

    def _points(self, relative: float) -> float:
        """Points, matplotlib's unit for fonts and lines, for a multiple of the font's pixels."""
        return self.font_px * relative * 72 / _DPI


def _bar_colour(layer: int, choice: LayerChoice) -> str:
    if layer == choice.layer:
        return CHOSEN_COLOUR
    return FUSED_COLOUR if layer in choice.weights else OTHER_COLOUR


def _label_bar(axes: Any, layer: int, height: float) -> None:
    from matplotlib.patheffects import withStroke

    axes.annotate(
        f"layer {layer}", (layer, height), (0, 6), textcoords="offset points", ha="center",
        fontsize=14, fontweight="bold", color=CHOSEN_COLOUR, annotation_clip=False,
        path_effects=[withStroke(linewidth=4, foreground="white")],  # over higher neighbours
    )  # fmt: skip


def _figure(width: int, height: int) -> Any:
    """A matplotlib figure of this many pixels, on white."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")


def _pixel_for_pixel(pixels: np.ndarray, left: int, bottom: int) -> Any:
    """An artist of (H, W, 3) uint8, below all others. left, bottom: its place on the figure.

    The library's images are resampled, in floats that take thirty times their bytes.
    """
    from matplotlib.artist import Artist

    class Pixels(Artist):
        zorder = -1

        def draw(self, renderer: Any) -> None:
            opaque = np.full((*pixels.shape[:2], 4), 255, np.uint8)
            opaque[..., :3] = pixels[::-1]  # from below
            renderer.draw_image(renderer.new_gc(), left, bottom, opaque)

    return Pixels()


def _pixels(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    # Figures are cycles, which a batch must not pile up until the next garbage collection. Their
    # texts hold what drew them, and that its pixels
    for part in (canvas.get_renderer(), figure):
        vars(part).clear()
    return Image.fromarray(pixels)
