"""Tiny random models of every supported family, built in memory in a fraction of a second.

Knows transformers' classes and the family records; knows nothing of `Lvlm` and of the method.

Real transformers classes, on 4.57 and 5.x alike, with what their big siblings have: grouped-query
heads, M-RoPE, q/k norms, window attention in the vision tower, sliding windows on request.
Queries and keys are scaled up so that attention is peaked, as it is in trained models. One row
of `_ROWS` per family; a new family needs a row there and a record in laser_core/models/families.py.

    tiny = build("qwen2_5_vl", layers=3)
    lvlm = Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor)
    save(tiny, tmp_path)  # a folder that the Auto classes open
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from laser_core.models.families import chat_template_of

HEAD_DIM = 16
HIDDEN = 64
_VISION_HIDDEN = 32
_VISION_LAYERS = 3

_LLAVA_TOKENS = ("<s>", "</s>", "<image>", "USER:", "ASSISTANT:", "[INST]", "[/INST]")
_QWEN_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

_GLM_TOKENS = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|begin_of_image|>", "<|image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|video|>",
    "<|end_of_video|>", "<think>", "</think>",
)  # fmt: skip
_MINICPM_TOKENS = "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>"
_GEMMA3_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>",
    "<end_of_image>", "<image_soft_token>",
)  # fmt: skip
_GEMMA4_TOKENS = (
    "<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>",
    "<|audio|>", "<|audio>", "<audio|>", "<|video|>",
)  # fmt: skip

_WORDS = """
. , ? ! : ; ' " - ( ) / < > SYS
Answer the question using a single word or phrase Write general description of image
You are helpful assistant system user You're an A chat between curious human and
artificial intelligence gives detailed polite answers to human's questions
what which who where when why how many much is are was were do does did can could has have
color colour shape number digit letter size kind type name time day brand
it this that these those there here left right top bottom above below under over behind
front next near between middle corner center inside outside on in at from with by for not no yes
red green blue yellow orange purple pink brown black white gray grey
circle square triangle star heart diamond cross ring box ball
zero one two three four five six seven eight nine ten 0 1 2 3 4 5 6 7 8 9
man woman boy girl person people child dog cat bird horse car bus train truck bike boat plane
tree flower grass sky sun cloud water house building street sign light door window table chair
cup bottle plate book phone clock watch bag hat shirt text small large big tiny tall short
What Which Who Where When Why How Is Are Do Does Describe Name Read Count
picture photo scene object thing say says written wearing holding doing color's a
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class TinyLvlm:
    """model in evaluation mode; tokenizer without a chat template of its own; config: model's."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    image_processor: Any
    config: Any


@dataclass(frozen=True)
class _Row:
    """How a family is built.

    config: called with the text settings, the vision side and a function from a token's text to
    its id. model_class, processor_class: names in transformers. named_tokens: by the names that the
    processor asks the tokenizer for.
    """

    tokens: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    image_processor: Callable[[int], Any]
    config: Callable[[dict, int, Callable[[str], int]], Any]
    model_class: str
    processor_class: str
    named_tokens: dict[str, str] = field(default_factory=dict)


def build(
    model_type: str,
    *,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    sliding_window: int | None = None,
    vision: int = 84,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> TinyLvlm:
    """A random model of `model_type`, the same for the same arguments.

    sliding_window: tokens the decoder's layers see back; with LLaVA the decoder becomes a
    Mistral, with Qwen2-VL and Qwen2.5-VL the upper half of the layers gets it (those models'
    rule), with Gemma every other layer has one in any case; Qwen3-VL has none and raises
    ValueError. vision: side in pixels of the LLaVA tower's and Gemma 3's square (6 x 6 tokens by
    default); elsewhere the side of the largest square picture. more: text settings of a variant.
    The global random state is left as it was.
    """
    row = _ROWS[model_type]
    tokenizer = _tokenizer(row)
    text = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "sliding_window": sliding_window,
        **more,
    }
    config = row.config(text, vision, tokenizer.convert_tokens_to_ids)
    config.tie_word_embeddings = False
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, row.model_class)
        model = model_class._from_config(config, attn_implementation=attn)
        _sharpen(model)
    model = model.eval().to(dtype)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    return TinyLvlm(model, tokenizer, row.image_processor(vision), model.config)


def save(tiny: TinyLvlm, folder: Path, *, chat_template: bool = True) -> Path:
    """Write a model folder that the ordinary Auto classes open.

    For the transformers that runs: 4.57 cannot open every config that 5.x writes.

    chat_template: whether it holds a chat_template.jinja, the family's published format.
    """
    tiny.model.save_pretrained(folder)
    tiny.image_processor.save_pretrained(folder)
    tiny.tokenizer.save_pretrained(folder)
    if chat_template:
        template = chat_template_of(tiny.config, tiny.tokenizer)
        (Path(folder) / "chat_template.jinja").write_text(template, "utf-8")
    return Path(folder)


def library_processor(tiny: TinyLvlm) -> Any:
    """The library's own processor, which places the placeholders itself; images and text only.

    Qwen's video processors need torchvision, so the class is made to have none.
    """
    name = _ROWS[tiny.config.model_type].processor_class
    base = getattr(transformers, name)
    parameters = inspect.signature(base.__init__).parameters
    parts = ["image_processor", "tokenizer"]
    given = [tiny.image_processor, tiny.tokenizer]
    if "patch_size" in parameters:
        return base(
            *given,
            patch_size=tiny.config.vision_config.patch_size,
            vision_feature_select_strategy=tiny.config.vision_feature_select_strategy,
            num_additional_image_tokens=1,
        )
    if name == "Gemma3Processor":
        return base(*given, image_seq_length=tiny.config.mm_tokens_per_image)
    if name in ("Gemma4Processor", "MiniCPMV4_6Processor"):  # of sounds, of videos: not asked
        known = {"image_processor": given[0], "tokenizer": given[1]}
        parts = [part for part in parameters if part.endswith(("or", "tokenizer"))]
        given = [known.get(part, given[0]) for part in parts]
    members = {
        "attributes": parts,  # 4.57
        "get_attributes": classmethod(lambda cls: parts),  # 5.x
        "check_argument_for_proper_class": lambda *_: None,
        "tokenizer_class": "AutoTokenizer",
        "video_processor": None,
    }
    return type(name, (base,), members)(*given)


def library_ids(model_type: str, picture: Any, text: str) -> list[list[int]]:
    """A chat about one picture as token ids, by the library alone."""
    tiny = build(model_type)
    processor = library_processor(tiny)
    content = [{"type": "image"}, {"type": "text", "text": text}]
    written = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=chat_template_of(tiny.config, tiny.tokenizer),
        add_generation_prompt=True,
        enable_thinking=False,
    )
    begun = bool(tiny.tokenizer.bos_token) and written.startswith(tiny.tokenizer.bos_token)
    inputs = processor(images=[picture], text=[written], add_special_tokens=not begun)
    return torch.as_tensor(inputs["input_ids"]).tolist()


def _tokenizer(row: _Row) -> PreTrainedTokenizerFast:
    """Words and punctuation marks are tokens, so are line breaks; unknown words are <unk>."""
    words = ["<unk>", *dict.fromkeys(_WORDS)]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([AddedToken(token, special=True) for token in row.tokens])
    core.add_tokens([AddedToken("\n", normalized=False)])
    if row.bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{row.bos} $A", special_tokens=[(row.bos, core.token_to_id(row.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=row.bos,
        eos_token=row.eos,
        pad_token=row.pad,
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=row.named_tokens,
    )


_FLAT = "embed_tokens", "lm_head", "linear_attn.in_proj_qkv", "linear_attn.out_proj"


def _sharpen(model: torch.nn.Module) -> None:
    """Peaked attention, states that matter, distinct next-token scores: all is flat by default."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_norm" in name or "k_norm" in name:
                weight.copy_(1 + 0.5 * torch.randn_like(weight))
            elif "language_model" in name and ("q_proj.w" in name or "k_proj.w" in name):
                weight.mul_(8)
            elif any(part in name for part in _FLAT):
                weight.mul_(10)
            elif "linear_attn.A_log" in name:
                weight.sub_(4)  # a state that forgets slowly
            elif "mm_input_projection" in name:  # zeros, which would show no picture
                weight.normal_(std=0.5)


