"""The training forward pass: the library's function, arranged for many questions per picture.

It reads the weights of the library's modules and computes what they compute; a test compares the
two. The picture's tokens go through the decoder once for all questions on it, and the last layer
skips them: nothing reads their output.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import LlavaForConditionalGeneration

from .attention import attend, attend_questions, causal_mask
from .network import GRID, HEADS, PATCH_PX, WIDTH, tower_of
from .questions import VOCABULARY

_HEAD_WIDTH = WIDTH // HEADS
_OPENING = (VOCABULARY["<s>"], VOCABULARY["USER:"])


def pictures_to_patches(pictures: torch.Tensor) -> torch.Tensor:
    """(B, side, side, 3) uint8 -> (B, patches, 3 * patch pixels) float32 in [-1, 1]."""
    patches = rearrange(
        pictures,
        "b (gh ph) (gw pw) c -> b (gh gw) (c ph pw)",
        gh=GRID,
        gw=GRID,
        ph=PATCH_PX,
        pw=PATCH_PX,
    )
    return patches.float().div_(127.5).sub_(1)


def tower_features(model: LlavaForConditionalGeneration, pictures: torch.Tensor) -> torch.Tensor:
    """(B, side, side, 3) uint8 -> (B, patches, width): the tower's last layer without its class."""
    tower = tower_of(model)
    embeddings = tower.embeddings
    patches = pictures_to_patches(pictures)
    x = F.linear(patches, embeddings.patch_embedding.weight.flatten(1))
    first = embeddings.class_embedding.expand(len(x), 1, WIDTH)
    x = torch.cat([first, x], 1) + embeddings.position_embedding.weight
    x = tower.pre_layrnorm(x)  # the library's spelling
    for layer in tower.encoder.layers:
        y = layer.layer_norm1(x)
        a = layer.self_attn
        weight = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
        qkv = rearrange(
            F.linear(y, weight, bias), "b l (three h d) -> three (b h) l d", three=3, h=HEADS
        )
        out = attend(*(t.contiguous() for t in qkv), None)
        x = x + a.out_proj(rearrange(out, "(b h) l d -> b l (h d)", h=HEADS))
        y = layer.layer_norm2(x)
        x = x + layer.mlp.fc2(F.gelu(layer.mlp.fc1(y)))
    return x[:, 1:]


@dataclass(frozen=True)
class Rotation:
    """Rotary tables (length, 1, 1, head width) with the sign of the swapped half folded in."""

    cosine: torch.Tensor
    sine: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, length, kinds, heads, head width)."""
        low, high = x.chunk(2, -1)
        return x * self.cosine + torch.cat([high, low], -1) * self.sine


def rotation(angles: torch.Tensor) -> Rotation:
    """The rotation of `length` tokens by (length, half the head width) angles in radians."""
    cosine, sine = angles[:, None, None].cos(), angles[:, None, None].sin()
    return Rotation(torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1))


def frequencies(theta: float) -> torch.Tensor:
    """Radians per position of a head's rotary pairs, fastest first."""
    return theta ** -(torch.arange(0, _HEAD_WIDTH, 2).float() / _HEAD_WIDTH)


def decode(
    model: LlavaForConditionalGeneration, features: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Final hidden states (B, Q, T, width) of Q questions of T tokens on each view.

    features (B, n * patches, width): of one picture, or of two one after another.
    tokens (B, Q, T) ids; padding may follow a question, causality keeps it out.
    """
    decoder = model.model.language_model
    projector = model.model.multi_modal_projector
    pictures = projector.linear_2(F.gelu(projector.linear_1(features)))
    opening = decoder.embed_tokens.weight[list(_OPENING)].expand(len(features), -1, -1)
    prefix = torch.cat([opening, pictures], 1)
    _, questions, length = tokens.shape
    before = prefix.shape[1]
    text_positions = (before + torch.arange(length)).repeat(questions)
    positions = torch.cat([torch.arange(before), text_positions])
    return decode_after(
        decoder, prefix, tokens, rotation(positions[:, None] * frequencies(10000.0))
    )


def decode_after(
    decoder: nn.Module, prefix: torch.Tensor, tokens: torch.Tensor, rotate: Rotation
) -> torch.Tensor:
    """Final hidden states (B, Q, T, width) of tokens (B, Q, T) after embeddings (B, P, width).

    `rotate` holds P + Q * T positions: those of the prefix, then of all questions.
    """
    _, questions, length = tokens.shape
    before = prefix.shape[1]
    text = rearrange(decoder.embed_tokens(tokens), "b q t d -> b (q t) d")
    x = torch.cat([prefix, text], 1)
    prefix_mask, text_mask = causal_mask(before), causal_mask(length)
    for index, layer in enumerate(decoder.layers):
        a = layer.self_attn
        y = layer.input_layernorm(x)
        weight = torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight])
        bias = None
        if a.q_proj.bias is not None:
            bias = torch.cat([a.q_proj.bias, a.k_proj.bias, a.v_proj.bias])
        qkv = F.linear(y, weight, bias)
        qkv = rearrange(qkv, "b l (three h d) -> b l three h d", three=3, h=HEADS)
        qk = rearrange(rotate(qkv[:, :, :2]), "b l two h d -> two (b h) l d")
        v = rearrange(qkv[:, :, 2], "b l h d -> (b h) l d")
        (pq, pk, pv), (tq, tk, tv) = (
            [t[:, part].contiguous() for t in (*qk, v)]
            for part in (slice(None, before), slice(before, None))
        )
        out = attend_questions(tq, tk, tv, pk, pv, text_mask)
        if index == len(decoder.layers) - 1:
            x = x[:, before:]
        else:
            out = torch.cat([attend(pq, pk, pv, prefix_mask), out], 1)
        x = x + a.o_proj(rearrange(out, "(b h) l d -> b l (h d)", h=HEADS))
        y = layer.post_attention_layernorm(x)
        gate, up = F.linear(
            y, torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight])
        ).chunk(2, -1)
        x = x + layer.mlp.down_proj(F.silu(gate) * up)
    return rearrange(decoder.norm(x), "b (q t) d -> b q t d", q=questions)
