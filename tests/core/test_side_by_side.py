"""Pictures answered side by side: as each alone, with fewer forwards, and nothing is lost."""

from __future__ import annotations

import itertools
import threading
from contextlib import contextmanager
from contextvars import copy_context

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from laser_core import pipeline
from laser_core.engine import branches, padded, reading, together
from laser_core.engine.few_calls import MOST_PICTURES, pads, pictures_at_once
from laser_core.engine.memory import Taken
from laser_core.engine.together import run_together
from laser_core.one_at_a_time import turn
from laser_core.settings import (
    AnswerSettings,
    CounterfactualSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
)
from tools.testbed.counting import forwards
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reciting import chain, reciting_lvlm
from tools.testbed.tiny import AVAILABLE, REPRESENTATIVES

from .test_capture import SLIDING
from .test_few_calls import as_on_a_gpu  # noqa: F401

SIZES = [(90, 60), (60, 90), (120, 90), (84, 84), (160, 60)]
QUESTIONS = [
    "what colour is the square ?",
    "who ?",
    "what number is on the large red ball behind the house ?",
    "is there a dog ?",
    "",  # which cannot be asked
]
ITEMS = [
    (noise_picture(size, seed), question)
    for seed, (size, question) in enumerate(zip(SIZES, QUESTIONS, strict=True))
]
GOOD = ITEMS[:-1]
CROP = CropSettings(min_side_px=20)


def settings_of(decode=None, **groups):
    values = {"max_tokens": 4, "adaptive": 0.9} | (decode or {})
    return LaserSettings(crop=CROP, decode=DecodeSettings(**values), **groups)


def numbers(answer):
    """Of every token, its id and the numbers that are said of it."""
    ids = [token.token_id for token in answer.tokens]
    alternatives = [[one.token_id for one in token.alternatives] for token in answer.tokens]
    logits = [
        [token.logit_with, token.logit_without or 0.0, token.probability] for token in answer.tokens
    ]
    return (ids, alternatives, answer.text, answer.stop_reason, answer.prompt_tokens), logits


def same(result, alone):
    """Whether two runs found, looked and said the same, and numbers differ by rounding only."""
    assert result.location.windows == alone.location.windows
    assert [look.windows for look in result.looks] == [look.windows for look in alone.looks]
    assert result.believed == alone.believed
    choices = [one.location.evidence.choice for one in (result, alone)]
    assert choices[0].layer == choices[1].layer
    for one, other in ((result.answer, alone.answer), (result.plain, alone.plain)):
        if one or other:
            (said, logits), (expected, expected_logits) = numbers(one), numbers(other)
            assert said == expected
            torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=0)
    return True


def alone(lvlm, settings, with_plain=False, items=GOOD):
    return [pipeline.answer(lvlm, *item, settings, with_plain=with_plain) for item in items]


LAYERS = {name: {"layers": 2} for name in REPRESENTATIVES}
LAYERS |= {name: {} for name in ("qwen3_5", "gemma3", "gemma4", "minicpmv4_6") if name in AVAILABLE}


@pytest.mark.parametrize("model_type", LAYERS)
def test_unequal_pictures_and_questions_are_answered_as_each_alone(model_type):
    lvlm = lvlm_of(model_type, **LAYERS[model_type])
    lvlm.release()
    with forwards(lvlm) as one_by_one:
        expected = alone(lvlm, settings_of(), with_plain=True)
    with forwards(lvlm) as counts:
        *results, failed = pipeline.answer_many(
            lvlm, ITEMS, settings_of(), with_plain=True, batch=len(ITEMS)
        )
    assert all(map(same, results, expected))
    assert isinstance(failed, ValueError)
    assert str(failed).startswith("write what to look for")
    fewer = 2 if pads(lvlm, continued=True) else 1
    assert fewer * counts["tower"] <= one_by_one["tower"]
    assert fewer * counts["decoder"] < one_by_one["decoder"]


@pytest.mark.parametrize(
    ("model_type", "options", "settings"),
    [
        *((kind, {"sliding_window": window}, settings_of()) for kind, window in SLIDING),
        ("qwen2_5_vl", {"attn": "eager"}, settings_of({"repetition_penalty": 1.3})),
        # As in the paper: no certainty is read; and what blocks tokens needs the decoder's inputs
        (
            "qwen3_vl",
            {},
            settings_of(
                {"adaptive": 0.0},
                counterfactual=CounterfactualSettings(fill="visual tokens"),
            ),
        ),
        ("llava", {}, settings_of({"adaptive": 0.0}, answer=AnswerSettings(answer_input="crop"))),
        # Each has a random state of its own
        ("llava", {}, settings_of({"temperature": 2.0, "seed": 3})),
    ],
)
def test_other_kernels_windows_and_settings_change_nothing_side_by_side(
    model_type, options, settings
):
    lvlm = lvlm_of(model_type, fresh=True, **LAYERS[model_type], **options)
    expected = alone(lvlm, settings)
    assert all(map(same, pipeline.answer_many(lvlm, GOOD, settings, batch=4), expected))


