"""The counterfactual: the picture with its evidence blocked (step 8 of docs/method.md, Eq. 7).

From the evidence map to the patches that count, from patches to a mask on the picture, from the
mask to the blocked picture. Knows no model: fill 'visual tokens' uses the patches alone, inside
the model's run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageFilter

from ..geometry import Window, whole_picture
from ..pictures import check_mask
from ..results import Counterfactual, Evidence, Location
from ..settings import CounterfactualSettings

LEAST_BLUR_PX = 4.0
NOISE_SEED = 0  # the same counterfactual every time
SLACK_PX = 1e-6


def blocks_something(found: Location) -> bool:
    """Whether the windows hold any evidence. If not, both streams would be the same."""
    if found.evidence.degenerate:
        return False
    return bool(select_patches(found.evidence, found.settings.counterfactual, found.windows).any())


def make_counterfactual(found: Location, mean_colour: tuple[int, int, int]) -> Counterfactual:
    """The picture with the evidence in its windows blocked.

    mean_colour: (red, green, blue) 0..255, the model's, for fill 'mean'.
    """
    settings = found.settings.counterfactual
    with torch.inference_mode(False):  # an ordinary tensor, for whoever is given it
        patches = select_patches(found.evidence, settings, found.windows)
        mask = mask_patches(patches, found.evidence)
    if settings.fill == "visual tokens":
        return Counterfactual(mask, None)
    return Counterfactual(mask, block(found.picture, mask, settings, mean_colour))


def select_patches(
    evidence: Evidence, settings: CounterfactualSettings, windows: Sequence[Window] = ()
) -> torch.Tensor:
    """The patches that hold the evidence: the strongest `amount` of them.

    `amount` is a share of all gh x gw patches. At least one is taken, but only patches with
    evidence above zero; equal ones in reading order. With windows, only patches that lie mostly
    inside one window count (by their part on the picture); if none of those has evidence, patches
    that overlap a window. Without windows every patch that touches the picture counts. A mask as
    evidence (no layer choice) says itself how much is blocked: all its patches that count, whatever
    the amount.

    Returns (gh, gw) bool; all False when the windows hold no evidence at all.
    Raises ValueError when the map is degenerate.
    """
    if evidence.degenerate:
        raise ValueError(
            "answer without a counterfactual (see Evidence.degenerate): the map is zero on all of "
            "the picture, or not finite, so there is nothing to block"
        )
    candidates = _candidates(evidence, windows)
    if evidence.choice is None:
        return candidates
    strengths = rearrange(evidence.map.where(candidates, 0.0), "gh gw -> (gh gw)")
    count = max(1, round(settings.amount * len(strengths)))
    strongest = torch.sort(strengths, descending=True, stable=True).indices[:count]
    taken = torch.zeros_like(strengths, dtype=torch.bool)
    taken[strongest] = True
    taken = rearrange(taken, "(gh gw) -> gh gw", gh=evidence.grid.rows)
    return taken & candidates


def mask_patches(patches: torch.Tensor, evidence: Evidence) -> torch.Tensor:
    """The mask of these patches on the picture.

    patches: (gh, gw) bool. Returns (H, W) float32 at picture size: 1 on the patches, their edges
    rounded to whole pixels, 0 elsewhere. A patch on the picture has at least one pixel.
    """
    width, height = evidence.picture_size
    rows = _pixels_of(evidence.grid.y_edges, height)
    columns = _pixels_of(evidence.grid.x_edges, width)
    # A pixel is blocked when any blocked patch covers both its row and its column.
    return (rows @ patches.float() @ columns.T > 0).float()


def block(
    picture: Image.Image,
    mask: torch.Tensor,
    settings: CounterfactualSettings,
    mean_colour: tuple[int, int, int],
) -> Image.Image:
    """A new picture with the masked pixels replaced; all others stay as they are, to the byte.

    picture: RGB. mask: (H, W) of the picture's size, above 0 where it is blocked. mean_colour:
    (red, green, blue) 0..255, the model's, for fill 'mean'.

    mean: one colour. noise: uniform, every channel of every pixel on its own, the same every time.
    blur: a Gaussian. Its deviation is half the side of a square as large as the blocked area, and
    at least 4 pixels. A pattern with a period of that side or less keeps under 1 % of its contrast:
    colour remains, but nothing to read.

    Raises ValueError for fill 'visual tokens', which changes no pixel, and for a mask of another
    size.
    """
    if settings.fill == "visual tokens":
        raise ValueError(
            "choose fill mean, blur or noise for a picture: 'visual tokens' works only inside the "
            "model's run, where it blocks the picture's tokens"
        )
    check_mask(mask, picture)
    blocked = mask.cpu().numpy() > 0
    pixels = np.array(picture)
    fill = _FILLS[settings.fill](picture, blocked, mean_colour)
    pixels[blocked] = np.broadcast_to(fill, pixels.shape)[blocked]
    return Image.fromarray(pixels)


def _candidates(evidence: Evidence, windows: Sequence[Window]) -> torch.Tensor:
    """(gh, gw) bool: the patches with evidence among which the strongest are taken."""
    seen = _shares_inside(evidence, whole_picture(evidence.picture_size))
    on_picture = (evidence.map > 0) & (seen > 0)
    if not windows:
        return on_picture
    # Windows lie on the picture, so the share inside one is at most the share seen.
    inside = torch.stack([_shares_inside(evidence, window) for window in windows]).amax(dim=0)
    # The slack: a patch cut into equal halves belongs to neither, whatever rounding does.
    mostly_inside = on_picture & (inside > seen * (0.5 + 1e-9))
    return mostly_inside if mostly_inside.any() else on_picture & (inside > 0)


def _shares_inside(evidence: Evidence, window: Window) -> torch.Tensor:
    """(gh, gw) float64: the share of each patch's area inside the window."""
    rows, columns = evidence.grid.shares_inside(window)
    return torch.outer(
        torch.tensor(rows, dtype=torch.float64), torch.tensor(columns, dtype=torch.float64)
    )


