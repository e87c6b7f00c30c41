"""Contrastive attention, Visual Activation by Query (VAQ), layers and evidence map.

Steps 3-6 of docs/method.md (arXiv 2602.04304, Eqs. 3-5), from attention maps to one map of where
the question makes the model look. Knows no model: the maps are captured elsewhere.
L: decoder layers with maps, H: query heads, K: the top heads, (gh, gw): the picture's patch grid.
A layer's row is its place among these L, its number the one in the decoder, which names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from einops import einsum, rearrange, reduce

from ..geometry import Box, Grid
from ..results import AttentionMaps, Band, Evidence, LayerChoice
from ..settings import OF_FAMILY, ContrastSettings, LayerSettings

# Map kind 'relative' divides by at least this share of its layer's mean. Otherwise an attention
# that half precision rounds to almost zero would outshine the whole map.
SMALLEST_DIVISOR = 1e-3

REASONS = 3  # layers named in the sentence about fused layers

# A mask may have millions of pixels; more cells than this per side would only cost time.
MASK_GRID_SIDE = 1024


def contrast(maps: AttentionMaps, settings: ContrastSettings) -> torch.Tensor:
    """What the question adds to the attention over the picture (step 3).

    Returns (L, H, gh, gw) float32 >= 0; the head axis has size 1 for kind 'relative'. With q and 0
    for the branches with and without the question:

    contrastive: ReLU(a_q - a_0), Eq. 3. raw: a_q. relative: mean over heads of a_q divided by
    that of a_0 (ViCrop, arXiv 2502.17422); 0 in a layer where a_0 is zero everywhere.

    Raises nothing: values that are not finite become NaN in the map, and `Evidence.degenerate`
    reports them.
    """
    with_query, without_query = map(_nan_if_not_finite, (maps.with_query, maps.without_query))
    if settings.kind == "raw":
        return with_query
    if settings.kind == "relative":
        return _ratio_of_head_means(with_query, without_query)
    return torch.relu(with_query - without_query)


def score_heads(contrast: torch.Tensor) -> torch.Tensor:
    """VAQ of every head: the L2 norm of its map over the picture (Eq. 4).

    contrast: (L, H, gh, gw). Returns (L, H) float32.
    """
    return torch.linalg.vector_norm(contrast, dim=(-2, -1))


def select_layer(
    contrast: torch.Tensor, settings: LayerSettings, band: Band = Band()
) -> LayerChoice:
    """The layers and heads the evidence comes from, by VAQ (steps 4-5, Eqs. 4-5).

    contrast: (L, H, gh, gw). band: which layers these are, and the first and last depth that are
    searched where the settings leave it to the model's family. Layer l of a decoder of N is
    searched when first <= l / (N - 1) <= last; a single one is searched always. `top_heads` of the
    H heads of a layer count, or all where there are fewer; a layer's VAQ is their mean. Ties go to
    the lowest layer and head.

    argmax: the searched layer of the highest VAQ alone (Eq. 5).
    fuse: all of them, weighed by VAQ, evenly when every VAQ is zero. Our addition.
    max: all of them, each as shares of its own sum, by the largest share at each patch.
    heads: the `top_heads` heads of all of them with the highest product of VAQ and concentration,
        which is the sum of a map's squared shares: 1 for one patch, 1 / N for an even map.

    A layer given by hand overrides rule and band. NaN counts as larger than any number, so broken
    attention is chosen and reported, not skipped. Raises ValueError when the given layer does not
    exist or has no maps, or when the depths hold none.
    """
    numbers = band.numbers or tuple(range(len(contrast)))
    count = band.layers or len(numbers)
    scores = score_heads(contrast)
    vaq_of_heads, heads = _descending(scores)
    heads = heads[:, : settings.top_heads]
    vaq = reduce(vaq_of_heads[:, : settings.top_heads], "l k -> l", "mean")
    chosen = partial(LayerChoice, vaq=vaq, heads=heads, numbers=numbers, count=count)
    said = _Said(dict(zip(numbers, vaq.tolist(), strict=True)), count)

    if settings.layer >= 0:
        layer = _checked_layer(settings.layer, numbers, count)
        rank = _descending(vaq)[1].tolist().index(numbers.index(layer)) + 1
        return chosen(layer, weights={layer: 1.0}, reason=said.by_hand(layer, rank))

    searched = _searched_rows(numbers, count, settings, band)
    order = _descending(vaq[searched])[1]
    rows = [searched[index] for index in order.tolist()]
    ranked = [numbers[row] for row in rows]
    if settings.rule == "heads":
        best = _best_heads(contrast, scores, rows, settings.top_heads)
        picked = {numbers[row]: own for row, own in best.items()}
        weights = {
            layer: len(own) / sum(map(len, picked.values())) for layer, own in picked.items()
        }
        layer = max(weights, key=weights.__getitem__)
        return chosen(layer, weights=weights, reason=said.heads(picked), picked=picked)
    if settings.rule == "argmax" or len(ranked) == 1:
        return chosen(ranked[0], weights={ranked[0]: 1.0}, reason=said.best(ranked))
    if settings.rule == "max":
        even = dict.fromkeys(ranked, 1 / len(ranked))
        reason = said.fused(ranked, "the largest share at each patch")
        return chosen(ranked[0], weights=even, reason=reason, largest=True)
    weights = dict(zip(ranked, _vaq_weights(vaq[rows]), strict=True))
    return chosen(ranked[0], weights=weights, reason=said.fused(ranked, "weighed by VAQ"))


def make_evidence(contrast: torch.Tensor, choice: LayerChoice, maps: AttentionMaps) -> Evidence:
    """The evidence map (step 6): the chosen layers' maps, each a mean over heads, joined.

    contrast: (L, H, gh, gw), the one that `choice` was made from. The layers are summed by weight;
    the weights sum to 1, and rule 'argmax' and a layer given by hand give all of it to one layer,
    as the paper does. Rule 'max' takes the largest share at each patch instead.
    """
    layers = torch.stack([map_layer(contrast, choice, layer) for layer in choice.weights])
    if choice.largest:
        totals = reduce(layers, "l gh gw -> l 1 1", "sum")
        joined = (layers / totals.where(totals != 0, 1.0)).amax(dim=0)
    else:
        weights = torch.tensor(list(choice.weights.values()))
        joined = einsum(weights, layers, "l, l gh gw -> gh gw")
    return Evidence(joined, maps.grid, maps.picture_size, choice)


def map_layer(contrast: torch.Tensor, choice: LayerChoice, layer: int) -> torch.Tensor:
    """(gh, gw): the mean over a layer's heads that count: those picked, or its top heads."""
    row = choice.numbers.index(layer)
    heads = choice.picked.get(layer, choice.heads[row])
    return reduce(contrast[row, heads], "k gh gw -> gh gw", "mean")


