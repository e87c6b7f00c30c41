"""The Comfy registry's two pictures of the pack, drawn from one run of the demo model.

python -m tools.build.registry_pictures

Writes pictures/icon.png (square) and pictures/banner.jpg (21:9). Knows the run that the README
shows, not how it is made. Run it again when that run changes.
"""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from laser_core.geometry import Window
from laser_core.output.drawing import WINDOW_COLOUR
from laser_core.results import Evidence, LaserAnswer
from tools.build.readme_pictures import (
    FAINT,
    FOLDER,
    INK,
    RIGHT_COLOUR,
    Sheet,
    shown_run,
    under_heat,
)

ICON_PX = 400  # the registry's limit
BANNER_PX = (1680, 720)  # 21:9
CLOSE = 0.27  # the icon's side, as a share of the picture's shorter one


def main() -> None:
    result = shown_run()
    drawn = {"icon.png": icon(result), "banner.jpg": banner(result)}
    for name, picture in drawn.items():
        picture.save(FOLDER / name, quality=88, optimize=True)
        print(f"written: {FOLDER / name}, {picture.width} x {picture.height}")


def icon(result: LaserAnswer) -> Any:
    """What the question is about, under its heat, in the window's frame."""
    location = result.location
    heat = under_heat(location.evidence, location.picture)
    close = heat.crop(around_peak(location.evidence, CLOSE))
    sheet = Sheet(ICON_PX, ICON_PX)
    sheet.show(0, 0, ICON_PX, close)
    axes = sheet.axes(0, 0, ICON_PX, ICON_PX)
    axes.axis("off")
    edge, width = 0.1, 10  # shares of the side, points
    frame = Rectangle(
        (edge, edge), 1 - 2 * edge, 1 - 2 * edge, fill=False, edgecolor=WINDOW_COLOUR,
        linewidth=width, path_effects=[withStroke(linewidth=width + 6, foreground="black")],
    )  # fmt: skip
    axes.add_patch(frame)
    return sheet.picture()


def banner(result: LaserAnswer) -> Any:
    """The name, what it does, and the run: where it looks, what it then reads."""
    width, height = BANNER_PX
    sheet, location = Sheet(width, height), result.location
    window, side, top = location.windows[0], 470, 160
    sheet.write(70, 205, "LASER", size_px=140, weight="bold", ha="left")
    sheet.write(76, 365, "for ComfyUI", size_px=50, color=FAINT, ha="left")
    sheet.write(76, 465, "Finds what you ask about,", size_px=36, color=INK, ha="left")
    sheet.write(76, 515, "zooms in, answers.", size_px=36, color=INK, ha="left")
    left, right = 640, 640 + side + 70
    sheet.show(left, top, side, under_heat(location.evidence, location.picture), window)
    sheet.show(right, top, side, location.picture.crop(window))
    sheet.arrow((left + side + 8, top + side / 2), (right - 8, top + side / 2))
    sheet.write(left + side / 2, 92, f"“{location.question}”", size_px=36, style="italic")
    said = f"“{result.answer.text}”"
    sheet.write(right + side / 2, 72, said, size_px=64, color=RIGHT_COLOUR, weight="bold")
    return sheet.picture()


def around_peak(evidence: Evidence, share: float) -> Window:
    """The square of this share of the picture's shorter side around its strongest patch."""
    row, column = divmod(int(evidence.map.argmax()), evidence.grid.columns)
    view, (width, height) = evidence.grid.view, evidence.picture_size
    x = view.x1 + view.width * (column + 0.5) / evidence.grid.columns
    y = view.y1 + view.height * (row + 0.5) / evidence.grid.rows
    side = round(share * min(width, height))
    left, top = (
        round(min(max(at - side / 2, 0), most - side)) for at, most in ((x, width), (y, height))
    )
    return Window(left, top, left + side, top + side)


if __name__ == "__main__":
    main()
