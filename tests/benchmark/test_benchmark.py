"""One benchmark question to the method, without the harness."""

from __future__ import annotations

import dataclasses
import re
from functools import cache, partial
from pathlib import Path

import pytest
from PIL import Image

from laser_core.evaluation.answerer import (
    Answerer,
    UnsuitableTask,
    decode_settings,
    ignored_arguments,
    read_arguments,
    split_instruction,
    stop_texts,
)
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.pipeline import answer
from laser_core.settings import (
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LayerSettings,
    LoadSettings,
    PromptSettings,
)
from laser_core.settings_text import flags
from tools.checks.run_tests import LMMS_EVAL
from tools.testbed.lvlms import lvlm_of, noise_picture

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
QUESTION = "what colour is the car ?"
INSTRUCTION = "read the colour ."
FAST = CropSettings(min_side_px=20)


@cache
def demo():
    return load_lvlm("demo")


def answerer(lvlm=None, **arguments):
    asked = Answerer(read_arguments({"min_side_px": 20, **arguments}))
    return partial(asked, lvlm or demo())


def test_arguments_are_read_as_the_harness_parses_them():
    """-1 arrives as -1.0, 4 as an int, text with commas in its quotes."""
    read = read_arguments(
        {
            "layer": -1.0,
            "top_heads": 4,
            "alpha": 2,
            "beta": 0.1,
            "answer_input": "picture+crop",
            "system": "'Look, then answer.'",
            "instruction": "Say why.",
            "max_visual_tokens": 640,
            "mode": "plain",
        }
    )
    assert read.mode == "plain"
    assert read.load == LoadSettings(max_visual_tokens=640)
    assert read.settings == LaserSettings(
        prompt=PromptSettings(system="Look, then answer."),
        layer=LayerSettings(layer=-1, top_heads=4),
        answer=AnswerSettings(answer_input="picture + crop", instruction="Say why."),
        decode=DecodeSettings(alpha=2.0, beta=0.1),
    )
    assert read.given == {
        "layer", "top_heads", "alpha", "beta", "answer_input", "system", "instruction",
        "max_visual_tokens",
    }  # fmt: skip


