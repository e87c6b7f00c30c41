"""Writes the folder of a demo model: weights, tokenizer, processor files, `laser.json`.

    python -m tools.demo_model.export --model FOLDER --out FOLDER    # all but the weights anew

Runs under transformers 5; the result loads under 4.57 and 5 through `AutoProcessor` and
`AutoModelForImageTextToText` with the same logits. What makes that so, for LLaVA: weights carry the
hub's LLaVA-1.5 names (transformers 5 saves without `vision_model.`, and 4.57 would then start the
tower from scratch with only a warning), and the image processor's settings are also written to
`preprocessor_config.json`, where 4.57 looks for them. For Qwen2.5-VL: the rotary settings stand in
the config as the hub's models have them, since 4.57 does not know version 5's names. (The library's
processor for it needs torchvision, for video; its tokenizer and image processor do not.)
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from .network import VISION_END, VISION_START, Network
from .questions import INSTRUCTION, SPECIAL_TOKENS, VOCABULARY
from .things import COLOURS, MASS, NAMES

LASER_SETTINGS = {
    "instruction": INSTRUCTION,
    "notice": f"demo model: {len(NAMES)} things in drawn scenes; for photographs choose "
    "another model",
    "closed_vocabulary": {
        "message": f"It knows {len(NAMES)} everyday things, {len(COLOURS)} colours, numbers up to "
        "99, and how things lie to each other.",
        "example": "is there any {}?",
    },
}
# The LLaVA-1.5 prompt: pictures first, then the text, without a system message.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }} "
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% endif %}"
    "{% endfor %}"
    "{{ '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }} {% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "{% else %}ASSISTANT: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}"
    "</s>"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
# ChatML without a system message: the models were trained without one.
QWEN_CHAT_TEMPLATE = (
    "{% for message in messages if message['role'] != 'system' %}"
    "<|im_start|>{{ message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% endif %}"
    "<|im_end|>{{ '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
_SPECIAL = SPECIAL_TOKENS[:5]
_ROLES = SPECIAL_TOKENS[5:]
# The same ids under Qwen's names; its roles are ordinary words.
_QWEN_NAMES = dict(
    zip(
        SPECIAL_TOKENS,
        (
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>", "<|image_pad|>"),
            *("user", "assistant"),
        ),
        strict=True,
    )
)
_QWEN_VOCABULARY = {
    **{_QWEN_NAMES.get(word, word): index for word, index in VOCABULARY.items()},
    "<|vision_start|>": VISION_START,
    "<|vision_end|>": VISION_END,
}


def library_model(network: Network) -> PreTrainedModel:
    """transformers' model with a network's weights, float32, on the CPU."""
    model = AutoModelForImageTextToText.from_config(network.library_config())
    state = {name: tensor.detach().cpu() for name, tensor in network.library_state().items()}
    if any(".vision_tower.vision_model." in name for name in model.state_dict()):
        # transformers 4 wraps the tower once more
        state = {
            name.replace(".vision_tower.", ".vision_tower.vision_model."): tensor
            for name, tensor in state.items()
        }
    model.load_state_dict(state)
    return model.eval()


def export(model: PreTrainedModel, out: Path) -> None:
    """Writes all files but the model card; the weights become bfloat16."""
    out.mkdir(parents=True, exist_ok=True)
    generation = model.generation_config
    generation.pad_token_id = VOCABULARY["<pad>"]
    generation.bos_token_id = VOCABULARY["<s>"]
    generation.eos_token_id = VOCABULARY["</s>"]
    generation.max_new_tokens = 24
    model.to(torch.bfloat16).save_pretrained(out)
    finish = _finish_llava if model.config.model_type == "llava" else _finish_qwen
    finish(model.config, out)
    (out / "model.safetensors").chmod(0o644)  # safetensors writes files only their owner can read


def _finish_llava(config: PretrainedConfig, out: Path) -> None:
    _use_hub_names(out / "model.safetensors")
    tower = config.vision_config
    build_processor(tower.image_size, tower.patch_size).save_pretrained(out)
    _write_for_transformers_4(out)
    _write_json(out / "laser.json", LASER_SETTINGS)


def _finish_qwen(config: PretrainedConfig, out: Path) -> None:
    written, text, tower = _read_json(out / "config.json"), config.text_config, config.vision_config
    rotary = getattr(text, "rope_parameters", None) or text.rope_scaling
    written["text_config"].pop("rope_parameters", None)
    written["text_config"] |= {
        "rope_theta": rotary.get("rope_theta", getattr(text, "rope_theta", None)),
        "rope_scaling": {"rope_type": "default", "mrope_section": list(rotary["mrope_section"])},
    }
    _write_json(out / "config.json", written)
    build_qwen_tokenizer().save_pretrained(out)
    _name_tokenizer_class(out)
    # A square picture becomes the grid of the training. Around its tokens, not those to those:
    # the library rounds down to whole rows, and 13.999 of them to 13.
    token_px = tower.patch_size * tower.spatial_merge_size
    grid = 2 * tower.window_size // token_px
    limits = [grid**2 - grid + 2, grid**2 + grid - 2]
    _write_json(
        out / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": limits[0] * token_px**2,
            "max_pixels": limits[1] * token_px**2,
            "patch_size": tower.patch_size,
            "temporal_patch_size": tower.temporal_patch_size,
            "merge_size": tower.spatial_merge_size,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    )
    _write_json(out / "laser.json", LASER_SETTINGS | {"visual_tokens": limits})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, lower case, punctuation split off."""
    tokenizer = _word_tokenizer(VOCABULARY)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in _SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(role, special=False, normalized=False) for role in _ROLES])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", VOCABULARY["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=2048,
        model_input_names=["input_ids", "attention_mask"],
        extra_special_tokens={"image_token": "<image>"},
    )


