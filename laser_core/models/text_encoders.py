"""Vision-language models that image models bring along as files: which model a file holds.

Reads the header of files of safetensors and GGUF, never weights; knows neither torch nor
transformers. A file is known by its tensors' names and shapes, whatever it is called.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .encoder_formats import TOKENIZER, StoredWeight, precision_of, weights_in
from .gguf_encoders import JoinedHeader, NoTower, joined_header
from .gguf_files import GGUF
from .model_files import read_header

SUFFIXES = ".safetensors", GGUF
TEXT, VISUAL, HEAD = "model.language_model.", "model.visual.", "lm_head.weight"
TOWER, PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
"""How transformers names the decoder, Qwen's vision tower, the output, Gemma's tower and what
projects its pictures. (Before 5.0 it put "vision_model." behind the tower's.)"""


@dataclass(frozen=True)
class Size:
    """A published size. tied: the output shares the input's embeddings, so no file has its own."""

    name: str
    layers: int
    tied: bool


SIZES = {
    ("qwen2_5_vl", 2048): Size("Qwen2.5-VL 3B", 36, True),
    ("qwen2_5_vl", 3584): Size("Qwen2.5-VL 7B", 28, False),
    ("qwen2_5_vl", 5120): Size("Qwen2.5-VL 32B", 64, False),
    ("qwen2_5_vl", 8192): Size("Qwen2.5-VL 72B", 80, False),
    ("qwen3_vl", 2048): Size("Qwen3-VL 2B", 28, True),
    ("qwen3_vl", 2560): Size("Qwen3-VL 4B", 36, True),
    ("qwen3_vl", 4096): Size("Qwen3-VL 8B", 36, False),
    ("qwen3_vl", 5120): Size("Qwen3-VL 32B", 64, False),
    ("gemma3", 2560): Size("Gemma 3 4B", 34, True),
    ("gemma3", 3840): Size("Gemma 3 12B", 48, True),
    ("gemma3", 5376): Size("Gemma 3 27B", 62, True),
}
"""By transformers' model type and the width of the decoder."""

NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "gemma3": "Gemma 3"}
"""Of the model types that are read."""

_FIRST = TEXT + "layers.0."
_EVERY = (
    TEXT + "embed_tokens.weight",
    _FIRST + "input_layernorm.weight",
    _FIRST + "mlp.down_proj.",
)
_GEMMA = _FIRST + "post_feedforward_layernorm.weight", _FIRST + "self_attn.q_norm.weight"
_GEMMA_4 = _FIRST + "layer_scalar"
_QWEN_TOWER = VISUAL + "patch_embed.proj.weight", VISUAL + "blocks.0.norm1.weight"
# Tensors that only models of the type have together, beside those that every model here has
_MARKS = {
    "qwen2_5_vl": (
        *_QWEN_TOWER,
        VISUAL + "merger.ln_q.",
        VISUAL + "blocks.0.mlp.gate_proj.",
        _FIRST + "self_attn.q_proj.bias",
    ),
    "qwen3_vl": (
        *_QWEN_TOWER,
        VISUAL + "deepstack_merger_list.0.norm.",
        _FIRST + "self_attn.q_norm.",
    ),
    "gemma3": (
        TOWER + "embeddings.patch_embedding.weight",
        TOWER + "embeddings.position_embedding.weight",
        PROJECTOR + "mm_input_projection_weight",
        *_GEMMA,
    ),
}
# How files begin their names, as transformers before and since 4.52 and ComfyUI do; longest first
_PREFIXES = (
    ("model.vision_tower.vision_model.", TOWER),
    ("model.multi_modal_projector.", PROJECTOR),
    ("vision_tower.vision_model.", TOWER),
    ("model.language_model.", TEXT),
    ("language_model.lm_head.", "lm_head."),
    ("multi_modal_projector.", PROJECTOR),
    ("language_model.model.", TEXT),
    ("model.vision_tower.", TOWER),
    ("model.visual.", VISUAL),
    ("model.lm_head.", "lm_head."),
    ("vision_model.", TOWER),
    ("lm_head.", "lm_head."),
    ("visual.", VISUAL),
    ("model.", TEXT),
)
_LAYER = re.compile(rf"{re.escape(TEXT)}layers\.(\d{{1,4}})\.")