# ---- one row per family ------------------------------------------------------------------------


def on_pillow(name: str) -> Any:
    """The image processor class that works without torchvision."""
    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


def _clip_processor(vision: int) -> Any:
    return on_pillow("CLIPImageProcessor")(
        size={"shortest_edge": vision}, crop_size={"height": vision, "width": vision}
    )


def _next_processor(vision: int) -> Any:
    return on_pillow("LlavaNextImageProcessor")(
        size={"shortest_edge": vision},
        crop_size={"height": vision, "width": vision},
        image_grid_pinpoints=_pinpoints(vision),
    )


def _qwen_processor(patch_size: int, mean: float | None = None) -> Callable[[int], Any]:
    def make(vision: int) -> Any:
        # Limits in pixels, as the families' folders have them; 4 tokens at the least
        side = 2 * patch_size
        colour = {} if mean is None else {"image_mean": [mean] * 3, "image_std": [mean] * 3}
        return on_pillow("Qwen2VLImageProcessor")(
            patch_size=patch_size,
            min_pixels=4 * side * side,
            max_pixels=max(vision * vision, 32 * side * side),
            **colour,
        )

    return make


def _glm_processor(name: str) -> Callable[[int], Any]:
    def make(vision: int) -> Any:
        # As Qwen's, of the two frames that a picture is repeated to
        return on_pillow(name)(
            size={
                "shortest_edge": 2 * 4 * 28 * 28,
                "longest_edge": 2 * max(vision * vision, 32 * 28 * 28),
            }
        )

    return make


