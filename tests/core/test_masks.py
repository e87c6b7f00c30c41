"""Pictures whose tokens see each other: what is read of them, against the library's own masks."""

from __future__ import annotations

import pytest
import torch

from laser_core.engine import reading
from laser_core.engine.padded import read_streams
from laser_core.engine.reading import read_prefix, read_stream
from laser_core.models.chat import Stream
from laser_core.settings import PromptSettings
from tools.testbed.counting import forwards
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import library_inputs
from tools.testbed.tiny import AVAILABLE, WITH_MASKS

from .test_capture import error_to_eager

QUESTION = "what colour is the square ?"


@pytest.mark.parametrize("model_type", WITH_MASKS)
def test_a_prefix_holds_the_keys_that_the_library_has_of_the_whole_prompt(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    inputs = lvlm.encode(noise_picture())
    asked, _ = lvlm.branch_prompts(inputs, QUESTION, PromptSettings(system="look at the dog ."))
    prefix = read_prefix(lvlm, asked)
    with torch.no_grad():
        output = lvlm.model(**library_inputs(lvlm, asked), use_cache=True)
    with_keys = [module for module in lvlm.attention_modules if hasattr(module, "k_proj")]
    theirs = output[lvlm.cache_name].layers[: len(with_keys)]  # the others share those
    for (keys, values), layer in zip(prefix.layers, theirs, strict=True):
        held = slice(asked.prefix_length)
        torch.testing.assert_close(keys, layer.keys[:, :, held], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values, layer.values[:, :, held], atol=1e-5, rtol=1e-5)


needs_gemma_4 = pytest.mark.skipif(
    "gemma4" not in AVAILABLE, reason="this transformers has no Gemma 4"
)
CAUSAL = {"use_bidirectional_attention": None}  # as the smaller sizes are


@needs_gemma_4
@pytest.mark.parametrize(
    "variant",
    [
        CAUSAL,
        {
            "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ],
    ids=["causal", "experts"],
)
def test_rows_of_other_sizes_of_gemma_4_equal_eager_attention(variant):
    lvlm = lvlm_of("gemma4", fresh=True, more=variant)
    assert error_to_eager(lvlm, noise_picture()) <= 1e-5


@needs_gemma_4
def test_unequal_pictures_of_a_causal_gemma_4_are_read_as_a_batch_to_the_same_keys():
    lvlm = lvlm_of("gemma4", fresh=True, more=CAUSAL)
    prompts = [
        lvlm.prompt([lvlm.encode(noise_picture(size))], text)
        for size, text in (((90, 60), QUESTION), ((60, 120), "who ?"))
    ]
    alone = [read_stream(lvlm, Stream(prompt)).own for prompt in prompts]
    with forwards(lvlm) as counts:
        together = read_streams(lvlm, [Stream(prompt) for prompt in prompts])
    assert counts == {"tower": 1, "decoder": 1}
    for one, read in zip(alone, together, strict=True):
        torch.testing.assert_close(read.own, one, atol=1e-5, rtol=1e-5)


@needs_gemma_4
def test_what_continues_a_causal_gemma_4_is_read_in_stretches_to_the_same_keys(monkeypatch):
    lvlm = lvlm_of("gemma4", fresh=True, more=CAUSAL, sliding_window=40)
    pictures = [lvlm.encode(noise_picture(size)) for size in ((90, 60), (60, 90))]
    stream, read = Stream(lvlm.prompt(pictures, QUESTION), shared_prefix=True), []
    for stretch in (10_000, 5):
        monkeypatch.setattr(reading, "STRETCH", stretch)
        read.append(read_stream(lvlm, stream).own)
    torch.testing.assert_close(*read, atol=1e-5, rtol=1e-5)
