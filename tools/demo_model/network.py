"""The demo model's shape and its initial weights.

A standard `LlavaForConditionalGeneration`: CLIP tower, two-layer projector, Llama decoder. What is
unusual is how the weights start. With the library's own initialisation a tower this small stays on
a plateau for longer than its whole training lasts: patches must find their neighbours before they
can read a digit. So positions get 32 dimensions of their own (sines), and the heads of the first
three layers start aimed at fixed neighbours, like the taps of a convolution. The decoder starts
with heads that look for what is like themselves, see `start_decoder`.
"""

import numpy as np
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from .questions import VOCABULARY, WORDS
from .scenes import COLOURS, MODEL_SIDE_PX, SHAPES

PATCH_PX = 8
GRID = MODEL_SIDE_PX // PATCH_PX
PATCHES = GRID * GRID
WIDTH = 128
HEADS = 4
TOWER_LAYERS = 4
DECODER_LAYERS = 8
RESERVED = WIDTH // HEADS  # the first dimensions start with a patch's place and nothing else

# (down, right) patches that each head of the tower's first three layers starts by looking at.
_NEIGHBOURS = (
    ((0, 1), (0, -1), (1, 0), (-1, 0)),
    ((1, 1), (1, -1), (-1, 1), (-1, -1)),
    ((0, 2), (0, -2), (2, 0), (-2, 0)),
)
_AIM = 1.15  # gain of the aimed queries and keys
_POSITION_SCALE = 1.1


def build_network(seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with its starting weights, float32, on the CPU."""
    tower = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=TOWER_LAYERS,
        num_attention_heads=HEADS,
        image_size=MODEL_SIDE_PX,
        patch_size=PATCH_PX,
        hidden_act="gelu",
        projection_dim=WIDTH,
    )
    decoder = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=DECODER_LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        bos_token_id=VOCABULARY["<s>"],
        eos_token_id=VOCABULARY["</s>"],
        pad_token_id=VOCABULARY["<pad>"],
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=decoder,
        image_token_index=VOCABULARY["<image>"],
        image_token_id=VOCABULARY["<image>"],  # the name since transformers 5
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=PATCHES,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _start_tower(tower_of(model), generator)
        start_decoder(model, generator)
        for linear in projector_of(model):
            normal(linear.weight, 0.09, generator)
            linear.bias.zero_()
    return model


def tower_of(model: LlavaForConditionalGeneration) -> nn.Module:
    """The tower's transformer: wrapped once more in transformers 4 than in 5."""
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower)


def projector_of(model: LlavaForConditionalGeneration) -> tuple[nn.Linear, nn.Linear]:
    """The two layers between tower and decoder."""
    projector = model.model.multi_modal_projector
    return projector.linear_1, projector.linear_2


class PatchLabels(nn.Module):
    """What each patch shows, read off the tower; thrown away after training.

    (B, patches, width) features -> shape (B, patches, 9; 0 is background), colour (.., 8) and
    digit (.., 11; 10 is none) logits.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.shape = nn.Linear(width, len(SHAPES) + 1)
        self.colour = nn.Linear(width, len(COLOURS))
        self.digit = nn.Linear(width, 11)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.norm(features)
        return self.shape(features), self.colour(features), self.digit(features)


def normal(weight: torch.Tensor, scale: float, generator: torch.Generator) -> None:
    """Fills a weight with normal noise of this standard deviation."""
    weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def _frequencies() -> np.ndarray:
    """Sine frequencies in radians per patch: a quarter of a head's width for each axis."""
    count = WIDTH // HEADS // 4
    return 1.6 * 100.0 ** (-np.arange(count) * 2 / 32)


def _position_code() -> torch.Tensor:
    """(patches, 32): sines and cosines of the row, then of the column."""
    rows, columns = np.meshgrid(np.arange(GRID), np.arange(GRID), indexing="ij")
    phases = [axis.reshape(-1, 1) * _frequencies() for axis in (rows, columns)]
    code = np.concatenate([f(phase) for phase in phases for f in (np.sin, np.cos)], axis=1)
    return torch.tensor(code, dtype=torch.float32) * _POSITION_SCALE


