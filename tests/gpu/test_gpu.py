"""On a GPU: what the CPU finds, in every number format, and nothing left behind."""

from __future__ import annotations

import gc
import importlib.util
import itertools
from pathlib import Path

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core import pipeline
from laser_core.engine import few_calls
from laser_core.geometry import Box
from laser_core.models.loading import DEMO, load_lvlm
from laser_core.pictures import read_picture
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings, LoadSettings
from tools.testbed.encoders import build_encoder, stored_as, write
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import REPRESENTATIVES, save

pytestmark = pytest.mark.gpu

PICTURES = Path(__file__).parents[2] / "pictures"
QUESTION = "what colour is the square ?"
DEMO_QUESTION = "what number is on the bee?"  # on scene_picnic.jpg a 6
CROP = CropSettings(min_side_px=20)
GREEDY = LaserSettings(crop=CROP, decode=DecodeSettings(max_tokens=8))
SAMPLED = [
    LaserSettings(crop=CROP, decode=DecodeSettings(max_tokens=12, temperature=2.0, seed=seed))
    for seed in (1, 2)
]
HALVES = [torch.bfloat16, torch.float16]


def on_gpu(model_type, device, **options):
    """A tiny model of the family, moved there."""
    lvlm = lvlm_of(model_type, fresh=True, **options)
    lvlm.model.to(device)
    assert lvlm.device.type == device.type
    return lvlm


def allocated(device) -> int:
    """Bytes of tensors on the GPU."""
    gc.collect()
    return torch.get_device_module(device).memory_allocated()


def run(lvlm, settings=GREEDY, **options):
    return pipeline.answer(lvlm, noise_picture(), QUESTION, settings, **options)


def ids(answer):
    return [token.token_id for token in answer.tokens]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_float32_finds_and_says_what_the_cpu_does(model_type, attention, device):
    cpu = run(lvlm_of(model_type, fresh=True, attn=attention), with_plain=True)
    gpu = run(on_gpu(model_type, device, attn=attention), with_plain=True)
    for rows in ("with_query", "without_query"):
        found, expected = (getattr(result.location.maps, rows) for result in (gpu, cpu))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert gpu.location.placement.windows == cpu.location.placement.windows
    assert ids(gpu.answer) == ids(cpu.answer)
    assert ids(gpu.plain) == ids(cpu.plain)


def test_the_demo_model_reads_in_float32_what_it_reads_on_the_cpu(device):
    picture = read_picture(PICTURES / "scene_picnic.jpg")
    cpu, gpu = (
        pipeline.answer(
            load_lvlm(DEMO, LoadSettings(device=place, precision="fp32")), picture, DEMO_QUESTION
        )
        for place in ("cpu", "auto")
    )
    assert gpu.answer.text == cpu.answer.text == "6"
    logits = [[token.logit_with for token in result.answer.tokens] for result in (gpu, cpu)]
    assert logits[0] == pytest.approx(logits[1], abs=1e-2)


def test_auto_takes_the_gpu_and_half_precision(device):
    lvlm = load_lvlm()
    assert lvlm.device.type == device.type
    assert lvlm.dtype in HALVES


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_half_precision_is_finite(model_type, dtype, device):
    if device.type == "cuda" and dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    result = run(on_gpu(model_type, device, dtype=dtype))
    maps = result.location.maps
    assert maps.with_query.isfinite().all()
    assert maps.without_query.isfinite().all()
    logits = [
        (token.logit_with, token.logit_with if token.logit_without is None else token.logit_without)
        for token in result.answer.tokens
    ]
    assert logits
    assert torch.tensor(logits).isfinite().all()


# As tests/core/test_placement.py asks of weights rounded like these
@pytest.mark.parametrize(
    ("quantization", "cosine", "overlap"), [("8-bit", 0.95, 0.8), ("4-bit", 0.8, 0.3)]
)
def test_quantized_weights_look_where_the_plain_ones_look(quantization, cosine, overlap, device):
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip(f"{quantization} needs bitsandbytes")
    picture = read_picture(PICTURES / "scene_picnic.jpg")
    plain, coarse = (
        pipeline.locate(load_lvlm(settings=load), picture, DEMO_QUESTION)
        for load in (LoadSettings(precision="fp32"), LoadSettings(quantization=quantization))
    )
    maps = [found.evidence.map.flatten().cpu() for found in (plain, coarse)]
    assert torch.nn.functional.cosine_similarity(*maps, dim=0) >= cosine
    one, other = (Box(*found.placement.windows[0]) for found in (plain, coarse))
    common = one.intersect(other).area
    assert common / (one.area + other.area - common) >= overlap