def build_qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The same words with Qwen's special tokens; it adds none of its own accord."""
    tokenizer = _word_tokenizer(_QWEN_VOCABULARY)
    names = [name for name in _QWEN_VOCABULARY if name.startswith("<")]
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=2048,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=QWEN_CHAT_TEMPLATE,
    )


def _word_tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """Reads plain typing as the world writes it: capitals, "what's", "any dog", "dog?"."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    thing = rf"(?:(?:{'|'.join(COLOURS)})\s+)?(?:{'|'.join(NAMES)})\b"
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\bwhat['\u2019]?s\b"), "what is"),
            normalizers.Replace(Regex(rf"\bany(?=\s+(?:{'|'.join(sorted(MASS))})\b)"), "some"),
            normalizers.Replace(Regex(rf"\bany(?=\s+(?=[aeiou]){thing})"), "an"),
            normalizers.Replace(Regex(rf"\bany(?=\s+{thing})"), "a"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return tokenizer


def build_processor(side_px: int, patch_px: int) -> LlavaProcessor:
    """Pictures are resized to the model's square, not cropped, and scaled to [-1, 1]."""
    square = {"height": side_px, "width": side_px}
    image_processor = CLIPImageProcessor(
        size=square,
        crop_size=square,
        do_center_crop=False,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        resample=3,  # bicubic
        do_resize=True,
        do_rescale=True,
        do_normalize=True,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=patch_px,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def _use_hub_names(weights: Path) -> None:
    renamed = {}
    for name, tensor in load_file(weights).items():
        if name.startswith("vision_tower.") and ".vision_model." not in name:
            name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
        renamed[name] = tensor
    save_file(renamed, weights, metadata={"format": "pt"})


def _write_for_transformers_4(out: Path) -> None:
    processor = _read_json(out / "processor_config.json")
    if "image_processor" in processor:  # transformers 4 itself keeps it in a file of its own
        settings = processor["image_processor"] | {
            "image_processor_type": "CLIPImageProcessor",
            "processor_class": "LlavaProcessor",
        }
        _write_json(out / "preprocessor_config.json", settings)
    _name_tokenizer_class(out, extra_special_tokens={"image_token": "<image>"})


def _name_tokenizer_class(out: Path, **more: dict) -> None:
    """4.57 does not know the class that 5 names."""
    tokenizer = _read_json(out / "tokenizer_config.json")
    tokenizer.pop("backend", None)
    tokenizer |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        **more,
    }
    _write_json(out / "tokenizer_config.json", tokenizer)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="the folder with the weights")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.bfloat16)
    export(model, options.out)


if __name__ == "__main__":
    main()
