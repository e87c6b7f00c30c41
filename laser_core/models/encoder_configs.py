"""What the published models of a text encoder's type have in common, and what its shapes say.

Knows how transformers' configs, image processors and tokens are called for each type; reads no
file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .text_encoders import TEXT, TOWER, VISUAL, Encoder

TokenId = Callable[[str], int]

_LAYER = TEXT + "layers.0."
_QWEN_HEAD, _QWEN2_5_TOWER_HEAD = 128, 80  # numbers of a head, in every published size
_DEEPSTACK = {24: [5, 11, 17], 27: [8, 16, 24]}  # by the depth of Qwen3-VL's published towers
_QUERY_SCALES = {5376: 168}  # by the width of Gemma 3; where it is not the heads'


@dataclass(frozen=True)
class Kind:
    """A type of model.

    classes: how transformers' names of its classes begin. tokens: texts of the tokens that its
    config names. turn: what begins one. ends: of a turn and of a text. padding: what a prompt is
    filled up with. begin: of a text, None where nothing begins one. text, tower: the parts of its
    config. processor: what its image processor's file says, as far as it differs from the usual.
    """

    classes: str
    tokens: dict[str, str]
    turn: str
    ends: tuple[str, str]
    padding: str
    begin: str | None
    text: Callable[[Encoder], dict[str, Any]]
    tower: Callable[[Encoder], dict[str, Any]]
    processor: Callable[[Encoder], dict[str, Any]]

    @property
    def needed(self) -> tuple[str, ...]:
        """The tokens that a tokenizer must know to be one of this type's."""
        begin = (self.begin,) if self.begin else ()
        return (*self.tokens.values(), self.turn, *self.ends, self.padding, *begin)


def config_of(encoder: Encoder, token_id: TokenId) -> Any:
    """The model's config. Raises ValueError for shapes that no published size could have."""
    kind = KINDS[encoder.model_type]
    return class_of(encoder, "Config")(
        text_config={
            **_decoder(encoder),
            **kind.text(encoder),
            "bos_token_id": kind.begin and token_id(kind.begin),
            "eos_token_id": token_id(kind.ends[0]),
            "pad_token_id": token_id(kind.padding),
        },
        vision_config=kind.tower(encoder),
        tie_word_embeddings=False,  # what is tied is tied where weights are read
        **{name: token_id(token) for name, token in kind.tokens.items()},
    )


def class_of(encoder: Encoder, suffix: str) -> Any:
    import transformers

    return getattr(transformers, KINDS[encoder.model_type].classes + suffix)


