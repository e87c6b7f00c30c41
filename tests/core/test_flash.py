"""Under flash attention: the library's own code for it, over its kernels in plain PyTorch.

The kernels need a GPU and a package of their own; what leads to them does not: which masks and
positions they are handed, and when a batch is taken for packed sequences.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import modeling_flash_attention_utils as flash_utils
from transformers.integrations import flash_attention

from laser_core.models.chat import Stream
from laser_core.steps.attention import read_attention
from laser_core.steps.decode import decode
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import two_loops
from tools.testbed.tiny import REPRESENTATIVES, WITH_STATES

from .test_capture import error_to_eager
from .test_decode import QUESTION, TOKENS, ids, settings, streams


def _attention(query, key, value, causal, scale, window):
    """(S, H, D) of one sequence; window: (tokens behind, ahead), -1 for all."""
    group = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(group, 1) for part in (key, value))
    query, key, value = (part.transpose(0, 1) for part in (query, key, value))
    length, total = query.shape[1], key.shape[1]
    ages = (torch.arange(length)[:, None] + total - length) - torch.arange(total)
    seen = ages >= 0 if causal else torch.ones_like(ages, dtype=torch.bool)
    if window[0] >= 0:
        seen &= ages <= window[0]
    attend = torch.nn.functional.scaled_dot_product_attention
    return attend(query, key, value, attn_mask=seen, scale=scale).transpose(0, 1)


def flash_attn_func(
    query, key, value, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
    softcap=0.0, deterministic=False,
):  # fmt: skip
    rows = zip(query, key, value, strict=True)
    return torch.stack([_attention(*row, causal, softmax_scale, window_size) for row in rows])


@pytest.fixture
def packed(monkeypatch):
    """Flash attention is at hand; gives a list with an entry for each packed call."""
    calls = []

    def flash_attn_varlen_func(
        query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
    ):  # fmt: skip
        calls.append(1)
        edges = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
        parts = zip(edges[0], edges[0][1:], edges[1], edges[1][1:], strict=False)
        return torch.cat([
            _attention(query[a:b], key[c:d], value[c:d], causal, softmax_scale, window_size)
            for a, b, c, d in parts if b > a
        ])  # fmt: skip

    helpers = flash_utils._pad_input, flash_utils._unpad_input
    process = flash_utils._lazy_define_process_function(flash_attn_varlen_func)
    if transformers.__version__.startswith("4."):
        imported = (flash_attn_func, flash_attn_varlen_func, *helpers), process
    else:
        imported = (flash_attn_func, flash_attn_varlen_func, None, *helpers), (process, None)
    monkeypatch.setattr(flash_utils, "lazy_import_flash_attention", lambda *_, **__: imported)
    for module, name, value in (
        (flash_utils, "_flash_supports_window_size", True),
        (flash_utils, "_flash_use_top_left_mask", False),
        (flash_attention, "_use_top_left_mask", False),
    ):
        monkeypatch.setattr(module, name, value, raising=False)
    return calls


def flash_lvlm(model_type, **options):
    lvlm = lvlm_of(model_type, fresh=True, **options)
    lvlm.model.config.get_text_config()._attn_implementation = "flash_attention_2"
    assert lvlm.attention == "flash_attention_2"
    return lvlm


FAMILIES = (*REPRESENTATIVES, *WITH_STATES)
CASES = [*((name, {}) for name in FAMILIES), ("llava", {"sliding_window": 24})]


@pytest.mark.parametrize(("model_type", "options"), CASES)
def test_captured_rows_equal_eager_attention_under_flash(packed, model_type, options):
    lvlm, twin = flash_lvlm(model_type, **options), lvlm_of(model_type, **options)
    picture = noise_picture()
    ours, expected = (read_attention(each, picture, QUESTION) for each in (lvlm, twin))
    assert error_to_eager(twin, picture) <= 1e-5
    for name in ("with_query", "without_query"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(expected, name), atol=1e-5, rtol=0.0
        )
    assert not packed  # one sequence is none of several


@pytest.mark.parametrize(("model_type", "options"), CASES)
@pytest.mark.parametrize("layout", ["crop", "picture + crop", "shared picture + crop", "unequal"])
def test_two_streams_equal_two_loops_under_flash(packed, model_type, options, layout):
    lvlm, twin = flash_lvlm(model_type, **options), lvlm_of(model_type, **options)
    positive, negative = streams(twin, "shared picture + crop" if layout == "unequal" else layout)
    if layout == "unequal":
        longer = twin.prompt(negative.prompt.pictures, QUESTION + " left or right ?")
        negative = Stream(longer, shared_prefix=True)
    expected, _ = two_loops(twin, positive.prompt, negative.prompt, 1.0, TOKENS)
    answer = decode(lvlm, positive, negative, settings())
    assert ids(answer) == expected
