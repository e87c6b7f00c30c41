"""Text encoders of image models on Load LVLM: listed, described, loaded, and their use.

Files are small ones of the converters' formats; the oracle of a map is the core on the same file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from laser_core.models.encoder_configs import class_of, config_of
from laser_core.models.encoder_loading import places_of
from laser_core.models.text_encoders import read_encoder
from tools.testbed.encoders import build_encoder, stored_as, write, write_gemma, write_header

from .graphs import QUESTION, pictures_batch
from .pack import check_managed, comfyui_path, inputs_of, node, part, run

VALUE = "text_encoders/qwen/mine.safetensors"
SMALL = {"max_visual_tokens": 16}


@pytest.fixture(scope="module")
def encoder():
    """(tensors of a small Qwen2.5-VL in fp8, its tokenizer)."""
    tiny = build_encoder("qwen2_5_vl")
    return stored_as(tiny.model, "fp8 old"), tiny.tokenizer


@pytest.fixture
def file(comfyui, tmp_path, encoder):
    """The encoder without its output, where image models have it; ComfyUI has a tokenizer."""
    tensors, tokenizer = encoder
    tokenizer.save_pretrained(tmp_path / "comfy" / "text_encoders" / "qwen25_tokenizer")
    kept = {key: value for key, value in tensors.items() if not key.startswith("lm_head")}
    return write(tmp_path / "models" / "text_encoders" / "qwen" / "mine.safetensors", kept)


def test_it_is_listed_by_its_path_and_described_by_its_tensors(comfyui, file, tmp_path):
    (tmp_path / "models" / "clip").mkdir()
    save_file({"text_model.a.weight": torch.ones(2)}, tmp_path / "models/clip/clip_l.safetensors")
    comfyui.device, comfyui.memory_bytes = "cuda", 8 * 2**30
    choices, options = inputs_of("LaserLoadLVLM")["model"]
    assert [each for each in choices if each.startswith("text_encoders/")] == [VALUE]
    shown = options["about"][VALUE]
    assert (shown["description"], shown["precision"]) == (
        "Qwen2.5-VL, text encoder, locates only",
        "fp8",
    )
    assert shown["here"] and shown["lacks"] is None
    assert list(shown["needs"]) == ["none"]  # nothing quantizes it further


def test_it_locates_as_the_core_does_and_answers_nothing(comfyui, file, tmp_path):
    lvlm = run("LaserLoadLVLM", model=VALUE, **SMALL).lvlm
    picture = pictures_batch(1)
    read = run("LaserContrastiveAttention", lvlm=lvlm, image=picture, question=QUESTION)
    found = run("LaserVAQLayerSelect", attention=read.attention)
    crop = run("LaserConViCrop", image=picture, evidence=found.evidence, min_side_px=20)
    load = part("laser_core.settings").LoadSettings(
        tokenizer=str(tmp_path / "comfy" / "text_encoders" / "qwen25_tokenizer"), **SMALL
    )
    core = part("laser_core.models.loading").load_lvlm(str(file), load)
    pixels = (picture[0] * 255).round().byte().numpy()
    oracle = part("laser_core.pipeline").locate(core, pixels, QUESTION)
    assert torch.equal(read.attention.maps[0].with_query, oracle.maps.with_query)
    assert torch.equal(found.evidence.items[0].map, oracle.evidence.map)
    assert crop.region.any()
    for ask, inputs in (
        ("LaserAnswer", {"image": picture}),
        ("LaserVATDecode", {"positive": picture}),
    ):
        with pytest.raises(ValueError, match=r"^choose a model that writes, such as .*, or use the "
                                             r"nodes that locate .*it has no lm_head"):  # fmt: skip
            run(ask, lvlm=lvlm, question=QUESTION, **inputs)


def test_a_path_may_be_typed_as_well(comfyui, file):
    check = node("LaserLoadLVLM").VALIDATE_INPUTS
    assert check(str(file)) is check(VALUE) is True
    assert part("nodes.models").find("", str(file)) == ("mine.safetensors", str(file))
    assert check("text_encoders/gone.safetensors").startswith("check custom_model")
    assert check("owner/gone.safetensors").startswith("check custom_model")


def test_on_a_gpu_comfyui_owns_its_8_bits(comfyui, file):
    comfyui.device = "cuda"
    lvlm = run("LaserLoadLVLM", model=VALUE, **SMALL).lvlm
    assert lvlm._patcher.load_device.type == "cuda"
    assert lvlm._lvlm.dtype == torch.bfloat16
    assert lvlm.get_ram_usage() < os.path.getsize(file) * 1.01


def test_a_gemma_answers_with_its_own_tokenizer_where_comfyui_has_qwens(comfyui, file):
    pytest.importorskip("sentencepiece", reason="needs sentencepiece")
    gemma = write_gemma(file.parent / "gemma_3_12B_it_fp4_mixed.safetensors", "nvfp4 mixed")
    value = f"text_encoders/qwen/{gemma.name}"
    about = inputs_of("LaserLoadLVLM")["model"][1]["about"][value]
    assert (about["description"], about["precision"]) == ("Gemma 3, text encoder", "nvfp4")
    lvlm = run("LaserLoadLVLM", model=value).lvlm
    asked = {"image": pictures_batch(1), "question": QUESTION, "max_tokens": 2}
    assert run("LaserAnswer", lvlm=lvlm, **asked).answer


def test_without_comfyuis_tokenizer_the_error_says_what_to_set(comfyui, encoder, tmp_path):
    write(tmp_path / "models" / "text_encoders" / "one.safetensors", encoder[0])
    with pytest.raises(ValueError, match=r"^update ComfyUI"):
        run("LaserLoadLVLM", model="text_encoders/one.safetensors")


AS_STORED = """
with torch.inference_mode(), handle.running() as model:
    size = handle._patcher.model_size()
    assert handle._patcher.loaded_size() == size
    # ComfyUI counts embeddings that are shared with the output twice
    assert 0.9 < size / os.path.getsize(path) < 1.1, size
    dtypes = {{str(weight.dtype).removeprefix("torch.") for weight in model.model.parameters()}}
    assert dtypes == {dtypes}, dtypes
