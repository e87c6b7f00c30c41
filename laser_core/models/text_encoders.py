"""Vision-language models that image models bring along as one file: which model a file holds.

Reads the header of safetensors files, never weights; knows neither torch nor transformers. A file
is known by its tensors' names and shapes, whatever it is called.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model_files import Header, StoredTensor, read_header

SUFFIX = ".safetensors"
TEXT, VISUAL, HEAD = "model.language_model.", "model.visual.", "lm_head.weight"
"""Where transformers has the decoder, the vision tower and the output, on both of its lines."""


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
}
"""By transformers' model type and the width of the decoder."""

# Tensors that only models of the type have, beside those that every model here has
_MARKS = {
    "qwen2_5_vl": (
        VISUAL + "merger.ln_q.",
        VISUAL + "blocks.0.mlp.gate_proj.",
        "self_attn.q_proj.bias",
    ),
    "qwen3_vl": (VISUAL + "deepstack_merger_list.0.norm.", "self_attn.q_norm."),
}
_NAMES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL"}
_EVERY = (
    TEXT + "embed_tokens.weight",
    TEXT + "layers.0.input_layernorm.weight",
    TEXT + "layers.0.mlp.down_proj.",
    VISUAL + "patch_embed.proj.weight",
    VISUAL + "blocks.0.norm1.weight",
)
# How files begin their names, as transformers before and since 4.52 and ComfyUI do; longest first
_PREFIXES = (
    ("model.language_model.", TEXT),
    ("model.visual.", VISUAL),
    ("model.lm_head.", "lm_head."),
    ("visual.", VISUAL),
    ("lm_head.", "lm_head."),
    ("model.", TEXT),
)
_PRECISIONS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
FP8 = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
"""Formats of 8 bits: as safetensors names them, and as ComfyUI and torch do."""

SCALES = ("scale_weight", "weight_scale")
"""Beside a weight: the one number it is multiplied by, as older and as newer files name it."""
FORMAT = "comfy_quant"
"""Beside a weight: JSON in bytes, with the name of its format."""
# Also scales of activations, which are never quantized here, and an empty tensor that says in older
# files that there are scales
_BESIDE = (*SCALES, FORMAT, "scale_input", "input_scale", "scaled_fp8")
_ROTARY = "rotary_emb.inv_freq"
_PACKED = {"nvfp4": {"weight_scale_2"}, "awq": {"qweight", "qzeros"}}
_LAYER = re.compile(rf"{re.escape(TEXT)}layers\.(\d{{1,4}})\.")
_WEIGHT = re.compile(r"(.*\.)?(weight|bias)")


@dataclass(frozen=True)
class Encoder:
    """The model in a file.

    name: such as "Qwen2.5-VL 7B". precision: of its weights, or what quantized them. weights:
    stored tensors by transformers' name of the weight; stored_as: the file's name of each.
    scales: the file's name of a weight's scale, by transformers' name of the weight; formats: of
    the tensors with its format. layers: of the decoder; all_layers: of the published model. tied:
    as of `Size`. unreadable: why its weights cannot be read, or "".
    """

    path: Path
    model_type: str
    name: str
    precision: str
    weights: dict[str, StoredTensor]
    stored_as: dict[str, str]
    scales: dict[str, str]
    formats: dict[str, str]
    layers: int
    all_layers: int
    tied: bool
    whole: bool
    unreadable: str

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
        return f"{self.name}, text encoder{remark}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a weight, by transformers' name. Raises ValueError where there is none."""
        if name not in self.weights:
            raise ValueError(
                f"choose another file, or download {self.path.name} again: it lacks {name}"
            )
        return self.weights[name].shape


def read_encoder(path: Path) -> Encoder | None:
    """The model in a file of safetensors; None where it is none that locates in pictures."""
    try:
        header = read_header(path)
    except ValueError:
        return None
    names = {_renamed(name): name for name in header.tensors}
    model_type = next((kind for kind in _MARKS if _is_of(kind, names)), None)
    if model_type is None:
        return None
    weights = {
        name: header.tensors[stored] for name, stored in names.items() if _WEIGHT.fullmatch(name)
    }
    table = weights[TEXT + "embed_tokens.weight"].shape
    if len(table) != 2:
        return None
    width, layers = table[1], _layers(names)
    size = SIZES.get((model_type, width), Size(_NAMES[model_type], layers, False))
    precision, unreadable = _precision(header, names, weights)
    return Encoder(
        path=path,
        model_type=model_type,
        name=size.name,
        precision=precision,
        weights=weights,
        stored_as={name: names[name] for name in weights},
        scales=_beside(names, SCALES),
        formats=_beside(names, (FORMAT,)),
        layers=layers,
        all_layers=size.layers,
        tied=size.tied,
        whole=header.whole,
        unreadable=unreadable,
    )