@dataclass(frozen=True)
class Encoder:
    """The model in a file.

    name: such as "Qwen2.5-VL 7B". precision: of its weights, or what quantized them. weights: by
    transformers' names. layers: of the decoder; all_layers: of the published model. tied: as of
    `Size`. tokenizer: the file's name of its own, or "". joined: of a GGUF, its header and its
    mmproj's. unreadable: why its weights cannot be read, or "".
    """

    path: Path
    model_type: str
    name: str
    precision: str
    weights: dict[str, StoredWeight]
    layers: int
    all_layers: int
    tied: bool
    tokenizer: str
    joined: JoinedHeader | None
    whole: bool
    unreadable: str

    @property
    def beside(self) -> Path | None:
        """The file of the vision tower, where that is another."""
        return self.joined.beside if self.joined else None

    @property
    def silent(self) -> str:
        """What the file lacks to answer, or "" where it lacks nothing."""
        if self.layers < self.all_layers:
            return f"only the first {self.layers} of {self.all_layers} layers"
        if TEXT + "norm.weight" not in self.weights:
            return "no norm after its last layer"
        return "" if self.tied or HEAD in self.weights else f"no {HEAD}"

    @property
    def description(self) -> str:
        remark = ", not readable" if self.unreadable else ", locates only" if self.silent else ""
        kind = "GGUF" if self.beside else "text encoder"
        return f"{self.name}, {kind}{remark}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight, by transformers' name. Raises ValueError where there is none."""
        if name not in self.weights:
            raise ValueError(
                f"choose another file, or download {self.path.name} again: it lacks {name}"
            )
        return self.weights[name].shape


def read_encoder(path: Path) -> Encoder | None:
    """The model in a file, in GGUF with the mmproj beside it; None where none locates in pictures.

    Raises ValueError, remedy first, for a model in GGUF that lacks its mmproj.
    """
    try:
        header = joined_header(path) if path.suffix == GGUF else read_header(path)
    except NoTower:
        raise
    except ValueError:
        return None
    joined = header if isinstance(header, JoinedHeader) else None
    names = {_renamed(name): name for name in header.tensors}
    model_type = next((kind for kind in _MARKS if _is_of(kind, names)), None)
    if model_type is None:
        return None
    weights = weights_in(names, header)
    table = weights.get(TEXT + "embed_tokens.weight")
    if table is None or len(table.shape) != 2:
        return None
    width, layers = table.shape[1], _layers(names)
    other = Size(NAMES[model_type], layers, tied=model_type == "gemma3")
    size = SIZES.get((model_type, width), other)
    precision, unreadable = precision_of(header, names, weights)
    return Encoder(
        path=path,
        model_type=model_type,
        name=size.name,
        precision=precision,
        weights=weights,
        layers=layers,
        all_layers=size.layers,
        tied=size.tied or (joined is not None and HEAD not in weights),
        tokenizer=joined.tokenizer if joined else names.get(TOKENIZER, ""),
        joined=joined,
        whole=header.whole,
        unreadable=unreadable,
    )


def gemma_in(path: Path) -> str:
    """What the file of a Gemma that is not read holds, for people; "" where it is none."""
    try:
        names = {_renamed(name) for name in read_header(path).tensors}
    except ValueError:
        return ""
    if not names.issuperset(_GEMMA):
        return ""
    return "a Gemma 4" if _GEMMA_4 in names else "a Gemma 3 without a vision tower"


def _renamed(name: str) -> str:
    """transformers' name of a tensor."""
    for stored, ours in _PREFIXES:
        if name.startswith(stored):
            return ours + name.removeprefix(stored)
    return name


def _is_of(model_type: str, names: Iterable[str]) -> bool:
    if _GEMMA_4 in names:
        return False
    return all(
        any(name.startswith(mark) for name in names) for mark in (*_EVERY, *_MARKS[model_type])
    )


def _layers(names: Iterable[str]) -> int:
    """The decoder's layers, up to the first that is missing."""
    found = {int(match[1]) for match in map(_LAYER.match, names) if match}
    return next(index for index in range(len(found) + 1) if index not in found)
