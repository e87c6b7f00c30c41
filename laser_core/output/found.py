"""What was found of phrases, as a drawing to look at and as plain JSON values. Knows no model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..files import to_plain
from ..results import Finding
from .drawing import Canvas, drawn_size
from .sentences import describe_finding

FOUND_SCHEMA = "laser-found"
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2")
"""Okabe and Ito's, told apart by colour-blind eyes; one for each phrase, again from the first."""
TINT = 0.45  # opacity of a mask


def found_drawing(picture: Image.Image, findings: Sequence[Finding]) -> Image.Image:
    """The picture with each thing's mask, boxes, name and points, and a legend below.

    Points on a thing are filled, those off it are crosses; only the first thing's are drawn where
    there are several, whose points would hide one another.
    """
    size = drawn_size(picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32).copy()
    coloured = [(one, COLOURS[n % len(COLOURS)]) for n, one in enumerate(findings)]
    for finding, colour in coloured:
        mask = Image.fromarray(finding.mask.numpy()).resize(size, Image.Resampling.NEAREST)
        tint = np.array([int(colour[n : n + 2], 16) for n in (1, 3, 5)], dtype=np.float32)
        inside = np.asarray(mask)
        pixels[inside] = pixels[inside] * (1 - TINT) + tint * TINT
    lines = [describe_finding(finding) for finding in findings]
    canvas = Canvas(size, lines, with_bar=False)
    canvas.draw_picture(pixels.astype(np.uint8), picture.size)
    for finding, colour in coloured:
        canvas.draw_boxes(finding.boxes, colour, finding.phrase)
        if len(findings) == 1:
            canvas.draw_points(finding.points, "o", colour)
            canvas.draw_points(finding.negative_points, "X", "#ffffff")
    canvas.write(lines)
    return canvas.picture()


def found_report(findings: Sequence[Finding], **about: Any) -> dict[str, Any]:
    """Findings as plain JSON values. about: what else to know of the run."""
    things = [
        {
            "phrase": one.phrase,
            "name": one.name,
            "found": one.found,
            "score": one.score,
            "boxes": one.boxes,
            "points": one.points,
            "negative_points": one.negative_points,
            "looked": one.looked,
            "note": one.note,
        }
        for one in findings
    ]
    return to_plain({"schema": FOUND_SCHEMA, "version": 1, "things": things, **about})
