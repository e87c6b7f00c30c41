"""What both demo models share: a decoder that answers many questions on pictures read once.

`llava` and `qwen` add towers and positions; `library_state` and `library_config` of a network are
what transformers' class takes. Blocks are functions of tensors alone, so that one compiled function
serves all layers. Weights start as ordinary random ones. Knows nothing of scenes and training.
"""

import abc
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .questions import VOCABULARY

VISION_START, VISION_END = len(VOCABULARY), len(VOCABULARY) + 1  # Qwen's marks, past the words
VOCABULARY_ROWS = len(VOCABULARY) + 2
_HIDDEN = -3e4  # added to scores of what a token may not see
_PADDED_TO = 64  # lengths are multiples of this: attention kernels are fast then


@dataclass(frozen=True)
class Shape:
    """side: of the pictures, in pixels. patch: pixels per token. mlp: width of the middle layer.

    kv_heads: heads of the decoder's keys and values. head: width of every head. theta: of the
    decoder's rotary positions.
    """

    side: int = 224
    patch: int = 16
    tower_width: int = 256
    tower_layers: int = 6
    tower_mlp: int = 512
    width: int = 192
    layers: int = 10
    mlp: int = 448
    kv_heads: int = 6
    head: int = 32
    theta: float = 10000.0

    @property
    def grid(self) -> int:
        """Tokens along a side of a picture."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        return self.grid**2


def matrix(rows: int, columns: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, columns) * scale / math.sqrt(columns))


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def ones(width: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(width))


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    y = x.float()
    return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


def rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, -1)
    return (x * cosine + torch.cat([-high, low], -1) * sine).to(x.dtype)


def in_heads(x: torch.Tensor, head: int) -> torch.Tensor:
    """(B, length, heads * head) -> (B, heads, length, head)."""
    return x.unflatten(-1, (-1, head)).transpose(1, 2)


def decoder_block(x, head, cosine, sine, mask, n1, q, qb, k, kb, v, vb, o, n2, gate, up, down):
    y = rms(x, n1, 1e-5)
    bias = None if qb is None else torch.cat([qb, kb, vb])
    widths = [len(weight) for weight in (q, k, v)]
    queries, keys, values = (
        in_heads(part, head) for part in F.linear(y, torch.cat([q, k, v]), bias).split(widths, -1)
    )
    queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
    shared = queries.shape[1] // keys.shape[1]
    if shared > 1:
        keys, values = (t.repeat_interleave(shared, 1) for t in (keys, values))
    seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask.to(queries.dtype))
    x = x + F.linear(seen.transpose(1, 2).flatten(2), o)
    first, second = F.linear(rms(x, n2, 1e-5), torch.cat([gate, up])).chunk(2, -1)
    return x + F.linear(F.silu(first) * second, down)


class DecoderLayer(nn.Module):
    """Of a Llama (without biases) or a Qwen2 (with biases of queries, keys and values)."""

    def __init__(self, shape: Shape, biases: bool) -> None:
        super().__init__()
        width, kv, small = shape.width, shape.kv_heads * shape.head, (2 * shape.layers) ** -0.5
        self.n1, self.n2 = ones(width), ones(width)
        self.q, self.k, self.v = matrix(width, width), matrix(kv, width), matrix(kv, width)
        for name, size in (("qb", width), ("kb", kv), ("vb", kv)):
            self.register_parameter(name, zeros(size) if biases else None)
        self.o = matrix(width, width, small)
        self.gate, self.up = matrix(shape.mlp, width), matrix(shape.mlp, width)
        self.down = matrix(width, shape.mlp, small)

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """In the order `decoder_block` takes them."""
        attention = (self.q, self.qb, self.k, self.kb, self.v, self.vb, self.o)
        return self.n1, *attention, self.n2, self.gate, self.up, self.down

    def library_state(self) -> dict[str, torch.Tensor]:
        state = {
            "input_layernorm.weight": self.n1,
            "post_attention_layernorm.weight": self.n2,
            "self_attn.o_proj.weight": self.o,
            "mlp.gate_proj.weight": self.gate,
            "mlp.up_proj.weight": self.up,
            "mlp.down_proj.weight": self.down,
        }
        for name in "qkv":
            state[f"self_attn.{name}_proj.weight"] = getattr(self, name)
            bias = getattr(self, f"{name}b")
            if bias is not None:
                state[f"self_attn.{name}_proj.bias"] = bias
        return state


class Network(nn.Module, abc.ABC):
    """A model with its starting weights. `blocks` may be replaced by compiled functions."""

    biases: bool
    features_width: int
    answer_opening: tuple[int, ...]  # token ids between question and answer
    blocks: dict[str, Callable]

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shape = shape
        self._start_tower()
        self.decoder = nn.ModuleList(DecoderLayer(shape, self.biases) for _ in range(shape.layers))
        self.norm = ones(shape.width)
        self.embed = nn.Parameter(torch.randn(VOCABULARY_ROWS, shape.width) * 0.3)
        self.head = matrix(VOCABULARY_ROWS, shape.width)
        self._plans: dict[tuple, tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]] = {}

    @abc.abstractmethod
    def _start_tower(self) -> None:
        """Makes `blocks`, the tower and the projector: `proj1`, `proj1b`, `proj2`, `proj2b`."""

    @abc.abstractmethod
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, side, side) in 0..1 -> (B, tokens, `features_width`), the projector's input."""

    @abc.abstractmethod
    def prompt(self, pictures: Sequence[torch.Tensor]) -> list[int | torch.Tensor]:
        """What comes before the questions: token ids and projected pictures (B, tokens, width)."""

    @abc.abstractmethod
    def prompt_positions(self, pictures: int) -> tuple[torch.Tensor, int]:
        """(axes, length) of the prompt's tokens, and the position of what follows."""

    @abc.abstractmethod
    def angles(self, positions: torch.Tensor) -> torch.Tensor:
        """(axes, length) positions -> (length, half a head) rotary angles."""

    @abc.abstractmethod
    def library_state(self) -> dict[str, torch.Tensor]:
        """The weights under the names of transformers' class."""

    @abc.abstractmethod
    def library_config(self):
        """transformers' configuration of this network."""

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """(B, tokens, `features_width`) -> (B, tokens, width), as the decoder reads pictures."""
        hidden = F.gelu(F.linear(features, self.proj1, self.proj1b))
        return F.linear(hidden, self.proj2, self.proj2b)

    def hidden(
        self, pictures: Sequence[torch.Tensor], tokens: torch.Tensor, slots: tuple[int, ...]
    ) -> torch.Tensor:
        """Final hidden states (B, N, width) of tokens (B, N): questions of `slots` tokens each.

        Every question sees the pictures (B, tokens, width), and of the questions only itself.
        """
        mask, cosine, sine, padding = self._plan(len(pictures), slots, tokens.device)
        opening = [
            self.embed[part].expand(len(tokens), 1, -1) if isinstance(part, int) else part.float()
            for part in self.prompt(pictures)
        ]
        x = torch.cat([*opening, self.embed[tokens]], 1)
        x = F.pad(x, (0, 0, 0, padding))
        for layer in self.decoder:
            x = self.blocks["decoder"](x, self.shape.head, cosine, sine, mask, *layer.tensors())
        last = x.shape[1] - padding
        return rms(x[:, last - tokens.shape[1] : last], self.norm, 1e-5)

    def _plan(
        self, pictures: int, slots: tuple[int, ...], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """Mask, cosines, sines and how many tokens are padded, for questions of these lengths."""
        key = (pictures, slots, device)
        if key not in self._plans:
            before, after = self.prompt_positions(pictures)
            prefix = before.shape[1]
            texts = [(after + torch.arange(n)).expand(len(before), -1) for n in slots]
            positions = torch.cat([before, *texts], 1)
            total = positions.shape[1]
            padding = -total % _PADDED_TO
            seen = torch.zeros(total + padding, total + padding, dtype=torch.bool)
            seen[:, 0] = True  # padding must see something
            seen[:total, :prefix] = True
            seen[:prefix, :prefix] = seen[:prefix, :prefix].tril()
            start = prefix
            for n in slots:
                own = slice(start, start + n)
                seen[own, own] = torch.ones(n, n, dtype=torch.bool).tril()
                start += n
            mask = torch.zeros(seen.shape).masked_fill(~seen, _HIDDEN)
            angles = self.angles(F.pad(positions, (0, padding)))
            angles = torch.cat([angles, angles], -1)
            tensors = (mask.to(device), angles.cos().to(device), angles.sin().to(device))
            self._plans[key] = (*tensors, padding)
        return self._plans[key]

    def first_words(
        self, pictures: Sequence[torch.Tensor], tokens: torch.Tensor, last: torch.Tensor
    ) -> torch.Tensor:
        """(B, words) logits of the first answer word, one question (B, N) a row, `last` its end."""
        x = self.hidden(pictures, tokens, (tokens.shape[1],))
        return F.linear(x[torch.arange(len(x), device=x.device), last], self.head).float()

    def tower_parameters(self) -> Iterator[nn.Parameter]:
        """Of all that comes before the projector."""
        after = ("decoder.", "norm", "embed", "head", "proj")
        return (p for name, p in self.named_parameters() if not name.startswith(after))

    def matrices(self) -> Iterator[nn.Parameter]:
        """Those inside the layers and the projector, which Muon trains."""
        inside = ("tower.", "decoder.", "proj")
        named = self.named_parameters()
        return (p for name, p in named if name.startswith(inside) and p.ndim == 2)

    def decoder_state(self) -> dict[str, torch.Tensor]:
        state = {
            "model.language_model.embed_tokens.weight": self.embed,
            "model.language_model.norm.weight": self.norm,
            "lm_head.weight": self.head,
        }
        for i, layer in enumerate(self.decoder):
            for name, tensor in layer.library_state().items():
                state[f"model.language_model.layers.{i}.{name}"] = tensor
        return state


def rotary_angles(positions: torch.Tensor, pairs: int, theta: float) -> torch.Tensor:
    """(...) positions -> (..., pairs) angles, fastest first."""
    return positions[..., None] * theta ** (-torch.arange(pairs) / pairs)
