"""Methods that say where to look, by name, each a few lines over the same reading of a picture.

laser    what the settings make of it (arXiv 2602.04304; docs/method.md)
vicrop   ViCrop's relative attention and window search (arXiv 2502.17422, `rel_attention_*` and
         `bbox_from_att_image_adaptive` of github.com/saccharomycetes/mllms_know)
carve    CARVE's contrastive attention, masked crop (arXiv 2509.06461, version v3 of
         github.com/YuyaoGe/CARVE: the first token's attention)
max      the largest share at each patch in any layer, all heads (github.com/Team-M3OW/vlm-hallu)
raw      laser's rule without the contrast: the attention with the question
random   patches and a window drawn without looking, the same for the same item
centre   the middle of the picture
whole    no window: the whole picture, at as many tokens as picture and crop take together, where a
         model's tokens follow the picture's size

What differs from the published codes: a map lies where the model's patches lie on the picture, and
not on all of it where it was padded; prompts are the family's. `read_at` moves the reading of all
methods to a draft's end; each prompt then has a draft of its own. The codes' variants with
gradients need more than this reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from PIL import Image

from ..engine.branches import read_rows
from ..geometry import Window, whole_picture
from ..models.chat import Prompt
from ..models.lvlm import Lvlm
from ..one_at_a_time import one_at_a_time
from ..output.heat import heat_map, on_picture
from ..output.masks import box_of, connected_parts
from ..pictures import PictureInputs
from ..recipes.high_resolution import finer_rows
from ..results import AttentionMaps, Evidence
from ..settings import DRAFTED, ContrastSettings, LaserSettings, LayerSettings
from ..steps.crop import ADAPTIVE_RATIOS, place_windows
from ..steps.vaq import contrast, make_evidence, select_layer

ASKED, FREE, GENERIC = range(3)  # prompts: with the question, without it, and ViCrop's in its place

# ViCrop's layer and how many its model has: LLaVA-1.5-7B; Qwen2.5-VL-3B
VICROP_LAYER, VICROP_LAYER_NATIVE = (14, 32), (22, 36)
VICROP_SIDE_NATIVE_PX = 224
CARVE_LAYERS, CARVE_REGULARISER = (20, 25), 1e-8  # of 32
CARVE_SHARE, CARVE_REGIONS = 0.2, 3  # of the pixels, the strongest; how many regions at the least


@dataclass(frozen=True)
class Reading:
    """A picture read once for all methods.

    rows: (3, L, H, gh, gw) float32 on the CPU, of the prompts ASKED, FREE and GENERIC. maps: with
    the branch without the question as the settings have it. prompts: those of the whole picture.
    """

    lvlm: Lvlm
    picture: Image.Image
    inputs: PictureInputs
    question: str
    settings: LaserSettings
    rows: torch.Tensor
    maps: AttentionMaps
    prompts: tuple[Prompt, Prompt, Prompt]
    item: str = ""

    @property
    def layers(self) -> int:
        return len(self.maps.with_query)

    def ratios(self, regulariser: float = 0.0) -> torch.Tensor:
        """(L, gh, gw): heads' mean with the question over that with ViCrop's generic one."""
        asked, generic = self.rows[ASKED].mean(dim=1), self.rows[GENERIC].mean(dim=1)
        return asked / (generic + regulariser)

    def evidence(self, cells: torch.Tensor) -> Evidence:
        return Evidence(cells, self.maps.grid, self.maps.picture_size)


@dataclass(frozen=True)
class Found:
    """Where a method looks.

    evidence: its map. window, crop: where, and what is shown beside the picture; None for nothing.
    """

    evidence: Evidence | None
    window: Window | None
    crop: Image.Image | None = None


@dataclass(frozen=True)
class Method:
    """title: for people. reads: the prompts whose attention it uses. find: where it looks."""

    title: str
    reads: tuple[int, ...]
    find: Callable[[Reading], Found]


@one_at_a_time
@torch.inference_mode()
def read_for_methods(
    lvlm: Lvlm,
    picture: Image.Image,
    question: str,
    settings: LaserSettings = LaserSettings(),
    *,
    high_resolution: bool = False,
    item: str = "",
) -> Reading:
    """One RGB picture read for all methods, its three prompts in as few forwards as they take.

    high_resolution: by its parts (`recipes.high_resolution`). item: seeds what is drawn at random.
    Raises ValueError as `read_attention` does.
    """
    generic = replace(settings.prompt, query_free="generic question")

    def prompts_of(part: PictureInputs) -> tuple[Prompt, Prompt, Prompt]:
        asked, free = lvlm.branch_prompts(part, question, settings.prompt)
        return asked, free, lvlm.branch_prompts(part, question, generic)[1]

    def rows_of(part: PictureInputs) -> torch.Tensor:
        read = read_rows(lvlm, prompts_of(part), drafted=settings.prompt.read_at == DRAFTED)
        rows = torch.stack([row.attention for row in read])
        return rows.unflatten(-1, (part.grid.rows, part.grid.columns))

    inputs = lvlm.encode(picture, settings.prompt.framing)
    if high_resolution:
        rows, grid = finer_rows(lvlm, picture, inputs, rows_of, settings.prompt.framing)
    else:
        rows, grid = rows_of(inputs), inputs.grid
    without = GENERIC if settings.prompt == generic else FREE
    maps = AttentionMaps(rows[ASKED], rows[without], grid, inputs.picture_size, None, lvlm.band)
    prompts = prompts_of(inputs)
    return Reading(lvlm, picture, inputs, question, settings, rows, maps, prompts, item)


def vicrop_window(cells: np.ndarray, size: tuple[int, int], side_px: float) -> Window:
    """ViCrop's search, over whole patches, for the window that stands out most.

    cells: (rows, columns) that cover a picture of `size` (width, height). side_px: the smallest
    window's side; it grows to twice that. As published, but for windows smaller than a patch, which
    are one patch here and an error there.
    """
    (rows, columns), (width, height) = cells.shape, size
    cell_width, cell_height = width / columns, height / rows
    best: tuple[float, int, int] | None = None
    most = -np.inf
    for ratio in ADAPTIVE_RATIOS:
        side = side_px * ratio
        across = min(max(int(side / cell_width), 1), columns)
        down = min(max(int(side / cell_height), 1), rows)
        if across == columns and down == rows:
            if ratio == 1:
                return whole_picture(size)
            continue
        sums = np.lib.stride_tricks.sliding_window_view(cells, (down, across)).sum((-2, -1))
        x, y = divmod(int(sums.T.argmax()), sums.shape[0])
        around = [
            sums[j, i]
            for j, i in ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
            if 0 <= j < sums.shape[0] and 0 <= i < sums.shape[1]
        ]
        stands_out = (sums[y, x] - np.mean(around)) / (across * down)
        if stands_out > most:
            centre_x = int(x * cell_width + cell_width * across / 2)
            centre_y = int(y * cell_height + cell_height * down / 2)
            best, most = (side, centre_x, centre_y), stands_out
    if best is None:  # a map that is not finite
        return whole_picture(size)
    side, centre_x, centre_y = best
    x1, x2 = _around(centre_x, int(side // 2), width)
    y1, y2 = _around(centre_y, int(side // 2), height)
    return Window(x1, y1, x2, y2)


def _around(centre: int, half: int, limit: int) -> tuple[int, int]:
    """As far as half a side to either side of a centre, on a picture that ends at `limit`."""
    centre = min(max(centre, half), limit - half)
    return max(0, centre - half), min(limit, centre + half)


def carve_mask(strengths: np.ndarray) -> np.ndarray:
    """(H, W) bool: CARVE's regions of the strongest CARVE_SHARE of the pixels.

    strengths: (H, W). Kept are the CARVE_REGIONS connected regions (4 neighbours) of the largest
    sums, or a fifth of all where that is more.
    """
    hot = strengths >= np.percentile(strengths, (1 - CARVE_SHARE) * 100)
    parts = connected_parts(hot)
    sums = np.bincount(parts.ravel(), strengths.ravel().astype(np.float64))
    names = np.unique(parts[hot])
    keep = max(CARVE_REGIONS, int(len(names) * CARVE_SHARE))
    return np.isin(parts, names[np.argsort(-sums[names], kind="stable")][:keep])


# ---- the methods -------------------------------------------------------------------------------


def _placed(reading: Reading, evidence: Evidence, window: Window | None = None) -> Found:
    window = window or place_windows(evidence, reading.settings.crop).windows[0]
    whole = window == whole_picture(reading.picture.size)
    return Found(evidence, window, None if whole else reading.picture.crop(window))


def _by_rule(reading: Reading, kind: str, layer: LayerSettings) -> Found:
    contrasted = contrast(reading.maps, ContrastSettings(kind))
    choice = select_layer(contrasted, layer, reading.maps.band)
    return _placed(reading, make_evidence(contrasted, choice, reading.maps))


def _laser(reading: Reading) -> Found:
    settings = reading.settings
    return _by_rule(reading, settings.contrast.kind, settings.layer)


def _max(reading: Reading) -> Found:
    every = LayerSettings(rule="max", first_depth=0.0, last_depth=1.0, top_heads=256)
    return _by_rule(reading, "contrastive", every)


def _raw(reading: Reading) -> Found:
    return _by_rule(reading, "raw", reading.settings.layer)


def _vicrop(reading: Reading) -> Found:
    lvlm, native = reading.lvlm, reading.lvlm.family.native_resolution
    layer, of = VICROP_LAYER_NATIVE if native else VICROP_LAYER
    evidence = reading.evidence(reading.ratios()[_as_deep(layer, of, reading.layers)])
    cells, _ = on_picture(evidence.map[None], evidence.grid, evidence.picture_size)
    vision = lvlm.model.config.vision_config
    side = VICROP_SIDE_NATIVE_PX if native else vision.image_size
    window = vicrop_window(cells[0].double().numpy(), reading.picture.size, side)
    return _placed(reading, evidence, window)


def _carve(reading: Reading) -> Found:
    first, last = (_as_deep(layer, 32, reading.layers) for layer in CARVE_LAYERS)
    cells = reading.ratios(CARVE_REGULARISER)[first : last + 1].sum(dim=0)
    evidence = reading.evidence(cells)
    mask = carve_mask(heat_map(evidence).numpy())
    window = box_of(torch.from_numpy(mask)) or whole_picture(reading.picture.size)
    pixels = np.where(mask[..., None], np.asarray(reading.picture), 0).astype(np.uint8)
    return Found(evidence, window, Image.fromarray(pixels).crop(window))


def _random(reading: Reading) -> Found:
    rng = np.random.default_rng(zlib.crc32(f"{reading.item} {reading.question}".encode()))
    cells = torch.from_numpy(rng.random(reading.maps.with_query.shape[-2:], np.float32))
    like = _centre(reading).window
    assert like is not None
    window = random_window(reading.picture, like, rng)
    return _placed(reading, reading.evidence(cells), window)


def random_window(picture: Image.Image, like: Window, rng: np.random.Generator) -> Window:
    """As large as another window, anywhere on the picture."""
    x = int(rng.integers(0, picture.width - like.width + 1))
    y = int(rng.integers(0, picture.height - like.height + 1))
    return Window(x, y, x + like.width, y + like.height)


def _centre(reading: Reading) -> Found:
    grid, (width, height) = reading.maps.grid, reading.picture.size
    xs, ys = (
        torch.tensor([(low + high) / side - 1 for low, high in pairwise(edges)])
        for edges, side in ((grid.x_edges, width), (grid.y_edges, height))
    )
    # As wide as half the picture: what falls off from the middle, in units of a quarter of its side
    cells = torch.exp(-2 * (xs[None] ** 2 + ys[:, None] ** 2))
    return _placed(reading, reading.evidence(cells))


def _whole(reading: Reading) -> Found:
    return Found(None, None)


def _as_deep(layer: int, of: int, layers: int) -> int:
    """A layer as published; of a model of fewer layers than that the one at the same depth."""
    return layer if layer < layers else round(layer * (layers - 1) / (of - 1))


METHODS: dict[str, Method] = {
    "laser": Method("LASER", (ASKED, FREE), _laser),
    "vicrop": Method("ViCrop, relative attention", (ASKED, GENERIC), _vicrop),
    "carve": Method("CARVE, contrastive attention", (ASKED, GENERIC), _carve),
    "max": Method("largest share in any layer", (ASKED, FREE), _max),
    "raw": Method("attention with the question alone", (ASKED,), _raw),
    "random": Method("random window", (), _random),
    "centre": Method("the picture's centre", (), _centre),
    "whole": Method("whole picture, equal tokens", (), _whole),
}