def _shift_matrix(down: int, right: int) -> torch.Tensor:
    """The matrix that turns a place's code into the code of the place shifted by this much."""
    frequencies = _frequencies()
    count = len(frequencies)
    matrix = torch.zeros(4 * count, 4 * count)
    for axis, offset in enumerate((down, right)):
        for j, frequency in enumerate(frequencies):
            sine = axis * 2 * count + j
            cosine = sine + count
            angle = float(frequency * offset)
            matrix[sine, sine] = matrix[cosine, cosine] = np.cos(angle)
            matrix[sine, cosine] = np.sin(angle)
            matrix[cosine, sine] = -np.sin(angle)
    return matrix


def _start_tower(tower: nn.Module, generator: torch.Generator) -> None:
    places = _position_code()
    embeddings = tower.embeddings
    normal(embeddings.patch_embedding.weight, 0.09, generator)
    embeddings.patch_embedding.weight[:RESERVED] = 0
    embeddings.position_embedding.weight.zero_()
    embeddings.position_embedding.weight[1:, :RESERVED] = places
    normal(embeddings.class_embedding, 0.3, generator)
    embeddings.class_embedding[:RESERVED] = 0
    for index, layer in enumerate(tower.encoder.layers):
        attention = layer.self_attn
        normal(attention.v_proj.weight, 0.09, generator)
        normal(attention.out_proj.weight, 0.06, generator)
        normal(attention.q_proj.weight, 0.06, generator)
        normal(attention.k_proj.weight, 0.06, generator)
        attention.v_proj.weight[:, :RESERVED] *= 0.3
        attention.out_proj.weight[:RESERVED] = 0
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            getattr(attention, name).bias.zero_()
        if index < len(_NEIGHBOURS):
            _aim_heads(attention, _NEIGHBOURS[index])
        normal(layer.mlp.fc1.weight, 0.09, generator)
        normal(layer.mlp.fc2.weight, 0.03, generator)
        layer.mlp.fc2.weight[:RESERVED] = 0
        layer.mlp.fc1.bias.zero_()
        layer.mlp.fc2.bias.zero_()


def _aim_heads(attention: nn.Module, neighbours: tuple) -> None:
    head_width = WIDTH // HEADS
    for head, offset in enumerate(neighbours):
        rows = slice(head * head_width, (head + 1) * head_width)
        attention.q_proj.weight[rows] *= 0.2
        attention.k_proj.weight[rows] *= 0.2
        attention.k_proj.weight[rows, :RESERVED] = torch.eye(RESERVED) * _AIM
        attention.q_proj.weight[rows, :RESERVED] = _shift_matrix(*offset) * _AIM


def start_decoder(model: nn.Module, generator: torch.Generator) -> torch.Tensor:
    """Layer 0 gathers the question's words at the prompt's end, layers 1 to 4 look for them.

    Without this the model soon reads digits, but for a long time it answers with any object's
    digit: nothing leads from a word to the patches that show it. So words start with orthogonal
    embeddings, the projector is fitted to give patches the words for what they show
    (`word_targets`), and some heads start as comparisons of words. Training may change all of this.
    Returns the words' directions, (width - reserved, words).
    """
    decoder = model.model.language_model
    embeddings = decoder.embed_tokens.weight
    directions, _ = torch.linalg.qr(
        torch.randn(WIDTH - RESERVED, len(embeddings), generator=generator)
    )
    embeddings.zero_()  # patches hold their place in the reserved dimensions
    embeddings[:, RESERVED:] = _WORD_NORM * directions.T
    for index, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            normal(getattr(attention, name).weight, 0.05, generator)
        normal(attention.o_proj.weight, 0.02, generator)
        for part, scale in (("gate_proj", 0.07), ("up_proj", 0.07), ("down_proj", 0.02)):
            normal(getattr(layer.mlp, part).weight, scale, generator)
        if index == 0:
            for head, words in enumerate((_CONTENT_WORDS, _ASKING_WORDS)):
                _aim_at_words(attention, head, words, directions.T)
                _copy(attention, head, directions_of(words, directions.T))
        elif index <= 4:
            places = torch.eye(WIDTH)[:RESERVED]
            passed = directions_of(_CONTENT_WORDS, directions.T) if index % 2 else places
            for head, words in enumerate((SHAPES, tuple(COLOURS), tuple("0123456789"))):
                _compare_words(attention, head, words, directions.T)
                _copy(attention, head, passed)
    model.lm_head.weight.copy_(0.5 * embeddings)
    return directions


