"""The ways a GPU is asked, run on the CPU: what they give, and how much they ask for."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import pytest
import torch
import transformers
from transformers import DynamicCache

from laser_core.engine import few_calls, fixed_step
from laser_core.engine.last_rows import read_last_row
from laser_core.engine.reading import extend
from laser_core.engine.vision_windows import equal_windows_at_once
from laser_core.pipeline import answer
from laser_core.settings import CounterfactualSettings, DecodeSettings, LaserSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.decode import decode
from tools.testbed.counting import Operations, forwards
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, library_inputs
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES, WITH_MASKS, WITH_SLICES, WITH_STATES

from .test_capture import SLIDING
from .test_decode import streams

QUESTION = "what colour is the square ?"
LAYERS = 32
LAYOUTS = ["crop", "picture + crop", "shared picture + crop"]
SIZE = (90, 60)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """What is decided as on a GPU, and a graph that is no more than the step, run again."""
    monkeypatch.setattr(few_calls, "waits_for_calls", lambda lvlm: True)
    monkeypatch.setattr(few_calls, "has_graphs", lambda lvlm: True)
    made = []

    def repeated(run, device):
        assert device.type == "cpu"  # the model's
        again = weakref.WeakMethod(run)  # as a graph, which holds no step
        made.append(again)
        run()  # the rehearsal
        return lambda: again()()

    monkeypatch.setattr(fixed_step, "capture_graph", repeated)
    return made


def tokens(lvlm, positive, negative=None, **values):
    settings = DecodeSettings(alpha=1.0, adaptive=0.0, **values)
    found = decode(lvlm, positive, negative, settings)
    return [record.token_id for record in found.tokens]


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_MASKS])
def test_one_forward_for_both_branches_equals_eager_attention(model_type, as_on_a_gpu):
    lvlm = lvlm_of(model_type, fresh=True)
    inputs = lvlm.encode(noise_picture(SIZE))
    prompts = lvlm.branch_prompts(inputs, QUESTION, LaserSettings().prompt)
    with forwards(lvlm) as counts:
        maps = read_attention(lvlm, inputs, QUESTION)
    assert counts["decoder"] == 1
    for rows, prompt in zip((maps.with_query, maps.without_query), prompts, strict=True):
        assert float((rows.flatten(2) - eager_rows(lvlm, prompt)).abs().max()) <= 1e-5


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@pytest.mark.parametrize("fill", ["mean", "visual tokens"])
def test_an_answer_as_on_a_gpu_is_the_cpus(model_type, fill, as_on_a_gpu, monkeypatch):
    if model_type == "llava_next" and fill == "visual tokens":
        pytest.skip("this family's finer tokens would still show the evidence")
    settings = LaserSettings(
        counterfactual=CounterfactualSettings(fill=fill),
        decode=DecodeSettings(max_tokens=8, adaptive=0.0),
    )
    lvlm, picture = lvlm_of(model_type, fresh=True), noise_picture(SIZE)
    ours = answer(lvlm, picture, QUESTION, settings)
    assert as_on_a_gpu
    monkeypatch.undo()
    lvlm.release()
    own = answer(lvlm, picture, QUESTION, settings)
    assert [t.token_id for t in ours.answer.tokens] == [t.token_id for t in own.answer.tokens]
    assert ours.location.windows == own.location.windows


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_MASKS])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_in_place_writes_the_growing_caches_tokens(
    model_type, layout, as_on_a_gpu, monkeypatch
):
    lvlm = lvlm_of(model_type, fresh=True)
    both = streams(lvlm, layout)
    ours = tokens(lvlm, *both, max_tokens=12)
    assert len(as_on_a_gpu) == 1
    monkeypatch.undo()
    lvlm.release()
    assert ours == tokens(lvlm, *both, max_tokens=12)


@pytest.mark.parametrize("model_type", WITH_STATES)
def test_a_model_with_states_takes_its_own_steps(model_type, as_on_a_gpu):
    lvlm = lvlm_of(model_type)
    assert not few_calls.steps_in_place(lvlm, 1)
    tokens(lvlm, *streams(lvlm, "shared picture + crop"), max_tokens=8)
    assert not as_on_a_gpu


def test_experts_that_are_called_one_by_one_are_no_graph(as_on_a_gpu):
    merged = int(transformers.__version__.split(".")[0]) >= 5  # into one module
    assert few_calls.steps_in_place(lvlm_of("glm4v_moe"), 1) == merged
    assert few_calls.steps_in_place(lvlm_of("qwen3_vl_moe"), 1)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS, *WITH_SLICES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_streams_are_read_as_a_batch_to_the_same_tokens(
    model_type, layout, as_on_a_gpu, monkeypatch
):
    lvlm = lvlm_of(model_type, fresh=True)
    both = streams(lvlm, layout)
    with forwards(lvlm) as counts:
        ours = tokens(lvlm, *both, max_tokens=6)
    pictures = len(both[0].prompt.pictures)
    assert counts["tower"] == (2 if layout == "shared picture + crop" else 1)
    monkeypatch.undo()
    lvlm.release()
    with forwards(lvlm) as counts:
        assert ours == tokens(lvlm, *both, max_tokens=6)
    assert counts["tower"] == (2 * pictures if layout != "shared picture + crop" else 3)


@pytest.mark.parametrize(("model_type", "window"), SLIDING)
def test_a_step_in_place_sees_no_further_than_a_sliding_window(
    model_type, window, as_on_a_gpu, monkeypatch
):
    lvlm = lvlm_of(model_type, fresh=True, sliding_window=window)
    both = streams(lvlm, "crop")
    ours = tokens(lvlm, *both, max_tokens=12)
    assert as_on_a_gpu
    monkeypatch.undo()
    assert ours == tokens(lvlm, *both, max_tokens=12)


@pytest.mark.skipif("gemma4" not in AVAILABLE, reason="this transformers has no Gemma 4")
def test_a_placeholder_that_is_written_in_place_is_fed_as_generate_feeds_it(as_on_a_gpu):
    lvlm = lvlm_of("gemma4", fresh=True)
    stream, placeholder = streams(lvlm, "crop")[0], lvlm.image_token_id
    first, *_ = tokens(lvlm, stream, max_tokens=1)
    head = lvlm.model.get_output_embeddings().weight.data
    head[[first, placeholder]] = head[[placeholder, first]]
    inputs = library_inputs(lvlm, stream.prompt)
    generated = lvlm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    ours = tokens(lvlm, stream, max_tokens=6)
    assert as_on_a_gpu and ours[0] == placeholder
    assert ours == generated[0, stream.prompt.length :].tolist()


def test_a_step_in_place_hides_the_padding_of_a_shorter_stream(as_on_a_gpu, monkeypatch):
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    positive, negative = streams(lvlm, "crop")[0], streams(lvlm, "picture + crop")[1]
    ours = tokens(lvlm, positive, negative, max_tokens=12)
    assert as_on_a_gpu
    monkeypatch.undo()
    assert ours == tokens(lvlm, positive, negative, max_tokens=12)


def test_a_graph_is_kept_for_the_next_answer_of_its_size_and_freed_with_the_prefix(as_on_a_gpu):
    lvlm = lvlm_of("llava", fresh=True)
    both = streams(lvlm, "crop")
    first, again = (tokens(lvlm, *both, max_tokens=8) for _ in range(2))
    assert first == again
    assert len(as_on_a_gpu) == 1
    kept = weakref.ref(lvlm.steps[0])
    gc.disable()
    try:
        lvlm.release()
        assert kept() is None
    finally:
        gc.enable()


def test_a_cache_that_is_full_grows_and_gets_another_graph(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(fixed_step, "in_buckets", lambda tokens: tokens - 10)
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    both = streams(lvlm, "crop")
    ours = tokens(lvlm, *both, max_tokens=16)
    assert len(as_on_a_gpu) == 2
    monkeypatch.undo()
    lvlm.release()
    assert ours == tokens(lvlm, *both, max_tokens=16)


def test_a_plain_answer_and_one_of_two_streams_keep_a_graph_each(as_on_a_gpu):
    lvlm = lvlm_of("llava", fresh=True)
    both = streams(lvlm, "crop")
    for _ in range(2):
        tokens(lvlm, both[0], max_tokens=8)
        tokens(lvlm, *both, max_tokens=8)
    assert len(as_on_a_gpu) == len(lvlm.steps) == 2


def test_no_graph_is_made_for_a_short_answer(as_on_a_gpu):
    lvlm = lvlm_of("llava", fresh=True)
    tokens(lvlm, *streams(lvlm, "crop"), max_tokens=fixed_step.PAYS_FROM - 1)
    assert not as_on_a_gpu
    assert not lvlm.steps


def test_a_graph_is_not_used_after_weights_have_moved(as_on_a_gpu):
    lvlm = lvlm_of("llava", fresh=True)
    both = streams(lvlm, "crop")
    before = tokens(lvlm, *both, max_tokens=8)
    head = lvlm.model.get_output_embeddings().weight
    head.data = head.data.clone()
    assert tokens(lvlm, *both, max_tokens=8) == before
    assert len(as_on_a_gpu) == 2


def test_an_answer_goes_on_where_a_graph_is_refused_and_says_so_once(as_on_a_gpu, monkeypatch):
    def refuse(run, device):
        run()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(fixed_step, "capture_graph", refuse)
    lvlm = lvlm_of("llava", fresh=True)
    both = streams(lvlm, "crop")
    settings = DecodeSettings(max_tokens=8, adaptive=0.0)
    first, second = (decode(lvlm, *both, settings) for _ in range(2))
    (note,) = first.notes
    assert "operation not permitted when stream is capturing" in note
    assert second.notes == ()
    monkeypatch.undo()
    own = decode(lvlm, *both, settings)
    assert first.tokens[-1].token_id == second.tokens[-1].token_id == own.tokens[-1].token_id


def test_a_graph_is_tried_again_after_memory_ran_out(as_on_a_gpu, monkeypatch):
    def full(run, device):
        run()
        raise torch.OutOfMemoryError("CUDA out of memory")

    lvlm = lvlm_of("llava", fresh=True)
    both = streams(lvlm, "crop")
    with monkeypatch.context() as patched:
        patched.setattr(fixed_step, "capture_graph", full)
        first = tokens(lvlm, *both, max_tokens=8)
    assert not as_on_a_gpu
    assert tokens(lvlm, *both, max_tokens=8) == first
    assert as_on_a_gpu


def test_the_models_own_forward_is_back_after_an_interrupt(as_on_a_gpu):
    lvlm = lvlm_of("llava", fresh=True)

    def stop(stage, done, total):
        if stage == "answering":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(lvlm, *streams(lvlm, "crop"), DecodeSettings(adaptive=0.0), stop)
    assert "forward" not in vars(lvlm.model)


@pytest.mark.parametrize("size", [(90, 60), (700, 500), (1400, 717)], ids=str)
def test_vision_windows_of_equal_size_give_the_same_features_together(size):
    lvlm = lvlm_of("qwen2_5_vl")
    pictures = lvlm.encode(noise_picture(size)).tensors

    def features():
        found = lvlm.body.get_image_features(**pictures)
        return torch.cat(list(getattr(found, "pooler_output", found)))

    with torch.inference_mode():
        own = features()
        with equal_windows_at_once(lvlm):
            torch.testing.assert_close(features(), own)
    assert not any("forward" in vars(module) for module in lvlm.body.modules())


# ---- counts -------------------------------------------------------------------------------------


def counted(run):
    with torch.inference_mode():
        run()
        with Operations() as operations:
            run()
    return operations.count


def plain_prompt(lvlm, inputs):
    asked, _ = lvlm.branch_prompts(inputs, QUESTION, LaserSettings().prompt)
    return counted(lambda: extend(lvlm, asked, DynamicCache(), asked.length))


def branches(lvlm, inputs):
    def run():
        lvlm.release()
        read_attention(lvlm, inputs, QUESTION)

    return counted(run)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl", *WITH_MASKS])
def test_both_branches_ask_for_little_more_than_one_prompt(model_type, as_on_a_gpu):
    lvlm = lvlm_of(model_type, fresh=True, layers=LAYERS)
    inputs = lvlm.encode(noise_picture(SIZE))
    assert branches(lvlm, inputs) <= 1.15 * plain_prompt(lvlm, inputs)


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_a_capture_asks_for_at_most_thirty_operations_in_all_layers(model_type):
    lvlm = lvlm_of(model_type, fresh=True, layers=LAYERS)
    inputs = lvlm.encode(noise_picture(SIZE))
    asked, _ = lvlm.branch_prompts(inputs, QUESTION, LaserSettings().prompt)
    captured = counted(lambda: read_last_row(lvlm, asked, asked.map_spans[0]))
    assert captured <= plain_prompt(lvlm, inputs) + 30


def test_a_tower_of_windows_asks_for_at_most_forty_operations_a_layer():
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    pictures = lvlm.encode(noise_picture((1400, 717))).tensors
    blocks, counts = lvlm.body.visual.blocks, []
    with torch.inference_mode(), equal_windows_at_once(lvlm), Operations() as operations:
        for block in blocks:
            block.register_forward_hook(lambda *_: counts.append(operations.count))
        lvlm.body.get_image_features(**pictures)
    assert max(later - earlier for earlier, later in pairwise(counts)) <= 40


@pytest.mark.parametrize("model_type", ["llava", "qwen2_5_vl"])
def test_a_step_of_two_streams_asks_for_at_most_eight_operations_more(model_type, as_on_a_gpu):
    lvlm = lvlm_of(model_type, fresh=True, layers=12)  # one more in each would show
    both = streams(lvlm, "crop")

    def a_step(prompts):
        return counted(lambda: tokens(lvlm, *prompts, max_tokens=4)) - counted(
            lambda: tokens(lvlm, *prompts, max_tokens=3)
        )

    assert a_step(both) <= a_step(both[:1]) + 8
