"""Memory of reading and answering: linear in the image tokens, whatever the model's own kernel."""

from __future__ import annotations

import pytest

from laser_core.engine import branches, reading
from laser_core.pipeline import answer_from, locate
from laser_core.settings import DecodeSettings, LaserSettings
from laser_core.steps.attention import read_attention
from tools.benchmarks.speed.count import peak_bytes
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.tiny import WITH_MASKS, WITH_STATES

QUESTION = "what colour is the square ?"


def bytes_per_token(kernel: str, tokens: int, model_type: str = "qwen2_vl") -> float:
    """Peak tensor memory of reading both branches, by the profiler's record of allocations."""
    side = round(tokens**0.5) * (28 if model_type == "qwen2_vl" else 32)
    lvlm = lvlm_of(model_type, fresh=True, vision=side, attn=kernel)
    inputs = lvlm.encode(noise_picture((side, side)))
    peak = peak_bytes(lambda: read_attention(lvlm, inputs, QUESTION), "cpu")
    return peak / inputs.token_count


@pytest.mark.parametrize("model_type", ["qwen2_vl", *WITH_STATES])
def test_peak_memory_grows_at_most_linearly_in_the_image_tokens(model_type):
    less, more = (bytes_per_token("sdpa", tokens, model_type) for tokens in (529, 1024))
    assert more <= 1.05 * less


def answer_bytes_per_token(tokens: int) -> float:
    """Peak of a whole answer from picture + crop, beyond the vision tower's own."""
    side = round(tokens**0.5) * 28
    lvlm = lvlm_of("qwen2_vl", fresh=True, vision=side)
    picture = noise_picture((side, side))
    settings = LaserSettings(decode=DecodeSettings(max_tokens=2))
    found = locate(lvlm, picture, QUESTION, settings)
    peak = peak_bytes(lambda: answer_from(lvlm, found), "cpu")
    return peak / found.inputs.token_count


def test_peak_memory_of_an_answer_grows_at_most_linearly_in_the_image_tokens(monkeypatch):
    # From pictures of several stretches on: shorter ones need less working memory a token
    for module in (reading, branches):
        monkeypatch.setattr(module, "STRETCH", 128)
    assert answer_bytes_per_token(1024) <= 1.05 * answer_bytes_per_token(400)


@pytest.mark.parametrize("model_type", ["qwen2_vl", *WITH_MASKS])
def test_peak_memory_grows_at_most_linearly_in_the_question(model_type):
    lvlm = lvlm_of(model_type)
    inputs = lvlm.encode(noise_picture())

    def peak(count):
        lvlm.release()
        return peak_bytes(lambda: read_attention(lvlm, inputs, "square " * count), "cpu") / count

    assert peak(2000) <= 1.05 * peak(1000)


def test_a_kernel_that_keeps_all_weights_would_be_noticed():
    assert bytes_per_token("eager", 784) > 1.4 * bytes_per_token("eager", 400)
