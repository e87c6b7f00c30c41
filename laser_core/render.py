"""Pictures people would publish: the evidence on its picture, and the VAQ of every layer.

Drawn with matplotlib's objects on its Agg canvas: no pyplot, no global state, no display. Knows
the method's results and no model. matplotlib is imported when something is drawn.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from .geometry import Box, Grid, Window, whole_picture
from .results import Evidence, LayerChoice, Placement

if TYPE_CHECKING:
    from .pipeline import Location

COLOUR_MAP = "inferno"  # perceptually uniform, and the same to colour-blind eyes
WINDOW_COLOUR = "#2be8ff"  # in no part of the colour map
CHOSEN_COLOUR, FUSED_COLOUR, OTHER_COLOUR = "#d55e00", "#e69f00", "#8a97a6"  # Okabe and Ito's
# How far the heat covers the picture, at no evidence and at the most: what it marks stays legible.
COVER_LEAST, COVER_MOST = 0.25, 0.62

# The picture is drawn so that its longer side has between these pixels, whatever its own size.
DRAWN_SIDE_PX = (560, 1280)
LEAST_DRAWN_PX = 24  # of the shorter side: a picture 1 pixel high is stretched to be seen
LEAST_WIDTH_PX = 480  # of the whole drawing: room for the legend
TILE_PX = (110, 224)  # the longer side of a picture on a sheet of layers, by how many there are
SHEET_PX = 1600
LABEL_WIDTH_PX = 122  # of a tile's number and VAQ
_DPI = 100


def heat_map(evidence: Evidence) -> torch.Tensor:
    """The evidence map on the picture: (H, W) float32, 0..1, maximum 1 on the picture.

    Bilinear between the centres of the patches that touch the picture; 0 where the model saw
    nothing (outside the grid's view), and everywhere when the map is degenerate.
    """
    return _heat(evidence, evidence.picture_size)


def overlay(location: Location) -> Image.Image:
    """The picture under its evidence map, with the windows, a colour bar and a legend.

    The longer side of the picture is drawn with 560 to 1280 pixels. Parts of the picture that the
    model did not see are striped. A degenerate map is said in words and covers nothing.
    """
    return drawing(location.picture, location.evidence, location.placement)


def drawing(
    picture: Image.Image, evidence: Evidence | None = None, placement: Placement | None = None
) -> Image.Image:
    """As `overlay`, of what there is: a picture, the evidence found in it, windows placed on it."""
    drawn_size = _drawn_size(picture.size)
    found = evidence is not None and not evidence.degenerate
    lines = _legend(evidence, placement)
    canvas = _Canvas(drawn_size, lines, with_bar=found)
    canvas.draw_picture(_covered(picture, evidence if found else None, drawn_size), picture.size)
    if placement is not None and (found or evidence is None):
        canvas.draw_windows(placement.windows)
    if found:
        canvas.draw_colour_bar(picture)
    canvas.write(lines)
    return canvas.picture()


def layer_sheet(picture: Image.Image, maps: torch.Tensor, grid: Grid, vaq: Any) -> Image.Image:
    """A tile per layer with its number and VAQ; the layer of the highest VAQ is framed.

    maps: (L, gh, gw) >= 0, each drawn up to its own maximum. vaq: (L,) floats.
    """
    scores = [float(score) for score in vaq]
    finite = [index for index, score in enumerate(scores) if math.isfinite(score)]
    best = max(finite, key=scores.__getitem__) if finite else None
    tiles = _Sheet(picture.size, len(scores))
    for layer, score in enumerate(scores):
        found = Evidence(maps[layer], grid, picture.size)
        found = None if found.degenerate else found
        tile = Image.fromarray(_covered(picture, found, tiles.tile_size))
        tiles.put(layer, tile, score, layer == best)
    return tiles.picture


def on_one_size(drawings: Sequence[Image.Image]) -> list[Image.Image]:
    """Drawings on white canvases of one size, unscaled, for a batch."""
    size = max(one.width for one in drawings), max(one.height for one in drawings)
    canvases = []
    for one in drawings:
        canvas = Image.new("RGB", size, "white")
        canvas.paste(one)
        canvases.append(canvas)
    return canvases


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
    colours = [_bar_colour(layer, choice) for layer in range(len(vaq))]
    axes.bar(range(len(vaq)), heights, color=colours, width=0.8)
    _label_bar(axes, choice.layer, heights[choice.layer])
    axes.set_xlim(-0.7, len(vaq) - 0.3)
    axes.set_ylim(0, max(heights.max() * 1.15, 1e-12))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True))
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=12)
    axes.set_xlabel("decoder layer, counted from 0", fontsize=13)
    axes.set_ylabel("Visual Activation by Query (VAQ)", fontsize=13)
    figure.text(0.03, 0.98, "\n".join(textwrap.wrap(choice.reason, 92)), fontsize=12, va="top")
    if not finite.all():
        broken = ", ".join(str(layer) for layer in np.flatnonzero(~finite))
        figure.text(0.98, 0.01, f"not finite: layer {broken}", fontsize=9, ha="right", va="bottom")
    return _pixels(figure)


def on_picture(
    maps: torch.Tensor, grid: Grid, picture_size: tuple[int, int]
) -> tuple[torch.Tensor, Box]:
    """Maps (n, gh, gw) without the rows and columns that lie beside the picture, and their box.

    Patches that lie in the padding alone are not part of the picture and must not shine into it.
    """
    rows, columns = grid.shares_inside(whole_picture(picture_size))
    first_row, last_row = _touching(rows)
    first_column, last_column = _touching(columns)
    width, height = grid.cell_size
    box = Box(
        grid.view.x1 + first_column * width,
        grid.view.y1 + first_row * height,
        grid.view.x1 + (last_column + 1) * width,
        grid.view.y1 + (last_row + 1) * height,
    )
    return maps[:, first_row : last_row + 1, first_column : last_column + 1], box


def heat_colours() -> tuple[bytes, bytes]:
    """256 levels of heat as a palette: red, green, blue of each level, and how far each covers."""
    from matplotlib import colormaps

    levels = np.linspace(0, 1, 256)
    colours = colormaps[COLOUR_MAP](levels, bytes=True)[:, :3]
    cover = COVER_LEAST + (COVER_MOST - COVER_LEAST) * levels
    return colours.tobytes(), (cover * 255).round().astype(np.uint8).tobytes()


# ---- the map on the picture --------------------------------------------------------------------


def _heat(evidence: Evidence, size: tuple[int, int]) -> torch.Tensor:
    """(H, W) float32 for the picture drawn at `size` (width, height), see `heat_map`."""
    width, height = size
    if evidence.degenerate:
        return torch.zeros(height, width)
    cells, box = on_picture(evidence.map[None].float().cpu(), evidence.grid, evidence.picture_size)
    cells = cells[0]
    x_scale, y_scale = (d / p for d, p in zip(size, evidence.picture_size, strict=True))
    cell_width, cell_height = evidence.grid.cell_size
    heat = _stretched(cells, height, box.y1 * y_scale, cell_height * y_scale)
    heat = _stretched(heat.T, width, box.x1 * x_scale, cell_width * x_scale).T
    view = evidence.grid.view
    seen = _inside(view.y1 * y_scale, view.y2 * y_scale, height)[:, None]
    seen = seen & _inside(view.x1 * x_scale, view.x2 * x_scale, width)[None]
    heat = heat.where(seen, 0.0)
    # A patch may be thinner than a pixel and fall between the points that are drawn
    return heat / heat.max() if heat.max() > 0 else heat


def _touching(shares: Sequence[float]) -> tuple[int, int]:
    """The first and last index of those above zero."""
    indices = [index for index, share in enumerate(shares) if share > 0]
    return indices[0], indices[-1]


def _stretched(cells: torch.Tensor, pixels: int, start: float, extent: float) -> torch.Tensor:
    """(cells, n) -> (pixels, n): linear between cell centres, constant beyond the outer ones.

    start: where the first cell begins; extent: of a cell; both in pixels.
    """
    positions = (torch.arange(pixels, dtype=torch.float64) + 0.5 - start) / extent - 0.5
    positions = positions.clamp(0, len(cells) - 1)
    below = positions.floor().long()
    above = (below + 1).clamp(max=len(cells) - 1)
    part = (positions - below).float()[:, None]
    return cells[below] * (1 - part) + cells[above] * part


def _inside(low: float, high: float, pixels: int) -> torch.Tensor:
    """(pixels,) bool: whose centre lies in [low, high)."""
    centres = torch.arange(pixels, dtype=torch.float64) + 0.5
    return (centres >= low) & (centres < high)


def _covered(picture: Image.Image, evidence: Evidence | None, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: the picture at `size` under its heat, striped where it was not seen."""
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
    if evidence is None:
        return pixels.astype(np.uint8)
    pixels = _blend(pixels, _heat(evidence, size).numpy())
    view = _scaled(evidence.grid.view, evidence.picture_size, size)
    seen = _inside(view.y1, view.y2, size[1])[:, None] & _inside(view.x1, view.x2, size[0])[None]
    down, across = np.indices(pixels.shape[:2])
    stripes = np.where((down + across) // 8 % 2 == 0, 40.0, 110.0)[..., None]
    return np.where(seen.numpy()[..., None], pixels, stripes).astype(np.uint8)


def _blend(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) 0..255 under heat (H, W) 0..1, as float32 0..255."""
    from matplotlib import colormaps

    colours = colormaps[COLOUR_MAP](heat)[..., :3].astype(np.float32) * 255
    cover = rearrange(COVER_LEAST + (COVER_MOST - COVER_LEAST) * heat, "h w -> h w 1")
    return pixels * (1 - cover) + colours * cover


def _scaled(box: Box, size: tuple[int, int], drawn: tuple[int, int]) -> Box:
    x_scale, y_scale = drawn[0] / size[0], drawn[1] / size[1]
    return Box(box.x1 * x_scale, box.y1 * y_scale, box.x2 * x_scale, box.y2 * y_scale)


def _drawn_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) at which a picture of `size` is drawn."""
    long = max(size)
    scale = min(max(long, DRAWN_SIDE_PX[0]), DRAWN_SIDE_PX[1]) / long
    return tuple(max(LEAST_DRAWN_PX, round(side * scale)) for side in size)


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
        return f"layer {choice.layer} of {len(choice.vaq)}"
    return f"{len(choice.weights)} of {len(choice.vaq)} layers, most of all layer {choice.layer}"


def _window_line(index: int, window: Window, windows: Sequence[Window]) -> str:
    number = f" {index}" if len(windows) > 1 else ""
    return f"window{number}: {window.width} x {window.height} px"


# ---- drawing -----------------------------------------------------------------------------------


class _Canvas:
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
        left = (self.width - self.drawn_width) / 2
        self.axes = self._axes(left, self.margin, self.drawn_width, self.drawn_height)
        self.axes.imshow(
            pixels, extent=(0, size[0], size[1], 0), interpolation="nearest", aspect="auto"
        )

    def draw_windows(self, windows: Sequence[Window]) -> None:
        from matplotlib.patches import Rectangle
        from matplotlib.patheffects import withStroke

        thick = self._points(0.2)
        outline = [withStroke(linewidth=2 * thick, foreground="black")]
        for index, window in enumerate(windows, 1):
            corner = window.x1, window.y1
            frame = Rectangle(
                corner, window.width, window.height, fill=False, edgecolor=WINDOW_COLOUR,
                linewidth=thick, joinstyle="miter", clip_on=False, path_effects=outline,
            )  # fmt: skip
            self.axes.add_patch(frame)
            if len(windows) > 1:
                inset = self._points(0.35)
                self.axes.annotate(
                    str(index), corner, (inset, -inset), textcoords="offset points", va="top",
                    color=WINDOW_COLOUR, fontsize=self._points(1.15), fontweight="bold",
                    path_effects=outline,
                )  # fmt: skip

    def draw_colour_bar(self, picture: Image.Image) -> None:
        """The colours as they look on a grey of the picture's mean brightness."""
        width, height = round(0.5 * self.width), self.font_px
        axes = self._axes(self.margin, self.bar_top, width, height)
        grey = np.asarray(picture.convert("L")).mean()
        heat = np.tile(np.linspace(0, 1, width, dtype=np.float32), (height, 1))
        bar = _blend(np.full((*heat.shape, 3), grey, dtype=np.float32), heat).astype(np.uint8)
        axes.imshow(bar, extent=(0, 1, 0, 1), aspect="auto", interpolation="nearest")
        axes.axis("on")
        axes.set_yticks([])
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"], fontsize=self._points(0.85))
        self._write("evidence (1 = strongest)", 2 * self.margin + width, self.bar_top)

    def write(self, lines: Sequence[str]) -> None:
        """The legend, line by line."""
        for index, line in enumerate(lines):
            self._write(line, self.margin, self.lines_top + index * self.line_px)

    def picture(self) -> Image.Image:
        return _pixels(self.figure)

    def _write(self, text: str, left: float, top: float) -> None:
        self.figure.text(
            left / self.width, 1 - top / self.height, text, va="top", fontsize=self._points(1)
        )

    def _points(self, relative: float) -> float:
        """Points, matplotlib's unit for fonts and lines, for a multiple of the font's pixels."""
        return self.font_px * relative * 72 / _DPI

    def _axes(self, left: float, top: float, width: float, height: float) -> Any:
        bottom = self.height - top - height
        place = (left, bottom, width, height)
        scale = (self.width, self.height, self.width, self.height)
        axes = self.figure.add_axes(tuple(v / s for v, s in zip(place, scale, strict=True)))
        axes.axis("off")
        return axes


class _Sheet:
    """Tiles in rows, each below its label, above a line that says what they show."""

    def __init__(self, picture_size: tuple[int, int], tiles: int) -> None:
        from PIL import ImageDraw, ImageFont

        width, height = picture_size
        self.columns = min(max(math.ceil(math.sqrt(tiles * height / width)), 1), tiles)
        rows = math.ceil(tiles / self.columns)
        longer = min(max(SHEET_PX // max(self.columns, rows), TILE_PX[0]), TILE_PX[1])
        scale = longer / max(picture_size)
        # Room for the label, whatever the picture's shape
        self.tile_size = max(8, round(width * scale)), max(8, round(height * scale))
        self.cell_width = max(self.tile_size[0], LABEL_WIDTH_PX)
        self.font, self.gap = ImageFont.load_default(15), 10
        self.label_height, foot = 22, 30
        self.picture = Image.new(
            "RGB",
            (
                max(self.columns * (self.cell_width + self.gap) + self.gap, LEAST_WIDTH_PX),
                rows * (self.tile_size[1] + self.label_height + self.gap) + self.gap + foot,
            ),
            "white",
        )
        self.pen = ImageDraw.Draw(self.picture)
        top = self.picture.height - foot
        heat = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (14, 1))
        bar = _blend(np.full((*heat.shape, 3), 128.0, dtype=np.float32), heat).astype(np.uint8)
        self.picture.paste(Image.fromarray(bar), (self.gap + 14, top + 2))
        for text, left in (("0", 0), ("1: the layer's strongest patch; framed: highest VAQ", 142)):
            self.pen.text((self.gap + left, top), text, fill="black", font=self.font)

    def put(self, index: int, tile: Image.Image, score: float, best: bool) -> None:
        left = self.gap + index % self.columns * (self.cell_width + self.gap)
        top = self.gap + index // self.columns * (self.tile_size[1] + self.label_height + self.gap)
        said = f"{score:.3g}" if math.isfinite(score) else "not finite"
        self.pen.text((left, top), f"{index}", fill="black", font=self.font)
        place = (left + self.cell_width, top)
        colour = CHOSEN_COLOUR if best else "#5a6570"
        self.pen.text(place, f"VAQ {said}", fill=colour, font=self.font, anchor="ra")
        corner = left, top + self.label_height
        self.picture.paste(tile, corner)
        if best:
            box = (
                *(c - 4 for c in corner),
                corner[0] + tile.width + 3,
                corner[1] + tile.height + 3,
            )
            self.pen.rectangle(box, outline=CHOSEN_COLOUR, width=4)


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


def _pixels(figure: Any) -> Image.Image:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
