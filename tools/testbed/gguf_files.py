"""Small text encoders in GGUF, as llama.cpp's converter writes them: a decoder and its mmproj.

Knows the package `gguf`, which has ggml's formats and llama.cpp's names, and what the converter
does beside renaming; knows nothing of how the files are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Format
from gguf import quants

ARCHITECTURES = {"qwen2_5_vl": "qwen2vl", "qwen3_vl": "qwen3vl", "gemma3": "gemma3"}
_PROJECTORS = {
    "qwen2_5_vl": "qwen2.5vl_merger", "qwen3_vl": "qwen3vl_merger", "gemma3": "gemma3",
}  # fmt: skip
_FILE_TYPES = {"F16": 1, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}
_IN_6_BITS = "attn_v", "ffn_down", "output.weight"  # of a Q4_K_M; the rest is in Q4_K
# Formats that only llama.cpp's own code packs: where a block's scale and its offset are, and how
# many scales the offset is for the numbers to lie about zero
_SCALES = {Format.Q4_K: ((0, 1.0), (2, 7.5)), Format.Q6_K: ((208, 1.0),)}
_MOST_LAYERS = 64


def write_gguf(
    folder: Path,
    model: Any,
    kind: str,
    *,
    tower: str = "F16",
    name: str = "any name",
    more: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """The decoder's file, with "mmproj-" and the same name beside it; the model is rounded to both.

    kind, tower: one of _FILE_TYPES. What cannot be packed so is in Q8_0 or F16; weights in Q4_K and
    Q6_K are random ones as large as the model's. more: adds metadata to the decoder's.
    """
    model_type = model.config.model_type
    architecture = ARCHITECTURES[model_type]
    folder.mkdir(parents=True, exist_ok=True)
    decoder = gguf.GGUFWriter(folder / f"{name}.gguf", architecture)
    beside = gguf.GGUFWriter(folder / f"mmproj-{name}.gguf", "clip")
    width = model.config.get_text_config().hidden_size
    decoder.add_file_type(_FILE_TYPES[kind])
    decoder.add_embedding_length(width)
    more(decoder)
    beside.add_clip_projector_type(_PROJECTORS[model_type])
    beside.add_vision_projection_dim(width)
    random = np.random.default_rng(0)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    for key, weight in model.named_parameters():
        if key == "lm_head.weight" and tied:
            continue
        of_tower = not key.startswith(("model.language_model.", "lm_head."))
        above = 1 if model_type == "gemma3" and _is_gemma_norm(key) else 0
        rounded = []
        for stored_name, piece in _pieces(key, weight.data, model.config):
            form = _format(stored_name, piece, tower if of_tower else kind, model_type)
            packed, numbers = _packed(piece + above, form, random)
            (beside if of_tower else decoder).add_tensor(stored_name, packed, raw_dtype=form)
            rounded.append(numbers - above)
        joined = torch.stack(rounded, 2) if rounded[0].ndim == 4 else torch.cat(rounded)
        weight.data = joined.reshape(weight.shape)
    for writer in (decoder, beside):
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return folder / f"{name}.gguf"


def _is_gemma_norm(key: str) -> bool:
    return key.endswith("norm.weight") and "vision_tower" not in key


def _pieces(key: str, weight: torch.Tensor, config: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """(llama.cpp's name, values) of what a weight is stored as."""
    name = key.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    name = name.replace("mm_input_projection_weight", "mm_input_projection.weight")
    name = name.replace("model.multi_modal", "multi_modal").replace("model.vision", "vision")
    if "vision_model." not in name:  # as before transformers 5
        name = name.replace("vision_tower.", "vision_tower.vision_model.")
    if ".attn.qkv." in name and config.model_type == "qwen2_5_vl":
        for letter, piece in zip("qkv", weight.chunk(3), strict=True):
            yield _mapped(name.replace("qkv", letter), config), piece
    elif name == "visual.patch_embed.proj.weight":
        for moment, suffix in enumerate((".weight", ".weight.1")):
            yield f"v.patch_embd{suffix}", weight[:, :, moment]
    else:
        yield _mapped(name, config), weight


def _mapped(name: str, config: Any) -> str:
    """llama.cpp's name. Of Qwen3-VL, what the converter names by itself, not by its table."""
    for fc, number in (("linear_fc1", 0), ("linear_fc2", 2)):
        name = name.replace(f"visual.merger.{fc}", f"mm.{number}")
    name = name.replace("visual.merger.norm", "v.post_ln")
    if name.startswith("visual.deepstack_merger_list."):
        index, part, last = name.split(".")[2:]
        layer = config.vision_config.deepstack_visual_indexes[int(index)]
        return f"v.deepstack.{layer}.{part.removeprefix('linear_')}.{last}"
    architecture = gguf.MODEL_ARCH.MMPROJ
    if name.startswith(("model.", "lm_head.")):
        named = ARCHITECTURES[config.model_type]
        architecture = next(one for one, own in gguf.MODEL_ARCH_NAMES.items() if own == named)
    return _table(architecture).get_name(name, try_suffixes=(".weight", ".bias")) or name


@cache
def _table(architecture: gguf.MODEL_ARCH) -> gguf.TensorNameMap:
    return gguf.get_tensor_name_map(architecture, _MOST_LAYERS)


def _format(stored_name: str, weight: torch.Tensor, kind: str, model_type: str) -> Format:
    whole = weight.ndim == 4 and (kind != "F16" or model_type == "gemma3")
    if weight.ndim == 1 or "position_embd" in stored_name or whole:
        return Format.F32
    if kind == "Q4_K_M":
        wanted = Format.Q6_K if any(part in stored_name for part in _IN_6_BITS) else Format.Q4_K
    else:
        wanted = Format[kind]
    fitting = (
        form
        for form in (wanted, Format.Q8_0, Format.F16)
        if weight.ndim == 2 and weight.shape[-1] % gguf.GGML_QUANT_SIZES[form][0] == 0
    )
    return Format.F16 if "mm.input_projection" in stored_name else next(fitting, Format.F16)


def _packed(
    weight: torch.Tensor, form: Format, random: np.random.Generator
) -> tuple[np.ndarray, torch.Tensor]:
    """(what the file has, the weight that it is)."""
    values = weight.float().numpy()
    packed = _noise(values, form, random) if form in _SCALES else quants.quantize(values, form)
    return packed, torch.from_numpy(quants.dequantize(packed, form)).reshape(weight.shape)


def _noise(like: np.ndarray, form: Format, random: np.random.Generator) -> np.ndarray:
    numbers, size = gguf.GGML_QUANT_SIZES[form]
    blocks = random.integers(0, 256, (like.size // numbers, size), dtype=np.uint8)
    for spread in (1.0, None):
        spread = spread or like.std() / quants.dequantize(blocks, form).std()
        for place, factor in _SCALES[form]:
            blocks[:, place : place + 2] = np.array([spread * factor], np.float16).view(np.uint8)
    return blocks.reshape(len(like), -1)
