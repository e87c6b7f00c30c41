"""The demo LLaVA: CLIP's tower, a projector of two layers, Llama's decoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .network import (
    VOCABULARY_ROWS,
    Network,
    Shape,
    decoder_block,
    in_heads,
    matrix,
    ones,
    rotary_angles,
    zeros,
)
from .questions import VOCABULARY

_BOS, _USER = VOCABULARY["<s>"], VOCABULARY["USER:"]


def clip_block(x, head, n1, b1, q, qb, k, kb, v, vb, o, ob, n2, b2, f1, f1b, f2, f2b):
    y = F.layer_norm(x, x.shape[-1:], n1, b1, 1e-5)
    qkv = F.linear(y, torch.cat([q, k, v]), torch.cat([qb, kb, vb])).chunk(3, -1)
    seen = F.scaled_dot_product_attention(*(in_heads(part, head) for part in qkv))
    x = x + F.linear(seen.transpose(1, 2).flatten(2), o, ob)
    y = F.layer_norm(x, x.shape[-1:], n2, b2, 1e-5)
    return x + F.linear(F.gelu(F.linear(y, f1, f1b)), f2, f2b)


class TowerLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, mlp, small = shape.tower_width, shape.tower_mlp, (2 * shape.tower_layers) ** -0.5
        self.n1, self.n2, self.b1, self.b2 = ones(width), ones(width), zeros(width), zeros(width)
        self.q, self.k, self.v = (matrix(width, width) for _ in range(3))
        self.qb, self.kb, self.vb, self.ob = (zeros(width) for _ in range(4))
        self.o = matrix(width, width, small)
        self.f1, self.f1b = matrix(mlp, width), zeros(mlp)
        self.f2, self.f2b = matrix(width, mlp, small), zeros(width)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """In the order `clip_block` takes them."""
        attention = (self.q, self.qb, self.k, self.kb, self.v, self.vb, self.o, self.ob)
        norm1, norm2 = (self.n1, self.b1), (self.n2, self.b2)
        return *norm1, *attention, *norm2, self.f1, self.f1b, self.f2, self.f2b

    def library_state(self) -> dict[str, torch.Tensor]:
        parts = {
            "layer_norm1": (self.n1, self.b1),
            "layer_norm2": (self.n2, self.b2),
            "self_attn.q_proj": (self.q, self.qb),
            "self_attn.k_proj": (self.k, self.kb),
            "self_attn.v_proj": (self.v, self.vb),
            "self_attn.out_proj": (self.o, self.ob),
            "mlp.fc1": (self.f1, self.f1b),
            "mlp.fc2": (self.f2, self.f2b),
        }
        return with_biases(parts)


def with_biases(
    parts: dict[str, tuple[torch.Tensor, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """{"a": (weight, bias)} -> {"a.weight": weight, "a.bias": bias}."""
    return {
        f"{name}.{what}": tensor
        for name, pair in parts.items()
        for what, tensor in zip(("weight", "bias"), pair, strict=True)
    }


class Llava(Network):
    """`LlavaForConditionalGeneration`, one or two pictures before the question."""

    biases = False
    answer_opening = (VOCABULARY["ASSISTANT:"],)

    def _start_tower(self) -> None:
        shape = self.shape
        width = self.features_width = shape.tower_width
        self.blocks = {"tower": clip_block, "decoder": decoder_block}
        self.patches = matrix(width, 3 * shape.patch**2)
        self.class_token = nn.Parameter(torch.randn(width) * 0.1)
        places = torch.cat([torch.zeros(1, width), _sines(shape.grid, width)])
        self.places = nn.Parameter(places)
        self.pre_n, self.pre_b = ones(width), zeros(width)
        self.tower = nn.ModuleList(TowerLayer(shape) for _ in range(shape.tower_layers))
        self.proj1, self.proj1b = matrix(shape.width, width), zeros(shape.width)
        self.proj2, self.proj2b = matrix(shape.width, shape.width), zeros(shape.width)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        grid, patch = self.shape.grid, self.shape.patch
        x = (pictures * 2 - 1).unflatten(2, (grid, patch)).unflatten(4, (grid, patch))
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = F.linear(x, self.patches).float()
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1) + self.places
        x = F.layer_norm(x, x.shape[-1:], self.pre_n, self.pre_b, 1e-5)
        for layer in self.tower:
            x = self.blocks["tower"](x, self.shape.head, *layer.tensors())
        return x[:, 1:]

    def prompt(self, pictures: Sequence[torch.Tensor]) -> list[int | torch.Tensor]:
        return [_BOS, _USER, *pictures]

    def prompt_positions(self, pictures: int) -> tuple[torch.Tensor, int]:
        length = 2 + pictures * self.shape.tokens
        return torch.arange(length)[None], length

    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        return rotary_angles(positions[0], self.shape.head // 2, self.shape.theta)

    def library_state(self) -> dict[str, torch.Tensor]:
        tower, ones_ = "model.vision_tower.", torch.ones_like(self.pre_n)
        state = {
            f"{tower}embeddings.class_embedding": self.class_token,
            f"{tower}embeddings.patch_embedding.weight": self.patches.unflatten(
                1, (3, self.shape.patch, self.shape.patch)
            ),
            f"{tower}embeddings.position_embedding.weight": self.places,
        }
        for i, layer in enumerate(self.tower):
            for name, tensor in layer.library_state().items():
                state[f"{tower}encoder.layers.{i}.{name}"] = tensor
        projector = "model.multi_modal_projector.linear_"
        state |= with_biases(
            {
                f"{tower}pre_layrnorm": (self.pre_n, self.pre_b),  # the library's spelling
                f"{tower}post_layernorm": (ones_, 0 * ones_),  # of the class token, never read
                f"{projector}1": (self.proj1, self.proj1b),
                f"{projector}2": (self.proj2, self.proj2b),
            }
        )
        return state | self.decoder_state()

    def library_config(self):
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        shape = self.shape
        tower = CLIPVisionConfig(
            hidden_size=shape.tower_width,
            intermediate_size=shape.tower_mlp,
            num_hidden_layers=shape.tower_layers,
            num_attention_heads=shape.tower_width // shape.head,
            image_size=shape.side,
            patch_size=shape.patch,
            hidden_act="gelu",
            projection_dim=shape.tower_width,
        )
        decoder = LlamaConfig(
            vocab_size=VOCABULARY_ROWS,
            hidden_size=shape.width,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.width // shape.head,
            num_key_value_heads=shape.kv_heads,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_theta=shape.theta,
            bos_token_id=_BOS,
            eos_token_id=VOCABULARY["</s>"],
            pad_token_id=VOCABULARY["<pad>"],
            tie_word_embeddings=False,
        )
        return LlavaConfig(
            vision_config=tower,
            text_config=decoder,
            image_token_index=VOCABULARY["<image>"],
            image_token_id=VOCABULARY["<image>"],  # the name since transformers 5
            projector_hidden_act="gelu",
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            image_seq_length=shape.tokens,
            tie_word_embeddings=False,
        )


def _sines(grid: int, width: int) -> torch.Tensor:
    """(grid * grid, width): sines and cosines of the row, then of the column."""
    speed = 100 ** (-torch.arange(width // 4) / (width // 4))
    phases = torch.arange(grid).float()[:, None] * speed
    code = torch.cat([phases.sin(), phases.cos()], 1)
    rows, columns = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)
