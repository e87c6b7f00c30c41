"""The second architecture: `Qwen2_5_VLForConditionalGeneration`, its initial weights and its pass.

The same world, the same number of visual tokens and the same recipe as the LLaVA in `network`:
12 x 12 tokens for a picture, each merged from 2 x 2 patches of 4 pixels. Two things differ. The
tower has no position embeddings, only rotary ones, so its first heads are aimed at neighbours by
their biases: the score of a constant query and a constant key depends on the offset alone. And no
patch knows its place from the tower; the decoder's first layer makes it from the distance to the
picture's opening token, see `_start_places`.

The forward pass reads the weights of the library's modules and computes what they compute; a test
compares the two.
"""

import functools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from .forward import decode_after, frequencies, rotation
from .network import (
    DECODER_LAYERS,
    GRID,
    HEADS,
    PATCH_PX,
    PATCHES,
    RESERVED,
    WIDTH,
    clear_head,
    normal,
    start_decoder,
)
from .questions import VOCABULARY
from .scenes import MODEL_SIDE_PX

MERGE = 2
TOWER_PATCH_PX = PATCH_PX // MERGE
TOWER_WIDTH = 64
TOWER_LAYERS = 5
WINDOW = 6  # tokens a side
WHOLE_PICTURE_LAYERS = (2, 4)  # the other layers of the tower attend within windows
FEATURE_WIDTH = MERGE * MERGE * TOWER_WIDTH

VISION_START, VISION_END = len(VOCABULARY), len(VOCABULARY) + 1
# ChatML: the roles take the ids of LLaVA's, turns open with <s> and end with </s>.
_OPENING = (VOCABULARY["<s>"], VOCABULARY["USER:"])
ANSWER_OPENING = (VOCABULARY["</s>"], VOCABULARY["<s>"], VOCABULARY["ASSISTANT:"])
# Rotary pairs by axis, fastest first: time, row, column, and again. Rows and columns both need
# some that turn within a picture of 12 x 12; with one run per axis columns would get only slow
# ones. The library takes any number of runs.
MROPE_SECTIONS = (1, 1, 1, 1, 1, 1, 2, 4, 4)
ROPE_THETA = 1000.0

_TOWER_HEAD_WIDTH = TOWER_WIDTH // HEADS
# (down, right) patches that each head of a layer starts by looking at.
_NEIGHBOURS = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((1, 1), (1, -1), (-1, 1), (-1, -1)),
    ((0, 2), (0, -2), (2, 0), (-2, 0)),
    ((0, 4), (0, -4), (4, 0), (-4, 0)),
)
# Amplitudes of the aimed biases for the two fast frequencies, 1 and 1/10 radian per patch: the
# first makes the aim sharp, the second tells an offset from those a full turn away.
_AIM = (4.5, 9.0)


def build_network(seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """The model with its starting weights, float32, on the CPU."""
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": TOWER_LAYERS,
            "hidden_size": TOWER_WIDTH,
            "intermediate_size": 3 * TOWER_WIDTH,
            "num_heads": HEADS,
            "patch_size": TOWER_PATCH_PX,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": WINDOW * PATCH_PX,
            "fullatt_block_indexes": list(WHOLE_PICTURE_LAYERS),
            "out_hidden_size": WIDTH,
        },
        text_config={
            "vocab_size": VISION_END + 1,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": DECODER_LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-5,
            "rope_theta": ROPE_THETA,
            "rope_scaling": {"rope_type": "default", "mrope_section": list(MROPE_SECTIONS)},
            "bos_token_id": VOCABULARY["<s>"],
            "eos_token_id": VOCABULARY["</s>"],
            "pad_token_id": VOCABULARY["<pad>"],
            "tie_word_embeddings": False,
        },
        image_token_id=VOCABULARY["<image>"],
        video_token_id=VISION_END + 1,  # none: the model takes no video
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _start_tower(model.model.visual, generator)
        directions = start_decoder(model, generator)
        _start_places(model.model.language_model.layers[0].self_attn, directions)
    return model


def tower_of(model: Qwen2_5_VLForConditionalGeneration) -> nn.Module:
    """The tower's transformer, projector (here: merger) included."""
    return model.model.visual


def projector_of(model: Qwen2_5_VLForConditionalGeneration) -> tuple[nn.Linear, nn.Linear]:
    """The two layers between tower and decoder."""
    first, _, second = model.model.visual.merger.mlp
    return first, second


