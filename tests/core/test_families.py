"""Every family's grid against what the library's processors and models make of a picture.

The oracle throughout: change some pixels of a picture, let the real processor (or the real
vision tower) run, and see what changed.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from itertools import product
from types import SimpleNamespace

import pytest
import torch
import transformers
from einops import rearrange
from PIL import Image

from laser_core.geometry import Box
from laser_core.models import chat_formats
from laser_core.models.families import (
    FAMILIES,
    chat_template_of,
    encode_picture,
    family_of,
    load_image_processor,
    mean_colour,
    set_visual_token_limits,
    usual_image_processor,
)
from laser_core.models.image_processors import image_processor_of
from tools.testbed import tiny
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES, WITH_MASKS, WITH_SLICES

ORDINARY = [(100, 70), (57, 101), (33, 77), (160, 10)]
EXTREME = [(1, 1), (1, 2000), (2000, 1), (3, 3000)]
"""(width, height) of pictures."""

# To take pictures: the others take them as one of these does
WAYS = (*REPRESENTATIVES, "glm4v", *WITH_MASKS, *WITH_SLICES)
NATIVE = [name for name in WAYS if FAMILIES[name].native_resolution]
FIXED = [name for name in WAYS if name not in NATIVE]
families = pytest.mark.parametrize("model_type", WAYS)


def sizes(*values):
    return pytest.mark.parametrize("size", values, ids=lambda size: f"{size[0]}x{size[1]}")


built = cache(tiny.build)


def encode(model_type, picture, framing="pad", tokens=None, processor=None, config=None):
    model = built(model_type)
    return encode_picture(
        FAMILIES[model_type],
        processor or model.image_processor,
        config or model.config,
        picture,
        framing,
        tokens,
    )


def flat(size, value=128):
    return Image.new("RGB", size, (value,) * 3)


def with_block(size, block, value=200):
    """A flat picture with one block (x1, y1, x2, y2) of another grey."""
    picture = flat(size)
    picture.paste((value,) * 3, block)
    return picture


def fed_pixels(inputs, config):
    """(3, H, W): what the vision tower sees of the view the grid lies on."""
    pixels = inputs.tensors["pixel_values"]
    if "image_position_ids" in inputs.tensors:
        pool = merged(config)
        rows, columns = pool * inputs.grid.rows, pool * inputs.grid.columns
        patches = 2 * pixels[0, : rows * columns] - 1  # as the model begins
        side = config.vision_config.patch_size
        pattern = "(gh gw) (ph pw c) -> c (gh ph) (gw pw)"
        return rearrange(patches, pattern, gh=rows, ph=side, pw=side)
    if "image_grid_thw" in inputs.tensors:
        vision = config.vision_config
        return rearrange(
            pixels,
            "(gh gw mh mw) (c t ph pw) -> t c (gh mh ph) (gw mw pw)",
            gh=inputs.grid.rows,
            gw=inputs.grid.columns,
            mh=vision.spatial_merge_size,
            mw=vision.spatial_merge_size,
            c=3,
            ph=vision.patch_size,
            pw=vision.patch_size,
        )[0]
    if "target_sizes" in inputs.tensors:
        rows, columns = inputs.tensors["target_sizes"][0].tolist()
        side = config.vision_config.patch_size
        pattern = "c ph (gh gw pw) -> c (gh ph) (gw pw)"
        return rearrange(pixels[0, ..., : rows * columns * side], pattern, gh=rows, gw=columns)
    return pixels.flatten(0, -4)[0]  # the base view, where tiles follow


def merged(config):
    """How many patches across become one token."""
    vision = config.vision_config
    if hasattr(config, "downsample_mode"):
        return 4
    if hasattr(config, "mm_tokens_per_image"):
        return vision.image_size // vision.patch_size // math.isqrt(config.mm_tokens_per_image)
    merge = getattr(vision, "spatial_merge_size", 1)
    return getattr(vision, "pooling_kernel_size", merge)


def covered_pixels(inputs, config):
    """(width, height) of the part of the fed pixels that the tower's patches cover."""
    side = config.vision_config.patch_size * merged(config)
    return inputs.grid.columns * side, inputs.grid.rows * side


def pixel_change(model_type, size, block, **options):
    """(H, W) summed change of the fed pixels, and the inputs of the changed picture."""
    config = options.get("config") or built(model_type).config
    before = encode(model_type, flat(size), **options)
    after = encode(model_type, with_block(size, block), **options)
    difference = fed_pixels(after, config) - fed_pixels(before, config)
    width, height = covered_pixels(after, config)
    return difference.sum(0)[:height, :width].double(), after


