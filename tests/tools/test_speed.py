"""The fast paths give the slow ones' results, and spend what the method needs: counted."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from laser_core import pipeline
from laser_core.attention import read_attention
from laser_core.decode import decode
from laser_core.families import FAMILIES
from laser_core.loading import load_lvlm
from laser_core.prefill import Stream
from laser_core.settings import DecodeSettings, LaserSettings, LoadSettings
from tests.core.lvlms import lvlm_of, noise_picture
from tools.bench_speed import MODES, QUARTER_MODES, QUESTION, equality
from tools.speed import ways
from tools.speed.count import Arithmetic, flops, prefill_tokens, shared_tokens
from tools.speed.shapes import lvlm_of_shape, picture_of

SQUARE = "what colour is the square ?"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def counted(lvlm, picture, mode):
    """(prompt tokens of the plain answer, prefill tokens of ours)."""
    settings = mode.settings(1)
    settings = dataclasses.replace(settings, crop=dataclasses.replace(settings.crop, min_side_px=1))
    plain = prefill_tokens(lvlm, lambda: ways.plain(lvlm, picture, QUESTION, settings))
    ours = prefill_tokens(lvlm, lambda: ways.ours(lvlm, picture, QUESTION, settings))
    return plain, ours


REAL_SIZES = {"llava": (336, (672, 672)), "qwen2_5_vl": (1002, (1120, 896))}


@pytest.mark.parametrize("model_type", REAL_SIZES)
@pytest.mark.parametrize("mode", MODES[:2], ids=lambda mode: mode.name)
def test_prefill_tokens_are_three_plain_prompts(model_type, mode):
    side, size = REAL_SIZES[model_type]
    lvlm = lvlm_of(model_type, vision=side, layers=2)
    plain, ours = counted(lvlm, noise_picture(size), mode)
    assert plain > 600
    assert ours / plain <= 3.025  # 3, and the suffix without the question, which is read too


@pytest.mark.parametrize("mode", QUARTER_MODES, ids=lambda mode: mode.name)
def test_prefill_tokens_of_a_quarter_crop_are_half_of_that(mode):
    side, size = REAL_SIZES["qwen2_5_vl"]
    lvlm = lvlm_of("qwen2_5_vl", vision=side, layers=2)
    plain, ours = counted(lvlm, noise_picture(size), mode)
    assert ours / plain <= 1.565  # 1 + 2 x 0.25 of the picture, and the text three times


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_prefill_tokens_are_what_the_prompts_do_not_share(model_type, mode):
    lvlm, picture, settings = lvlm_of(model_type), noise_picture((90, 60)), mode.settings(1)
    lvlm.release()
    found = pipeline.locate(lvlm, picture, SQUARE, settings)
    result = pipeline.answer(lvlm, picture, SQUARE, settings, location=found)
    asked, free = ways.both_prompts(lvlm, found.inputs, SQUARE, settings)
    shared = asked.prefix_length
    expected = shared + (asked.length - shared) + (free.length - shared)
    for stream, length in enumerate(result.answer.prompt_tokens):
        continued = mode.answer_input == "picture + crop" and (stream == 0 or mode.block == "crop")
        expected += length - shared * continued
    run = ways.ours
    assert prefill_tokens(lvlm, lambda: run(lvlm, picture, SQUARE, settings)) == expected


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
def test_the_peers_way_gives_the_same_answer(model_type, mode):
    lvlm = lvlm_of(model_type)
    settings = mode.settings(5)
    looks = lvlm, noise_picture((90, 60)), SQUARE, settings
    peers, ours = ways.peers(*looks), ways.ours(*looks)
    assert lvlm.attention == "sdpa"
    assert ours.layer == peers.layer
    stop = lvlm.model.generation_config.eos_token_id
    assert ours.tokens == _until(peers.tokens, stop)


def _until(tokens, stop):
    return tokens[: tokens.index(stop) + 1] if stop in tokens else tokens


def test_the_demo_model_gets_the_slow_ways_rows_logits_and_tokens():
    found = equality(load_lvlm("demo", LoadSettings(precision="fp32")), 30)
    assert found["same_tokens"] == found["same_layer"] == found["questions"] == 30
    assert found["largest_difference_rows"] <= 1e-4
    assert found["largest_difference_logits"] <= 1e-4


@pytest.mark.parametrize("model_type", FAMILIES)
def test_counted_operations_are_those_of_the_models_shape(model_type):
    lvlm = lvlm_of(model_type)
    prompt = ways.prompt_of(lvlm, noise_picture((90, 60)), SQUARE, LaserSettings())
    cost, length = Arithmetic.of(lvlm), prompt.length
    embeddings = torch.randn(1, length, lvlm.model.config.get_text_config().hidden_size)
    decoder = lvlm.model.get_decoder()
    with torch.inference_mode():
        # With a cache, as prompts are read: without one, 4.57 gives some decoders a written-out
        # mask, and with it the half of the attention that is masked is computed too
        counted = flops(lambda: decoder(inputs_embeds=embeddings, use_cache=True))
    # the library multiplies positions and frequencies, too: a few operations a token
    assert counted == pytest.approx(cost.read(length), rel=0.01)


def test_prompts_share_tokens_up_to_the_first_other_picture():
    lvlm = lvlm_of("qwen2_5_vl")
    first, second = (lvlm.encode(noise_picture((90, 60), seed)) for seed in (1, 2))
    one = lvlm.prompt([first, second], "what is it ?")
    other = lvlm.prompt([first, first], "what is it ?")
    assert shared_tokens(one, other) == one.spans[1].start
    assert shared_tokens(one, lvlm.prompt([second], "what ?")) == one.spans[0].start
    assert shared_tokens(one, one) == one.length


def test_what_is_cached_is_not_read_again():
    lvlm, picture = lvlm_of("qwen2_5_vl", fresh=True), noise_picture((90, 60))
    prompt = ways.prompt_of(lvlm, picture, SQUARE, LaserSettings())
    first = prefill_tokens(lvlm, lambda: read_attention(lvlm, picture, SQUARE))
    again = prefill_tokens(lvlm, lambda: read_attention(lvlm, picture, "is there a star ?"))
    assert first - again >= prompt.prefix_length - 2
    shared = prefill_tokens(
        lvlm,
        lambda: decode(
            lvlm,
            Stream(prompt, shared_prefix=True),
            None,
            DecodeSettings(max_tokens=1),
        ),
    )
    assert shared == prompt.length - prompt.prefix_length


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [("llava-1.5-7b", 7_063_427_072, 576), ("qwen2.5-vl-7b", 8_292_166_656, 1280)],
)
def test_large_shapes_are_those_of_the_published_models(name, parameters, tokens):
    lvlm = lvlm_of_shape(name, "meta", torch.bfloat16)
    assert sum(parameter.numel() for parameter in lvlm.model.parameters()) == parameters
    assert lvlm.encode(picture_of(name)).token_count == tokens