def _start_tower(tower: nn.Module, generator: torch.Generator) -> None:
    frames = tower.patch_embed.proj.weight  # width, colour, frame, row, column
    normal(frames[:, :, 0], 0.15, generator)
    frames[:, :, 1] = frames[:, :, 0]  # a picture is given as two equal frames
    for index, block in enumerate(tower.blocks):
        query, key, value = block.attn.qkv.weight.chunk(3)
        for weight, scale in (
            (query, 0.085),
            (key, 0.085),
            (value, 0.125),
            (block.attn.proj.weight, 0.085),
            (block.mlp.gate_proj.weight, 0.125),
            (block.mlp.up_proj.weight, 0.125),
            (block.mlp.down_proj.weight, 0.04),
        ):
            normal(weight, scale, generator)
        if index < len(_NEIGHBOURS):
            for head, offset in enumerate(_NEIGHBOURS[index]):
                _aim_head(block.attn.qkv, head, offset)


def _aim_head(qkv: nn.Linear, head: int, offset: tuple[int, int]) -> None:
    """The head attends to the patch so many patches (down, right) of its own."""
    rows = slice(head * _TOWER_HEAD_WIDTH, (head + 1) * _TOWER_HEAD_WIDTH)
    (query, key, _), (query_bias, key_bias, _) = qkv.weight.chunk(3), qkv.bias.chunk(3)
    query[rows] *= 0.2
    key[rows] *= 0.2
    pairs = _TOWER_HEAD_WIDTH // 2  # a rotary pair is (i, i + pairs); first rows, then columns
    for axis, steps in enumerate(offset):
        for frequency, amplitude in enumerate(_AIM):
            first = rows.start + axis * pairs // 2 + frequency
            angle = steps * _tower_frequencies()[frequency]
            key_bias[first] = amplitude
            query_bias[first] = amplitude * angle.cos()
            query_bias[first + pairs] = amplitude * angle.sin()


# Row and column, each as a slope and as a hill: (rotary pair, its angle half-way, amplitude) of
# the four heads. From both, later layers can compare distances.
_PLACE_HEADS = ((4, torch.pi / 2, 3.0), (5, torch.pi / 2, 4.5), (1, 0.0, 3.0), (2, 0.0, 3.0))
_THIS_PICTURE = 3  # the rotary pair of time that tells a picture's own opening from an earlier one
_PATCH_NORM = 5.7  # of a patch's share of <image>, and of a word, after the decoder's first norm
_WORD_NORM = 11.3


def _start_places(attention: nn.Module, directions: torch.Tensor) -> None:
    """Patches note where they lie: how they share their attention between two opening tokens.

    That of the picture's own <|vision_start|> turns with the distance to it in rows or columns,
    that of the user's role stays; their difference goes to a reserved dimension for each head.
    """
    none = torch.zeros(RESERVED)
    image, user, start, opening = (
        torch.cat([none, directions[:, token]])
        for token in (VOCABULARY["<image>"], _OPENING[1], VISION_START, _OPENING[0])
    )
    half = WIDTH // HEADS // 2
    turn = frequencies(ROPE_THETA)
    scale = (2 * half) ** 0.5  # attention divides by this
    for head, (pair, middle, amplitude) in enumerate(_PLACE_HEADS):
        slow = clear_head(attention, head)[1]
        rows = torch.arange(2 * half) + head * 2 * half
        query, key = attention.q_proj.weight, attention.k_proj.weight
        centre = (GRID + 1) / 2  # distance to the opening token, halfway down or along
        for j, phase, gain in (
            (pair, middle - turn[pair] * centre, amplitude),
            (_THIS_PICTURE, -turn[_THIS_PICTURE], 4.0),
        ):
            query[rows[j]] += torch.as_tensor(phase).cos() * gain * scale / _PATCH_NORM * image
            query[rows[j + half]] += (
                torch.as_tensor(phase).sin() * gain * scale / _PATCH_NORM * image
            )
            key[rows[j]] += start / _WORD_NORM
        query[slow] += scale / _PATCH_NORM * image
        key[slow] += 4.0 / _WORD_NORM * user
        key[slow] -= 8.0 / _PATCH_NORM * image + 4.0 / _WORD_NORM * opening
        attention.v_proj.weight[rows[-1]] += start - user
        attention.o_proj.weight[head, rows[-1]] += 2.0 / _WORD_NORM


def _tower_frequencies() -> torch.Tensor:
    """Radians per patch of the tower's rotary pairs, for either axis."""
    half = _TOWER_HEAD_WIDTH // 2
    return 10000.0 ** -(torch.arange(0, half, 2).float() / half)