def block_at(size, x_share, y_share):
    """A block a fifth of the picture wide and high, at least a pixel, at a relative place."""
    width, height = size
    w, h = max(1, width // 5), max(1, height // 5)
    x, y = round(x_share * (width - w)), round(y_share * (height - h))
    return (x, y, x + w, y + h)


def assert_change_lies_under(block, change, grid):
    """The fed pixels that changed are those under the block, give or take the resampling kernel.

    The kernel (bicubic) reaches 2 pixels of the coarser raster; the block's edges and the output
    raster add one. A block of one source pixel may vanish in rounding where it is reduced, so
    only the part of the block well inside must have changed.
    """
    rows, columns = change.shape
    x_scale, y_scale = grid.view.width / columns, grid.view.height / rows  # source px per fed px
    x_reach, y_reach = 2 * max(1, x_scale) + x_scale, 2 * max(1, y_scale) + y_scale
    x = grid.view.x1 + (torch.arange(columns) + 0.5) * x_scale
    y = grid.view.y1 + (torch.arange(rows) + 0.5) * y_scale
    x1, y1, x2, y2 = block
    near = ((y > y1 - y_reach) & (y < y2 + y_reach))[:, None] & (
        (x > x1 - x_reach) & (x < x2 + x_reach)
    )
    inside = ((y > y1 + y_reach) & (y < y2 - y_reach))[:, None] & (
        (x > x1 + x_reach) & (x < x2 - x_reach)
    )
    changed = change != 0
    assert changed.any()
    assert not (changed & ~near).any(), "something changed away from the block"
    assert not (inside & ~changed).any(), "the block left its place unchanged"


def assert_centred(block, change, grid, tolerance=0.2):
    """The change's centre of mass lies on the block's, within `tolerance` fed pixels.

    Resampling is linear and its kernel symmetric, so the centre is kept to a fraction of a pixel.
    """
    rows, columns = change.shape
    x = float((change.sum(0) * (torch.arange(columns) + 0.5)).sum() / change.sum())
    y = float((change.sum(1) * (torch.arange(rows) + 0.5)).sum() / change.sum())
    middle = Box(*block).centre
    expected_x = (middle[0] - grid.view.x1) / grid.view.width * columns
    expected_y = (middle[1] - grid.view.y1) / grid.view.height * rows
    assert (x, y) == (
        pytest.approx(expected_x, abs=tolerance),
        pytest.approx(expected_y, abs=tolerance),
    )


# ---- where patches lie ------------------------------------------------------------------------


@families
@sizes(*ORDINARY, *EXTREME)
@pytest.mark.parametrize("place", [(0, 0), (0.7, 1)], ids=str)
def test_changed_patches_lie_under_the_changed_pixels(model_type, size, place):
    block = block_at(size, *place)
    change, inputs = pixel_change(model_type, size, block)
    assert_change_lies_under(block, change, inputs.grid)


@families
@sizes(*ORDINARY)
def test_the_view_is_exact_to_a_fraction_of_a_fed_pixel(model_type, size):
    block = block_at(size, 0.4, 0.6)
    change, inputs = pixel_change(model_type, size, block)
    assert_centred(block, change, inputs.grid)


UNPADDED = [
    (model_type, size)
    for model_type in WAYS
    for size in [*ORDINARY, (10, 161), (11, 55), (1, 1)]
    # its 6 rows of patches keep nothing of a longer one, which has a test of its own
    if model_type != "llava_next" or max(size) < 6 * min(size)
]


@pytest.mark.parametrize(("model_type", "size"), UNPADDED, ids=str)
def test_the_view_is_exact_without_padding(model_type, size):
    side = max(1, min(size) // 3)  # in the middle, which a centre crop keeps
    x, y = (size[0] - side) // 2, (size[1] - side) // 2
    block = (x, y, x + side, y + side)
    change, inputs = pixel_change(model_type, size, block, framing="processor")
    assert_change_lies_under(block, change, inputs.grid)
    if size != (1, 1):
        assert_centred(block, change, inputs.grid)


CLIP = ("llava", "CLIPImageProcessor")
PADDING = ("llava", "LlavaImageProcessor")
NEXT = ("llava_next", "LlavaNextImageProcessor")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CLIP, {"size": {"shortest_edge": 97}}),  # the crop is smaller than the short edge
        (CLIP, {"size": {"shortest_edge": 85}}),
        (CLIP, {"size": {"shortest_edge": 71}}),  # larger: filled with zeros
        (CLIP, {"size": {"height": 84, "width": 84}, "do_center_crop": False}),  # SigLIP's way
        (CLIP, {"size": {"height": 90, "width": 101}}),
        (CLIP, {"size": {"shortest_edge": 90}, "crop_size": {"height": 90, "width": 90}}),
        (CLIP, {"do_resize": False}),
        (PADDING, {"do_pad": True}),
        (PADDING, {"do_pad": False}),
        (NEXT, {"size": {"shortest_edge": 97}}),
        (NEXT, {"size": {"height": 84, "width": 84}}),
    ],
    ids=str,
)
@sizes((100, 70), (57, 101))
@pytest.mark.parametrize("framing", ["pad", "processor"])
def test_the_view_follows_the_processors_settings(kind, settings, size, framing):
    model_type, name = kind
    processor = on_pillow_84(name, settings)
    block = (size[0] // 2 - 9, size[1] // 2 - 7, size[0] // 2 + 4, size[1] // 2 + 8)
    change, inputs = pixel_change(model_type, size, block, framing=framing, processor=processor)
    assert_change_lies_under(block, change, inputs.grid)
    assert_centred(block, change, inputs.grid)


def on_pillow_84(name, settings):
    """An image processor for the tiny LLaVAs' 84 pixels, with some settings of its own."""
    usual = {"size": {"shortest_edge": 84}, "crop_size": {"height": 84, "width": 84}}
    if "Next" in name:
        usual["image_grid_pinpoints"] = built("llava_next").config.image_grid_pinpoints
    return tiny.on_pillow(name)(**{**usual, **settings})


@pytest.mark.parametrize(
    ("size", "edge"), [((160, 10), (0, 0, 60, 10)), ((40, 90), (0, 70, 40, 90))]
)
def test_pixels_cut_off_by_the_centre_crop_change_nothing(size, edge):
    change, inputs = pixel_change("llava", size, edge, framing="processor")
    assert not change.any()
    assert inputs.grid.unseen_share(size) == pytest.approx(1 - min(size) / max(size), abs=0.01)


@families
@sizes(*ORDINARY, *EXTREME)
def test_padding_shows_every_pixel_and_the_model_takes_the_token_count(model_type, size):
    inputs = encode(model_type, flat(size))
    assert inputs.grid.unseen_share(size) == pytest.approx(0)
    assert run(built(model_type).model, model_type, inputs).shape[0] == inputs.token_count


# ---- which tokens they are --------------------------------------------------------------------


@cache
def without_mixing(model_type):
    """A tiny model whose vision tower attends to nothing: each token sees its own pixels only."""
    model = tiny.build(model_type, seed=1).model
    with torch.no_grad():
        for name, weight in model.named_parameters():
            mixes = any(part in name for part in ("out_proj", "attn.proj", "o_proj"))
            if mixes and "language_model" not in name:
                weight.zero_()
    return model


def prompt_ids(model_type, token_count):
    """A chat about one picture, its placeholder repeated for every visual token: (1, N)."""
    model, family = built(model_type), FAMILIES[model_type]
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What ?"}]}]
    text = model.tokenizer.apply_chat_template(
        chat,
        chat_template=chat_template_of(model.config, model.tokenizer),
        tokenize=False,
        add_generation_prompt=True,
    )
    if family.picture_mark:
        text = text.replace(family.picture_mark, family.picture_text.format(family.image_token))
    assert text.count(family.image_token) == 1
    text = text.replace(family.image_token, family.image_token * token_count)
    return model.tokenizer(text, return_tensors="pt")["input_ids"]


def run(model, model_type, inputs):
    """(token_count, D) embeddings the decoder reads at the placeholders, by a plain forward."""
    ids = prompt_ids(model_type, inputs.token_count)
    placeholders = ids == built(model_type).tokenizer.convert_tokens_to_ids(
        FAMILIES[model_type].image_token
    )
    more = {}
    if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
        more["mm_token_type_ids"] = placeholders.int()
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs.tensors, **more)
    finally:
        hook.remove()
    return seen[0][placeholders]


