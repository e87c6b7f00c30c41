"""Given options, scored by their whole likelihood, against the library's own forward."""

from __future__ import annotations

import math

import pytest
import torch

from laser_core.engine.generating import end_tokens
from laser_core.engine.likelihood import log_likelihoods
from laser_core.engine.reading import read_stream
from laser_core.models.chat import Stream
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.recipes.check import check
from laser_core.settings import LaserSettings
from laser_core.steps.answer_input import make_plain_stream
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reciting import chain, reciting_lvlm
from tools.testbed.reference import library_inputs
from tools.testbed.tiny import REPRESENTATIVES, WITH_MASKS, WITH_STATES, build

from .test_thoughts import SILENT

QUESTION = "what colour is the square ?"
OPTIONS = ("red", "dark blue", "no")


@torch.no_grad()
def library_log_likelihood(lvlm, prompt, tokens):
    logits = lvlm.model(**library_inputs(lvlm, prompt, tokens), use_cache=False).logits[0].double()
    scores = logits.log_softmax(-1)
    first = prompt.length - 1
    return sum(float(scores[first + n, token]) for n, token in enumerate(tokens))


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS])
def test_likelihoods_are_the_librarys_own(model_type):
    lvlm, picture, settings = lvlm_of(model_type), noise_picture(), LaserSettings()
    plain = make_plain_stream(lvlm, picture, QUESTION, settings).prompt
    sure = LaserSettings.of(adaptive=0.0001)  # answers from the picture alone
    checked = check(lvlm, picture, QUESTION, OPTIONS, sure)
    tokenizer = lvlm.tokenizer
    for option, score in zip(OPTIONS, checked.log_likelihoods, strict=True):
        spellings = {option, option.capitalize()}
        ids = {tuple(tokenizer(one, add_special_tokens=False)["input_ids"]) for one in spellings}
        likelihoods = [
            library_log_likelihood(lvlm, plain, [*one, tokenizer.eos_token_id]) for one in ids
        ]
        assert score == pytest.approx(math.log(sum(map(math.exp, likelihoods))), abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("spelled_out", [False, True])
def test_an_answer_that_the_model_marks_ends_with_its_mark_or_with_the_turn(spelled_out):
    tiny = build("glm4v")
    tiny.tokenizer.add_tokens(["<answer>"] if spelled_out else ["<answer>", "</answer>"])
    tiny.model.resize_token_embeddings(len(tiny.tokenizer))
    if spelled_out:  # of several tokens: too unlikely to show beside a token that ends the turn
        tiny.tokenizer.eos_token = tiny.model.generation_config.eos_token_id = None
    lvlm = Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor, chat_template=SILENT)
    inputs = [lvlm.encode(noise_picture())]
    prompt = lvlm.answer_prompt(inputs, QUESTION, LaserSettings(), thought_closed=True)
    mark = tiny.tokenizer("</answer>", add_special_tokens=False)["input_ids"]
    assert (len(mark) > 1) == spelled_out
    answer = lvlm.chat.answer_ids(1, QUESTION, "red")
    assert tiny.tokenizer.convert_ids_to_tokens(answer) == ["red"]  # right after <answer>
    [score] = log_likelihoods(lvlm, read_stream(lvlm, Stream(prompt)), [answer])
    ends = [mark, *([end] for end in end_tokens(lvlm))]
    likelihoods = [library_log_likelihood(lvlm, prompt, [*answer, *end]) for end in ends]
    assert score == pytest.approx(math.log(sum(map(math.exp, likelihoods))), abs=1e-4)


def test_options_are_scored_under_the_look_that_is_believed():
    lvlm, picture = lvlm_of("qwen2_5_vl"), noise_picture((180, 120))
    looked = LaserSettings.of("paper", min_side_px=20)
    checked = check(lvlm, picture, QUESTION, OPTIONS, looked)
    [window] = checked.looks[checked.believed].windows
    from laser_core.pipeline import locate
    from laser_core.steps.answer_input import make_positive_stream

    prompt = make_positive_stream(lvlm, locate(lvlm, picture, QUESTION, looked)).prompt
    ids = lvlm.tokenizer("no", add_special_tokens=False)["input_ids"]
    unknown = lvlm.tokenizer("No", add_special_tokens=False)["input_ids"]
    end = lvlm.tokenizer.eos_token_id
    both = [library_log_likelihood(lvlm, prompt, [*one, end]) for one in (ids, unknown)]
    assert window.width < 180
    assert checked.log_likelihoods[2] == pytest.approx(math.log(sum(map(math.exp, both))), abs=1e-4)


def test_an_option_is_not_favoured_for_being_how_another_begins():
    lvlm = reciting_lvlm(chain(["red", "circle", "<|im_end|>"]))
    checked = check(lvlm, noise_picture(), QUESTION, ("red", "red circle"))
    assert checked.options[checked.index] == "red circle"


def test_probabilities_sum_to_one_and_follow_what_is_seen():
    from tests.core.test_find import picnic

    demo = load_lvlm("demo")
    there, absent = (check(demo, picnic(), f"is there a {one}?") for one in ("dog", "tent"))
    assert there.index == 0 and absent.index == 1
    assert sum(there.probabilities) == pytest.approx(1.0)


@pytest.mark.parametrize("options", [("yes",), ("yes", "yes "), ("yes", "")])
def test_fewer_than_two_different_options_are_refused(options):
    with pytest.raises(ValueError, match=r"^write two or more different options"):
        check(lvlm_of("llava"), noise_picture(), QUESTION, options)


@pytest.mark.parametrize("options", [("Yes", "yes"), ("dog", "dog "), ("dog",), ("dog", "")])
def test_options_that_are_equal_but_for_a_capital_are_refused(options):
    with pytest.raises(ValueError, match=r"^write two or more different options"):
        check(load_lvlm(), noise_picture((224, 224)), "is there a dog?", options)


def test_an_option_that_the_demo_model_does_not_know_is_refused():
    with pytest.raises(ValueError, match='does not know "quokka"'):
        check(load_lvlm(), noise_picture((224, 224)), "which object is there?", ("dog", "quokka"))
