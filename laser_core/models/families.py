"""Supported model families: one record each says how its models take a picture.

A record says where the visual tokens are, what grid they form and how the grid lies on the
picture. Nothing else compares model types. To add a family, add a record (and, if it cuts
pictures up in a new way, a rule in `layouts`) and a row in tools/testbed/tiny.py.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from ..geometry import Box, Grid
from ..pictures import PictureInputs
from . import chat_formats
from .grounding import FED_PIXELS, THOUSANDTHS, Grounding
from .image_processors import (
    FOR_THE_TEXT,
    OF_TOWER,
    least_side_px,
    load_image_processor,
    mean_colour,
    set_token_range,
    token_side_px,
)
from .layouts import (
    CLASS_TOKENS,
    LayoutRule,
    Tiles,
    base_view_and_tiles,
    merged_patches,
    one_view,
    pooled_patches,
    pooled_square,
    whole_and_slices,
)

__all__ = [
    "FAMILIES",
    "Family",
    "TextModel",
    "chat_template_of",
    "encode_picture",
    "family_of",
    "load_image_processor",
    "mean_colour",
    "set_visual_token_limits",
    "usual_image_processor",
]

LARGEST_PADDING_PX = 4_000_000
"""Padding never makes a small picture larger than this (3 x 5000 would become 25 megapixels)."""


@dataclass(frozen=True)
class TextModel:
    """A text model that a family stands on, and how it is addressed.

    token: one that only its vocabulary has among the family's. chat_template: Jinja, as its makers
    published the format. model_types: transformers' names for it; empty: any.
    """

    token: str
    chat_template: str
    model_types: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What the method must know of a model family.

    model_type: transformers' name for it.
    image_token: the placeholder's usual text.
    picture_text: how a picture is written, where {} is the placeholder.
    picture_mark: what chat templates write for a picture where its processor then puts
        picture_text in its place; empty: they write that themselves.
    max_aspect: framing "pad" pads pictures to at most this ratio of long to short side.
    processor_aspect: framing "processor" refuses pictures of a larger ratio.
    native_resolution: the number of visual tokens follows the picture's size.
    max_pictures: pictures per prompt that its models were made for.
    layout: where visual tokens lie on the picture.
    text_models: what its models stand on, the first that fits; their chat templates are used where
        a model's folder has none that knows pictures.
    vision_towers: model types of vision tower that the layout holds for; empty: any.
    image_processor: its class where the model's folder names none; empty: the vision tower's.
    whole_picture_rule: by the text config, the kinds of layers in which all tokens of a picture see
        each other; none where the library's masks serve.
    text_index: with M-RoPE, its code takes each token's index in the text before the three rows.
    flash: flash attention, which takes no mask, serves its models in every transformers.
    instruction: the request for a short answer that its models were tuned with.
    band: the first and last depth, as fractions, where their attention follows the question.
    grounding: how its models write boxes; None where they were not trained to, or where what their
        numbers mean is disputed.
    thinks: what stands before an answer where nothing was thought, for models that open a thought
        themselves whatever they are told; empty: their templates say what they do.
    answer_marks: what its models write around an answer or a box in it; no part of its text.
    pixel_axis: along which the pixels of several pictures are joined.
    taken: how pictures are taken, for people, where the other fields do not say it.
    """

    model_type: str
    name: str
    image_token: str
    picture_text: str
    max_aspect: float
    processor_aspect: float
    native_resolution: bool
    max_pictures: int
    layout: LayoutRule
    band: tuple[float, float]
    text_models: tuple[TextModel, ...]
    vision_towers: tuple[str, ...] = ()
    image_processor: str = "Qwen2VLImageProcessor"
    picture_mark: str = ""
    whole_picture_rule: Callable[[Any], tuple[str, ...]] = lambda text: ()
    text_index: bool = True
    flash: bool = True
    instruction: str = "Answer the question using a single word or phrase."
    grounding: Grounding | None = None
    thinks: str = ""
    answer_marks: tuple[str, ...] = ()
    pixel_axis: int = 0
    taken: str = ""


# Layers 17 to 24 of 28: VEA's best are 18, 22 and 24 in Qwen2.5-VL-7B; an independent port found 19
# to 22 in Qwen2-VL-7B and 17 to 20 in Qwen3-VL-2B
_QWEN_BAND = (0.62, 0.89)
# VEA: the second half of Gemma 3's layers is better than all (arXiv 2510.17771); nothing finer is
# known, and nothing of Gemma 4
_GEMMA_BAND = (0.5, 1.0)

# By their authors: QwenLM/Qwen3-VL issues 866 (thousandths), 676 and 1161 (pixels of the resized
# picture), 1427 and 1741 (thousandths); arXiv 2409.12191; README of zai-org/GLM-V (thousandths).
# LLaVA-1.5 writes shares of the padded square or of the picture, which is disputed
# (haotian-liu/LLaVA issues 606, 623, 822); of Qwen3.5 its authors have not said it
_LOCATE_IN_JSON = "Locate every instance of: {}. Report bbox coordinates in JSON format."

