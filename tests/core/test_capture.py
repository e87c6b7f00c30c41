"""Captured attention rows against the library's eager attention."""

from __future__ import annotations

import threading

import pytest
import torch
from PIL import Image
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core.engine.capture import RowCapture
from laser_core.engine.reading import read_prefix
from laser_core.settings import PromptSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, library_inputs
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES, WITH_MASKS, WITH_STATES

QUESTION = "what colour is the square ?"
SLIDING = [
    *(("llava", 24), ("qwen2_vl", 24), ("qwen2_5_vl", 24)),
    *((name, 40) for name in WITH_MASKS),  # 4.57's window may not be shorter than a picture
]


def prompts(lvlm, picture, settings=PromptSettings()):
    inputs = lvlm.encode(picture, settings.framing)
    return lvlm.branch_prompts(inputs, QUESTION, settings)


def error_to_eager(lvlm, picture, settings=PromptSettings()):
    maps = read_attention(lvlm, picture, QUESTION, settings)
    rows = (maps.with_query, maps.without_query)
    oracles = [eager_rows(lvlm, prompt) for prompt in prompts(lvlm, picture, settings)]
    return max(
        float((row.flatten(2) - oracle).abs().max())
        for row, oracle in zip(rows, oracles, strict=True)
    )


@pytest.mark.parametrize("model_type", AVAILABLE)
@pytest.mark.parametrize("size", [(90, 60), (33, 77)], ids=str)
def test_captured_rows_equal_eager_attention(model_type, size):
    lvlm = lvlm_of(model_type)
    assert error_to_eager(lvlm, noise_picture(size)) <= 1e-5


@pytest.mark.parametrize(("model_type", "window"), SLIDING)
def test_captured_rows_equal_eager_attention_with_sliding_windows(model_type, window):
    lvlm = lvlm_of(model_type, sliding_window=window)
    assert lvlm.has_sliding_window
    assert error_to_eager(lvlm, noise_picture((90, 60))) <= 1e-5


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS])
def test_captured_rows_equal_eager_attention_under_an_eager_model(model_type):
    lvlm = lvlm_of(model_type, attn="eager")
    assert error_to_eager(lvlm, noise_picture((90, 60))) <= 1e-5


@pytest.mark.parametrize("branch", ["keep instruction", "image only", "generic question"])
def test_every_query_free_branch_equals_eager_attention(branch):
    lvlm = lvlm_of("qwen2_5_vl")
    assert error_to_eager(lvlm, noise_picture((90, 60)), PromptSettings(query_free=branch)) <= 1e-5


def test_a_system_prompt_is_part_of_both_branches():
    lvlm = lvlm_of("qwen2_5_vl")
    settings = PromptSettings(system="what is the image ?")
    assert error_to_eager(lvlm, noise_picture((90, 60)), settings) <= 1e-5


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_bfloat16_rows_are_as_close_to_the_truth_as_eager_ones(model_type):
    truth_model, half = lvlm_of(model_type, fresh=True), lvlm_of(model_type, fresh=True)
    half.model.to(torch.bfloat16)
    truth_model.model.load_state_dict(
        {name: value.float() for name, value in half.model.state_dict().items()}
    )
    ours, eager = 0.0, 0.0  # kernels round differently: single pictures differ either way
    for seed in range(12):
        picture = noise_picture((90, 60), seed)
        asked = prompts(half, picture)[0]
        truth = eager_rows(truth_model, asked)
        rows = read_attention(half, picture, QUESTION).with_query.flatten(2)
        ours += float((rows - truth).abs().mean())
        eager += float((eager_rows(half, asked) - truth).abs().mean())
    assert ours <= 1.1 * eager