def _pixels_of(edges: list[float], side_px: int) -> torch.Tensor:
    """(side_px, cells) float32: 1 where a row or column of pixels belongs to one of patches."""
    clipped = np.clip(edges, 0, side_px)
    rounded = np.floor(clipped + 0.5 + SLACK_PX)  # an edge at 4.4999999 is meant to be at 4.5
    start, end = rounded[:-1], rounded[1:]
    # A patch smaller than a pixel may round to nothing: it gets the pixel that its middle is in. A
    # patch outside the picture gets none, though inexact edges may leave it a sliver.
    middle = np.floor((clipped[:-1] + clipped[1:]) / 2 + SLACK_PX).clip(max=side_px - 1)
    lost = (start == end) & (np.diff(clipped) > SLACK_PX)
    start, end = np.where(lost, middle, start), np.where(lost, middle + 1, end)
    on_picture = start < end
    pixel = np.arange(side_px)[:, None]
    covered = on_picture & (pixel >= start) & (pixel < end)
    return torch.from_numpy(covered.astype(np.float32))


Colour = tuple[int, int, int]


def _mean_fill(picture: Image.Image, blocked: np.ndarray, mean_colour: Colour) -> np.ndarray:
    return np.array(mean_colour, dtype=np.uint8)


def _blur_fill(picture: Image.Image, blocked: np.ndarray, mean_colour: Colour) -> np.ndarray:
    deviation = max(math.sqrt(blocked.sum()) / 2, LEAST_BLUR_PX)
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(deviation)))


def _noise_fill(picture: Image.Image, blocked: np.ndarray, mean_colour: Colour) -> np.ndarray:
    generator = np.random.default_rng(NOISE_SEED)
    return generator.integers(0, 256, (picture.height, picture.width, 3), dtype=np.uint8)


# Each gives uint8 that broadcasts to (H, W, 3).
_FILLS = {"mean": _mean_fill, "blur": _blur_fill, "noise": _noise_fill}
