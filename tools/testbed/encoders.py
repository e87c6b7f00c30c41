"""Small text encoders as image models bring them along: real models, and the files that hold them.

Knows the formats that converters write and transformers' classes; knows nothing of how they are
read. Heads and towers are built as in the published sizes, and narrow.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from laser_core.models.families import FAMILIES

from .tiny import _ROWS, _WORDS, TinyLvlm, _sharpen, _tokenizer, on_pillow

WIDTH, LAYERS = 256, 4
FP8_LARGEST = 448.0
FP4_NUMBERS = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FORMATS = ("bf16", "fp16", "fp8 old", "fp8 new", "fp8 unscaled", "fp8 throughout", "nvfp4 mixed")
SPELLING = (  # of transformers' names, as ComfyUI has them
    ("model.language_model.", "model."),
    ("model.visual.", "visual."),
    ("model.vision_tower.vision_model.", "vision_model."),
    ("model.vision_tower.", "vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)

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
    "gemma3": {
        "class": "Gemma3",
        "text": {
            "head_dim": 128,
            "query_pre_attn_scalar": 128,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window": 1024,
            "max_position_embeddings": 131072,
        },
        "vision": {
            "model_type": "siglip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
            "patch_size": 2,
            "image_size": 32,
            "vision_use_head": False,
        },
        "processor": {"size": {"height": 32, "width": 32}},
    },
}
_TOKENS = {
    "gemma3": {
        "boi_token_index": "<start_of_image>",
        "eoi_token_index": "<end_of_image>",
        "image_token_index": "<image_soft_token>",
    }
}
_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
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
    tokens = _TOKENS.get(model_type, _QWEN_TOKENS)
    config = getattr(transformers, parts["class"] + "Config")(
        text_config={
            **_TEXT,
            **parts["text"],
            "vocab_size": len(tokenizer) + 7,
            "bos_token_id": row.bos and token_id(row.bos),
            "eos_token_id": token_id(row.eos),
            "pad_token_id": token_id(row.pad),
            **text,
        },
        vision_config={**parts["vision"], **vision},
        tie_word_embeddings=tied,
        **{name: token_id(token) for name, token in tokens.items()},
    )
    config.get_text_config().tie_word_embeddings = tied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, parts["class"] + "ForConditionalGeneration")
        model = model_class._from_config(config, attn_implementation="sdpa")
        _sharpen(model)
    if tied:
        model.lm_head.weight = model.get_input_embeddings().weight
    text_end = "<eos>" if model_type == "gemma3" else row.pad
    model.generation_config.eos_token_id = [token_id(row.eos), token_id(text_end)]
    model.generation_config.pad_token_id = token_id(row.pad)
    kind = FAMILIES[model_type].image_processor
    processor = on_pillow(kind)(**parts["processor"])
    return TinyLvlm(model.eval(), tokenizer, processor, model.config)


def stored_as(model: torch.nn.Module, kind: str) -> dict[str, torch.Tensor]:
    """What a converter writes for a model, by transformers' names; the model is rounded to it.

    kind: one of FORMATS. In fp8 are the weights of all linear layers, with a scale each, and the
    embeddings; the rest is in bf16. "fp8 throughout" has everything in fp8 (e5m2), without scales.
    "nvfp4 mixed" is "fp8 new" but for the decoder's layers after the first, which are in 4 bits,
    those of its attention with a scale for what comes in.
    """
    tensors: dict[str, torch.Tensor] = {}
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    for name, module in model.named_modules():
        for own, weight in module.named_parameters(recurse=False):
            key = f"{name}.{own}"
            if key == "lm_head.weight" and tied:
                continue
            linear = isinstance(module, torch.nn.Linear) and own == "weight"
            if kind == "nvfp4 mixed" and linear and _IN_4_BITS.search(name):
                columns = torch.linspace(0.5, 2, weight.shape[1]) if "self_attn" in name else None
                weight.data, stored = _nvfp4(name, weight.data, columns)
                tensors |= stored
                continue
            scaled = kind in ("fp8 old", "fp8 new", "nvfp4 mixed") and linear
            scale = weight.data.abs().max() / FP8_LARGEST if scaled else torch.ones(())
            if scaled:
                tensors |= _beside(name, kind, scale)
            stored = (weight.data / scale).to(_dtype(kind, linear or "embed_tokens" in name))
            weight.data, tensors[key] = stored.float() * scale, stored
    if kind == "fp8 old":
        tensors["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
    return tensors


_IN_4_BITS = re.compile(r"language_model\.layers\.[1-9]")


def _nvfp4(
    name: str, weight: torch.Tensor, columns: torch.Tensor | None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(the weight as rounded, the tensors that hold it), block by block.

    columns: what comes in is multiplied by it, so the weight is divided first.
    """
    even = weight if columns is None else weight / columns
    rows, blocks = len(even), even.shape[1] // 16
    across = -(-blocks // 4)
    scale = even.abs().max() / (6 * FP8_LARGEST)
    packed = torch.zeros(rows, blocks * 8, dtype=torch.uint8)
    scales = torch.zeros(-(-rows // 128) * across * 512)
    rounded = torch.zeros_like(even)
    for row in range(rows):
        parts = even[row].reshape(blocks, 16)
        each = (parts.abs().amax(1) / 6 / scale).to(torch.float8_e4m3fn).float()
        steps = (parts / (each * scale)[:, None]).nan_to_num()
        index = (steps.abs()[..., None] - FP4_NUMBERS).abs().argmin(-1)
        rounded[row] = (FP4_NUMBERS[index] * steps.sign() * (each * scale)[:, None]).flatten()
        halves = (index + 8 * (steps < 0)).flatten().to(torch.uint8)
        packed[row] = halves[0::2] * 16 + halves[1::2]
        for block in range(blocks):
            tile = (row // 128 * across + block // 4) * 512
            scales[tile + row % 32 * 16 + row % 128 // 32 * 4 + block % 4] = each[block]
    tensors = {
        f"{name}.weight": packed,
        f"{name}.weight_scale": scales.to(torch.float8_e4m3fn).reshape(-1, across * 4),
        f"{name}.weight_scale_2": scale,
        f"{name}.comfy_quant": _said("nvfp4"),
    }
    if columns is None:
        return rounded, tensors
    return rounded * columns, tensors | {f"{name}.pre_quant_scale": columns}


def _dtype(kind: str, large: bool) -> torch.dtype:
    """What a weight is stored as. large: whether it is a linear layer's or the embeddings'."""
    if kind == "fp8 throughout":
        return torch.float8_e5m2
    if kind not in ("bf16", "fp16") and large:
        return torch.float8_e4m3fn
    return torch.float16 if kind == "fp16" else torch.bfloat16


def _beside(name: str, kind: str, scale: torch.Tensor) -> dict[str, torch.Tensor]:
    if kind == "fp8 old":
        return {f"{name}.scale_weight": scale.reshape(1), f"{name}.scale_input": torch.ones(1)}
    beside = {"weight_scale": scale.reshape(()), "comfy_quant": _said("float8_e4m3fn")}
    return {f"{name}.{last}": tensor for last, tensor in beside.items()}


def _said(format_name: str) -> torch.Tensor:
    return torch.tensor(list(json.dumps({"format": format_name}).encode()), dtype=torch.uint8)


def as_comfyui_names(name: str) -> str:
    """transformers' name of a tensor as older files have it."""
    for theirs, ours in SPELLING:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def write(path: Path, tensors: dict[str, torch.Tensor], *, old_names: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {as_comfyui_names(key) if old_names else key: value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in named.items()}, path)
    return path


# As Gemma's makers trained theirs, and small
_SENTENCEPIECE = {
    "model_type": "bpe",
    "vocab_size": 480,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    **{f"{name}_id": index for index, name in enumerate(("pad", "eos", "bos", "unk"))},
    **{f"{name}_piece": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
    "user_defined_symbols": [
        *("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"),
        *("\n", "\n\n", "▁▁", "▁▁▁"),
    ],
    "minloglevel": 2,
}


def train_sentencepiece() -> bytes:
    """A tokenizer of the words that the tiny models know, as SentencePiece stores it."""
    import sentencepiece

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(_WORDS)]), model_writer=trained, **_SENTENCEPIECE
    )
    return trained.getvalue()


def write_gemma(path: Path, kind: str) -> Path:
    """A Gemma 3 as newer video models bring it along: ComfyUI's names, and its tokenizer in it."""
    tiny = build_encoder("gemma3", tied=True, text={"vocab_size": _SENTENCEPIECE["vocab_size"] + 8})
    stored = torch.frombuffer(bytearray(train_sentencepiece()), dtype=torch.uint8)
    return write(path, {**stored_as(tiny.model, kind), "spiece_model": stored})


def write_hollow(path: Path, model: torch.nn.Module) -> Path:
    """A file of a model that holds no values."""
    shapes = {name: weight.shape for name, weight in model.named_parameters()}
    return write_header(path, {as_comfyui_names(name): shape for name, shape in shapes.items()})


def write_header(path: Path, shapes: Mapping[str, Sequence[int]]) -> Path:
    """A file of tensors in bf16: zeros that take no room on the disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": [*shape], "data_offsets": [begin, end]}
    content = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + end)
    return path