def test_what_continues_unequal_pictures_is_read_in_stretches_to_the_same(monkeypatch):
    lvlm, settings = lvlm_of("qwen3_vl", layers=2), settings_of({"max_tokens": 2})
    expected = alone(lvlm, settings, items=GOOD[1:3])
    monkeypatch.setattr(reading, "STRETCH", 7)
    read = []
    hook = lvlm.attention_modules[0].register_forward_hook(lambda *call: read.append(call))
    with forwards(lvlm) as counts:
        results = [*pipeline.answer_many(lvlm, GOOD[1:3], settings, batch=2)]
    hook.remove()
    assert len(read) > counts["decoder"]
    assert all(map(same, results, expected))


def test_a_step_in_place_serves_all_answers(as_on_a_gpu, monkeypatch):  # noqa: F811
    lvlm = lvlm_of("qwen2_5_vl", fresh=True, layers=2)
    settings = settings_of({"max_tokens": 8})
    results = [*pipeline.answer_many(lvlm, GOOD, settings, with_plain=True, batch=4)]
    assert as_on_a_gpu
    assert not lvlm.steps
    monkeypatch.undo()
    assert all(map(same, results, alone(lvlm, settings, with_plain=True)))


def test_answers_that_have_ended_leave_the_batch():
    lvlm = lvlm_of("llava", fresh=True, layers=2)
    settings = settings_of({"max_tokens": 10, "adaptive": 0.0})
    said = [[token.token_id for token in one.answer.tokens] for one in alone(lvlm, settings)]

    def ends(token):
        return sorted(ids.index(token) if token in ids else len(ids) for ids in said)

    # A token that two write long before another does
    lvlm.model.generation_config.eos_token_id = max(
        {token for ids in said for token in ids}, key=lambda token: ends(token)[-1] - ends(token)[1]
    )
    rows, expected = [], alone(lvlm, settings)
    hook = lvlm.model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    with torch.no_grad():  # what is fed after an answer's end is not the answer's fault
        lvlm.model.get_input_embeddings().weight[lvlm.model.generation_config.eos_token_id] = (
            torch.nan
        )
    results = [*pipeline.answer_many(lvlm, GOOD, settings, batch=4)]
    hook.remove()
    assert rows[-1] <= max(rows) // 2
    assert all(map(same, results, expected))


def test_thoughts_of_each_answer_end_where_they_end_alone():
    words = ["<think>", "red", "blue", "green", "red", "blue"]
    lvlm = reciting_lvlm(chain(words), tokens=["<think>", "</think>"])
    settings = settings_of({"max_tokens": 6, "max_thinking_tokens": 3, "adaptive": 0.0})
    expected = alone(lvlm, settings)
    assert expected[0].answer.thought_tokens
    for result, one in zip(
        pipeline.answer_many(lvlm, GOOD, settings, batch=4), expected, strict=True
    ):
        assert same(result, one)
        assert result.answer.thoughts == one.answer.thoughts


def test_sixteen_pictures_take_an_eighth_of_the_forwards_at_most():
    lvlm, settings = lvlm_of("llava", layers=2), settings_of({"adaptive": 0.0})
    items = [(noise_picture(seed=seed), QUESTIONS[seed % 4]) for seed in range(16)]
    counts = []
    for batch in (1, 16):
        with forwards(lvlm) as counted:
            [*pipeline.answer_many(lvlm, items, settings, batch=batch)]
        counts.append(counted)
    one, many = counts
    assert 8 * many["tower"] <= one["tower"]
    assert 8 * many["decoder"] <= one["decoder"]