def gemma_in(path: Path) -> str:
    """What a Gemma's file holds, for people; "" where it is none. No such file is read here."""
    try:
        names = read_header(path).tensors
    except ValueError:
        return ""
    own = [name.removeprefix("model.layers.0.") for name in names]
    if not {"post_feedforward_layernorm.weight", "self_attn.q_norm.weight"} <= {*own}:
        return ""
    sees = any(name.startswith(("vision_model.", "vision_tower.")) for name in names)
    generation = "Gemma 4" if "layer_scalar" in own else "Gemma 3"
    return f"a {generation} {'with' if sees else 'without'} a vision tower"


def _renamed(name: str) -> str:
    """transformers' name of a tensor."""
    for stored, ours in _PREFIXES:
        if name.startswith(stored):
            return ours + name.removeprefix(stored)
    return name


def _is_of(model_type: str, names: Iterable[str]) -> bool:
    first = TEXT + "layers.0."
    marks = [mark if mark.startswith("model.") else first + mark for mark in _MARKS[model_type]]
    return all(any(name.startswith(mark) for name in names) for mark in (*_EVERY, *marks))


def _layers(names: Iterable[str]) -> int:
    """The decoder's layers, up to the first that is missing."""
    found = {int(match[1]) for match in map(_LAYER.match, names) if match}
    return next(index for index in range(len(found) + 1) if index not in found)


def _beside(names: dict[str, str], suffixes: Iterable[str]) -> dict[str, str]:
    """{weight: the file's name of a tensor beside it}."""
    return {
        f"{name.removesuffix(suffix)}weight": stored
        for name, stored in names.items()
        for suffix in suffixes
        if name.endswith(f".{suffix}")
    }


def _precision(
    header: Header, names: dict[str, str], weights: dict[str, StoredTensor]
) -> tuple[str, str]:
    """(name of the weights' format, why it cannot be read or "")."""
    other = _other_format(header, names)
    if other:
        return other, f"{other} is not read here"
    stored = {tensor.dtype for tensor in weights.values()}
    odd = sorted(stored - {*_PRECISIONS, *FP8})
    if odd:
        return "quantized", f"weights of type {odd[0]} are not read here"
    for name, beside in names.items():
        last, shape = name.rpartition(".")[2], header.tensors[beside].shape
        if last in SCALES and shape not in ((), (1,)):
            return "quantized", f"{beside} has shape {[*shape]}: only one scale a tensor is read"
        if last in SCALES and not _scales_8_bits(name, weights):
            return "quantized", f"{beside} belongs to no weight of 8 bits"
        if not (name in weights or last in _BESIDE or name.endswith(_ROTARY)):
            return "quantized", f"nothing here reads its tensor {beside}"
    if stored & {*FP8}:
        return "fp8", ""
    largest = max(weights.values(), key=lambda tensor: math.prod(tensor.shape))
    return _PRECISIONS[largest.dtype], ""


def _scales_8_bits(name: str, weights: dict[str, StoredTensor]) -> bool:
    weight = weights.get(f"{name.rpartition('.')[0]}.weight")
    return weight is not None and weight.dtype in FP8


def _other_format(header: Header, names: Iterable[str]) -> str | None:
    """The name of a format that is not read here, by what lies beside weights or by metadata."""
    last = {name.rpartition(".")[2] for name in names}
    said = [kind for kind, marks in _PACKED.items() if marks <= last]
    said += [kind for kind in _formats_in(header.metadata) if kind not in FP8.values()]
    return next(iter(said), None)


def _formats_in(metadata: dict[str, Any]) -> list[str]:
    """The formats of layers that a file's metadata names, each once."""
    try:
        layers = json.loads(metadata.get("_quantization_metadata") or "{}").get("layers", {})
        return sorted({str(layer["format"]) for layer in layers.values()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ["an unknown format"]