_CHATML_AND_LLAMA3 = (
    TextModel("<|im_start|>", chat_formats.LLAVA_CHATML),
    TextModel("<|start_header_id|>", chat_formats.LLAVA_LLAMA3),
)
_LLAVA = Family(
    model_type="llava",
    name="LLaVA-1.5",
    image_token="<image>",
    picture_text="{}\n",
    max_aspect=1.0,  # to a square, as the original LLaVA does: a crop would cut the edges
    processor_aspect=32.0,  # beyond, it enlarges the picture to more than 336 x 10752
    native_resolution=False,
    max_pictures=1,
    layout=one_view,
    # Layers 14 to 25 of 32 in the 7B: the paper's most frequent choice is 14 (arXiv 2602.04304),
    # VEA's best are 14, 15, 17 and 19 (arXiv 2510.17771), CARVE's 20 to 25 (arXiv 2509.06461)
    band=(0.45, 0.81),
    text_models=(
        *_CHATML_AND_LLAMA3,
        TextModel("<s>", chat_formats.VICUNA, ("llama", "mistral")),
    ),
    vision_towers=tuple(CLASS_TOKENS),
    image_processor="",
)
_QWEN2_VL = Family(
    model_type="qwen2_vl",
    name="Qwen2-VL",
    image_token="<|image_pad|>",
    picture_text="<|vision_start|>{}<|vision_end|>",
    max_aspect=32.0,  # a row of tokens fits any limit of 32 tokens or more
    processor_aspect=200.0,  # the processor's own limit
    native_resolution=True,
    max_pictures=32,
    layout=merged_patches,
    band=_QWEN_BAND,
    text_models=(TextModel("<|im_start|>", chat_formats.QWEN2_CHATML),),
    grounding=Grounding(
        "Please provide the bounding box coordinates of the region this sentence describes: {}",
        THOUSANDTHS,
    ),
)
_QWEN3_VL = replace(
    _QWEN2_VL,
    model_type="qwen3_vl",
    name="Qwen3-VL",
    text_models=(TextModel("<|im_start|>", chat_formats.CHATML),),
    grounding=Grounding(_LOCATE_IN_JSON, THOUSANDTHS),
)
_QWEN3_5 = replace(
    _QWEN3_VL,
    model_type="qwen3_5",
    name="Qwen3.5",
    text_models=(TextModel("<|im_start|>", chat_formats.QWEN3_5_CHATML),),
    grounding=None,  # how its makers have it write boxes is not published
)
_GLM = Family(
    model_type="glm4v",
    name="GLM-4.1V",
    image_token="<|image|>",
    picture_text="<|begin_of_image|>{}<|end_of_image|>",
    max_aspect=32.0,
    processor_aspect=200.0,
    native_resolution=True,
    max_pictures=32,
    layout=merged_patches,
    band=(0.6, 0.85),  # where its layers look is not published: what most families share
    text_models=(TextModel("<|begin_of_image|>", chat_formats.GLM),),
    image_processor="Glm4vImageProcessor",
    text_index=False,
    flash=False,
    grounding=Grounding(
        "Please pinpoint the bounding box [[x1,y1,x2,y2], …] in the image as per the given "
        "description. {}",
        THOUSANDTHS,
    ),
    # By the README of zai-org/GLM-V. GLM-4.1V always thinks; later ones are told not to
    thinks="<think></think>\n<answer>",
    answer_marks=("<answer>", "</answer>", "<|begin_of_box|>", "<|end_of_box|>"),
)

