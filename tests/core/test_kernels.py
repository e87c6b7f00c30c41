"""The wrapped attention function against the library's own."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core.engine.kernels import heads_as_rows, wrapped_kernel
from laser_core.models.chat import Stream
from laser_core.settings import DecodeSettings
from laser_core.steps.decode import decode
from tools.testbed.lvlms import lvlm_of, noise_picture

QUESTION = "what colour is the square ?"


def attention(lvlm, rows=1, mask=None, dtype=torch.float32, exact=False):
    """(2, rows, H, D) of the registered kernel over 50 random keys, with this model's heads.

    exact: of the same numbers in float64.
    """
    generator = torch.Generator().manual_seed(0)
    module = lvlm.attention_modules[0]
    text = lvlm.model.config.get_text_config()
    heads, shared = text.num_attention_heads, text.num_key_value_heads
    shapes = (2, heads, rows, 16), (2, shared, 50, 16), (2, shared, 50, 16)
    given = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    given = [one.double() if exact else one for one in given]
    kernel = ALL_ATTENTION_FUNCTIONS["sdpa"]
    return kernel(module, *given, mask, dropout=0.0, scaling=0.3)[0]


PADDING = torch.arange(60)[None, None, None] >= torch.tensor([0, 7])[:, None, None, None]
MASKS = {"none": None, "padding": PADDING[..., :50], "longer than the keys": PADDING}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_given_as_rows_are_as_near_to_the_truth_as_the_librarys(mask, dtype):
    lvlm, mask = lvlm_of("qwen2_5_vl"), MASKS[mask]
    own = mask if mask is None else mask[..., :50]  # newer library code wants it cut
    truth = attention(lvlm, mask=own, dtype=dtype, exact=True)
    library = attention(lvlm, mask=own, dtype=dtype)
    with heads_as_rows(lvlm):
        ours = attention(lvlm, mask=mask, dtype=dtype)
    assert ours.shape == library.shape
    assert ours.dtype == dtype
    assert ours.is_contiguous()
    error = float((ours - truth).abs().max())
    assert error <= max(1e-6, 1.1 * float((library - truth).abs().max()))


PER_HEAD = PADDING[..., :50].expand(2, 4, 1, 50)


@pytest.mark.parametrize(
    ("rows", "mask", "spared"),
    [(1, None, True), (3, None, False), (1, PER_HEAD, False)],
    ids=["a new token", "several tokens", "a mask for every head"],
)
def test_the_librarys_kernel_is_spared_for_single_tokens_only(rows, mask, spared):
    lvlm, calls = lvlm_of("qwen2_5_vl"), []
    library = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def counted(*args, **kwargs):
        calls.append(args)
        return library(*args, **kwargs)

    with wrapped_kernel("sdpa", lambda kernel: counted), heads_as_rows(lvlm):
        attention(lvlm, rows, mask)
    assert len(calls) == (0 if spared else 1)


def test_another_threads_attention_is_the_librarys():
    lvlm = lvlm_of("qwen2_5_vl")
    library, others = attention(lvlm), []
    with heads_as_rows(lvlm):
        thread = threading.Thread(target=lambda: others.append(attention(lvlm)))
        thread.start()
        thread.join()
    assert torch.equal(others[0], library)


@pytest.mark.parametrize("streams", [1, 2])
def test_every_token_of_an_answer_is_decoded_with_heads_as_rows(streams):
    lvlm, lengths = lvlm_of("qwen2_5_vl"), []
    library = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def noted(module, query, *args, **kwargs):
        if module in lvlm.attention_modules:
            lengths.append(query.shape[2])
        return library(module, query, *args, **kwargs)

    prompt = lvlm.prompt([lvlm.encode(noise_picture())], QUESTION)
    given = [Stream(prompt)] * streams
    lvlm.release()
    with wrapped_kernel("sdpa", lambda kernel: noted):
        answer = decode(lvlm, *given, settings=DecodeSettings(max_tokens=3))
    assert len(answer.tokens) == 3
    assert lengths
    assert 1 not in lengths


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


@pytest.mark.parametrize("error", [ValueError, Interrupt])
def test_the_registry_is_as_before_after_an_error(error):
    lvlm, library = lvlm_of("qwen2_5_vl"), ALL_ATTENTION_FUNCTIONS["sdpa"]
    with pytest.raises(error), heads_as_rows(lvlm):
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not library
        raise error
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is library


def test_a_wrapper_that_cannot_be_made_changes_nothing():
    library = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def fail(kernel):
        raise ValueError

    with pytest.raises(ValueError), wrapped_kernel("sdpa", fail):
        pass
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is library
