"""Contrastive attention, Visual Activation by Query (VAQ), layers and evidence map.

Steps 3-6 of docs/method.md (arXiv 2602.04304, Eqs. 3-5), from attention maps to one map of where
the question makes the model look. Knows no model: the maps are captured elsewhere.
L: decoder layers, H: query heads, K: the top heads, (gh, gw): the picture's patch grid.
"""

from __future__ import annotations

from functools import partial

import torch
from einops import einsum, rearrange, reduce

from ..geometry import Box, Grid
from ..results import AttentionMaps, Evidence, LayerChoice
from ..settings import OF_FAMILY, ContrastSettings, LayerSettings

# Map kind 'relative' divides by at least this share of its layer's mean. Otherwise an attention
# that half precision rounds to almost zero would outshine the whole map.
SMALLEST_DIVISOR = 1e-3

WHOLE_DEPTH = (0.0, 1.0)

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
    contrast: torch.Tensor, settings: LayerSettings, band: tuple[float, float] = WHOLE_DEPTH
) -> LayerChoice:
    """The layers and heads the evidence comes from, by VAQ (steps 4-5, Eqs. 4-5).

    contrast: (L, H, gh, gw). band: the first and last depth that are searched where the settings
    leave it to the model's family. A layer l is searched when first <= l / (L - 1) <= last; a model
    of one layer has it searched always. `top_heads` of the H heads of a layer count, or all where
    there are fewer; a layer's VAQ is their mean. Ties go to the lowest layer and head.

    argmax: the searched layer of the highest VAQ alone (Eq. 5).
    fuse: all of them, weighed by VAQ, evenly when every VAQ is zero. Our addition.
    max: all of them, each as shares of its own sum, by the largest share at each patch.
    heads: the `top_heads` heads of all of them with the highest product of VAQ and concentration,
        which is the sum of a map's squared shares: 1 for one patch, 1 / N for an even map.

    A layer given by hand overrides rule and band. NaN counts as larger than any number, so broken
    attention is chosen and reported, not skipped. Raises ValueError when the given layer does not
    exist or the band holds none.
    """
    scores = score_heads(contrast)
    vaq_of_heads, heads = _descending(scores)
    heads = heads[:, : settings.top_heads]
    vaq = reduce(vaq_of_heads[:, : settings.top_heads], "l k -> l", "mean")
    chosen = partial(LayerChoice, vaq=vaq, heads=heads)

    if settings.layer >= 0:
        layer = _checked_layer(settings.layer, len(vaq))
        return chosen(layer, weights={layer: 1.0}, reason=_reason_by_hand(layer, vaq))

    searched = _searched_layers(len(vaq), settings, band)
    order = _descending(vaq[searched])[1]
    ranked = [searched[index] for index in order.tolist()]
    if settings.rule == "heads":
        picked = _best_heads(contrast, scores, ranked, settings.top_heads)
        weights = {
            layer: len(own) / sum(map(len, picked.values())) for layer, own in picked.items()
        }
        layer = max(weights, key=weights.__getitem__)
        return chosen(layer, weights=weights, reason=_reason_heads(picked, vaq), picked=picked)
    if settings.rule == "argmax" or len(ranked) == 1:
        return chosen(ranked[0], weights={ranked[0]: 1.0}, reason=_reason_best(ranked, vaq))
    if settings.rule == "max":
        even = dict.fromkeys(ranked, 1 / len(ranked))
        reason = _reason_fused(ranked, vaq, "the largest share at each patch")
        return chosen(ranked[0], weights=even, reason=reason, largest=True)
    reason = _reason_fused(ranked, vaq, "weighed by VAQ")
    return chosen(ranked[0], weights=_vaq_weights(ranked, vaq), reason=reason)


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
    heads = choice.picked.get(layer, choice.heads[layer])
    return reduce(contrast[layer, heads], "k gh gw -> gh gw", "mean")


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