def _pinpoints(side: int) -> list[list[int]]:
    """LLaVA-NeXT's tilings: (height, width) in views of `side` pixels."""
    shapes = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    return [[rows * side, columns * side] for rows, columns in shapes]


def _llava_config(config_class: str, **extra: Callable[[int], Any]) -> Callable[..., Any]:
    def make(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
        text = dict(text)
        tower = transformers.CLIPVisionConfig(
            hidden_size=_VISION_HIDDEN,
            intermediate_size=2 * _VISION_HIDDEN,
            num_hidden_layers=_VISION_LAYERS,
            num_attention_heads=2,
            image_size=vision,
            patch_size=14,
            projection_dim=_VISION_HIDDEN,
        )
        decoder = transformers.MistralConfig
        if text["sliding_window"] is None:
            del text["sliding_window"]
            decoder = transformers.LlamaConfig
        return getattr(transformers, config_class)(
            vision_config=tower,
            text_config=decoder(**text),
            image_token_index=token_id("<image>"),
            **{name: rule(vision) for name, rule in extra.items()},
        )

    return make


def _qwen_config(
    config_class: str,
    vision_settings: dict,
    rope: dict,
    *,
    windows: bool,
    own_head_dim: bool,
    **more: Any,
) -> Callable[..., Any]:
    """more: of the text settings."""

    def make(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
        text = dict(text)
        window = text.pop("sliding_window")
        if not own_head_dim:  # these derive it: hidden_size / heads
            del text["head_dim"]
            text["hidden_size"] = text["num_attention_heads"] * HEAD_DIM
        if window is not None and not windows:
            raise ValueError(f"{config_class} has no sliding window: leave sliding_window unset")
        if window is not None:
            text.update(
                use_sliding_window=True,
                sliding_window=window,
                max_window_layers=text["num_hidden_layers"] // 2,
            )
        out = "hidden_size" if "embed_dim" in vision_settings else "out_hidden_size"
        return getattr(transformers, config_class)(
            text_config={**text, **more, "rope_scaling": dict(rope), "rope_theta": 1e4},
            vision_config={**vision_settings, out: text["hidden_size"]},
            image_token_id=token_id("<|image_pad|>"),
            video_token_id=token_id("<|video_pad|>"),
            vision_start_token_id=token_id("<|vision_start|>"),
            vision_end_token_id=token_id("<|vision_end|>"),
        )

    return make


def _glm_config(config_class: str, **more: Any) -> Callable[..., Any]:
    """more: of the text settings."""

    def make(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
        text = {**text, **_GLM_TEXT, **more}
        if text.pop("sliding_window") is not None:
            raise ValueError(f"{config_class} has no sliding window: leave sliding_window unset")
        parts = {
            "text_config": {**text, "rope_scaling": dict(_GLM_ROPE), "rope_theta": 1e4},
            "vision_config": {
                **_SIZES,
                "intermediate_size": 64,
                "image_size": 84,
                "out_hidden_size": HIDDEN,
            },
        }
        if config_class == "Glm46VConfig":  # whose parts have Auto classes
            parts["text_config"]["model_type"] = "glm4v_text"
            parts["vision_config"]["model_type"] = "glm4v_vision"
        return getattr(transformers, config_class)(
            **parts,
            image_token_id=token_id("<|image|>"),
            video_token_id=token_id("<|video|>"),
            image_start_token_id=token_id("<|begin_of_image|>"),
            image_end_token_id=token_id("<|end_of_image|>"),
            video_start_token_id=token_id("<|begin_of_video|>"),
            video_end_token_id=token_id("<|end_of_video|>"),
        )

    return make


def _square_tower(vision: int, patch_size: int) -> dict[str, Any]:
    return {
        "hidden_size": _VISION_HIDDEN,
        "intermediate_size": 2 * _VISION_HIDDEN,
        "num_hidden_layers": _VISION_LAYERS,
        "num_attention_heads": 2,
        "image_size": vision,
        "patch_size": patch_size,
    }


def _gemma_text(text: dict) -> dict[str, Any]:
    """Every other layer sees everything, the last among them; the others see a window."""
    layers = text["num_hidden_layers"]
    kinds = ["full_attention" if (layers - n) % 2 else "sliding_attention" for n in range(layers)]
    return {**text, "layer_types": kinds, "sliding_window": text["sliding_window"] or 1024}


def _gemma3_processor(vision: int) -> Any:
    return on_pillow("Gemma3ImageProcessor")(size={"height": vision, "width": vision})


def _gemma3_config(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
    return transformers.Gemma3Config(
        # As in the 27B, attention is not scaled by the heads' width
        text_config={"query_pre_attn_scalar": 2 * HEAD_DIM, **_gemma_text(text)},
        vision_config={**_square_tower(vision, 7), "vision_use_head": False},
        mm_tokens_per_image=(vision // 14) ** 2,
        boi_token_index=token_id("<start_of_image>"),
        eoi_token_index=token_id("<end_of_image>"),
        image_token_index=token_id("<image_soft_token>"),
    )


def _gemma4_processor(vision: int) -> Any:
    return on_pillow("Gemma4ImageProcessor")(patch_size=4, max_soft_tokens=70)


def _gemma4_config(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
    """With what one size or another has: keys as values, shared ones, inputs for each layer."""
    tower = _square_tower(vision, 4)
    del tower["image_size"]
    return transformers.Gemma4Config(
        text_config={
            "global_head_dim": 2 * HEAD_DIM,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "num_kv_shared_layers": text["num_hidden_layers"] // 2,
            "vocab_size_per_layer_input": text["vocab_size"],
            "hidden_size_per_layer_input": 8,
            "final_logit_softcapping": 30.0,
            "use_bidirectional_attention": "vision",
            **_gemma_text(text),
        },
        vision_config={
            **tower,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "position_embedding_size": 256,
        },
        audio_config=None,
        boi_token_id=token_id("<|image>"),
        eoi_token_id=token_id("<image|>"),
        image_token_id=token_id("<|image|>"),
        video_token_id=token_id("<|video|>"),
        audio_token_id=token_id("<|audio|>"),
    )


def _minicpm_processor(vision: int) -> Any:
    # 4 x 4 tokens of 16 pixels for the whole, and as many for each slice
    return on_pillow("MiniCPMV4_6ImageProcessor")(
        patch_size=4, scale_resolution=64, max_slice_nums=4
    )


def _minicpm_config(text: dict, vision: int, token_id: Callable[[str], int]) -> Any:
    text = {**text, **_QWEN3_5_TEXT, "rope_scaling": dict(_QWEN3_5_ROPE), "rope_theta": 1e4}
    del text["sliding_window"]
    return transformers.MiniCPMV4_6Config(
        text_config={**text, "model_type": "qwen3_5_text"},
        vision_config=_square_tower(64, 4),
        insert_layer_id=0,
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
    )


_LLAVA: dict[str, Any] = {"tokens": _LLAVA_TOKENS, "bos": "<s>", "eos": "</s>", "pad": "<unk>"}
_QWEN: dict[str, Any] = {
    "tokens": _QWEN_TOKENS,
    "bos": None,
    "eos": "<|im_end|>",
    "pad": "<|endoftext|>",
}
_GLM: dict[str, Any] = {
    "tokens": _GLM_TOKENS,
    "bos": None,
    "eos": "<|user|>",
    "pad": "<|endoftext|>",
}
_GEMMA: dict[str, Any] = {"bos": "<bos>", "pad": "<pad>"}
_MROPE = {"type": "mrope", "mrope_section": [2, 3, 3]}
_SIZES = {"depth": _VISION_LAYERS, "hidden_size": _VISION_HIDDEN, "num_heads": 2}
_QWEN3_VISION = {**_SIZES, "intermediate_size": 64, "num_position_embeddings": 64}
_QWEN3_ROPE = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": HIDDEN}
_QWEN3_5_TEXT: dict[str, Any] = {
    "full_attention_interval": 2,  # of every second layer, where its siblings have four
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": HEAD_DIM,
    "linear_value_head_dim": HEAD_DIM,
}
_QWEN3_5_ROPE = {**_QWEN3_ROPE, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
_GLM_ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
_GLM_TEXT = {"partial_rotary_factor": 0.5}  # where 4.57 reads it

_QWEN3_5: dict[str, Any] = {
    **_QWEN,
    "tokens": (*_QWEN_TOKENS, "<think>", "</think>"),
    "image_processor": _qwen_processor(16, mean=0.5),
    "processor_class": "Qwen3VLProcessor",
}

_ROWS: dict[str, _Row] = {
    "llava": _Row(
        **_LLAVA,
        image_processor=_clip_processor,
        config=_llava_config("LlavaConfig"),
        model_class="LlavaForConditionalGeneration",
        processor_class="LlavaProcessor",
    ),
    "llava_next": _Row(
        **_LLAVA,
        image_processor=_next_processor,
        config=_llava_config("LlavaNextConfig", image_grid_pinpoints=_pinpoints),
        model_class="LlavaNextForConditionalGeneration",
        processor_class="LlavaNextProcessor",
    ),
    "qwen2_vl": _Row(
        **_QWEN,
        image_processor=_qwen_processor(14),
        config=_qwen_config(
            "Qwen2VLConfig",
            {"depth": _VISION_LAYERS, "embed_dim": _VISION_HIDDEN, "num_heads": 2, "mlp_ratio": 2},
            _MROPE,
            windows=True,
            own_head_dim=False,
        ),
        model_class="Qwen2VLForConditionalGeneration",
        processor_class="Qwen2VLProcessor",
    ),
    "qwen2_5_vl": _Row(
        **_QWEN,
        image_processor=_qwen_processor(14),
        config=_qwen_config(
            "Qwen2_5_VLConfig",
            {**_SIZES, "intermediate_size": 64, "window_size": 56, "fullatt_block_indexes": [2]},
            _MROPE,
            windows=True,
            own_head_dim=False,
        ),
        model_class="Qwen2_5_VLForConditionalGeneration",
        processor_class="Qwen2_5_VLProcessor",
    ),
    "qwen3_vl": _Row(
        **_QWEN,
        image_processor=_qwen_processor(16, mean=0.5),
        config=_qwen_config(
            "Qwen3VLConfig",
            {**_QWEN3_VISION, "deepstack_visual_indexes": [0, 1]},
            _QWEN3_ROPE,
            windows=False,
            own_head_dim=True,
        ),
        model_class="Qwen3VLForConditionalGeneration",
        processor_class="Qwen3VLProcessor",
    ),
    "qwen3_5": _Row(
        **_QWEN3_5,
        config=_qwen_config(
            "Qwen3_5Config",
            _QWEN3_VISION,
            _QWEN3_5_ROPE,
            windows=False,
            own_head_dim=True,
            **_QWEN3_5_TEXT,
        ),
        model_class="Qwen3_5ForConditionalGeneration",
    ),
    "qwen3_5_moe": _Row(
        **_QWEN3_5,
        config=_qwen_config(
            "Qwen3_5MoeConfig",
            _QWEN3_VISION,
            _QWEN3_5_ROPE,
            windows=False,
            own_head_dim=True,
            **_QWEN3_5_TEXT,
            **_EXPERTS,
            shared_expert_intermediate_size=HIDDEN,
        ),
        model_class="Qwen3_5MoeForConditionalGeneration",
    ),
    "qwen3_vl_moe": _Row(
        **_QWEN,
        image_processor=_qwen_processor(16, mean=0.5),
        config=_qwen_config(
            "Qwen3VLMoeConfig",
            {**_QWEN3_VISION, "deepstack_visual_indexes": [0, 1]},
            _QWEN3_ROPE,
            windows=False,
            own_head_dim=True,
            **_EXPERTS,
        ),
        model_class="Qwen3VLMoeForConditionalGeneration",
        processor_class="Qwen3VLProcessor",
    ),
    "glm4v": _Row(
        **_GLM,
        image_processor=_glm_processor("Glm4vImageProcessor"),
        config=_glm_config("Glm4vConfig"),
        model_class="Glm4vForConditionalGeneration",
        processor_class="Glm4vProcessor",
    ),
    "glm46v": _Row(
        **_GLM,
        image_processor=_glm_processor("Glm46VImageProcessor"),
        config=_glm_config("Glm46VConfig"),
        model_class="Glm46VForConditionalGeneration",
        processor_class="Glm46VProcessor",
    ),
    "glm4v_moe": _Row(
        **_GLM,
        image_processor=_glm_processor("Glm4vImageProcessor"),
        config=_glm_config(
            "Glm4vMoeConfig",
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=HIDDEN,
        ),
        model_class="Glm4vMoeForConditionalGeneration",
        processor_class="Glm4vProcessor",
    ),
    "gemma3": _Row(
        tokens=_GEMMA3_TOKENS,
        **_GEMMA,
        eos="<end_of_turn>",
        image_processor=_gemma3_processor,
        config=_gemma3_config,
        model_class="Gemma3ForConditionalGeneration",
        processor_class="Gemma3Processor",
        named_tokens={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "gemma4": _Row(
        tokens=_GEMMA4_TOKENS,
        **_GEMMA,
        eos="<turn|>",
        image_processor=_gemma4_processor,
        config=_gemma4_config,
        model_class="Gemma4ForConditionalGeneration",
        processor_class="Gemma4Processor",
        named_tokens={
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "audio_token": "<|audio|>",
        },
    ),
    "minicpmv4_6": _Row(
        **{**_QWEN, "tokens": (*_QWEN_TOKENS, "<think>", "</think>", *_MINICPM_TOKENS)},
        image_processor=_minicpm_processor,
        config=_minicpm_config,
        model_class="MiniCPMV4_6ForConditionalGeneration",
        processor_class="MiniCPMV4_6Processor",
        named_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "image_start_token": "<image>",
            "image_end_token": "</image>",
            "slice_start_token": "<slice>",
            "slice_end_token": "</slice>",
            "image_id_start_token": "<image_id>",
            "image_id_end_token": "</image_id>",
        },
    ),
}

MODEL_TYPES = tuple(_ROWS)
AVAILABLE = tuple(name for name, row in _ROWS.items() if hasattr(transformers, row.model_class))
"""Those that the transformers which runs has."""

REPRESENTATIVES = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families for claims that do not depend on the family: every transformers has them."""

WITH_STATES = tuple(name for name in AVAILABLE if name == "qwen3_5")
"""And one whose layers carry states, for claims about what is kept of tokens."""
WITH_SLICES = tuple(name for name in AVAILABLE if name == "minicpmv4_6")
"""And one whose prompts hold more of a picture than its tokens."""

WITH_MASKS = tuple(name for name in AVAILABLE if name in ("gemma3", "gemma4"))
"""And those whose pictures see themselves, for claims about what a token sees."""
