"""Steps 3-6 against loops over layers, heads, rows and columns in plain NumPy."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_core.geometry import Box, Grid
from laser_core.results import AttentionMaps, Band
from laser_core.settings import ContrastSettings, LayerSettings
from laser_core.steps import vaq
from laser_core.steps.vaq import (
    contrast,
    make_evidence,
    make_evidence_of_mask,
    map_layer,
    score_heads,
    select_layer,
)

KINDS = ("contrastive", "raw", "relative")
RULES = ("argmax", "fuse", "max", "heads")


def maps_of(with_query, without_query):
    rows, columns = with_query.shape[-2:]
    grid = Grid(rows, columns, Box(0, 0, 10.0 * columns, 10.0 * rows))
    return AttentionMaps(with_query, without_query, grid, (10 * columns, 10 * rows))


def random_maps(layers=3, heads=4, rows=5, columns=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, layers, heads, rows * columns + 3, generator=generator)
    # The last three tokens are text: the picture's attention does not sum to 1.
    attention = (2 * logits).softmax(dim=-1)[..., :-3].reshape(2, layers, heads, rows, columns)
    return maps_of(*attention.contiguous())


def flat_maps(vaq_scores, seed=0):
    """(L, 1, 1, 1): contrast maps of one head and one patch whose VAQ are these scores."""
    return torch.tensor(vaq_scores, dtype=torch.float32).reshape(-1, 1, 1, 1)


def reference_contrast(with_query, without_query, kind):
    q, base = (values.double().numpy() for values in (with_query, without_query))
    if kind == "relative":
        q, base = q.mean(axis=1, keepdims=True), base.mean(axis=1, keepdims=True)
    result = np.empty_like(q)
    for index in np.ndindex(*q.shape):
        result[index] = {
            "contrastive": max(q[index] - base[index], 0),
            "raw": q[index],
            "relative": q[index] / base[index],
        }[kind]
    return result


def reference_vaq(maps, top_heads):
    """Per layer: its VAQ and its top heads, by sorting lists."""
    scores, heads = [], []
    for layer in maps.double().numpy():
        norms = [math.sqrt(sum(value**2 for value in head.ravel())) for head in layer]
        best = sorted(range(len(norms)), key=lambda head, norms=norms: (-norms[head], head))
        heads.append(best[:top_heads])
        scores.append(sum(norms[head] for head in heads[-1]) / len(heads[-1]))
    return scores, heads


# Step 3


@pytest.mark.parametrize("kind", KINDS)
def test_contrast_is_what_a_loop_over_all_patches_gives(kind):
    maps = random_maps()
    result = contrast(maps, ContrastSettings(kind))
    expected = reference_contrast(maps.with_query, maps.without_query, kind)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_contrast_leaves_the_maps_as_they_were(kind):
    maps, before = random_maps(), random_maps()
    contrast(maps, ContrastSettings(kind)).fill_(7)
    assert torch.equal(maps.with_query, before.with_query)
    assert torch.equal(maps.without_query, before.without_query)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_attention_gives_a_zero_map_and_no_division_by_zero(kind):
    zeros = torch.zeros(2, 3, 4, 4)
    assert torch.equal(
        contrast(maps_of(zeros, zeros), ContrastSettings(kind)).unique(), torch.zeros(1)
    )


@pytest.mark.parametrize("rounded", [0.0, 1e-9])
def test_a_ratio_to_rounded_attention_does_not_outshine_the_map(rounded):
    above = torch.full((1, 1, 10, 10), 0.01)
    below = above.clone()
    above[0, 0, 0, 0], below[0, 0, 0, 0] = 1e-7, rounded  # noise over what half precision lost
    above[0, 0, 5, 5] = 0.02
    ratio = contrast(maps_of(above, below), ContrastSettings("relative"))[0, 0]
    assert divmod(int(ratio.argmax()), 10) == (5, 5)


def test_attention_without_any_to_compare_it_with_has_ratio_zero():
    maps = maps_of(torch.full((1, 2, 3, 3), 0.1), torch.zeros(1, 2, 3, 3))
    assert not contrast(maps, ContrastSettings("relative")).any()


@pytest.mark.parametrize("kind", ["contrastive", "relative"])
def test_equal_branches_are_not_told_apart(kind):
    branch = random_maps().with_query
    result = contrast(maps_of(branch, branch.clone()), ContrastSettings(kind))
    assert result.unique().tolist() == [0.0 if kind == "contrastive" else 1.0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("kind", "branch"),
    [
        (kind, branch)
        for kind in KINDS
        for branch in ("with_query", "without_query")
        if (kind, branch) != ("raw", "without_query")
    ],
)
def test_one_broken_value_makes_the_evidence_degenerate(kind, branch, broken, rule):
    maps = random_maps()
    getattr(maps, branch)[1, 2, 3, 4] = broken
    compared = contrast(maps, ContrastSettings(kind))
    choice = select_layer(compared, LayerSettings(top_heads=2, rule=rule))
    assert make_evidence(compared, choice, maps).degenerate


# Step 4


def test_head_scores_are_the_norms_of_their_maps():
    maps = random_maps().with_query
    scores = score_heads(maps)
    assert scores.shape == maps.shape[:2]
    for layer, head in itertools.product(range(3), range(4)):
        expected = math.sqrt(sum(value**2 for value in maps[layer, head].flatten().tolist()))
        assert scores[layer, head].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("top_heads", [1, 2, 3, 4, 8])
def test_a_layers_vaq_is_the_mean_over_its_top_heads(top_heads):
    maps = random_maps(layers=5).with_query
    choice = select_layer(maps, LayerSettings(top_heads=top_heads))
    scores, heads = reference_vaq(maps, top_heads)
    np.testing.assert_allclose(choice.vaq.numpy(), scores, rtol=1e-5)
    assert choice.heads.tolist() == heads


@pytest.mark.parametrize(("heads", "counting"), [(1, 1), (4, 4), (8, 8), (28, 8), (32, 8)])
def test_eight_heads_count_by_default_or_all_there_are(heads, counting):
    assert select_layer(torch.ones(2, heads, 2, 2), LayerSettings()).heads.shape == (2, counting)


def test_heads_that_tie_are_taken_from_the_lowest():
    maps = torch.ones(1, 40, 2, 2)
    assert select_layer(maps, LayerSettings(top_heads=5)).heads.tolist() == [[0, 1, 2, 3, 4]]


# Step 5


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=40))
def test_the_layer_is_the_first_of_those_with_the_highest_vaq(scores):
    choice = select_layer(flat_maps(scores), LayerSettings(rule="argmax"))
    assert choice.layer == scores.index(max(scores))
    assert choice.weights == {choice.layer: 1.0}


@given(
    st.integers(2, 40),
    st.integers(0, 20).map(lambda twentieths: twentieths * 0.05),
    st.integers(0, 20).map(lambda twentieths: twentieths * 0.05),
)
def test_only_layers_within_the_range_of_depth_are_searched(layers, one, other):
    first, last = sorted((min(one, 1.0), min(other, 1.0)))
    maps = flat_maps(range(layers, 0, -1))  # the lowest layer searched wins
    settings = LayerSettings(first_depth=first, last_depth=last)
    # in whole twentieths, which no rounding disturbs
    low, high = round(first * 20), round(last * 20)
    inside = [
        layer for layer in range(layers) if low * (layers - 1) <= 20 * layer <= high * (layers - 1)
    ]
    if inside:
        assert select_layer(maps, settings).layer == inside[0]
        assert set(
            select_layer(
                maps,
                LayerSettings(rule="fuse", first_depth=first, last_depth=last),
            ).weights
        ) == set(inside)
    else:
        with pytest.raises(ValueError, match=f"none of this model's {layers} layers lies between"):
            select_layer(maps, settings)


def test_a_layer_on_the_edge_of_the_range_is_searched_in_spite_of_rounding():
    fifteen_percent = 3 * 0.05
    assert fifteen_percent > 3 / 20
    settings = LayerSettings(first_depth=fifteen_percent, last_depth=fifteen_percent)
    assert select_layer(flat_maps(range(21)), settings).layer == 3


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_model_of_one_layer_has_it_chosen_at_any_depth(depth):
    settings = LayerSettings(first_depth=depth, last_depth=depth)
    assert select_layer(flat_maps([0.3]), settings).layer == 0


def test_a_range_without_layers_is_refused_with_the_remedy():
    settings = LayerSettings(first_depth=0.4, last_depth=0.45)
    with pytest.raises(ValueError) as error:
        select_layer(flat_maps([1, 2, 3]), settings)
    assert str(error.value) == (
        "widen first_depth 0.4 to last_depth 0.45: none of this model's 3 layers lies between them"
    )


def test_the_familys_band_is_searched_where_no_depth_is_given():
    maps = flat_maps([1] * 11)
    assert set(select_layer(maps, LayerSettings(), Band(0.45, 0.81)).weights) == {5, 6, 7, 8}
    given = LayerSettings(first_depth=0.7)
    assert set(select_layer(maps, given, Band(0.45, 0.81)).weights) == {7, 8}
    whole = LayerSettings(first_depth=0.0, last_depth=1.0)
    assert set(select_layer(maps, whole, Band(0.45, 0.81)).weights) == set(range(11))


def test_a_model_with_no_layer_in_its_familys_band_has_the_nearest_searched():
    assert select_layer(flat_maps([2, 1]), LayerSettings(), Band(0.45, 0.81)).weights == {1: 1.0}


SPARSE = Band(0.4, 0.9, numbers=(3, 7, 11, 15), layers=16)
"""Of a decoder in which every fourth layer has maps."""


@pytest.mark.parametrize("rule", RULES)
def test_layers_are_named_and_searched_by_their_place_in_the_whole_decoder(rule):
    maps = flat_maps([0.9, 0.1, 0.8, 0.7])
    choice = select_layer(maps, LayerSettings(rule=rule, top_heads=2), SPARSE)
    assert choice.layer == 11
    assert set(choice.weights) == ({11} if rule == "argmax" else {7, 11})
    assert (choice.numbers, choice.count) == (SPARSE.numbers, 16)
    assert " of 16" in choice.reason
    assert float(map_layer(maps, choice, 11)) == pytest.approx(0.8)


def test_a_layer_without_maps_is_refused_with_those_that_have_some():
    maps = flat_maps([1, 2, 3, 4])
    assert select_layer(maps, LayerSettings(layer=15), SPARSE).weights == {15: 1.0}
    with pytest.raises(ValueError) as error:
        select_layer(maps, LayerSettings(layer=5), SPARSE)
    assert str(error.value) == (
        "choose a layer of 3, 7, 11, 15, or -1 to let the rule choose: layer is 5, and the others "
        "of this model's 16 layers are linear and have no maps"
    )


@pytest.mark.parametrize("rule", RULES)
def test_a_layer_given_by_hand_overrides_rule_and_range(rule):
    settings = LayerSettings(layer=0, rule=rule, first_depth=1.0)
    choice = select_layer(flat_maps([1, 2, 3]), settings)
    assert (choice.layer, choice.weights) == (0, {0: 1.0})


def test_a_layer_the_model_does_not_have_is_refused_with_their_number():
    with pytest.raises(ValueError) as error:
        select_layer(flat_maps([1, 2, 3]), LayerSettings(layer=3))
    assert str(error.value) == (
        "choose a layer from 0 to 2, or -1 to let the rule choose: layer is 3, and this model has "
        "3 layers"
    )


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=2, max_size=40))
def test_all_layers_are_fused_in_proportion_to_vaq(scores):
    choice = select_layer(flat_maps(scores), LayerSettings(rule="fuse"))
    assert choice.layer == scores.index(max(scores))
    total = sum(scores)
    expected = [score / total if total else 1 / len(scores) for score in scores]
    assert [choice.weights[n] for n in range(len(scores))] == pytest.approx(expected)


def test_fused_layers_weigh_evenly_when_none_is_moved():
    choice = select_layer(flat_maps([0, 0, 0]), LayerSettings(rule="fuse"))
    assert choice.weights == {layer: pytest.approx(1 / 3) for layer in (0, 1, 2)}


def test_only_layers_of_the_range_are_fused():
    choice = select_layer(flat_maps([4, 1, 3]), LayerSettings(rule="fuse", first_depth=0.5))
    assert choice.weights == {1: pytest.approx(0.25), 2: pytest.approx(0.75)}


@pytest.mark.parametrize(
    ("scores", "settings", "reason"),
    [
        (
            [0.1, 0.79, 0.83],
            LayerSettings(rule="argmax"),
            "layer 2 of 3: the question moves it most (VAQ 0.83, next best 0.79 at layer 1)",
        ),
        ([0.5], LayerSettings(rule="argmax"), "layer 0 of 1: the only layer searched (VAQ 0.5)"),
        (
            [0, 0],
            LayerSettings(rule="argmax"),
            "layer 0 of 2: the question moves no layer (every VAQ is 0)",
        ),
        (
            [0, 0],
            LayerSettings(rule="fuse"),
            "layer 0 of 2: the question moves no layer (every VAQ is 0)",
        ),
        (
            [0.1, math.nan],
            LayerSettings(rule="argmax"),
            "layer 1 of 2: its attention is not finite, so nothing can be found",
        ),
        (
            [0.1, math.nan],
            LayerSettings(rule="fuse"),
            "layer 1 of 2: its attention is not finite, so nothing can be found",
        ),
        (
            [0.1, 0.79, 0.83],
            LayerSettings(rule="fuse", first_depth=0.5),
            "2 of 3 layers, weighed by VAQ: the question moves layer 2 (VAQ 0.83) most, "
            "then 1 (VAQ 0.79)",
        ),
        (
            [0.1, 0.2, 0.79, 0.83],
            LayerSettings(rule="fuse"),
            "4 of 4 layers, weighed by VAQ: the question moves layer 3 (VAQ 0.83) most, "
            "then 2 (VAQ 0.79), 1 (VAQ 0.2)",
        ),
        (
            [0.1, 0.79, 0.83],
            LayerSettings(rule="max", first_depth=0.5),
            "2 of 3 layers, the largest share at each patch: the question moves layer 2 (VAQ 0.83) "
            "most, then 1 (VAQ 0.79)",
        ),
        (
            [0.1, 0.79, 0.83],
            LayerSettings(rule="heads", top_heads=2),
            "2 heads of 2 of 3 layers, moved most and to one place: the first is head 0 of layer 2",
        ),
        (
            [0, 0],
            LayerSettings(rule="heads"),
            "layer 0 of 2: the question moves no layer (every VAQ is 0)",
        ),
        (
            [0.1, 0.79, 0.83],
            LayerSettings(layer=1),
            "layer 1 of 3: set by hand (VAQ 0.79, rank 2)",
        ),
    ],
)
def test_the_reason_tells_what_decided(scores, settings, reason):
    assert select_layer(flat_maps(scores), settings).reason == reason


# Step 6


@pytest.mark.parametrize("top_heads", [1, 3, 4])
def test_rule_max_takes_the_largest_share_of_the_searched_layers_at_each_patch(top_heads):
    maps = random_maps(layers=6)
    compared = contrast(maps, ContrastSettings())
    settings = LayerSettings(rule="max", top_heads=top_heads, first_depth=0.4)
    found = make_evidence(compared, select_layer(compared, settings), maps)
    _, heads = reference_vaq(compared, top_heads)
    expected = np.zeros(compared.shape[2:])
    for layer in (2, 3, 4, 5):
        mean = sum(compared[layer, head].double().numpy() for head in heads[layer]) / top_heads
        expected = np.maximum(expected, mean / mean.sum())
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("top_heads", [1, 5, 8])
def test_rule_heads_takes_those_moved_most_and_to_one_place_wherever_they_are(top_heads):
    maps = random_maps(layers=6)
    compared = contrast(maps, ContrastSettings())
    settings = LayerSettings(rule="heads", top_heads=top_heads, first_depth=0.4)
    choice = select_layer(compared, settings)
    scores = {}
    for layer, head in itertools.product((2, 3, 4, 5), range(4)):
        values = compared[layer, head].double().numpy()
        scores[layer, head] = math.sqrt((values**2).sum()) * ((values / values.sum()) ** 2).sum()
    best = sorted(scores, key=lambda pair: -scores[pair])[:top_heads]
    expected = sum(compared[pair].double().numpy() for pair in best) / top_heads
    found = make_evidence(compared, choice, maps)
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-5, atol=1e-9)
    assert {(layer, head) for layer, own in choice.picked.items() for head in own} == set(best)


@pytest.mark.parametrize("top_heads", [1, 3, 8])
def test_evidence_is_the_mean_over_the_chosen_layers_top_heads(top_heads):
    maps = random_maps()
    compared = contrast(maps, ContrastSettings())
    choice = select_layer(compared, LayerSettings(top_heads=top_heads, rule="argmax"))
    found = make_evidence(compared, choice, maps)
    heads = choice.heads[choice.layer].tolist()
    expected = sum(compared[choice.layer, head].numpy() for head in heads) / len(heads)
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-5, atol=1e-9)


def test_evidence_of_fused_layers_is_the_weighted_sum_of_theirs():
    maps = random_maps()
    compared = contrast(maps, ContrastSettings())
    choice = select_layer(compared, LayerSettings(top_heads=2, rule="fuse"))
    expected = np.zeros((5, 6))
    for layer, weight in choice.weights.items():
        for head in choice.heads[layer].tolist():
            expected += weight * compared[layer, head].numpy() / 2
    found = make_evidence(compared, choice, maps)
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-5, atol=1e-9)


def test_evidence_carries_grid_picture_size_and_choice():
    maps = random_maps()
    compared = contrast(maps, ContrastSettings())
    choice = select_layer(compared, LayerSettings())
    found = make_evidence(compared, choice, maps)
    assert (found.grid, found.picture_size) == (maps.grid, maps.picture_size)
    assert found.choice is choice


def test_evidence_on_the_padding_alone_is_degenerate():
    maps = random_maps(layers=1, heads=1, rows=2, columns=2)
    maps.with_query[0, 0] = torch.tensor([[0.0, 0.0], [0.3, 0.3]])
    padded = AttentionMaps(maps.with_query, maps.without_query, maps.grid, (20, 10))
    compared = contrast(padded, ContrastSettings("raw"))
    assert make_evidence(compared, select_layer(compared, LayerSettings()), padded).degenerate


# Masks


def test_a_mask_is_its_own_evidence():
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(0))
    found = make_evidence_of_mask(mask)
    assert torch.equal(found.map, mask)
    assert found.grid == Grid(7, 9, Box(0, 0, 9, 7))
    assert (found.picture_size, found.choice) == ((9, 7), None)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (8, 20), (13, 14), (6, 15), (15, 3)])
def test_a_large_mask_is_averaged_exactly_over_the_cells(height, width, monkeypatch):
    monkeypatch.setattr(vaq, "MASK_GRID_SIDE", 7)
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(0))
    found = make_evidence_of_mask(mask)
    expected = np.zeros((min(height, 7), min(width, 7)))
    for row, column in np.ndindex(*expected.shape):
        cell = found.grid.cell_box(row, column)
        for y, x in np.ndindex(height, width):
            expected[row, column] += mask[y, x] * cell.intersect(Box(x, y, x + 1, y + 1)).area
        expected[row, column] /= cell.area
    np.testing.assert_allclose(found.map.numpy(), expected, rtol=1e-5)


def test_cells_of_a_large_mask_beside_the_painted_area_are_exactly_zero():
    mask = torch.zeros(1, 3000)
    mask[0, 1000:2000] = 1
    cells = make_evidence_of_mask(mask).map[0]
    assert torch.equal(cells[:341], torch.zeros(341))
    assert torch.equal(cells[342:682], torch.ones(340))
    assert torch.equal(cells[683:], torch.zeros(341))
