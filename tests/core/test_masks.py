"""Pictures whose tokens see each other: what is read of them, against the library's own masks."""

from __future__ import annotations

import pytest
import torch

from laser_core.engine.reading import read_prefix
from laser_core.models.lvlm import Lvlm
from laser_core.settings import PromptSettings
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import library_inputs
from tools.testbed.tiny import AVAILABLE, WITH_MASKS, build

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


@pytest.mark.skipif("gemma4" not in AVAILABLE, reason="this transformers has no Gemma 4")
@pytest.mark.parametrize(
    "variant",
    [
        {"use_bidirectional_attention": None},  # the smaller sizes
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
    tiny = build("gemma4", more=variant)
    lvlm = Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor)
    assert error_to_eager(lvlm, noise_picture()) <= 1e-5