def test_float16_maps_are_finite():
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.model.to(torch.float16)
    maps = read_attention(lvlm, noise_picture((90, 60)), QUESTION)
    assert bool(torch.isfinite(maps.with_query).all())


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_rows_of_a_left_padded_batch_equal_those_of_single_prompts(attn):
    lvlm = lvlm_of("llava", attn=attn)
    asked, free = prompts(lvlm, noise_picture((90, 60)))
    pad = asked.length - free.length
    ids = torch.cat([asked.input_ids, torch.nn.functional.pad(free.input_ids, (pad, 0), value=0)])
    mask = torch.ones_like(ids)
    mask[1, :pad] = 0
    pixels = asked.pictures[0].tensors["pixel_values"].expand(2, -1, -1, -1)
    with torch.no_grad(), RowCapture(lvlm, rows=[-1], keys=slice(None)) as capture:
        lvlm.model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
    span = free.spans[0]
    ours = capture.rows_by_layer(batch_row=1)[0][..., pad + span.start : pad + span.stop]
    assert float((ours - eager_rows(lvlm, free)).abs().max()) <= 1e-5
    assert float(capture.rows_by_layer(batch_row=1)[0][..., :pad].abs().max()) == 0


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS])
def test_maps_do_not_depend_on_what_ran_before(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    picture, other = noise_picture((90, 60)), noise_picture((90, 60), seed=1)
    first = read_attention(lvlm, picture, QUESTION)
    again = read_attention(lvlm, picture, QUESTION)  # rides on the cached prefix
    read_attention(lvlm, other, "is there a star ?")
    later = read_attention(lvlm, picture, QUESTION)
    for maps in (again, later):
        assert torch.equal(first.with_query, maps.with_query)
        assert torch.equal(first.without_query, maps.without_query)


def test_the_prefix_is_computed_once_per_picture(monkeypatch):
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    picture = noise_picture((90, 60))
    read_attention(lvlm, picture, QUESTION)
    kept = lvlm.prefix
    read_attention(lvlm, picture, "is there a star ?")
    assert lvlm.prefix is kept
    read_attention(lvlm, noise_picture((90, 60), seed=2), QUESTION)
    assert lvlm.prefix is not kept
    assert lvlm.prefix.nbytes > 0
    lvlm.release()
    assert lvlm.prefix is None


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("error", [None, RuntimeError, Interrupt])
def test_nothing_is_left_hooked_after(attn, error):
    lvlm = lvlm_of("llava", attn=attn)
    function = ALL_ATTENTION_FUNCTIONS["sdpa"]
    hooks = [dict(module._forward_hooks) for module in lvlm.attention_modules]
    asked = prompts(lvlm, noise_picture((90, 60)))[0]

    def run():
        with torch.no_grad(), RowCapture(lvlm, rows=[-1], keys=slice(None)):
            lvlm.model(**library_inputs(lvlm, asked))
            if error:
                raise error

    if error:
        with pytest.raises(error):
            run()
    else:
        run()
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is function
    assert hooks == [dict(module._forward_hooks) for module in lvlm.attention_modules]


def test_another_packs_own_entry_in_the_registry_is_captured_and_put_back():
    lvlm, library = lvlm_of("llava"), ALL_ATTENTION_FUNCTIONS["sdpa"]

    def theirs(*args, **kwargs):
        return library(*args, **kwargs)

    ALL_ATTENTION_FUNCTIONS["sdpa"] = theirs  # for this registry alone: it hides the library's
    try:
        assert error_to_eager(lvlm, noise_picture((90, 60))) <= 1e-5
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is theirs
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is library


def test_an_interrupt_between_forwards_leaves_the_model_usable():
    lvlm = lvlm_of("llava", fresh=True)
    picture = noise_picture((90, 60))

    def interrupt(stage, done, total):
        if done == 1:
            raise Interrupt

    with pytest.raises(Interrupt):
        read_attention(lvlm, picture, QUESTION, progress=interrupt)
    assert error_to_eager(lvlm, picture) <= 1e-5


def test_another_thread_is_not_captured():
    lvlm = lvlm_of("llava")
    asked, free = prompts(lvlm, noise_picture((90, 60)))

    def elsewhere():
        with torch.no_grad():
            lvlm.model(**library_inputs(lvlm, free))

    with torch.no_grad(), RowCapture(lvlm, rows=[-1], keys=slice(None)) as capture:
        lvlm.model(**library_inputs(lvlm, asked))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert capture.rows_by_layer().shape[-1] == asked.length


def test_reading_before_the_model_ran_says_what_to_do():
    lvlm = lvlm_of("llava")
    with RowCapture(lvlm, rows=[-1], keys=slice(None)) as capture:
        pass
    with pytest.raises(RuntimeError, match="run the model inside the capture"):
        capture.rows_by_layer()


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_question_is_refused(text):
    with pytest.raises(ValueError, match="write what to look for: the question is empty"):
        read_attention(lvlm_of("llava"), Image.new("RGB", (40, 40)), text)


BARE = (  # a template that writes nothing around the texts
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def test_a_branch_that_ends_with_the_picture_is_read_on_its_own():
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.chat.template = BARE
    nothing = PromptSettings(locate_instruction="", query_free="image only")
    free = prompts(lvlm, noise_picture((90, 60)), nothing)[1]
    assert free.suffix_length == 0
    assert error_to_eager(lvlm, noise_picture((90, 60)), nothing) <= 1e-5


def test_the_prefix_is_read_without_the_question():
    lvlm = lvlm_of("qwen3_vl")
    asked, free = prompts(lvlm, noise_picture((90, 60)))
    assert asked.prefix_key == free.prefix_key
    assert read_prefix(lvlm, asked) is read_prefix(lvlm, free)