_RECORDS = (
    _LLAVA,
    replace(
        _LLAVA,
        model_type="llava_next",
        name="LLaVA-NeXT",
        # The widest tilings are 3 : 1, so a longer picture is no finer on them; and at 4 : 1 a
        # view of as few as 4 x 4 patches keeps a row when its padding is taken off again.
        max_aspect=4.0,
        processor_aspect=24.0,  # beyond, 24 rows of patches may keep none
        layout=base_view_and_tiles,
        text_models=(
            *_CHATML_AND_LLAMA3,
            TextModel("<s>", chat_formats.VICUNA, ("llama",)),
            TextModel("<s>", chat_formats.MISTRAL, ("mistral",)),
        ),
        image_processor="LlavaNextImageProcessor",
    ),
    _QWEN2_VL,
    replace(
        _QWEN2_VL,
        model_type="qwen2_5_vl",
        name="Qwen2.5-VL",
        grounding=Grounding(_LOCATE_IN_JSON, FED_PIXELS),
    ),
    _QWEN3_VL,
    _QWEN3_5,
    replace(_QWEN3_5, model_type="qwen3_5_moe", name="Qwen3.5 MoE"),
    replace(_QWEN3_VL, model_type="qwen3_vl_moe", name="Qwen3-VL MoE"),
    _GLM,
    replace(_GLM, model_type="glm46v", name="GLM-4.6V", image_processor="Glm46VImageProcessor"),
    replace(_GLM, model_type="glm4v_moe", name="GLM-4.5V"),
    Family(
        model_type="gemma3",
        name="Gemma 3",
        image_token="<image_soft_token>",
        picture_text="\n\n<start_of_image>{}<end_of_image>\n\n",
        picture_mark="<start_of_image>",
        max_aspect=4.0,  # squeezed into a square, what is on a longer one would get too thin
        processor_aspect=200.0,
        native_resolution=False,
        max_pictures=32,
        layout=pooled_square,
        band=_GEMMA_BAND,
        text_models=(TextModel("<start_of_turn>", chat_formats.GEMMA3),),
        image_processor="Gemma3ImageProcessor",
        whole_picture_rule=lambda text: ("full_attention", "sliding_attention"),
        flash=False,
        taken="pictures squeezed into a square",
    ),
    Family(
        model_type="gemma4",
        name="Gemma 4",
        image_token="<|image|>",
        picture_text="<|image>{}<image|>",
        picture_mark="<|image|>",
        max_aspect=32.0,
        processor_aspect=200.0,
        native_resolution=True,
        max_pictures=32,
        layout=pooled_patches,
        band=_GEMMA_BAND,
        text_models=(TextModel("<|turn>", chat_formats.GEMMA4),),
        image_processor="Gemma4ImageProcessor",
        # Its larger models alone; in its layers that see everything a picture is read causally
        whole_picture_rule=lambda text: (
            ("sliding_attention",) if text.use_bidirectional_attention == "vision" else ()
        ),
        flash=False,
    ),
    Family(
        model_type="minicpmv4_6",
        name="MiniCPM-V 4.6",
        image_token="<|image_pad|>",
        picture_text="{}",
        max_aspect=32.0,
        processor_aspect=200.0,
        native_resolution=False,
        max_pictures=32,
        layout=whole_and_slices,
        band=_QWEN_BAND,  # of its text model, a Qwen3.5
        text_models=(TextModel("<|im_start|>", chat_formats.MINICPM),),
        image_processor="MiniCPMV4_6ImageProcessor",
        pixel_axis=-1,
        taken="pictures at their own aspect, whole and in slices",
    ),
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _RECORDS}


def family_of(config: Any) -> Family:
    """The record for a model's config. Raises ValueError for a model that has none."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ValueError(
            f"choose a model of type {', '.join(FAMILIES)}: type {config.model_type!r} is not "
            "supported"
        )
    tower = config.vision_config.model_type
    if family.vision_towers and tower not in family.vision_towers:
        raise ValueError(
            f"choose a {family.name} model with a vision tower of type "
            f"{', '.join(family.vision_towers)}: type {tower!r} is not supported"
        )
    return family


def chat_template_of(config: Any, tokenizer: Any) -> str | None:
    """How the makers of a model's text model write chats; None where that is not known."""
    text = config.get_text_config().model_type
    for known in family_of(config).text_models:
        index = tokenizer.convert_tokens_to_ids(known.token)
        has_token = index is not None and index != tokenizer.unk_token_id
        if has_token and (not known.model_types or text in known.model_types):
            return known.chat_template
    return None


def usual_image_processor(config: Any) -> str:
    """The class of image processor that a model has where its folder names none."""
    return family_of(config).image_processor or OF_TOWER[config.vision_config.model_type]


def set_visual_token_limits(
    image_processor: Any, family: Family, config: Any, minimum: int, maximum: int
) -> None:
    """Bound the visual tokens per picture of native-resolution models; no effect on others.

    Raises ValueError unless 1 <= minimum <= maximum.
    """
    if family.native_resolution:
        set_token_range(image_processor, minimum, maximum)