_WORD_NORM = 2.0
_CONTENT_WORDS = (*SHAPES, *COLOURS, *"0123456789")
_ASKING_WORDS = (
    *("where", "is", "there", "see", "contain", "read", "which", "describe", "description"),
    *("digit", "number", "colour", "color", "shape", "briefly"),
    *("left", "right", "above", "below", "over", "under"),
)


def directions_of(words: tuple[str, ...], directions: torch.Tensor) -> torch.Tensor:
    """(words, width): the unit vectors of some words."""
    rows = directions[[VOCABULARY[word] for word in words]]
    return torch.cat([torch.zeros(len(rows), RESERVED), rows], 1)


def _slow_rows(head: int) -> torch.Tensor:
    """A head's rows whose rotary angle changes little from picture to text, slowest first."""
    width = WIDTH // HEADS
    pairs = torch.arange(width // 2 - 1, -1, -1)
    return head * width + torch.stack([pairs, pairs + width // 2], 1).flatten()


def clear_head(attention: nn.Module, head: int) -> torch.Tensor:
    """Weakens what the head compares; its rows from the slowest rotary pair to the fastest."""
    width = WIDTH // HEADS
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[head * width : (head + 1) * width] *= 0.1
    return _slow_rows(head)


def _aim_at_words(
    attention: nn.Module, head: int, words: tuple[str, ...], directions: torch.Tensor
) -> None:
    """The prompt's last token attends to these words of the question, not to the picture's."""
    row = clear_head(attention, head)[0]
    chosen = directions_of(words, directions).sum(0)
    picture = directions_of(("<image>",), directions)[0]
    attention.q_proj.weight[row] += 0.5 * directions_of(("ASSISTANT:",), directions)[0]
    attention.k_proj.weight[row] += 0.5 * (chosen - 6 * picture)


def _compare_words(
    attention: nn.Module, head: int, words: tuple[str, ...], directions: torch.Tensor
) -> None:
    """Tokens attend to the patches that hold one of these words in common with them."""
    rows = clear_head(attention, head)
    compared = directions_of(words, directions)
    for projection in (attention.q_proj, attention.k_proj):
        projection.weight[rows[: len(words)]] += 1.7 * compared
    # All text prefers patches to text: otherwise a word finds itself first.
    text = directions_of((*WORDS, "ASSISTANT:"), directions).sum(0)
    attention.q_proj.weight[rows[len(words)]] += 0.7 * text
    attention.k_proj.weight[rows[len(words)]] += 0.7 * directions_of(("<image>",), directions)[0]


def _copy(attention: nn.Module, head: int, passed: torch.Tensor, gain: float = 0.3) -> None:
    """The head adds to the token what the attended tokens hold in these directions."""
    start = head * (WIDTH // HEADS)
    rows = slice(start, start + len(passed))
    attention.v_proj.weight[rows] += passed
    attention.o_proj.weight[:, rows] += gain * passed.T


def word_targets(model: nn.Module, labels: tuple[torch.Tensor, ...], places: bool) -> torch.Tensor:
    """What the projector should make of patches: (B, patches, width).

    The sum of the embeddings of `<image>` and of the words for the patch's shape, colour and
    digit and, with `places`, its place in the reserved dimensions; the background holds "nothing",
    as strongly as an object its three words. `labels` as `batches.patch_labels` gives them.
    """
    embeddings = model.model.language_model.embed_tokens.weight.detach()
    tables = (["nothing", *SHAPES], list(COLOURS), [*"0123456789", None])
    target = embeddings[VOCABULARY["<image>"]].repeat(*labels[0].shape, 1)
    for words, label in zip(tables, labels, strict=True):
        table = torch.zeros(len(words) + 1, WIDTH)  # the last row: unknown
        for row, word in enumerate(words):
            if word:
                table[row] = embeddings[VOCABULARY[word]] * (1.7 if word == "nothing" else 1.0)
        target += table[torch.where(label < 0, len(words), label)]
    target[:, :, :RESERVED] = 0.2 * _position_code() if places else 0.0
    return target