memory.free_memory(1e30, torch.device("cpu"))
assert memory.current_loaded_models == []
"""


def test_the_real_memory_manager_counts_8_bits(encoder, tmp_path):
    from transformers import Qwen2Tokenizer

    folder = os.path.join(comfyui_path(), "comfy", "text_encoders", "qwen25_tokenizer")
    tiny = build_encoder("qwen2_5_vl", tokenizer=Qwen2Tokenizer.from_pretrained(folder))
    file = write(tmp_path / "one.safetensors", stored_as(tiny.model, "fp8 old"))
    held = AS_STORED.format(dtypes={"float8_e4m3fn", "bfloat16"})
    check_managed(str(file), held, precision="bf16")


def test_the_real_memory_manager_counts_4_bits(tmp_path):
    comfyui_path()
    file = write_gemma(tmp_path / "one.safetensors", "nvfp4 mixed")
    held = AS_STORED.format(dtypes={"uint8", "float8_e4m3fn", "bfloat16"})
    check_managed(str(file), held, precision="bf16")


NAMES = """
import comfy.options
comfy.options.enable_args_parsing()
sys.argv = ["main.py", "--cpu"]
import comfy.ops
from comfy.text_encoders import llama

for name in ("Gemma3_12B", "Gemma3_4B_Vision"):
    model = getattr(llama, name)({}, torch.bfloat16, "meta", comfy.ops.disable_weight_init)
    print(json.dumps({key: [*value.shape] for key, value in model.state_dict().items()}))
"""


def test_comfyuis_own_gemmas_have_the_tensors_that_are_read(tmp_path):
    words = f"import json, sys, torch\nsys.path.insert(0, {comfyui_path()!r})\n{NAMES}"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    for name, line in zip(("Gemma 3 12B", "Gemma 3 4B"), done.stdout.splitlines(), strict=True):
        path = write_header(tmp_path / "gemma.safetensors", json.loads(line))
        encoder = read_encoder(path)
        assert encoder.name == name and not encoder.silent and not encoder.unreadable
        with torch.device("meta"):
            model = class_of(encoder, "ForConditionalGeneration")._from_config(
                config_of(encoder, lambda token: 7)
            )
        shapes = {place: model.get_parameter(own).shape for place, own in places_of(model).items()}
        del shapes["lm_head.weight"]  # shared with the input's embeddings
        assert {key: weight.shape for key, weight in encoder.weights.items()} == shapes