def test_every_setting_is_a_model_argument():
    for flag in flags():
        default = flag.spec.default
        harness = float(default) if flag.kind is int and default < 0 else default
        read = read_arguments({flag.spec.name: harness})
        assert (read.load, read.settings) == (LoadSettings(), LaserSettings()), flag.spec.name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answerinput": "crop"}, r"^did you mean answer_input\? There is no model argument"),
        ({"pretraind": "demo"}, r"^did you mean pretrained\?"),
        (
            {"zzz": 1},
            r"^choose from mode, look_for, preset, .*: There is no model argument 'zzz'$",
        ),
        ({"alpha": 11}, r"^choose a value from 0.0 to 10.0: alpha is 11.0$"),
        ({"top_heads": 1.5}, r"^give top_heads a whole number, 1 to 256: it is '1.5'$"),
        ({"rule": "best"}, r"^choose one of max, fuse, argmax, heads: "),
        ({"amount": 5}, r"^choose a value from 0.0 to 1.0: amount is 5.0$"),
        ({"crop_tokens": 64}, r"^removed: use crop_budget, a share .*, instead of crop_tokens$"),
        ({"attention": "sdpa"}, r"^removed, use auto: attention is 'sdpa'$"),
        ({"mode": "fast"}, r"^set mode to one of laser, plain: it is 'fast'$"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_remedy_first(arguments, message):
    with pytest.raises(ValueError, match=message):
        read_arguments(arguments)


@pytest.mark.parametrize(
    ("generation", "given", "expected"),
    [
        ({}, {}, {}),
        ({"max_new_tokens": 16, "do_sample": False, "temperature": 0.7}, {}, {"max_tokens": 16}),
        ({"max_new_tokens": 16}, {"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_new_tokens": 32768}, {}, {"max_tokens": 4096}),
        ({"temperature": 0, "top_p": None, "num_beams": 1}, {}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {}, {"temperature": 0.7, "top_p": 0.9}),
        ({"do_sample": True}, {}, {"temperature": 1.0}),
        ({"temperature": 2, "top_k": 4, "seed": 3}, {}, {"seed": 3, "temperature": 2, "top_k": 4}),
        ({"temperature": 0.7}, {"temperature": 0.0}, {"temperature": 0.0}),
    ],
)  # fmt: skip
def test_a_tasks_generation_arguments_become_settings(generation, given, expected):
    settings = DecodeSettings(alpha=0.5, **given)
    assert decode_settings(settings, generation, set(given)) == DecodeSettings(
        alpha=0.5, **expected
    )


def test_a_task_that_asks_for_a_beam_search_is_refused_with_the_reason():
    with pytest.raises(UnsuitableTask, match=r"^set num_beams to 1 .*without a beam search.* 3 "):
        decode_settings(DecodeSettings(), {"num_beams": 3}, set())
    assert ignored_arguments({"num_beams": 1}) == []


def test_generation_arguments_without_a_setting_are_named():
    generation = {"until": ["\n"], "do_sample": False, "max_new_tokens": 3, "image_aspect_ratio": 1}
    assert ignored_arguments(generation) == ["image_aspect_ratio"]


def test_stop_texts_are_a_text_or_a_list():
    assert stop_texts({}) == stop_texts({"until": None}) == []
    assert stop_texts({"until": "ASSISTANT:"}) == ["ASSISTANT:"]
    assert stop_texts({"until": ["\n\n", ""]}) == ["\n\n"]
    with pytest.raises(ValueError, match=r"^write the task's until as a text or a list"):
        stop_texts({"until": 7})


@pytest.mark.parametrize(
    ("context", "post_prompt", "expected"),
    [
        ("Who?\nSay one word.", "\nSay one word.", ("Who?", "Say one word.")),
        ("<image>\nWho?\nOne.\nTwo.", "\nOne.\nTwo.", ("Who?", "One.\nTwo.")),
        ("Who? Answer:", " Answer:", ("Who? Answer:", "")),  # a line break would be added
        ("Who?\n\nThink.", "\n\nThink.", ("Who?\n\nThink.", "")),  # one would be lost
        ("Who?\nA. x\nB. y", "", ("Who?\nA. x\nB. y", "")),
        ("Who?\nOther.", "\nSay one word.", ("Who?\nOther.", "")),
    ],
)
def test_the_instruction_is_told_from_the_question(context, post_prompt, expected):
    assert split_instruction(context, post_prompt) == expected
    question, instruction = expected
    joined = f"{question}\n{instruction}" if instruction else question
    assert joined == context.replace("<image>", "").strip()  # the model reads the task's own text


def same(one, other):
    """Answers that are equal except for their timings."""
    return dataclasses.replace(one, seconds_reading=0, seconds_decoding=0) == dataclasses.replace(
        other, seconds_reading=0, seconds_decoding=0
    )


def test_laser_answers_as_the_pipeline_does_with_the_tasks_instruction():
    picture = noise_picture()
    generation = {"max_new_tokens": 3}
    found = answerer(alpha=0.5)(
        f"{QUESTION}\n{INSTRUCTION}", [picture], generation, f"\n{INSTRUCTION}"
    )
    settings = LaserSettings(
        answer=AnswerSettings(instruction=INSTRUCTION),
        crop=FAST,
        decode=DecodeSettings(alpha=0.5, max_tokens=3),
    )
    assert same(found, answer(demo(), picture, QUESTION, settings).answer)


SENTENCE = "Answer the question using a single word or phrase."


@pytest.mark.parametrize(
    ("context", "post_prompt", "located"),
    [
        (f"{QUESTION}\n{INSTRUCTION}", f"\n{INSTRUCTION}", f"{QUESTION}\n{SENTENCE}"),
        (f"{QUESTION}\n{INSTRUCTION}", "", f"{QUESTION}\n{INSTRUCTION}\n{SENTENCE}"),
        (f"{QUESTION}\n{SENTENCE}", f"\n{SENTENCE}", f"{QUESTION}\n{SENTENCE}"),
        (f"{QUESTION}\n{SENTENCE}", "", f"{QUESTION}\n{SENTENCE}"),  # not added twice
    ],
    ids=["told", "not told", "the family's own, told", "the family's own, not told"],
)
def test_the_tasks_own_text_is_answered_and_the_familys_sentence_locates(
    context, post_prompt, located, monkeypatch
):
    read, prompt = [], Lvlm.prompt

    def noted(self, pictures, text, system="", **options):
        read.append(text)
        return prompt(self, pictures, text, system, **options)

    monkeypatch.setattr(Lvlm, "prompt", noted)
    answerer(lvlm_of("llava"))(context, [noise_picture()], {"max_new_tokens": 2}, post_prompt)
    # Both branches, then the plain answer and both looks, and the one without the evidence, if any
    assert read[:5] == [located, SENTENCE, context, context, context]
    assert set(read[5:]) <= {context}


def test_an_instruction_given_as_an_argument_takes_the_place_of_the_tasks():
    ask = answerer(instruction="answer briefly .")
    context, post_prompt = f"{QUESTION}\n{INSTRUCTION}", f"\n{INSTRUCTION}"
    found = ask(context, [noise_picture()], {"max_new_tokens": 3}, post_prompt)
    settings = LaserSettings(crop=FAST, decode=DecodeSettings(max_tokens=3))  # the demo's own
    assert same(found, answer(demo(), noise_picture(), QUESTION, settings).answer)


def test_plain_answers_as_the_model_alone():
    found = answerer(mode="plain", beta=0.1)(
        f"{QUESTION}\n{INSTRUCTION}", [noise_picture()], {"max_new_tokens": 3}, f"\n{INSTRUCTION}"
    )
    settings = LaserSettings(
        answer=AnswerSettings(instruction=INSTRUCTION), decode=DecodeSettings(max_tokens=3)
    )
    plain = answer(demo(), noise_picture(), QUESTION, settings, with_plain=True).plain
    assert same(found, plain)


@pytest.mark.parametrize("mode", ["laser", "plain"])
def test_a_word_the_demo_does_not_know_is_refused_in_either_mode(mode):
    with pytest.raises(ValueError, match='does not know "breed"'):
        answerer(mode=mode)("what breed is it ?", [noise_picture()], {})


@pytest.mark.parametrize(
    ("pictures", "mode", "message"),
    [
        (None, "laser", "^choose a task about pictures: a question of this one has none"),
        ([], "plain", "has none"),
        (["clip.mp4"], "plain", r"shows something else \(str\)"),
        ([noise_picture()] * 3, "laser", "one picture a question, or mode=plain: .* has 3"),
    ],
)
def test_what_can_never_be_answered_is_refused(pictures, mode, message):
    with pytest.raises(UnsuitableTask, match=message):
        answerer(mode=mode)(QUESTION, pictures, {})


def test_plain_reads_several_pictures_and_each_of_them_counts():
    ask = answerer(lvlm_of("qwen2_5_vl"), mode="plain")
    first, second, third = (noise_picture(seed=seed) for seed in range(3))
    generation = {"max_new_tokens": 2}
    both = ask(QUESTION, [first, second], generation)
    assert same(both, ask(QUESTION, [first, second], generation))
    for others in ([first, third], [third, second], [first]):
        assert ask(QUESTION, others, generation).tokens != both.tokens


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "I;16", "CMYK"])
def test_pictures_of_any_mode_are_answered(mode):
    picture = Image.new(mode, (90, 60))
    assert answerer()(QUESTION, [picture], {"max_new_tokens": 2}).tokens