@functools.cache
def _tower_rotation() -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and signed sines (windows, patches, 1, head width), in the order of `_to_windows`."""
    places = torch.stack(torch.meshgrid(*[torch.arange(GRID * MERGE)] * 2, indexing="ij"), -1)
    places = _to_windows(places[None], 1)[0].float()  # windows, patches, axis
    angles = (places[..., None] * _tower_frequencies()).flatten(2)[:, :, None]
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def _to_windows(pixels: torch.Tensor, patch_px: int) -> torch.Tensor:
    """(B, side, side, C) -> (B, windows, patches, C * patch pixels): the library's order."""
    return rearrange(
        pixels,
        "b (ah wh mh ph) (aw ww mw pw) c -> b (ah aw) (wh ww mh mw) (c ph pw)",
        wh=WINDOW,
        ww=WINDOW,
        mh=MERGE,
        mw=MERGE,
        ph=patch_px,
        pw=patch_px,
    )


def tower_features(
    model: Qwen2_5_VLForConditionalGeneration, pictures: torch.Tensor
) -> torch.Tensor:
    """(B, side, side, 3) uint8 -> (B, tokens, 4 * width): what the merger's first layer takes."""
    tower = model.model.visual
    patches = _to_windows(pictures, TOWER_PATCH_PX).float().div_(127.5).sub_(1)
    x = F.linear(patches, tower.patch_embed.proj.weight.sum(2).flatten(1))
    cosine, sine = _tower_rotation()
    for index, block in enumerate(tower.blocks):
        qkv = rearrange(
            block.attn.qkv(block.norm1(x)), "b w n (three h d) -> b w n three h d", three=3, h=HEADS
        )
        q, k = (
            t * cosine + torch.cat(t.chunk(2, -1)[::-1], -1) * sine
            for t in (qkv[:, :, :, 0], qkv[:, :, :, 1])
        )
        order = "b w n h d -> b h (w n) d"
        if index not in WHOLE_PICTURE_LAYERS:
            order = "b w n h d -> (b w) h n d"
        out = F.scaled_dot_product_attention(
            *(rearrange(t, order).contiguous() for t in (q, k, qkv[:, :, :, 2]))
        )
        before, after = order.split(" -> ")
        sizes = {"b": len(x), "w": x.shape[1]}
        out = rearrange(out, f"{after} -> {before}", **sizes)
        x = x + block.attn.proj(rearrange(out, "b w n h d -> b w n (h d)"))
        x = x + block.mlp(block.norm2(x))
    return rearrange(
        tower.merger.ln_q(x),
        "b (ah aw) (wh ww m) d -> b (ah wh aw ww) (m d)",
        ah=GRID // WINDOW,
        wh=WINDOW,
        ww=WINDOW,
        m=MERGE * MERGE,
    )


def decode(
    model: Qwen2_5_VLForConditionalGeneration, features: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Final hidden states (B, Q, T, width) of Q questions of T tokens on each view.

    features (B, n * tokens, 4 * width): of one picture, or of two one after another.
    tokens (B, Q, T) ids; padding may follow a question, causality keeps it out.
    """
    decoder = model.model.language_model
    words = decoder.embed_tokens.weight
    parts = [words[list(_OPENING)].expand(len(features), -1, -1)]
    for picture in model.model.visual.merger.mlp(features).split(PATCHES, 1):
        start, end = (
            words[token].expand(len(features), 1, -1) for token in (VISION_START, VISION_END)
        )
        parts += [start, picture, end]
    _, questions, length = tokens.shape
    angles = _angles(features.shape[1] // PATCHES, questions, length)
    return decode_after(decoder, torch.cat(parts, 1), tokens, rotation(angles))


def _angles(pictures: int, questions: int, length: int) -> torch.Tensor:
    """(tokens, half the head width): M-RoPE (arXiv 2409.12191) of prefix and questions."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(GRID)] * 2, indexing="ij")).flatten(1)
    grid = torch.cat([torch.zeros(1, PATCHES, dtype=torch.int64), grid])  # time, row, column
    parts = [torch.arange(len(_OPENING)).expand(3, -1)]
    for _ in range(pictures):
        start = int(parts[-1].max()) + 1
        parts += [torch.full((3, 1), start), grid + start + 1, torch.full((3, 1), start + 1 + GRID)]
    text = int(parts[-1].max()) + 1 + torch.arange(length)
    positions = torch.cat([*parts, text.repeat(questions).expand(3, -1)], 1)
    axis = torch.cat([torch.full((n,), i % 3) for i, n in enumerate(MROPE_SECTIONS)])
    return positions[axis].T * frequencies(ROPE_THETA)


assert MODEL_SIDE_PX == GRID * PATCH_PX and GRID % WINDOW == 0