def changed_cells(change, grid):
    """Flat indices of the cells in which some fed pixel changed."""
    cells = rearrange(
        change != 0, "(gh ph) (gw pw) -> (gh gw) (ph pw)", gh=grid.rows, gw=grid.columns
    )
    return cells.any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("model_type", "size"),
    [
        *product(WAYS, [(100, 70), (33, 77), (2000, 1)]),
        *((name, (100, 70)) for name in AVAILABLE if name not in WAYS),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", [(0.1, 0.1), (0.9, 0.6)], ids=str)
def test_the_models_tokens_change_where_the_grid_says(model_type, size, place):
    block = block_at(size, *place)
    model = without_mixing(model_type)
    change, after = pixel_change(model_type, size, block)
    before = encode(model_type, flat(size))
    difference = run(model, model_type, after) - run(model, model_type, before)
    tokens = difference[after.map_tokens].abs().amax(1).nonzero().flatten().tolist()
    assert tokens == changed_cells(change, after.grid)
    assert len(difference[after.map_tokens]) == after.grid.rows * after.grid.columns


def test_a_kept_class_token_is_not_a_cell():
    config = built("llava").config
    model = without_mixing("llava")
    block = (10, 10, 30, 30)
    try:
        config.vision_feature_select_strategy = "full"
        model.config.vision_feature_select_strategy = "full"
        change, after = pixel_change("llava", (100, 70), block)
        before = encode("llava", flat((100, 70)))
        difference = run(model, "llava", after) - run(model, "llava", before)
    finally:
        config.vision_feature_select_strategy = "default"
        model.config.vision_feature_select_strategy = "default"
    assert (after.token_count, after.map_tokens) == (37, slice(1, 37))
    tokens = difference[after.map_tokens].abs().amax(1).nonzero().flatten().tolist()
    assert tokens == changed_cells(change, after.grid)


def test_a_tower_without_a_class_token_has_only_cells():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    tower = transformers.SiglipVisionConfig(
        **sizes, num_hidden_layers=2, image_size=90, patch_size=14, vision_use_head=False
    )
    settings = built("llava").config.to_dict()
    settings.update(vision_config=tower, vision_feature_select_strategy="full")
    config = transformers.LlavaConfig(**settings)
    model = transformers.LlavaForConditionalGeneration._from_config(config).eval()
    processor = tiny.on_pillow("SiglipImageProcessor")(size={"height": 90, "width": 90})
    assert family_of(config) is FAMILIES["llava"]
    inputs = encode("llava", flat((100, 70)), processor=processor, config=config)
    assert run(model, "llava", inputs).shape[0] == inputs.token_count == 36
    assert inputs.map_tokens == slice(0, 36)
    # 90 pixels hold 6 whole patches of 14: the tower drops the last 6 pixels
    assert inputs.grid.view == pytest.approx((0, -15, 100 * 84 / 90, -15 + 100 * 84 / 90))


def test_the_base_view_comes_before_the_tiles():
    model = without_mixing("llava_next")
    inputs = encode("llava_next", with_block((100, 70), (9, 9, 60, 60)))
    blank = inputs.tensors["pixel_values"].clone()
    blank[0, 1:] = 0
    without_tiles = replace(inputs, tensors={**inputs.tensors, "pixel_values": blank})
    difference = run(model, "llava_next", inputs) - run(model, "llava_next", without_tiles)
    assert inputs.map_tokens == slice(0, 36)
    assert not difference[:36].any()
    assert difference[36:].any()


@pytest.mark.parametrize(
    ("model_type", "tower", "strategy", "remedy"),
    [
        ("llava", "siglip_vision_model", "default", "to 'full'"),
        ("llava_next", "clip_vision_model", "full", "to 'default'"),
    ],
)
def test_a_token_rule_that_spoils_the_grid_is_refused(model_type, tower, strategy, remedy):
    config = SimpleNamespace(
        vision_feature_select_strategy=strategy,
        vision_config=SimpleNamespace(model_type=tower, patch_size=14, image_size=84),
    )
    with pytest.raises(ValueError, match=f"set vision_feature_select_strategy {remedy}"):
        encode(model_type, flat((100, 70)), config=config)


# ---- how many tokens --------------------------------------------------------------------------


@families
@pytest.mark.parametrize("vision", [56, 70, 112])
def test_towers_of_other_sizes_work_as_well(model_type, vision):
    model = tiny.build(model_type, vision=vision)
    for size in [(100, 70), (1, 2000), (2000, 1), (40, 10), (10, 40), (1, 1)]:
        inputs = encode_picture(
            FAMILIES[model_type], model.image_processor, model.config, flat(size)
        )
        assert run(model.model, model_type, inputs).shape[0] == inputs.token_count


@sizes((704, 396), (752, 423))
def test_a_row_of_patches_is_not_lost_to_rounding(size):
    """Of 24 patches a tile, 396 * (48 / 704) is 27 except for the last bit."""
    model = tiny.build("llava_next", vision=336)
    inputs = encode_picture(FAMILIES["llava_next"], model.image_processor, model.config, flat(size))
    assert run(model.model, "llava_next", inputs).shape[0] == inputs.token_count


@pytest.mark.parametrize(("model_type", "size"), [*UNPADDED, ("llava_next", (84, 84))], ids=str)
def test_the_token_count_is_the_librarys(model_type, size):
    if model_type == "glm4v" and min(size) < 28 and int(version("transformers")[0]) < 5:
        pytest.skip("4.57's own processor refuses smaller pictures; this project enlarges them")
    family = FAMILIES[model_type]
    token_id = built(model_type).tokenizer.convert_tokens_to_ids(family.image_token)
    output = tiny.library_processor(built(model_type))(
        images=[flat(size)],
        text=[family.picture_mark or family.image_token],
        return_tensors="pt",
        input_data_format="channels_last",
    )
    expected = (output["input_ids"] == token_id).sum()
    inputs = encode(model_type, flat(size), framing="processor")
    assert inputs.token_count == expected
    for name, tensor in inputs.tensors.items():
        assert torch.equal(output[name], tensor)


@pytest.mark.parametrize("model_type", NATIVE)
@pytest.mark.parametrize("tokens", [1, 7, 64, 300])
@sizes(*ORDINARY, *EXTREME)
def test_a_token_budget_is_kept(model_type, tokens, size):
    inputs = encode(model_type, flat(size), tokens=tokens)
    assert inputs.token_count <= tokens
    width, height = inputs.grid.cell_size
    if min(inputs.grid.rows, inputs.grid.columns) >= 3:  # enough for both shape and budget
        assert inputs.token_count >= 0.7 * tokens
        assert 0.75 < width / height < 1.33
    elif tokens > 40:
        assert inputs.token_count >= 0.4 * tokens


@pytest.mark.parametrize("model_type", NATIVE)
def test_a_token_budget_magnifies_the_whole_picture(model_type):
    block = (60, 20, 80, 40)
    change, inputs = pixel_change(model_type, (100, 70), block, tokens=120)
    assert inputs.grid.view == Box(0, 0, 100, 70)
    assert inputs.token_count > 1.5 * encode(model_type, flat((100, 70))).token_count
    assert_change_lies_under(block, change, inputs.grid)
    assert_centred(block, change, inputs.grid)
    assert run(built(model_type).model, model_type, inputs).shape[0] == inputs.token_count


@pytest.mark.parametrize("model_type", FIXED)
def test_other_families_ignore_a_token_budget(model_type):
    plain = encode(model_type, flat((100, 70)))
    assert encode(model_type, flat((100, 70)), tokens=3).digest == plain.digest


@pytest.mark.parametrize("model_type", NATIVE)
@sizes((1, 1), (33, 77), (400, 300), (700, 30), (20, 2000), (1, 2000))
def test_visual_token_limits_hold(model_type, size):
    model = tiny.build(model_type)
    set_visual_token_limits(model.image_processor, FAMILIES[model_type], model.config, 40, 90)
    inputs = encode(model_type, flat(size), processor=model.image_processor)
    assert 40 <= inputs.token_count <= 90


@pytest.mark.parametrize("model_type", FIXED)
def test_visual_token_limits_leave_other_families_alone(model_type):
    model = tiny.build(model_type)
    before = model.image_processor.to_dict()
    set_visual_token_limits(model.image_processor, FAMILIES[model_type], model.config, 40, 60)
    assert model.image_processor.to_dict() == before


@pytest.mark.parametrize("limits", [(0, 10), (11, 10)])
def test_impossible_visual_token_limits_are_refused(limits):
    model = tiny.build("qwen2_vl")
    with pytest.raises(ValueError, match="the minimum at most the maximum"):
        set_visual_token_limits(model.image_processor, FAMILIES["qwen2_vl"], model.config, *limits)


needs_gemma4 = pytest.mark.skipif(
    "gemma4" not in AVAILABLE, reason="this transformers has no Gemma 4"
)


@needs_gemma4
@pytest.mark.parametrize(("most", "budget"), [(70, 70), (279, 140), (280, 280), (9999, 1120)])
def test_gemma_4_gets_the_largest_of_its_budgets_that_the_limit_allows(most, budget):
    processor = tiny.build("gemma4").image_processor
    set_visual_token_limits(processor, FAMILIES["gemma4"], built("gemma4").config, 64, most)
    assert processor.max_soft_tokens == budget


@needs_gemma4
def test_a_limit_below_all_budgets_of_gemma_4_is_refused():
    processor = tiny.build("gemma4").image_processor
    with pytest.raises(ValueError, match=r"^raise max_visual_tokens to 70 or more"):
        set_visual_token_limits(processor, FAMILIES["gemma4"], built("gemma4").config, 4, 69)


def test_pan_and_scan_is_off_whatever_a_folder_says():
    stored = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8}
    stored |= {"pan_and_scan_max_num_crops": 4, "pan_and_scan_min_ratio_to_activate": 1.2}
    stored |= {"size": {"height": 84, "width": 84}, "image_processor_type": "Gemma3ImageProcessor"}
    inputs = encode("gemma3", flat((300, 100)), processor=image_processor_of(stored, ""))
    assert inputs.tensors["pixel_values"].shape == (1, 3, 84, 84)


