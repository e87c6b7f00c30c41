"""From a text encoder's file to a model: transformers' own classes on the file's mapped weights.

Knows what `text_encoders` read of the file; knows neither settings nor where files lie. What is
quantized to 8 bits stays so in memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from .text_encoders import FP8, HEAD, HEAD_DIM, TEXT, VISUAL, Encoder
from .widened import WidenedEmbedding, WidenedLinear, widen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CLASSES = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
_DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}  # by the depth of Qwen3-VL's published towers
_ONE = torch.ones(())

_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_END = "<|im_end|>"
TOKENS = (*_TOKEN_IDS.values(), _END)
"""What the tokenizer must know."""

IMAGE_PROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "patch_size": 14,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "qwen3_vl": {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
}
"""What the published folders' preprocessor_config.json say, as far as it differs."""


def check_readable(encoder: Encoder, name: str) -> None:
    """Raise ValueError, remedy first, before any weight is read of what cannot be."""
    if not encoder.whole:
        raise ValueError(f"download {name} again: the file is cut off")
    if encoder.unreadable:
        raise ValueError(
            f"choose the same model in bf16, fp16 or fp8 (one scale a tensor): {name} cannot be "
            f"read, since {encoder.unreadable}"
        )


def build_model(
    encoder: Encoder, tokenizer: Any, name: str, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """The model on the CPU, computing in `dtype`.

    tokenizer: decides the ids of the tokens that stand for pictures, and where an answer ends.
    attention: as transformers names it. A file without an output, or without its last layers, gives
    a model without output embeddings. Raises ValueError for tensors that are missing, too many or
    of other shapes, and for formats of layers that are not read.
    """
    from safetensors import safe_open
    from transformers import GenerationConfig

    config = _config(encoder, tokenizer)
    with _Unallocated():
        model = _class(encoder, "ForConditionalGeneration")._from_config(
            config, attn_implementation=attention, dtype=dtype
        )
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids(_END), tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    text, names = model.get_submodule("model.language_model"), set(encoder.weights)
    if encoder.silent:
        model.lm_head = None
        names.discard(HEAD)
    if TEXT + "norm.weight" not in names:  # attention lies before it
        text.norm = torch.nn.Identity()
    _check_tensors(encoder, model, names, name)
    with safe_open(str(encoder.path), framework="pt") as file:
        _check_formats(encoder, file, name)
        _fill(encoder, model, names, file, dtype)
    if not encoder.silent and HEAD not in names:
        model.lm_head = _output_of(text.embed_tokens)
    return model


class _Unallocated(TorchFunctionMode):
    """Inside, layers have no values. Those that are computed, as rotary frequencies are, do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = {**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})}
        return func(*args, **options)


def _class(encoder: Encoder, suffix: str) -> Any:
    import transformers

    return getattr(transformers, _CLASSES[encoder.model_type] + suffix)


def _config(encoder: Encoder, tokenizer: Any) -> Any:
    """The model's config: what tensors' shapes say, and what all published sizes have in common."""
    layer, block = TEXT + "layers.0.", VISUAL + "blocks.0."
    width = encoder.shape(layer + "input_layernorm.weight")[0]
    text: dict[str, Any] = {
        "vocab_size": encoder.words,
        "hidden_size": width,
        "intermediate_size": encoder.shape(layer + "mlp.gate_proj.weight")[0],
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": encoder.shape(layer + "self_attn.q_proj.weight")[0] // HEAD_DIM,
        "num_key_value_heads": encoder.shape(layer + "self_attn.k_proj.weight")[0] // HEAD_DIM,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,  # what is tied is tied here
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(_END),
    }
    depth = sum(name.endswith(".norm1.weight") for name in encoder.weights)
    tower_width = encoder.shape(block + "norm1.weight")[0]
    tower: dict[str, Any] = {"depth": depth, "hidden_size": tower_width, "out_hidden_size": width}
    if encoder.model_type == "qwen2_5_vl":
        rope: dict[str, Any] = {"type": "mrope", "mrope_section": [16, 24, 24]}
        text |= {"rope_theta": 1e6, "max_position_embeddings": 128000}
        tower |= {
            "intermediate_size": encoder.shape(block + "mlp.gate_proj.weight")[0],
            "num_heads": tower_width // 80,
            "fullatt_block_indexes": [*range(7, depth, 8)],
            "window_size": 112,
            "tokens_per_second": 2,
        }
    else:
        rope = {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True}
        text |= {"rope_theta": 5e6, "max_position_embeddings": 262144, "head_dim": HEAD_DIM}
        tower |= {
            "intermediate_size": encoder.shape(block + "mlp.linear_fc1.weight")[0],
            "num_heads": 16,
            "num_position_embeddings": encoder.shape(VISUAL + "pos_embed.weight")[0],
            "deepstack_visual_indexes": _DEEPSTACK.get(depth, []),
        }
    return _class(encoder, "Config")(
        text_config={**text, "rope_scaling": rope},
        vision_config=tower,
        tie_word_embeddings=False,
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in _TOKEN_IDS.items()},
    )


def _check_tensors(encoder: Encoder, model: torch.nn.Module, names: set[str], name: str) -> None:
    shapes = {key: tuple(weight.shape) for key, weight in model.named_parameters()}
    if not encoder.silent and encoder.tied:
        shapes = {key: shape for key, shape in shapes.items() if key != HEAD or HEAD in names}
    wrong = [
        *(f"lacks {key}" for key in sorted(shapes.keys() - names)),
        *(f"holds {encoder.stored_as[key]} as well" for key in sorted(names - shapes.keys())),
        *(
            f"has {encoder.stored_as[key]} with shape {[*encoder.weights[key].shape]} instead of "
            f"{[*shapes[key]]}"
            for key in sorted(names & shapes.keys())
            if encoder.weights[key].shape != shapes[key]
        ),
    ]
    if wrong:
        raise ValueError(
            f"choose another file, or download {name} again: for a {encoder.name} it {wrong[0]}"
            + (f", and {len(wrong) - 1} more tensors are not as expected" if wrong[1:] else "")
        )


def _check_formats(encoder: Encoder, file: Any, name: str) -> None:
    """Raise ValueError for a layer whose own few bytes of JSON name a format that is not read."""
    for weight, stored in encoder.formats.items():
        try:
            said = json.loads(bytes(file.get_tensor(stored).tolist()))["format"]
        except (ValueError, LookupError, TypeError, RecursionError):
            said = "an unknown format"
        if said not in FP8.values():
            raise ValueError(
                f"choose the same model in bf16, fp16 or fp8 (one scale a tensor): {name} cannot "
                f"be read, since its {weight} is in {said}"
            )


def _fill(
    encoder: Encoder, model: PreTrainedModel, names: set[str], file: Any, dtype: torch.dtype
) -> None:
    """Put the file's tensors into the model, in place of its weights that hold no values."""
    for key in sorted(names):
        owner, _, which = key.rpartition(".")
        module, stored = model.get_submodule(owner), file.get_tensor(encoder.stored_as[key])
        if encoder.weights[key].dtype not in FP8:
            value = stored.to(dtype)
        else:
            scale = _ONE
            if key in encoder.scales:
                scale = file.get_tensor(encoder.scales[key]).reshape(())
            if which == "weight" and isinstance(module, torch.nn.Linear):
                bias = module.bias  # filled before: it comes first in the alphabet
                _replace(model, owner, WidenedLinear(stored, scale, bias))
                continue
            if isinstance(module, torch.nn.Embedding) and key.startswith(TEXT):
                _replace(model, owner, WidenedEmbedding(stored, scale, dtype))
                continue
            value = widen(stored, scale, dtype)  # small: norms, biases, positions, the first layer
        setattr(module, which, torch.nn.Parameter(value, requires_grad=False))


def _replace(model: torch.nn.Module, name: str, by: torch.nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(model.get_submodule(owner), own, by)


def _output_of(embeddings: torch.nn.Module) -> torch.nn.Module:
    """The output that shares the input's embeddings."""
    weight = embeddings.get_parameter("weight")
    if isinstance(embeddings, WidenedEmbedding):
        return WidenedLinear(weight, embeddings.scale)
    output = torch.nn.Linear(1, 1, bias=False, device="meta")
    output.weight = weight
    return output