def make_evidence_of_mask(mask: torch.Tensor) -> Evidence:
    """A mask from elsewhere in place of the evidence map.

    mask: (H, W) float 0..1 at picture size. The map is the mask itself, averaged exactly over the
    cells of at most 1024 rows and columns; its layer choice is None.
    """
    height, width = mask.shape
    cells = _averaged(mask.double(), min(height, MASK_GRID_SIDE))
    cells = rearrange(cells, "gh w -> w gh")
    cells = rearrange(_averaged(cells, min(width, MASK_GRID_SIDE)), "gw gh -> gh gw")
    rows, columns = cells.shape
    grid = Grid(rows, columns, Box(0.0, 0.0, float(width), float(height)))
    return Evidence(cells.float().contiguous(), grid, (width, height))


def _nan_if_not_finite(values: torch.Tensor) -> torch.Tensor:
    """NaN survives every later step; an infinity would vanish in a ReLU or a division."""
    return values.where(values.isfinite(), torch.nan)


def _ratio_of_head_means(with_query: torch.Tensor, without_query: torch.Tensor) -> torch.Tensor:
    """(L, 1, gh, gw)"""
    above, below = (
        reduce(branch, "l h gh gw -> l 1 gh gw", "mean") for branch in (with_query, without_query)
    )
    floor = SMALLEST_DIVISOR * reduce(below, "l 1 gh gw -> l 1 1 1", "mean")
    divisor = torch.maximum(below, floor)
    return above / divisor.where(divisor != 0, torch.inf)