@pytest.mark.skipif("minicpmv4_6" not in AVAILABLE, reason="this transformers has no MiniCPM-V 4.6")
def test_a_large_pictures_slices_stand_in_the_prompt_with_their_number():
    inputs = encode("minicpmv4_6", flat((150, 100)))
    assert inputs.written.startswith("<image_id>{index}</image_id><image><|image_pad|>")
    assert inputs.written.count("<slice>") == len(inputs.tensors["target_sizes"]) - 1 > 1
    assert inputs.written.count("<|image_pad|>") == inputs.token_count > inputs.map_tokens.stop


# ---- framing ----------------------------------------------------------------------------------


@families
def test_padding_has_the_processors_mean_colour(model_type):
    pixels = fed_pixels(encode(model_type, flat((1000, 1), value=255)), built(model_type).config)
    assert pixels[:, 0].abs().max() < 0.02  # normalised: (colour - mean) / std


@pytest.mark.parametrize(
    ("mean", "colour"),
    [
        ([0.48145466, 0.4578275, 0.40821073], (122, 116, 104)),  # CLIP, as LLaVA rounds it
        ((0.5, 0.5, 0.5), (127, 127, 127)),
        (0.5, (127, 127, 127)),
        (None, (127, 127, 127)),
    ],
)
def test_mean_colour(mean, colour):
    assert mean_colour(SimpleNamespace(image_mean=mean)) == colour