def _checked_layer(layer: int, layers: int) -> int:
    if layer >= layers:
        raise ValueError(
            f"choose a layer from 0 to {layers - 1}, or -1 to let the rule choose: layer is "
            f"{layer}, and this model has {layers} layers"
        )
    return layer


def _searched_layers(layers: int, settings: LayerSettings, band: tuple[float, float]) -> list[int]:
    if layers == 1:
        return [0]
    first, last = (
        own if given == OF_FAMILY else given
        for given, own in zip((settings.first_depth, settings.last_depth), band, strict=True)
    )
    # The slack keeps layer 6 of 21 inside 0.3, whatever 6 / 20 rounds to.
    searched = [n for n in range(layers) if first - 1e-9 <= n / (layers - 1) <= last + 1e-9]
    if not searched and (first, last) == band:  # a model of very few layers: the nearest
        return [min(range(layers), key=lambda n: abs(n / (layers - 1) - (first + last) / 2))]
    if not searched:
        raise ValueError(
            f"widen first_depth {first:g} to last_depth {last:g}: none of this model's {layers} "
            "layers lies between them"
        )
    return searched


def _best_heads(
    contrast: torch.Tensor, scores: torch.Tensor, layers: list[int], count: int
) -> dict[int, list[int]]:
    """{layer: heads} of the `count` heads in these layers that are moved most, to one place."""
    layers = sorted(layers)
    maps = rearrange(contrast[layers], "l h gh gw -> (l h) (gh gw)")
    totals = maps.sum(dim=1, keepdim=True)
    shares = maps / totals.where(totals != 0, 1.0)
    best = _descending(scores[layers].flatten() * shares.square().sum(dim=1))[1][:count]
    picked: dict[int, list[int]] = {}
    for index in best.tolist():
        layer, head = divmod(index, contrast.shape[1])
        picked.setdefault(layers[layer], []).append(head)
    return picked


def _vaq_weights(layers: list[int], vaq: torch.Tensor) -> dict[int, float]:
    scores = vaq[layers].double()
    total = scores.sum()
    scores = torch.full_like(scores, 1 / len(layers)) if total == 0 else scores / total
    return dict(zip(layers, scores.tolist(), strict=True))


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


def _reason_best(ranked: list[int], vaq: torch.Tensor) -> str:
    best, name = ranked[0], f"layer {ranked[0]} of {len(vaq)}"
    score = float(vaq[best])
    if score != score:
        return f"{name}: its attention is not finite, so nothing can be found"
    if score == 0:
        return f"{name}: the question moves no layer (every VAQ is 0)"
    if len(ranked) == 1:
        return f"{name}: the only layer searched (VAQ {score:.3g})"
    second = ranked[1]
    return (
        f"{name}: the question moves it most (VAQ {score:.3g}, next best {float(vaq[second]):.3g} "
        f"at layer {second})"
    )


def _reason_fused(fused: list[int], vaq: torch.Tensor, how: str) -> str:
    if not float(vaq[fused[0]]) > 0:
        return _reason_best(fused, vaq)
    named = [f"{layer} (VAQ {float(vaq[layer]):.3g})" for layer in fused[:REASONS]]
    then = f", then {', '.join(named[1:])}" if named[1:] else ""
    return (
        f"{len(fused)} of {len(vaq)} layers, {how}: the question moves layer {named[0]} most{then}"
    )


def _reason_heads(picked: dict[int, list[int]], vaq: torch.Tensor) -> str:
    first = next(iter(picked))
    if not float(vaq[first]) > 0:
        return _reason_best([first], vaq)
    heads = sum(map(len, picked.values()))
    return (
        f"{heads} heads of {len(picked)} of {len(vaq)} layers, moved most and to one place: the "
        f"first is head {picked[first][0]} of layer {first}"
    )


def _reason_by_hand(layer: int, vaq: torch.Tensor) -> str:
    rank = _descending(vaq)[1].tolist().index(layer) + 1
    return f"layer {layer} of {len(vaq)}: set by hand (VAQ {float(vaq[layer]):.3g}, rank {rank})"
