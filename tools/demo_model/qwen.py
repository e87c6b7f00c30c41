"""The demo Qwen2.5-VL: a tower with full attention, the merger, Qwen2's decoder with M-RoPE."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from .llava import with_biases
from .network import (
    VISION_END,
    VISION_START,
    VOCABULARY_ROWS,
    Network,
    Shape,
    decoder_block,
    in_heads,
    matrix,
    ones,
    rms,
    rotary_angles,
    rotate,
    zeros,
)
from .questions import VOCABULARY

SHAPE = Shape(tower_width=128, tower_mlp=256, mlp=384, kv_heads=2, theta=1000.0)
MERGE = 2  # patches of the tower along a side of a token
# Rotary pairs of time, row and column, in turns: every speed serves each.
MROPE_SECTIONS = (1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 3)
_BOS, _EOS = VOCABULARY["<s>"], VOCABULARY["</s>"]


def tower_block(x, head, cosine, sine, n1, q, qb, k, kb, v, vb, o, ob, n2, g, gb, u, ub, d, db):
    y = rms(x, n1, 1e-6)
    qkv = F.linear(y, torch.cat([q, k, v]), torch.cat([qb, kb, vb])).chunk(3, -1)
    queries, keys, values = (in_heads(part, head) for part in qkv)
    queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
    seen = F.scaled_dot_product_attention(queries, keys, values)
    x = x + F.linear(seen.transpose(1, 2).flatten(2), o, ob)
    y = rms(x, n2, 1e-6)
    gate, up = F.linear(y, torch.cat([g, u]), torch.cat([gb, ub])).chunk(2, -1)
    return x + F.linear(F.silu(gate) * up, d, db)


class TowerLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, mlp, small = shape.tower_width, shape.tower_mlp, (2 * shape.tower_layers) ** -0.5
        self.n1, self.n2 = ones(width), ones(width)
        self.q, self.k, self.v = (matrix(width, width) for _ in range(3))
        self.qb, self.kb, self.vb, self.ob = (zeros(width) for _ in range(4))
        self.o = matrix(width, width, small)
        self.gate, self.gate_b = matrix(mlp, width), zeros(mlp)
        self.up, self.up_b = matrix(mlp, width), zeros(mlp)
        self.down, self.down_b = matrix(width, mlp, small), zeros(width)

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """In the order `tower_block` takes them."""
        attention = (self.q, self.qb, self.k, self.kb, self.v, self.vb, self.o, self.ob)
        mlp = (self.gate, self.gate_b, self.up, self.up_b, self.down, self.down_b)
        return self.n1, *attention, self.n2, *mlp

    def library_state(self) -> dict[str, torch.Tensor]:
        weights, biases = (self.q, self.k, self.v), (self.qb, self.kb, self.vb)
        parts = {
            "attn.qkv": (torch.cat(weights), torch.cat(biases)),
            "attn.proj": (self.o, self.ob),
            "mlp.gate_proj": (self.gate, self.gate_b),
            "mlp.up_proj": (self.up, self.up_b),
            "mlp.down_proj": (self.down, self.down_b),
        }
        return with_biases(parts) | {"norm1.weight": self.n1, "norm2.weight": self.n2}


class Qwen(Network):
    """`Qwen2_5_VLForConditionalGeneration` for square pictures of one size."""

    biases = True
    answer_opening = (_EOS, _BOS, VOCABULARY["ASSISTANT:"])

    def _start_tower(self) -> None:
        shape = self.shape
        width, patch, merged = shape.tower_width, shape.patch // MERGE, MERGE**2 * shape.tower_width
        self.features_width = merged
        self.blocks = {"tower": tower_block, "decoder": decoder_block}
        self.patches = matrix(width, 3 * patch**2)
        self.tower = nn.ModuleList(TowerLayer(shape) for _ in range(shape.tower_layers))
        self.merge_n = ones(width)
        self.proj1, self.proj1b = matrix(merged, merged), zeros(merged)
        self.proj2, self.proj2b = matrix(shape.width, merged), zeros(shape.width)
        # Patches come in groups of a token's.
        places = torch.arange(MERGE * shape.grid)
        grouped = (shape.grid, MERGE, shape.grid, MERGE)
        rows, columns = (
            axis.reshape(grouped).transpose(1, 2).flatten()
            for axis in torch.meshgrid(places, places, indexing="ij")
        )
        angles = [rotary_angles(axis, shape.head // 4, 10000.0) for axis in (rows, columns)]
        angles = torch.cat([*angles, *angles], -1)
        self.register_buffer("cosine", angles.cos(), False)
        self.register_buffer("sine", angles.sin(), False)

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        grid, patch = self.shape.grid, self.shape.patch // MERGE
        x = (pictures * 2 - 1).unflatten(2, (grid, MERGE, patch)).unflatten(5, (grid, MERGE, patch))
        # colour, row, inner row, y, column, inner column, x -> row, column, inner ones, colour, ..
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(1, 4)
        x = F.linear(x, self.patches).float()
        for layer in self.tower:
            x = self.blocks["tower"](x, self.shape.head, self.cosine, self.sine, *layer.tensors())
        return rms(x, self.merge_n, 1e-6).unflatten(1, (-1, MERGE**2)).flatten(2)

    def prompt(self, pictures: Sequence[torch.Tensor]) -> list[int | torch.Tensor]:
        marked = (part for picture in pictures for part in (VISION_START, picture, VISION_END))
        return [_BOS, VOCABULARY["USER:"], *marked]

    def prompt_positions(self, pictures: int) -> tuple[torch.Tensor, int]:
        grid, after = self.shape.grid, 2
        places = torch.arange(grid)
        rows, columns = places.repeat_interleave(grid), places.repeat(grid)
        parts = [torch.arange(2).expand(3, -1)]
        for _ in range(pictures):
            inside = after + 1 + torch.stack([0 * rows, rows, columns])
            marks = (torch.full((3, 1), at) for at in (after, after + 1 + grid))
            parts += [next(marks), inside, next(marks)]
            after += grid + 2
        return torch.cat(parts, 1), after

    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        angles = rotary_angles(positions, self.shape.head // 2, self.shape.theta)
        axes = [i % 3 for i, count in enumerate(MROPE_SECTIONS) for _ in range(count)]
        return torch.stack([angles[axis, :, pair] for pair, axis in enumerate(axes)], -1)

    def library_state(self) -> dict[str, torch.Tensor]:
        tower, patch = "model.visual.", self.shape.patch // MERGE
        # The library shows every picture twice, as two frames of a video.
        frame = self.patches.view(-1, 3, 1, patch, patch) / 2
        state = {
            f"{tower}patch_embed.proj.weight": torch.cat([frame, frame], 2),
            f"{tower}merger.ln_q.weight": self.merge_n,
        }
        for i, layer in enumerate(self.tower):
            for name, tensor in layer.library_state().items():
                state[f"{tower}blocks.{i}.{name}"] = tensor
        state |= with_biases(
            {
                f"{tower}merger.mlp.0": (self.proj1, self.proj1b),
                f"{tower}merger.mlp.2": (self.proj2, self.proj2b),
            }
        )
        return state | self.decoder_state()

    def library_config(self):
        from transformers import Qwen2_5_VLConfig

        shape = self.shape
        return Qwen2_5_VLConfig(
            vision_config={
                "depth": shape.tower_layers,
                "hidden_size": shape.tower_width,
                "intermediate_size": shape.tower_mlp,
                "num_heads": shape.tower_width // shape.head,
                "patch_size": shape.patch // MERGE,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": 2,
                "window_size": shape.side // 2,
                "fullatt_block_indexes": list(range(shape.tower_layers)),
                "out_hidden_size": shape.width,
            },
            text_config={
                "vocab_size": VOCABULARY_ROWS,
                "hidden_size": shape.width,
                "intermediate_size": shape.mlp,
                "num_hidden_layers": shape.layers,
                "num_attention_heads": shape.width // shape.head,
                "num_key_value_heads": shape.kv_heads,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-5,
                "rope_theta": shape.theta,
                "rope_scaling": {"rope_type": "default", "mrope_section": list(MROPE_SECTIONS)},
                "bos_token_id": _BOS,
                "eos_token_id": _EOS,
                "pad_token_id": VOCABULARY["<pad>"],
                "tie_word_embeddings": False,
            },
            image_token_id=VOCABULARY["<image>"],
            video_token_id=VOCABULARY_ROWS,
            vision_start_token_id=VISION_START,
            vision_end_token_id=VISION_END,
            tie_word_embeddings=False,
        )