@sizes((3, 5000), (20000, 2))
@families
def test_extreme_pictures_stay_small(model_type, size):
    fed = []
    model = built(model_type)

    class Watched:
        def __getattr__(self, name):
            return getattr(model.image_processor, name)

        def __call__(self, images, **kwargs):
            fed.append(images.size)
            return model.image_processor(images=images, **kwargs)

    encode(model_type, flat(size), processor=Watched())
    assert fed[0][0] * fed[0][1] <= 4_100_000


def test_the_view_is_in_pixels_of_the_picture_that_was_shrunk_before_padding():
    inputs = encode("llava", flat((60, 6000)))
    assert inputs.grid.view == pytest.approx((-2970, 0, 3030, 6000))


@sizes((1, 2000), (2000, 1), (3, 5000))
@families
def test_pictures_too_long_for_the_processor_are_refused(model_type, size):
    with pytest.raises(ValueError, match=r"^use the framing 'pad'"):
        encode(model_type, flat(size), framing="processor")


def test_tiles_that_would_be_empty_are_refused():
    with pytest.raises(ValueError, match=r"^use the framing 'pad': nothing of this 160 x 10"):
        encode("llava_next", flat((160, 10)), framing="processor")


def test_an_unknown_framing_is_refused():
    with pytest.raises(ValueError, match="choose the framing 'pad' or 'processor'"):
        encode("llava", flat((10, 10)), framing="stretch")