def test_an_answer_ends_where_the_task_says():
    ask = answerer()
    whole = ask(QUESTION, [noise_picture()], {}).text
    assert len(whole) > 1
    assert ask(QUESTION, [noise_picture()], {"until": [whole[1:]]}).text == whole[0]


def test_repeats_of_a_sampled_answer_differ_and_each_repeats_itself():
    ask = answerer(lvlm_of("llava"), temperature=5, max_tokens=4)
    texts = [ask(QUESTION, [noise_picture()], {}, repeat=repeat).text for repeat in (0, 1, 2, 0)]
    assert len(set(texts[:3])) == 3
    assert texts[3] == texts[0]


# ---- what docs/benchmarks.md promises ----------------------------------------------------------


def test_the_runs_of_the_page_are_the_modes_they_say_and_the_papers_reading():
    """One layer, the window's whole inside, the crop as the answer's input, no cut-off."""
    given = re.findall(r'^    run "\$task" (\S+)', PAGE, re.MULTILINE)
    read = [read_arguments(dict(pair.split("=") for pair in text.split(","))) for text in given]
    assert [arguments.mode for arguments in read] == ["plain", "laser", "laser", "laser"]
    assert [arguments.settings.decode.alpha for arguments in read[1:]] == [0, 1, 1]
    assert read[3].settings == LaserSettings.of("paper")


def test_the_harness_that_is_tried_is_the_one_that_is_promised():
    """By the test command; the oldest that pyproject.toml allows, and docs/benchmarks.md names."""
    tried = LMMS_EVAL.removeprefix("lmms-eval==")
    assert f'benchmark = ["lmms-eval>={tried}"]' in (ROOT / "pyproject.toml").read_text("utf-8")
    assert f"(tested with {tried})" in PAGE
