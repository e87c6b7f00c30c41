"""From a text encoder's file to a loaded model: transformers' classes on the file's mapped weights.

Knows what `text_encoders` read of the file; knows neither settings nor where files lie. What is
quantized to 8 bits stays so in memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from .catalogue import CURATED
from .families import chat_template_of, usual_image_processor
from .image_processors import image_processor_of
from .lvlm import Lvlm
from .text_encoders import FP8, HEAD, TEXT, VISUAL, Encoder, gemma_in, read_encoder
from .widened import WidenedEmbedding, WidenedLinear, widen

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CLASSES = {"qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
_HEAD_DIM = 128  # of the decoder of every published size
_DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}  # by the depth of Qwen3-VL's published towers
_ONE = torch.ones(())

_TOKEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_ENDS = "<|im_end|>", "<|endoftext|>"  # of a turn; of a text, which is also the padding

# What the published folders' preprocessor_config.json say, as far as it differs
_IMAGE_PROCESSORS: dict[str, dict[str, Any]] = {
    "qwen2_5_vl": {
        "patch_size": 14,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
    },
    "qwen3_vl": {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
}


def readable_encoder(path: Path, name: str) -> Encoder:
    """The model in a file, by its header. Raises ValueError, remedy first, where there is none."""
    encoder = read_encoder(path)
    gemma = "" if encoder else gemma_in(path)
    if gemma:
        raise ValueError(
            "choose the model's folder from Hugging Face, or a file with a whole Qwen2.5-VL or "
            f"Qwen3-VL: {name} is {gemma}, and no single file of that is read here"
        )
    if encoder is None:
        raise ValueError(
            "choose a file with a whole Qwen2.5-VL or Qwen3-VL, its vision tower included: by its "
            f"tensors, {name} is none"
        )
    if not encoder.whole:
        raise ValueError(f"download {name} again: the file is cut off")
    if encoder.unreadable:
        raise _unreadable(name, encoder.unreadable)
    return encoder


def load_encoder(
    encoder: Encoder,
    name: str,
    tokenizer: Path | None,
    device: torch.device,
    dtype: torch.dtype,
    attention: str,
) -> Lvlm:
    """The model, computing in `dtype`. tokenizer: its folder. attention: as transformers names it.

    A file without an output, or without its last layers, gives a model that only locates. Raises
    ValueError, remedy first, for a tokenizer that is missing or another model's, for tensors that
    are missing, too many or of other shapes, and for formats of layers that are not read.
    """
    words = _tokenizer(encoder, name, tokenizer)
    model = _model(encoder, words, name, dtype, attention)
    torch.nn.Module.to(model, device)
    stored = _IMAGE_PROCESSORS[encoder.model_type]
    return Lvlm(
        model,
        words,
        image_processor_of(stored, usual_image_processor(model.config)),
        name=name,
        # The tokenizer's own is of a text model
        chat_template=chat_template_of(model.config, words),
        silent=_silent(encoder, name),
        all_layers=max(encoder.layers, encoder.all_layers),
    )


def _unreadable(name: str, why: str) -> ValueError:
    return ValueError(
        f"choose the same model in bf16, fp16 or fp8 (one scale a tensor): {name} cannot be read, "
        f"since {why}"
    )


def _silent(encoder: Encoder, name: str) -> str:
    """Why the model cannot answer, remedy first; "" where it can."""
    if not encoder.silent:
        return ""
    same = (model.value for model in CURATED if model.description == encoder.name)
    other = next(same, "the same model's folder from Hugging Face")
    return (
        f"choose a model that writes, such as {other}, or use the nodes that locate (Contrastive "
        "Attention, VAQ Layer Select, Con-ViCrop; the command locate): the text encoder "
        f"{name} cannot answer, since it has {encoder.silent}"
    )


def _tokenizer(encoder: Encoder, name: str, folder: Path | None) -> Any:
    from transformers import AutoTokenizer

    if folder is None or not folder.is_dir():
        found = f"there is no folder {str(folder)!r}" if folder else "one file holds none"
        raise ValueError(
            "update ComfyUI, which has a tokenizer for it (comfy/text_encoders/qwen25_tokenizer), "
            "or set tokenizer (--tokenizer) to a folder with that of a Qwen2.5-VL or Qwen3-VL: for "
            f"{name}, {found}"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    known = tokenizer.get_vocab()
    lacking = [token for token in (*_TOKEN_IDS.values(), *_ENDS) if token not in known]
    rows = encoder.shape(TEXT + "embed_tokens.weight")[0]
    if lacking or len(tokenizer) > rows:
        what = f"it lacks {lacking[0]}" if lacking else f"{len(tokenizer)} tokens for {rows} rows"
        raise ValueError(
            f"set tokenizer (--tokenizer) to that of a {encoder.name}: the one in {folder} belongs "
            f"to another model ({what})"
        )
    return tokenizer


def _model(
    encoder: Encoder, tokenizer: Any, name: str, dtype: torch.dtype, attention: str
) -> PreTrainedModel:
    """The model on the CPU. tokenizer: says where an answer ends, and what stands for pictures."""
    from safetensors import safe_open
    from transformers import GenerationConfig

    with safe_open(str(encoder.path), framework="pt") as file:  # checks shapes against the size
        _check_formats(encoder, file, name)
        with _Unallocated():
            model = _class(encoder, "ForConditionalGeneration")._from_config(
                _config(encoder, tokenizer), attn_implementation=attention, dtype=dtype
            )
        text, names = model.get_submodule("model.language_model"), set(encoder.weights)
        if encoder.silent:
            model.lm_head = None
            names.discard(HEAD)
        if TEXT + "norm.weight" not in names:  # attention lies before it
            text.norm = torch.nn.Identity()
        _check_tensors(encoder, model, names, name)
        _fill(encoder, model, names, file, dtype)
    if not encoder.silent and HEAD not in names:
        model.lm_head = _output_of(text.embed_tokens)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in _ENDS]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[-1])
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
    return _class(encoder, "Config")(
        text_config=_text_config(encoder, tokenizer),
        vision_config=_tower_config(encoder),
        tie_word_embeddings=False,  # what is tied is tied here
        **{name: tokenizer.convert_tokens_to_ids(token) for name, token in _TOKEN_IDS.items()},
    )


def _text_config(encoder: Encoder, tokenizer: Any) -> dict[str, Any]:
    layer = TEXT + "layers.0."
    words, width = encoder.shape(TEXT + "embed_tokens.weight")
    common = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": encoder.shape(layer + "mlp.gate_proj.weight")[0],
        "num_hidden_layers": encoder.layers,
        "num_attention_heads": _heads(encoder, layer + "self_attn.q_proj.weight", _HEAD_DIM),
        "num_key_value_heads": _heads(encoder, layer + "self_attn.k_proj.weight", _HEAD_DIM),
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids(_ENDS[0]),
    }
    if encoder.model_type == "qwen2_5_vl":
        rope = {"type": "mrope", "mrope_section": [16, 24, 24]}
        return common | {
            "rope_scaling": rope, "rope_theta": 1e6, "max_position_embeddings": 128000,
        }  # fmt: skip
    return common | {
        "rope_scaling": {
            "rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True,
        },
        "rope_theta": 5e6,
        "max_position_embeddings": 262144,
        "head_dim": _HEAD_DIM,
    }  # fmt: skip


def _tower_config(encoder: Encoder) -> dict[str, Any]:
    block = VISUAL + "blocks.0."
    depth = sum(name.endswith(".norm1.weight") for name in encoder.weights)
    common = {
        "depth": depth,
        "hidden_size": encoder.shape(block + "norm1.weight")[0],
        "out_hidden_size": encoder.shape(TEXT + "embed_tokens.weight")[1],
    }
    if encoder.model_type == "qwen2_5_vl":
        return common | {
            "num_heads": _heads(encoder, block + "norm1.weight", 80),
            "intermediate_size": encoder.shape(block + "mlp.gate_proj.weight")[0],
            "fullatt_block_indexes": [*range(7, depth, 8)],
            "window_size": 112,
            "tokens_per_second": 2,
        }
    return common | {
        "num_heads": 16,
        "intermediate_size": encoder.shape(block + "mlp.linear_fc1.weight")[0],
        "num_position_embeddings": encoder.shape(VISUAL + "pos_embed.weight")[0],
        "deepstack_visual_indexes": _DEEPSTACK.get(depth, []),
    }


def _heads(encoder: Encoder, weight: str, width: int) -> int:
    """Heads of this width in the rows of a weight."""
    rows = encoder.shape(weight)[0]
    if rows % width:
        raise ValueError(
            f"choose another file: {weight} of {encoder.path.name} has {rows} rows, and heads of "
            f"{encoder.name} have {width}"
        )
    return rows // width


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
            raise _unreadable(name, f"its {weight} is in {said}")


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
