"""Where weights lie and in what format: the same windows, and never a map that is not finite."""

from __future__ import annotations

import re
from importlib.metadata import version
from itertools import product
from pathlib import Path

import pytest
import torch

from laser_core import pipeline
from laser_core.engine.capture import attention_rows
from laser_core.geometry import Box
from laser_core.models.loading import DEMO, load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.pictures import read_picture
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import REPRESENTATIVES, WITH_MASKS, build

ROOT = Path(__file__).resolve().parents[2]
QUESTION = "what colour is the square ?"
SCENE_QUESTION = "what number is on the bee?"
SHORT = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=3))


def on_disk(model, folder):
    from accelerate import disk_offload

    disk_offload(model, str(folder), execution_device="cpu")


def in_main_memory(model, folder):
    from accelerate import cpu_offload

    cpu_offload(model, execution_device="cpu")


def sharded(model, folder):
    """Halves of the decoder on two devices, which `device_map="auto"` makes of a large model."""
    from accelerate import dispatch_model

    layers = [name for name, _ in model.named_modules() if re.search(r"\blayers\.\d+$", name)]
    decoder = [name for name in layers if "language_model" in name]
    parts = {
        name: "cpu"
        for name, _ in model.named_modules()
        if name and not any(name.startswith(layer) or layer.startswith(name) for layer in decoder)
    }
    parts |= {  # LLaVA-NeXT's newline is a parameter without a module
        name: "cpu"
        for name, _ in model.named_parameters()
        if not any(name.startswith(f"{part}.") for part in [*parts, *decoder])
    }
    half = len(decoder) // 2
    parts |= dict.fromkeys(decoder[:half], "cpu") | dict.fromkeys(decoder[half:], "disk")
    dispatch_model(model, parts, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize(
    ("model_type", "place"),
    [
        *product(REPRESENTATIVES, [on_disk, in_main_memory, sharded]),
        ("gemma3", in_main_memory),  # of Gemma 4 the library itself reads weights in the body
        *((name, sharded) for name in WITH_MASKS),
    ],
)
def test_offloaded_weights_give_the_plain_models_windows_and_answer(model_type, place, tmp_path):
    if model_type == "qwen3_vl" and place is not sharded and int(version("transformers")[0]) < 5:
        pytest.skip("4.57's own vision tower of Qwen3-VL cannot run offloaded")
    tiny = build(model_type)
    place(tiny.model, tmp_path)
    assert any(parameter.is_meta for parameter in tiny.model.parameters())
    placed = Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor)
    results = [
        pipeline.answer(lvlm, noise_picture(), QUESTION, SHORT)
        for lvlm in (lvlm_of(model_type), placed)
    ]
    plain, offloaded = (result.location for result in results)
    torch.testing.assert_close(offloaded.evidence.map, plain.evidence.map, atol=1e-6, rtol=1e-5)
    assert offloaded.placement.windows == plain.placement.windows
    ids = [[token.token_id for token in result.answer.tokens] for result in results]
    assert ids[0] == ids[1]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_MASKS])
def test_half_precision_maps_are_finite_shares_of_the_attention(model_type, dtype, attention):
    lvlm = lvlm_of(model_type, dtype=dtype, attn=attention)
    maps = read_attention(lvlm, noise_picture(), QUESTION)
    for rows in (maps.with_query, maps.without_query):
        assert rows.dtype == torch.float32
        assert rows.isfinite().all()
        assert rows.min() >= 0
        assert rows.sum((-2, -1)).max() <= 1.01  # of all tokens, the picture's are some


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_scores_beyond_half_precision_do_not_overflow(dtype):
    query = torch.full(
        (1, 4, 3, 64), 200.0, dtype=dtype
    )  # q k^T is 2.6 million, fp16 ends at 65504
    key = torch.full((1, 2, 9, 64), 200.0, dtype=dtype)
    rows = attention_rows([query], [key], None, rows=[-1])[0]
    torch.testing.assert_close(rows, torch.full_like(rows, 1 / 9))


def rounded(quantization):
    """The demo model with weights as coarse as a format leaves them: levels per row, or per 64.

    tests/gpu asks the same of bitsandbytes' own.
    """
    lvlm, levels = load_lvlm(DEMO), {"8-bit": 127, "4-bit": 7}[quantization]
    for name, module in lvlm.model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            weight = module.weight.data
            blocks = weight.reshape(-1, 64) if levels == 7 else weight
            step = blocks.abs().amax(1, keepdim=True) / levels
            module.weight.data = ((blocks / step).round() * step).reshape(weight.shape)
    return lvlm


# docs/performance.md states these: cosine of the maps, and the windows' intersection over union
@pytest.mark.parametrize(("quantization", "cosine", "overlap"), [("8-bit", 0.95, 0.8),
                                                                 ("4-bit", 0.8, 0.3)])  # fmt: skip
def test_quantized_weights_look_where_the_plain_ones_look(quantization, cosine, overlap):
    picture, question = read_picture(ROOT / "pictures" / "scene_picnic.jpg"), SCENE_QUESTION
    plain, coarse = (
        pipeline.locate(lvlm, picture, question)
        for lvlm in (load_lvlm(DEMO), rounded(quantization))
    )
    maps = [found.evidence.map.flatten().cpu() for found in (plain, coarse)]
    assert torch.nn.functional.cosine_similarity(*maps, dim=0) >= cosine
    one, other = (Box(*found.placement.windows[0]) for found in (plain, coarse))
    common = one.intersect(other).area
    assert common / (one.area + other.area - common) >= overlap


# ---- device-neutral calls ----------------------------------------------------------------------

# Questions about CUDA and ROCm that other devices answer with no, and the name of an error
# Asking is allowed everywhere; the harness's own --device cuda:1 has to be made the current one
NEUTRAL = r"torch\.(cuda|xpu)\.(is_available|is_bf16_supported|OutOfMemoryError|set_device)\b"
BOUND = {
    "a call for one kind of device": r"\.cuda\(|\.mps\b|\.xpu\b|torch\.cuda\b|\.to\([\"']cuda",
    "a device by its name": r"device\([\"'](?!cpu|cuda\" if )",
}
SOURCES = [*(ROOT / "laser_core").rglob("*.py"), *(ROOT / "nodes").glob("*.py")]
SOURCES.remove(ROOT / "laser_core/engine/fixed_step.py")  # graphs, which only CUDA has


@pytest.mark.parametrize("kind", BOUND)
def test_only_device_neutral_calls_are_used(kind):
    found = [
        f"{path.name}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(BOUND[kind], re.sub(NEUTRAL, "", line))
    ]
    assert not found


def test_what_runs_on_the_models_device_needs_no_float64_which_mps_lacks():
    for name in ("steps/attention", "engine/capture", "engine/reading", "engine/generating"):
        text = (ROOT / "laser_core" / f"{name}.py").read_text("utf-8")
        assert not re.search(r"float64|\.double\(", text), name