@families
def test_the_digest_tells_pictures_apart(model_type):
    first, second = with_block((64, 64), (9, 9, 30, 30)), flat((64, 64))
    assert encode(model_type, first).digest == encode(model_type, first.copy()).digest
    assert encode(model_type, first).digest != encode(model_type, second).digest


SYSTEM = "<|im_start|>system\n{}<|im_end|>\n"
YI = "{system}<|im_start|>user\n<image>\nWhat ?<|im_end|><|im_start|>assistant\n"
LLAMA3 = (
    "{system}<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat ?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML = (
    "{system}<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What ?<|im_end|>\n"
    "<|im_start|>assistant\n"
)
GLM = (
    "[gMASK]<sop>{system}<|user|>\n<|begin_of_image|><|image|><|end_of_image|>What ?<|assistant|>\n"
)

GEMMA3 = (
    "<s><start_of_turn>user\n{system}<start_of_image>What ?<end_of_turn>\n<start_of_turn>model\n"
)
GEMMA4 = "<s>{system}<|turn>user\n<|image|>What ?<turn|>\n<|turn>model\n"

# ---- records and loading ----------------------------------------------------------------------


def test_every_family_has_a_tiny_model():
    assert tuple(FAMILIES) == tiny.MODEL_TYPES
    for model_type in AVAILABLE:
        assert family_of(built(model_type).config) is FAMILIES[model_type]


def test_an_unsupported_model_type_lists_the_supported_ones():
    with pytest.raises(ValueError) as error:
        family_of(SimpleNamespace(model_type="blip"))
    first_line = str(error.value).splitlines()[0]
    assert all(model_type in first_line for model_type in [*FAMILIES, "'blip'"])


def test_an_unsupported_vision_tower_is_refused():
    pixtral = SimpleNamespace(
        model_type="llava", vision_config=SimpleNamespace(model_type="pixtral")
    )
    with pytest.raises(ValueError, match="type 'pixtral' is not supported"):
        family_of(pixtral)