def encode_picture(
    family: Family,
    image_processor: Any,
    config: Any,
    picture: Image.Image,
    framing: str = "pad",
    tokens: int | None = None,
) -> PictureInputs:
    """One RGB picture as the model takes it, its grid in pixels of that picture.

    framing: "pad" widens pictures longer than the family's max_aspect with the processor's mean
    colour; "processor" leaves them to the model's own processor, which may cut the edges.
    tokens: on native-resolution models, enlarge or reduce the picture to about this many visual
    tokens, never more; others ignore it. Raises ValueError for a picture the processor cannot
    take.
    """
    fed, place = _frame(family, picture, framing, mean_colour(image_processor))
    fed_size, least = fed.size, least_side_px(image_processor)
    if min(fed_size) < least:
        width, height = (max(least, side * least // min(fed_size)) for side in fed_size)
        fed = fed.resize((width, height), Image.Resampling.BICUBIC)
    options = {}
    if tokens is not None and family.native_resolution:
        side = token_side_px(image_processor)
        columns, rows = _token_grid(fed.width / fed.height, tokens)
        fed = fed.resize((columns * side, rows * side), Image.Resampling.BICUBIC)
        options = {"do_resize": False}
    # The channel order is named because 4.57 takes pictures 1 or 3 pixels high for channels first
    output = image_processor(
        images=fed, return_tensors="pt", input_data_format="channels_last", **options
    )
    tensors = {
        name: value
        for name, value in output.items()
        if isinstance(value, torch.Tensor) and name not in FOR_THE_TEXT
    }
    layout = family.layout(tensors, image_processor, config, fed_size)
    view, tiles = _on_original(layout.view, place, picture.size), layout.tiles
    return PictureInputs(
        tensors=tensors,
        token_count=layout.token_count,
        map_tokens=layout.map_tokens,
        grid=Grid(layout.rows, layout.columns, view),
        tiles=tiles and _tiles(tiles, place, picture.size),
        picture_size=picture.size,
        digest=_digest(fed, tensors),
        written=layout.written,
    )


def _on_original(box: Box, place: Box, size: tuple[int, int]) -> Box:
    """From pixels of the fed picture to those of the original, which fills `place` there."""
    x_scale, y_scale = size[0] / place.width, size[1] / place.height
    x1, y1, x2, y2 = box.shift(-place.x1, -place.y1)
    return Box(x1 * x_scale, y1 * y_scale, x2 * x_scale, y2 * y_scale)


def _tiles(tiles: Tiles, place: Box, size: tuple[int, int]) -> tuple[slice, Grid]:
    view = _on_original(tiles.view, place, size)
    return tiles.tokens, Grid(tiles.rows, tiles.columns, view)


def _frame(
    family: Family, picture: Image.Image, framing: str, colour: tuple[int, int, int]
) -> tuple[Image.Image, Box]:
    """The picture to feed, and the rectangle of the original on it."""
    if framing == "pad":
        return _pad(picture, family.max_aspect, colour)
    if framing != "processor":
        raise ValueError(f"choose the framing 'pad' or 'processor': it is {framing!r}")
    width, height = picture.size
    if max(width, height) > family.processor_aspect * min(width, height):
        raise ValueError(
            f"use the framing 'pad': a picture of {width} x {height} pixels is too elongated for "
            f"the image processor of {family.name}, which takes {family.processor_aspect:g} : 1"
        )
    return picture, Box(0, 0, width, height)


def _pad(
    picture: Image.Image, max_aspect: float, colour: tuple[int, int, int]
) -> tuple[Image.Image, Box]:
    """The picture centred on a canvas of at most `max_aspect`, and its rectangle there."""
    width, height = picture.size
    canvas = max(width, math.ceil(height / max_aspect)), max(height, math.ceil(width / max_aspect))
    if canvas == picture.size:
        return picture, Box(0, 0, width, height)
    area = canvas[0] * canvas[1]
    if area > max(LARGEST_PADDING_PX, 4 * width * height):
        shrink = math.sqrt(LARGEST_PADDING_PX / area)
        smaller = max(1, int(width * shrink)), max(1, int(height * shrink))
        return _pad(picture.resize(smaller, Image.Resampling.BICUBIC), max_aspect, colour)
    left, top = (canvas[0] - width) // 2, (canvas[1] - height) // 2
    fed = Image.new("RGB", canvas, colour)
    fed.paste(picture, (left, top))
    return fed, Box(left, top, left + width, top + height)


def _token_grid(aspect: float, tokens: int) -> tuple[int, int]:
    """(columns, rows) of at most `tokens` cells, about as long as `aspect` (width / height)."""
    if tokens < 1:
        raise ValueError(f"give a picture at least 1 visual token: tokens is {tokens}")
    exact = math.sqrt(tokens / aspect)
    candidates = []
    for rows in (math.floor(exact), math.ceil(exact)):
        rows = min(max(rows, 1), tokens)
        columns = min(max(round(rows * aspect), 1), tokens // rows)
        candidates.append((columns, rows))
    return min(candidates, key=lambda cell: abs(math.log(cell[0] / cell[1] / aspect)))


def _digest(fed: Image.Image, tensors: dict[str, torch.Tensor]) -> str:
    # Digest the pixels that the processor gets: an eighth of its output's bytes. The shapes tell
    # apart what it makes of them under other limits.
    digest = hashlib.blake2b(fed.tobytes(), digest_size=16)
    shapes = {name: tuple(tensor.shape) for name, tensor in sorted(tensors.items())}
    digest.update(f"{fed.size} {shapes}".encode())
    return digest.hexdigest()
