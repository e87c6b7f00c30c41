"""How a text encoder's file stores weights: in which format, and why one cannot be read.

Knows what converters write beside a weight, by headers alone; knows neither torch nor models.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .gguf_files import BLOCKS, mixture
from .model_files import Header

_PRECISIONS = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
NVFP4 = "nvfp4"
"""The type of a weight in the format of 4 bits that is read."""

FORMATS = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", NVFP4: "nvfp4"}
"""What ComfyUI calls the formats of few bits, by the types of weights."""

PACKED = {*FORMATS, *BLOCKS}
"""Types of weights that are widened with what lies beside them."""

# What lies beside a weight of each format, by what it is: as older and as newer files name it.
# scale: one number that it is multiplied by; blocks: one for every 16; columns: for what comes in
_BESIDE_FP8 = {"scale_weight": "scale", "weight_scale": "scale"}
_BESIDE_NVFP4 = {"weight_scale": "blocks", "weight_scale_2": "scale", "pre_quant_scale": "columns"}
_FORMAT = "comfy_quant"  # JSON in bytes, with the name of the format
# Scales of activations, which are never quantized here, and an empty tensor that says in older
# files that there are scales
_UNUSED = ("scale_input", "input_scale", "scaled_fp8")
_ROTARY = "rotary_emb.inv_freq"
TOKENIZER = "spiece_model"
"""A tokenizer in bytes, as SentencePiece stores it."""

_OF_OTHERS = "text_embedding_projection."  # of a video model that is in the same file
_AWQ = {"qweight", "qzeros"}
_WEIGHT = re.compile(r"(.*\.)?(weight|bias|mm_input_projection_weight)")


@dataclass(frozen=True)
class StoredWeight:
    """A weight in a file.

    name: the file's. dtype: as safetensors names it, or NVFP4. shape: the weight's own, also where
    two numbers share a byte. beside: the file's names of what it is widened with, by what it is.
    said: that of the tensor with the name of its format, or "".
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    beside: dict[str, str]
    said: str


def weights_in(names: dict[str, str], header: Header) -> dict[str, StoredWeight]:
    """A file's weights by transformers' names. names: the file's, by transformers'."""
    return {name: _weight(name, names, header) for name in names if _WEIGHT.fullmatch(name)}


def _weight(name: str, names: dict[str, str], header: Header) -> StoredWeight:
    stored = header.tensors[names[name]]
    owner = name.rpartition(".")[0]
    dtype, shape, roles = stored.dtype, stored.shape, _BESIDE_FP8
    in_bytes = name.endswith(".weight") and dtype == "U8" and len(shape) == 2
    if in_bytes and f"{owner}.weight_scale_2" in names:
        dtype, shape, roles = NVFP4, (*shape[:-1], 2 * shape[-1]), _BESIDE_NVFP4
    beside = {}
    if name.endswith(".weight") and dtype in PACKED:
        found = ((role, names.get(f"{owner}.{suffix}")) for suffix, role in roles.items())
        beside = {role: stored for role, stored in found if stored}
    return StoredWeight(names[name], dtype, shape, beside, names.get(f"{owner}.{_FORMAT}", ""))


def precision_of(
    header: Header, names: dict[str, str], weights: dict[str, StoredWeight]
) -> tuple[str, str]:
    """(name of the weights' format, why it cannot be read or "")."""
    other = _other_format(header, names)
    if other:
        return other, f"{other} is not read here"
    types = {weight.dtype for weight in weights.values()}
    odd = sorted(types - {*_PRECISIONS, *PACKED})
    if odd:
        return "quantized", f"weights of type {odd[0]} are not read here"
    why = next(filter(None, (_misfit(weight, header) for weight in weights.values())), "")
    why = why or _not_comfyuis(header, weights) or _unread(names, weights)
    if why:
        return "quantized", why
    if types & {*BLOCKS}:
        return mixture(header), ""
    if types & PACKED:
        return NVFP4 if NVFP4 in types else "fp8", ""
    largest = max(weights.values(), key=lambda weight: math.prod(weight.shape))
    return _PRECISIONS[largest.dtype], ""


def _misfit(weight: StoredWeight, header: Header) -> str:
    """Why what lies beside a weight does not fit it, or ""."""
    shapes = {role: header.tensors[name].shape for role, name in weight.beside.items()}
    scale = shapes.get("scale", ())
    if scale not in ((), (1,)):
        stored = weight.beside["scale"]
        return f"{stored} has shape {[*scale]}: only one scale a tensor is read"
    if weight.dtype != NVFP4:
        return ""
    rows, columns = weight.shape
    blocks = weight.beside.get("blocks")
    held = header.tensors[blocks] if blocks else None
    # Also those that fill up tiles of 128 rows and 4 blocks
    count = -(-rows // 128) * 128 * -(-columns // 64) * 4
    right = held is not None and held.dtype in ("F8_E4M3", "U8") and math.prod(held.shape) == count
    right = right and "scale" in shapes and shapes.get("columns", (columns,)) == (columns,)
    if not right or columns % 16:
        return f"what lies beside {weight.name} does not fit its shape"
    return ""


def _not_comfyuis(header: Header, weights: dict[str, StoredWeight]) -> str:
    """Why a weight's 4 bits may lie otherwise, or "": other makers' tensors have the same names."""
    if NVFP4 in _formats_in(header.metadata):
        return ""
    for weight in weights.values():
        if weight.dtype == NVFP4 and not weight.said:
            return f"nothing says that the 4 bits of {weight.name} lie as ComfyUI's do"
    return ""


def _unread(names: dict[str, str], weights: dict[str, StoredWeight]) -> str:
    """Why a tensor of the file would be left out, or ""."""
    read = {stored for weight in weights.values() for stored in weight.beside.values()}
    read |= {stored for weight in weights.values() for stored in (weight.name, weight.said)}
    for name, stored in names.items():
        last = name.rpartition(".")[2]
        known = last in _UNUSED or name.endswith(_ROTARY) or name == TOKENIZER
        if stored in read or known or name.startswith(_OF_OTHERS):
            continue
        if last in {*_BESIDE_FP8, *_BESIDE_NVFP4}:
            return f"{stored} belongs to no weight of few bits"
        return f"nothing here reads its tensor {stored}"
    return ""


def _other_format(header: Header, names: Iterable[str]) -> str | None:
    """The name of a format that is not read here, by what lies beside weights or by metadata."""
    last = {name.rpartition(".")[2] for name in names}
    said = ["awq"] if last >= _AWQ else []
    said += [kind for kind in _formats_in(header.metadata) if kind not in FORMATS.values()]
    return next(iter(said), None)


def _formats_in(metadata: dict[str, Any]) -> list[str]:
    """The formats of layers that a file's metadata names, each once."""
    try:
        layers = json.loads(metadata.get("_quantization_metadata") or "{}").get("layers", {})
        return sorted({str(layer["format"]) for layer in layers.values()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ["an unknown format"]