@pytest.mark.parametrize(
    ("template", "system", "expected"),
    [
        (chat_formats.VICUNA, "", "USER: <image>\nWhat ? ASSISTANT:"),
        (chat_formats.VICUNA, "Be brief.", "Be brief. USER: <image>\nWhat ? ASSISTANT:"),
        (chat_formats.MISTRAL, "", "[INST] <image>\nWhat ? [/INST]"),
        (
            chat_formats.MISTRAL,
            "Be brief.",
            "<<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] <image>\nWhat ? [/INST]",
        ),
        (chat_formats.LLAVA_CHATML, "", YI.format(system="")),
        (
            chat_formats.LLAVA_CHATML,
            "Be brief.",
            YI.format(system="<|im_start|>system\nBe brief.<|im_end|>"),
        ),
        (chat_formats.LLAVA_LLAMA3, "", LLAMA3.format(system="")),
        (
            chat_formats.LLAVA_LLAMA3,
            "Be brief.",
            LLAMA3.format(
                system="<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            ),
        ),
        (
            chat_formats.QWEN2_CHATML,
            "",
            CHATML.format(system=SYSTEM.format("You are a helpful assistant.")),
        ),
        (
            chat_formats.QWEN2_CHATML,
            "Be brief.",
            CHATML.format(system=SYSTEM.format("Be brief.")),
        ),
        (chat_formats.CHATML, "", CHATML.format(system="")),
        (chat_formats.CHATML, "Be brief.", CHATML.format(system=SYSTEM.format("Be brief."))),
        (chat_formats.QWEN3_5_CHATML, "", CHATML.format(system="") + "<think>\n"),
        (chat_formats.GLM, "", GLM.format(system="")),
        (chat_formats.GLM, "Be brief.", GLM.format(system="<|system|>\nBe brief.")),
        (chat_formats.GEMMA3, "", GEMMA3.format(system="")),
        (chat_formats.GEMMA3, "Be brief.", GEMMA3.format(system="Be brief.\n\n")),
        (chat_formats.GEMMA4, "", GEMMA4.format(system="")),
        (
            chat_formats.GEMMA4,
            "Be brief.",
            GEMMA4.format(system="<|turn>system\nBe brief.<turn|>\n"),
        ),
    ],
)
def test_chat_templates_give_the_published_formats(template, system, expected):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What ?"}]}]
    if system:
        chat.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    assert expected == built("llava").tokenizer.apply_chat_template(
        chat, chat_template=template, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.parametrize(
    ("model_type", "text_model", "token", "template"),
    [
        ("llava", "llama", "<s>", chat_formats.VICUNA),
        ("llava", "mistral", "<s>", chat_formats.VICUNA),  # BakLLaVA
        ("llava", "llama", "<|start_header_id|>", chat_formats.LLAVA_LLAMA3),
        ("llava", "qwen2", "<|im_start|>", chat_formats.LLAVA_CHATML),
        ("llava", "gemma", "<bos>", None),
        ("llava_next", "llama", "<s>", chat_formats.VICUNA),
        ("llava_next", "mistral", "<s>", chat_formats.MISTRAL),
        ("llava_next", "llama", "<|im_start|>", chat_formats.LLAVA_CHATML),  # 34B, on Yi
        ("llava_next", "llama", "<|start_header_id|>", chat_formats.LLAVA_LLAMA3),
        ("llava_next", "granite", "<s>", None),
        ("qwen2_vl", "qwen2_vl_text", "<|im_start|>", chat_formats.QWEN2_CHATML),
        ("qwen2_5_vl", "qwen2_5_vl_text", "<|im_start|>", chat_formats.QWEN2_CHATML),
        ("qwen3_vl", "qwen3_vl_text", "<|im_start|>", chat_formats.CHATML),
        ("qwen3_5", "qwen3_5_text", "<|im_start|>", chat_formats.QWEN3_5_CHATML),
        ("glm4v", "glm4v_text", "<|begin_of_image|>", chat_formats.GLM),
        ("gemma3", "gemma3_text", "<start_of_turn>", chat_formats.GEMMA3),
        ("gemma4", "gemma4_text", "<|turn>", chat_formats.GEMMA4),
        ("minicpmv4_6", "qwen3_5_text", "<|im_start|>", chat_formats.MINICPM),
    ],
)
def test_the_text_model_says_how_a_chat_is_written(model_type, text_model, token, template):
    config = SimpleNamespace(
        model_type=model_type,
        vision_config=SimpleNamespace(model_type="clip_vision_model"),
        get_text_config=lambda: SimpleNamespace(model_type=text_model),
    )
    tokenizer = SimpleNamespace(unk_token_id=0, convert_tokens_to_ids={token: 5}.get)
    assert chat_template_of(config, tokenizer) == template


@families
def test_the_tiny_vocabulary_holds_the_instructions(model_type):
    tokenizer = built(model_type).tokenizer
    for text in (
        FAMILIES[model_type].instruction,
        "Write a general description of the image.",
        "What colour is the square?",
    ):
        assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("model_type", "chat_template"), [*((name, True) for name in AVAILABLE), ("llava", False)]
)
def test_a_saved_model_opens_with_the_auto_classes(model_type, chat_template, tmp_path):
    model = built(model_type)
    folder = tiny.save(model, tmp_path, chat_template=chat_template)
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    processor = load_image_processor(str(folder))
    config = transformers.AutoConfig.from_pretrained(folder)
    assert family_of(config) is FAMILIES[model_type]
    assert bool(tokenizer.chat_template) is chat_template
    inputs = encode(model_type, with_block((100, 70), (9, 9, 30, 30)))
    again = encode(
        model_type, with_block((100, 70), (9, 9, 30, 30)), processor=processor, config=config
    )
    assert again.digest == inputs.digest
    ids = prompt_ids(model_type, inputs.token_count)
    if type(tokenizer).__name__ != "Qwen3_5Tokenizer":  # which spells any vocabulary by bytes
        assert tokenizer.decode(ids[0]) == built(model_type).tokenizer.decode(ids[0])
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, model.model.state_dict()[name])
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"])
def test_the_folders_size_is_honoured(model_type, tmp_path):
    built(model_type).image_processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings = {k: v for k, v in settings.items() if k not in ("min_pixels", "max_pixels")}
    area = (settings["patch_size"] * settings["merge_size"]) ** 2
    if model_type == "glm4v":  # whose limits count the frames that a picture is repeated to
        area *= settings["temporal_patch_size"]
    settings["size"] = {"shortest_edge": 50 * area, "longest_edge": 60 * area}
    path.write_text(json.dumps(settings))
    inputs = encode(model_type, flat((100, 70)), processor=load_image_processor(str(tmp_path)))
    assert 50 <= inputs.token_count <= 60


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_limits_are_read_as_transformers_of_2024_saved_them(model_type, tmp_path):
    built(model_type).image_processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings = {k: v for k, v in settings.items() if k not in ("min_pixels", "max_pixels")}
    side = settings["patch_size"] * settings["merge_size"]
    settings["size"] = {"min_pixels": 50 * side**2, "max_pixels": 60 * side**2}
    path.write_text(json.dumps(settings))
    inputs = encode(model_type, flat((100, 70)), processor=load_image_processor(str(tmp_path)))
    assert 50 <= inputs.token_count <= 60


