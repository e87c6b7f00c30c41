"""Small text encoders as image models bring them along: real models, and the files that hold them.

Knows the formats that converters write and transformers' classes; knows nothing of how they are
read. Heads and towers are built as in the published sizes, and narrow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from .tiny import _ROWS, TinyLvlm, _sharpen, _tokenizer, on_pillow

WIDTH, LAYERS = 256, 4
FP8_LARGEST = 448.0
FORMATS = ("bf16", "fp16", "fp8 old", "fp8 new", "fp8 unscaled", "fp8 throughout")

_TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 192,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
}
_PARTS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "class": "Qwen2_5_VL",
        "text": {
            "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "rope_theta": 1e6,
            "max_position_embeddings": 128000,
        },
        "vision": {
            "depth": 8,
            "hidden_size": 160,
            "num_heads": 2,
            "intermediate_size": 96,
            "out_hidden_size": WIDTH,
            "window_size": 112,
            "fullatt_block_indexes": [7],
            "tokens_per_second": 2,
        },
        "processor": {
            "patch_size": 14,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    },
    "qwen3_vl": {
        "class": "Qwen3VL",
        "text": {
            "rope_scaling": {
                "rope_type": "default",
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
            "rope_theta": 5e6,
            "max_position_embeddings": 262144,
            "head_dim": 128,
        },
        "vision": {
            "depth": 24,
            "hidden_size": 128,
            "num_heads": 16,
            "intermediate_size": 96,
            "out_hidden_size": WIDTH,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        "processor": {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    },
}


def build_encoder(
    model_type: str,
    *,
    tied: bool = False,
    tokenizer: Any = None,
    seed: int = 0,
    text: Mapping[str, int] = MappingProxyType({}),
    vision: Mapping[str, int] = MappingProxyType({}),
) -> TinyLvlm:
    """A random model in float32. tokenizer: the tiny one's, if not given; text, vision: sizes."""
    parts, row = _PARTS[model_type], _ROWS[model_type]
    tokenizer = tokenizer or _tokenizer(row)
    token_id = tokenizer.convert_tokens_to_ids
    config = getattr(transformers, parts["class"] + "Config")(
        text_config={
            **_TEXT,
            **parts["text"],
            "vocab_size": len(tokenizer) + 7,
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
            **text,
        },
        vision_config={**parts["vision"], **vision},
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
    config.get_text_config().tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, parts["class"] + "ForConditionalGeneration")
        model = model_class._from_config(config, attn_implementation="sdpa")
        _sharpen(model)
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight
    model.generation_config.eos_token_id = [token_id("<|im_end|>"), token_id("<|endoftext|>")]
    model.generation_config.pad_token_id = token_id("<|endoftext|>")
    processor = on_pillow("Qwen2VLImageProcessor")(**parts["processor"])
    return TinyLvlm(model.eval(), tokenizer, processor, model.config)


def stored_as(model: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """What a converter writes for a model, by transformers' names; the model is rounded to it.

    kind: one of FORMATS. In fp8 are the weights of all linear layers, with a scale each, and the
    embeddings; the rest is in bf16. "fp8 throughout" has everything in fp8 (e5m2), without scales.
    """
    tensors: dict[str, torch.Tensor] = {}
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    for name, module in model.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            key = f"{name}.{own}"
            if key == "lm_head.weight" and tied:
                continue
            linear = isinstance(module, torch.nn.Linear) and own == "weight"
            scaled = kind in ("fp8 old", "fp8 new") and linear
            scale = weight.data.abs().max() / FP8_LARGEST if scaled else torch.ones(())
            if scaled:
                tensors |= _beside(name, kind, scale)
            stored = (weight.data / scale).to(_dtype(kind, linear or "embed_tokens" in name))
            weight.data, tensors[key] = stored.float() * scale, stored
    if kind == "fp8 old":
        tensors["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    return tensors


def _dtype(kind: str, large: bool) -> torch.dtype:
    """What a weight is stored as. large: whether it is a linear layer's or the embeddings'."""
    if kind == "fp8 throughout":
        return torch.float8_e5m2
    if kind in ("fp8 old", "fp8 new", "fp8 unscaled") and large:
        return torch.float8_e4m3fn
    return torch.float16 if kind == "fp16" else torch.bfloat16


def _beside(name: str, kind: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    if kind == "fp8 old":
        return {f"{name}.scale_weight": scale.reshape(1), f"{name}.scale_input": torch.ones(1)}
    said = json.dumps({"format": "float8_e4m3fn"}).encode()
    return {
        f"{name}.weight_scale": scale.reshape(()),
        f"{name}.comfy_quant": torch.tensor(list(said), dtype=torch.uint8),
    }


def as_comfyui_names(name: str) -> str:
    """transformers' name of a tensor as older files have it."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write(path: Path, tensors: dict[str, torch.Tensor], *, old_names: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {as_comfyui_names(key) if old_names else key: value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in named.items()}, path)
    return path


def write_hollow(path: Path, model: torch.nn.Module) -> Path:
    """A file of a model that holds no values, in bf16: zeros that take no room on the disk."""
    header, end = {}, 0
    for name, weight in model.named_parameters():
        begin, end = end, end + 2 * math.prod(weight.shape)
        entry = {"dtype": "BF16", "shape": [*weight.shape], "data_offsets": [begin, end]}
        header[as_comfyui_names(name)] = entry
    content = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)
    return path
