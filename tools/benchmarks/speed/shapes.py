"""Random-weight models of chosen shapes, built on the device: nothing is downloaded.

A shape is a family's config at some width and depth; tokenizer and image processor come from the
testbed's tiny models. Answers never end by themselves, so that they have the length asked for.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from PIL import Image

from laser_core.models.families import FAMILIES
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build


@dataclass(frozen=True)
class Shape:
    """A model and what it is shown.

    model_type: family; decoder, vision: config values. picture_px: (width, height) of the
    picture asked about; tower_px: side of a LLaVA tower's square.
    """

    model_type: str
    decoder: dict[str, Any]
    vision: dict[str, Any]
    picture_px: tuple[int, int]
    tower_px: int = 336

    @property
    def picture(self) -> Image.Image:
        return noise_picture(self.picture_px, seed=1)


def _decoder(hidden: int, inner: int, layers: int, heads: int, kv: int, vocabulary: int) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": hidden // heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
    }


_TINY = _decoder(64, 128, 4, 4, 2, 2048)
_SMALL_MHA = _decoder(512, 1376, 12, 8, 8, 2048)
_SMALL_GQA = _decoder(512, 1376, 12, 8, 2, 2048)
_CLIP = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
_CLIP |= {"num_attention_heads": 4, "projection_dim": 64}
_CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
_CLIP_L |= {"num_attention_heads": 16, "projection_dim": 768}
_QWEN2 = {"depth": 4, "embed_dim": 256, "num_heads": 4, "mlp_ratio": 2}
_QWEN25: dict[str, Any] = {"depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4}
_QWEN25 |= {"fullatt_block_indexes": [3]}
_QWEN3: dict[str, Any] = {"depth": 4, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4}
_QWEN3 |= {"deepstack_visual_indexes": [0, 1, 2], "num_position_embeddings": 2304}
_QWEN25_7B: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
}
_QWEN25_7B |= {"fullatt_block_indexes": [7, 15, 23, 31]}

_1280 = (40 * 28, 32 * 28)

SHAPES = {
    "tiny-llava": Shape("llava", _TINY, {**_CLIP, "hidden_size": 64}, (120, 120), 84),
    "tiny-qwen2.5-vl": Shape("qwen2_5_vl", _TINY, {**_QWEN25, "hidden_size": 64}, (224, 168)),
    "llava": Shape("llava", _SMALL_MHA, _CLIP, (672, 672)),
    "llava-next": Shape("llava_next", _SMALL_MHA, _CLIP, (800, 600)),
    "qwen2-vl": Shape("qwen2_vl", _SMALL_GQA, _QWEN2, _1280),
    "qwen2.5-vl": Shape("qwen2_5_vl", _SMALL_GQA, _QWEN25, _1280),
    "qwen2.5-vl-2k": Shape("qwen2_5_vl", _SMALL_GQA, _QWEN25, (48 * 28, 43 * 28)),
    "qwen2.5-vl-4k": Shape("qwen2_5_vl", _SMALL_GQA, _QWEN25, (64 * 28, 64 * 28)),
    "qwen3-vl": Shape("qwen3_vl", _SMALL_GQA, _QWEN3, (40 * 32, 32 * 32)),
    "llava-1.5-7b": Shape(
        "llava", _decoder(4096, 11008, 32, 32, 32, 32064), _CLIP_L, (672, 672)
    ),
    "qwen2.5-vl-7b": Shape(
        "qwen2_5_vl", _decoder(3584, 18944, 28, 28, 4, 152064), _QWEN25_7B, _1280
    ),
}  # fmt: skip
DEMO = "demo"
NAMES = (DEMO, *SHAPES)


def picture_of(name: str) -> Image.Image:
    """What the model of this name is asked about."""
    return noise_picture((448, 448), seed=1) if name == DEMO else SHAPES[name].picture


def lvlm_of_shape(name: str, device: str, dtype: torch.dtype) -> Lvlm:
    """The model of this name, random weights on `device`; the demo model is the shipped one."""
    if name == DEMO:
        lvlm = load_lvlm(DEMO)
        lvlm.model.to(device, dtype)
        # Its closed vocabulary would answer the benchmark's question without looking
        lvlm.closed_vocabulary = None
    else:
        lvlm = _random_lvlm(SHAPES[name], device, dtype)
    lvlm.model.generation_config.eos_token_id = lvlm.tokenizer.eos_token = None  # full length
    lvlm.model.generation_config.pad_token_id = 0
    lvlm.instruction = lvlm.locate_instruction  # published codes ask one question for both jobs
    return lvlm


def _random_lvlm(shape: Shape, device: str, dtype: torch.dtype) -> Lvlm:
    width, height = shape.picture_px
    side = shape.tower_px
    native = FAMILIES[shape.model_type].native_resolution
    if native:
        side = int((width * height) ** 0.5) + 1  # the largest picture its processor takes whole
    tiny = build(shape.model_type, vision=side)
    config = tiny.config
    text = config.get_text_config()
    for name, value in shape.decoder.items():
        setattr(text, name, value)
    if getattr(text, "layer_types", None):
        text.layer_types = ["full_attention"] * text.num_hidden_layers
    for name, value in shape.vision.items():
        setattr(config.vision_config, name, value)
    if native:
        out = "hidden_size" if shape.model_type == "qwen2_vl" else "out_hidden_size"
        setattr(config.vision_config, out, text.hidden_size)
        _scale_rope(text, text.head_dim)
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            model_class = type(tiny.model)
            model = model_class._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(previous)
    model.eval().to(device)  # not to the dtype: RoPE's frequencies stay float32, as loaded ones do
    # Peaked attention, as trained models have: flat at first, the flatter the narrower the model
    sharper = 4 * (512 / text.hidden_size) ** 0.5
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "language_model" in name and ("q_proj.weight" in name or "k_proj.weight" in name):
                weight.mul_(sharper)
    return Lvlm(model, tiny.tokenizer, tiny.image_processor)


def _scale_rope(text: Any, head_dim: int) -> None:
    """M-RoPE's sections must fill half a head."""
    for name in ("rope_scaling", "rope_parameters"):
        rope = getattr(text, name, None)
        if isinstance(rope, dict) and "mrope_section" in rope:
            sections = rope["mrope_section"]
            factor = head_dim // 2 / sum(sections)
            scaled = [int(section * factor) for section in sections]
            scaled[0] += head_dim // 2 - sum(scaled)
            rope["mrope_section"] = scaled


def measured_with(device: str) -> dict[str, Any]:
    """Libraries and device of the figures."""
    gpu = device != "cpu"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
    }