def test_a_class_that_only_a_development_version_had_is_todays(tmp_path):
    built("qwen2_5_vl").image_processor.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    plain = load_image_processor(str(tmp_path))
    named = {**json.loads(path.read_text()), "image_processor_type": "Qwen2_5_VLImageProcessor"}
    path.write_text(json.dumps(named))
    assert type(load_image_processor(str(tmp_path))) is type(plain)


def test_an_image_processor_that_transformers_lacks_is_named(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "NewProcessor"}')
    with pytest.raises(ValueError, match=r"^choose another model, or update .* is a NewProcessor"):
        load_image_processor(str(tmp_path))


def without_its_class(processor, folder):
    processor.save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    del settings["image_processor_type"]
    path.write_text(json.dumps(settings))
    return str(folder)


@families
def test_a_folder_that_names_no_image_processor_gets_its_familys(model_type, tmp_path):
    model = built(model_type)
    folder = without_its_class(model.image_processor, tmp_path)
    found = load_image_processor(folder, usual_image_processor(model.config))
    assert type(found) is type(model.image_processor)


def test_a_llava_on_siglip_gets_siglips(tmp_path):
    own = tiny.on_pillow("SiglipImageProcessor")(size={"height": 84, "width": 84})
    config = transformers.LlavaConfig(vision_config=transformers.SiglipVisionConfig())
    folder = without_its_class(own, tmp_path)
    assert type(load_image_processor(folder, usual_image_processor(config))) is type(own)


@families
def test_generation_runs(model_type):
    model = built(model_type)
    inputs = encode(model_type, flat((100, 70)))
    ids = prompt_ids(model_type, inputs.token_count)
    more = {}
    if "mm_token_type_ids" in inspect.signature(model.model.forward).parameters:
        token = model.tokenizer.convert_tokens_to_ids(FAMILIES[model_type].image_token)
        more["mm_token_type_ids"] = (ids == token).int()
    output = model.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        **inputs.tensors,
        **more,
        max_new_tokens=3,
        do_sample=False,
    )
    assert ids.shape[1] < output.shape[1] <= ids.shape[1] + 3