def test_a_text_encoders_8_bits_find_and_say_what_they_do_on_the_cpu(device, tmp_path):
    tiny = build_encoder("qwen2_5_vl")
    file = write(tmp_path / "encoder.safetensors", stored_as(tiny.model, "fp8 unscaled"))
    folder = str(save(tiny, tmp_path / "tokenizer"))
    cpu, gpu = (
        run(load_lvlm(str(file), LoadSettings(device=place, precision="fp32", tokenizer=folder)))
        for place in ("cpu", "auto")
    )
    found, expected = (result.location.maps.with_query for result in (gpu, cpu))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert ids(gpu.answer) == ids(cpu.answer)


def test_a_seed_repeats_its_answer_and_leaves_the_gpus_own_random_state(device):
    lvlm, module = on_gpu("llava", device), torch.get_device_module(device)
    before = module.get_rng_state()
    first, other, again = (ids(run(lvlm, SAMPLED[seed]).answer) for seed in (0, 1, 0))
    assert first == again
    assert first != other
    assert torch.equal(module.get_rng_state(), before)


PICTURES_AND_QUESTIONS = [
    (noise_picture(size, seed), QUESTION + " and where is it ?" * (seed % 2))
    for seed, size in enumerate([(90, 60), (60, 90), (120, 90), (84, 84), (160, 60), (90, 60)])
]


@pytest.mark.parametrize("batch", [0, 4], ids=["as many as fit", "four"])
@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_pictures_side_by_side_are_answered_as_each_alone(model_type, batch, device):
    lvlm = on_gpu(model_type, device)
    expected = [
        pipeline.answer(lvlm, *item, GREEDY, with_plain=True) for item in PICTURES_AND_QUESTIONS
    ]
    lvlm.release()
    before = allocated(device)
    found = pipeline.answer_many(lvlm, PICTURES_AND_QUESTIONS, GREEDY, with_plain=True, batch=batch)
    for result, alone in zip(found, expected, strict=True):
        assert result.location.windows == alone.location.windows
        assert ids(result.answer) == ids(alone.answer)
        assert ids(result.plain) == ids(alone.plain)
    lvlm.release()
    assert allocated(device) == before


# ---- nothing stays behind ----------------------------------------------------------------------


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def interrupted(lvlm, stop) -> bool:
    """Whether a run ended at its report of progress number `stop`, counted from 0."""
    reports = itertools.count()

    def progress(stage, done, total):
        if next(reports) == stop:
            raise Interrupt

    try:
        run(lvlm, progress=progress)
    except Interrupt:
        return True
    return False


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_an_interrupt_at_any_point_leaves_nothing(model_type, device):
    lvlm = on_gpu(model_type, device)
    expected = ids(run(lvlm).answer)  # the libraries allocate what they keep
    lvlm.release()
    before, kernels = allocated(device), dict(ALL_ATTENTION_FUNCTIONS)
    stop = 0
    while interrupted(lvlm, stop):
        lvlm.release()
        assert allocated(device) == before, f"after report {stop}"
        stop += 1
    assert stop > 3
    assert dict(ALL_ATTENTION_FUNCTIONS) == kernels
    assert ids(run(lvlm).answer) == expected


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_a_graph_of_a_step_says_what_plain_steps_say(model_type, device, monkeypatch):
    if device.type != "cuda":
        pytest.skip("only CUDA has graphs")
    lvlm = on_gpu(model_type, device)
    sure = LaserSettings(crop=CROP, decode=DecodeSettings(max_tokens=24, adaptive=0.0))
    ours = ids(run(lvlm, sure).answer)
    assert lvlm.steps, lvlm.graph_refused
    assert ids(run(lvlm, sure).answer) == ours  # by the graph that was kept
    lvlm.release()
    monkeypatch.setattr(few_calls, "has_graphs", lambda lvlm: False)
    assert ids(run(lvlm, sure).answer) == ours


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_memory_is_back_at_its_start_after_a_model_is_let_go(model_type, device):
    run(on_gpu(model_type, device), with_plain=True)  # the libraries allocate what they keep
    before = allocated(device)
    lvlm = on_gpu(model_type, device)
    run(lvlm, with_plain=True)
    assert allocated(device) > before
    del lvlm
    assert allocated(device) == before