def _decoder(encoder: Encoder) -> dict[str, Any]:
    words, width = encoder.shape(TEXT + "embed_tokens.weight")
    return {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": encoder.shape(_LAYER + "mlp.gate_proj.weight")[0],
        "num_hidden_layers": encoder.layers,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


def _attention(encoder: Encoder, head: int) -> dict[str, int]:
    return {
        "num_attention_heads": _heads(encoder, _LAYER + "self_attn.q_proj.weight", head),
        "num_key_value_heads": _heads(encoder, _LAYER + "self_attn.k_proj.weight", head),
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


def _depth(encoder: Encoder, suffix: str) -> int:
    return sum(name.endswith(suffix) for name in encoder.weights)


# ---- Qwen-VL -----------------------------------------------------------------------------------

_QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_QWEN_TURN, _QWEN_ENDS = "<|im_start|>", ("<|im_end|>", "<|endoftext|>")


def _qwen2_5_text(encoder: Encoder) -> dict[str, Any]:
    return {
        **_attention(encoder, _QWEN_HEAD),
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "rope_theta": 1e6,
        "max_position_embeddings": 128000,
    }


def _qwen3_text(encoder: Encoder) -> dict[str, Any]:
    sections = {"mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return {
        **_attention(encoder, _QWEN_HEAD),
        "head_dim": _QWEN_HEAD,
        "rope_scaling": {"rope_type": "default", **sections},
        "rope_theta": 5e6,
        "max_position_embeddings": 262144,
    }


def _qwen_tower(encoder: Encoder) -> dict[str, Any]:
    return {
        "depth": _depth(encoder, ".norm1.weight"),
        "hidden_size": encoder.shape(VISUAL + "blocks.0.norm1.weight")[0],
        "out_hidden_size": encoder.shape(TEXT + "embed_tokens.weight")[1],
    }


def _qwen2_5_tower(encoder: Encoder) -> dict[str, Any]:
    tower = _qwen_tower(encoder)
    return tower | {
        "num_heads": _heads(encoder, VISUAL + "blocks.0.norm1.weight", _QWEN2_5_TOWER_HEAD),
        "intermediate_size": encoder.shape(VISUAL + "blocks.0.mlp.gate_proj.weight")[0],
        "fullatt_block_indexes": [*range(7, tower["depth"], 8)],
        "window_size": 112,
        "tokens_per_second": 2,
    }


def _qwen3_tower(encoder: Encoder) -> dict[str, Any]:
    tower = _qwen_tower(encoder)
    return tower | {
        "num_heads": 16,
        "intermediate_size": encoder.shape(VISUAL + "blocks.0.mlp.linear_fc1.weight")[0],
        "num_position_embeddings": encoder.shape(VISUAL + "pos_embed.weight")[0],
        "deepstack_visual_indexes": _DEEPSTACK.get(tower["depth"], []),
    }


# ---- Gemma 3 -----------------------------------------------------------------------------------


def _gemma3_text(encoder: Encoder) -> dict[str, Any]:
    width = encoder.shape(TEXT + "embed_tokens.weight")[1]
    head = encoder.shape(_LAYER + "self_attn.q_norm.weight")[0]
    return {
        **_attention(encoder, head),
        "head_dim": head,
        "query_pre_attn_scalar": _QUERY_SCALES.get(width, head),
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window": 1024,
        "max_position_embeddings": 131072,
    }


def _gemma3_tower(encoder: Encoder) -> dict[str, Any]:
    width, _, patch, _ = encoder.shape(TOWER + "embeddings.patch_embedding.weight")
    patches = encoder.shape(TOWER + "embeddings.position_embedding.weight")[0]
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "num_hidden_layers": _depth(encoder, ".layer_norm1.weight"),
        "num_attention_heads": 16,
        "intermediate_size": encoder.shape(TOWER + "encoder.layers.0.mlp.fc1.weight")[0],
        "patch_size": patch,
        "image_size": math.isqrt(patches) * patch,
        "vision_use_head": False,
    }


def _gemma3_processor(encoder: Encoder) -> dict[str, Any]:
    side = _gemma3_tower(encoder)["image_size"]
    return {"size": {"height": side, "width": side}}


KINDS = {
    "qwen2_5_vl": Kind(
        "Qwen2_5_VL",
        _QWEN_TOKENS,
        _QWEN_TURN,
        _QWEN_ENDS,
        _QWEN_ENDS[1],
        None,
        _qwen2_5_text,
        _qwen2_5_tower,
        lambda encoder: {
            "patch_size": 14,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        },
    ),
    "qwen3_vl": Kind(
        "Qwen3VL",
        _QWEN_TOKENS,
        _QWEN_TURN,
        _QWEN_ENDS,
        _QWEN_ENDS[1],
        None,
        _qwen3_text,
        _qwen3_tower,
        lambda encoder: {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
    "gemma3": Kind(
        "Gemma3",
        {
            "boi_token_index": "<start_of_image>",
            "eoi_token_index": "<end_of_image>",
            "image_token_index": "<image_soft_token>",
        },
        "<start_of_turn>",
        ("<end_of_turn>", "<eos>"),
        "<pad>",
        "<bos>",
        _gemma3_text,
        _gemma3_tower,
        _gemma3_processor,
    ),
}
"""By transformers' model type; the keys of `text_encoders.NAMES`."""