# ---- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [2, 1])
def test_memory_that_runs_out_halves_the_batch_and_loses_nothing(most, monkeypatch):
    lvlm, read, sizes = lvlm_of("llava", layers=2), padded.read_tails, []

    def full(lvlm, tails, *mask):
        sizes.append(len(tails))
        if len(tails) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return read(lvlm, tails, *mask)

    settings = settings_of()
    expected = alone(lvlm, settings, items=GOOD * 2)
    for module in (padded, branches):
        monkeypatch.setattr(module, "read_tails", full)
    assert all(map(same, pipeline.answer_many(lvlm, GOOD * 2, settings, batch=4), expected))
    assert sizes[:2] == [4, 2]
    assert sizes.count(4) == 1  # the next four begin with what fitted
    assert most == 1 or 2 in sizes


def test_an_item_that_does_not_fit_alone_gives_its_error_and_the_others_go_on():
    def job(lvlm, item):
        if item == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return item

    found = [*run_together(lvlm_of("llava"), range(6), job, 4)]
    assert [*map(type, found)] == [int, int, int, torch.OutOfMemoryError, int, int]
    assert found[3].__traceback__ is None  # whose frames would hold what filled the memory


@pytest.mark.parametrize(
    ("free", "expected"), [(0, 1), (7, 1), (12, 3), (40, 10), (4000, MOST_PICTURES)]
)
def test_as_many_at_once_as_three_quarters_of_what_is_free_hold(free, expected):
    assert pictures_at_once(3, free) == expected


def test_after_one_that_was_measured_as_many_run_side_by_side_as_fit(monkeypatch):
    @contextmanager
    def three_bytes(device, wanted):
        yield Taken(3 if wanted else None)

    monkeypatch.setattr(together, "measured", three_bytes)
    lvlm = lvlm_of("llava")
    found = run_together(lvlm, range(6), lambda own, _: own is lvlm, free_bytes=lambda device: 16)
    assert [*found] == [True, False, False, False, False, True]


def test_a_cpu_answers_one_at_a_time_and_reads_no_further_than_asked():
    lvlm, taken = lvlm_of("llava"), []

    def items():
        for number in range(8):
            taken.append(number)
            yield number

    found = run_together(lvlm, items(), lambda own, number: own is lvlm)
    assert next(found) is True
    assert taken == [0]
    found = run_together(lvlm, items(), lambda own, number: own is lvlm, 3)
    assert next(found) is False
    assert taken[1:] == [0, 1, 2]


# ---- errors and interrupts ---------------------------------------------------------------------


class Interrupt(BaseException):
    """As ComfyUI's: not an Exception."""


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_an_interrupt_at_any_moment_ends_all_and_leaves_the_model_as_it_was():
    lvlm, settings = lvlm_of("llava", layers=2), settings_of({"max_tokens": 2, "adaptive": 0.0})
    kernel, threads = ALL_ATTENTION_FUNCTIONS["sdpa"], threading.active_count()

    def run(stop_at=None):
        calls = itertools.count(1)

        def progress(*stage):
            if next(calls) == stop_at:
                raise Interrupt

        found = [*pipeline.answer_many(lvlm, GOOD[:2], settings, batch=2, progress=progress)]
        return found, next(calls)

    expected, moments = run()
    hooks = hooks_on(lvlm.model)  # the library's own
    assert moments > 8
    for moment in range(1, moments):
        with pytest.raises(Interrupt):
            run(moment)
        assert threading.active_count() == threads
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is kernel
        assert hooks_on(lvlm.model) == hooks
        assert lvlm.prefix is None
    assert all(map(same, run()[0], expected))


def test_what_is_wrong_with_the_model_is_every_pictures_error():
    lvlm = lvlm_of("llava", fresh=True, layers=2)
    lvlm.model.generation_config.repetition_penalty = -1.0
    results = [*pipeline.answer_many(lvlm, GOOD, settings_of(), batch=4)]
    assert len(results) == 4
    assert all(str(one).startswith("fix generation_config.json") for one in results)


def test_our_own_error_in_one_run_is_raised_and_ends_the_others():
    ended = []

    def job(lvlm, number):
        try:
            if number == 2:
                raise KeyError("a bug")
            pipeline.locate(lvlm, *GOOD[0])
        finally:
            ended.append(number)

    with pytest.raises(KeyError):
        [*run_together(lvlm_of("llava"), range(3), job, 3)]
    assert sorted(ended) == [0, 1, 2]


def test_what_a_run_began_waits_for_its_turn_once_the_run_has_ended():
    entered = threading.Event()

    def enter():
        with turn():
            entered.set()

    with turn():
        within = copy_context()
        within.run(enter)
    assert entered.is_set()
    entered.clear()
    with turn():
        other = threading.Thread(target=within.run, args=(enter,))
        other.start()
        assert not entered.wait(0.1)
    other.join()
    assert entered.is_set()