def _descending(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted values and their indices; ties keep the lower index first, NaN leads."""
    return torch.sort(values, dim=-1, descending=True, stable=True)


def _checked_layer(layer: int, numbers: tuple[int, ...], count: int) -> int:
    if layer in numbers:
        return layer
    if len(numbers) == count:
        choose, found = f"from 0 to {count - 1}", f"this model has {count} layers"
    else:
        choose = f"of {', '.join(map(str, numbers))}"
        found = f"the others of this model's {count} layers are linear and have no maps"
    raise ValueError(
        f"choose a layer {choose}, or -1 to let the rule choose: layer is {layer}, and {found}"
    )


def _searched_rows(
    numbers: tuple[int, ...], count: int, settings: LayerSettings, band: Band
) -> list[int]:
    if len(numbers) == 1:
        return [0]
    familys = band.first, band.last
    first, last = (
        own if given == OF_FAMILY else given
        for given, own in zip((settings.first_depth, settings.last_depth), familys, strict=True)
    )
    depths = [n / (count - 1) for n in numbers]
    # The slack keeps layer 6 of 21 inside 0.3, whatever 6 / 20 rounds to.
    searched = [row for row, at in enumerate(depths) if first - 1e-9 <= at <= last + 1e-9]
    if not searched and (first, last) == familys:  # a model of very few layers: the nearest
        return [min(range(len(depths)), key=lambda row: abs(depths[row] - (first + last) / 2))]
    if not searched:
        raise ValueError(
            f"widen first_depth {first:g} to last_depth {last:g}: none of this model's {count} "
            "layers lies between them" + (" and has maps" if len(numbers) < count else "")
        )
    return searched


def _best_heads(
    contrast: torch.Tensor, scores: torch.Tensor, rows: list[int], count: int
) -> dict[int, list[int]]:
    """{row: heads} of the `count` heads in these layers that are moved most, to one place."""
    rows = sorted(rows)
    maps = rearrange(contrast[rows], "l h gh gw -> (l h) (gh gw)")
    totals = maps.sum(dim=1, keepdim=True)
    shares = maps / totals.where(totals != 0, 1.0)
    best = _descending(scores[rows].flatten() * shares.square().sum(dim=1))[1][:count]
    picked: dict[int, list[int]] = {}
    for index in best.tolist():
        place, head = divmod(index, contrast.shape[1])
        picked.setdefault(rows[place], []).append(head)
    return picked


def _vaq_weights(vaq: torch.Tensor) -> list[float]:
    scores = vaq.double()
    total = scores.sum()
    return (torch.full_like(scores, 1 / len(vaq)) if total == 0 else scores / total).tolist()


def _averaged(values: torch.Tensor, parts: int) -> torch.Tensor:
    """Means over `parts` equal stretches of the first axis; a stretch may end inside an item."""
    length = values.shape[0]
    if parts == length:
        return values
    running = torch.cat([torch.zeros_like(values[:1]), values.cumsum(dim=0)])
    edges = torch.linspace(0, length, parts + 1, dtype=torch.float64)
    whole = edges.floor().clamp(max=length - 1).long()
    part = rearrange(edges - whole, "edge -> edge 1")
    at_edges = running[whole] + part * values[whole]
    return (at_edges.diff(dim=0) * (parts / length)).clamp(min=0.0)


@dataclass(frozen=True)
class _Said:
    """The sentence about a choice. vaq: {layer: score}; count: all the decoder's layers."""

    vaq: dict[int, float]
    count: int

    def best(self, ranked: list[int]) -> str:
        name, score = f"layer {ranked[0]} of {self.count}", self.vaq[ranked[0]]
        if score != score:
            return f"{name}: its attention is not finite, so nothing can be found"
        if score == 0:
            return f"{name}: the question moves no layer (every VAQ is 0)"
        if len(ranked) == 1:
            return f"{name}: the only layer searched (VAQ {score:.3g})"
        return (
            f"{name}: the question moves it most (VAQ {score:.3g}, next best "
            f"{self.vaq[ranked[1]]:.3g} at layer {ranked[1]})"
        )

    def fused(self, ranked: list[int], how: str) -> str:
        if not self.vaq[ranked[0]] > 0:
            return self.best(ranked)
        named = [f"{layer} (VAQ {self.vaq[layer]:.3g})" for layer in ranked[:REASONS]]
        then = f", then {', '.join(named[1:])}" if named[1:] else ""
        return (
            f"{len(ranked)} of {self.count} layers, {how}: the question moves layer {named[0]} "
            f"most{then}"
        )

    def heads(self, picked: dict[int, list[int]]) -> str:
        first = next(iter(picked))
        if not self.vaq[first] > 0:
            return self.best([first])
        heads = sum(map(len, picked.values()))
        return (
            f"{heads} heads of {len(picked)} of {self.count} layers, moved most and to one place: "
            f"the first is head {picked[first][0]} of layer {first}"
        )

    def by_hand(self, layer: int, rank: int) -> str:
        score = f"VAQ {self.vaq[layer]:.3g}, rank {rank}"
        return f"layer {layer} of {self.count}: set by hand ({score})"
