"""Two prompts, two jobs: which text locates, which one answers, and how sure the model then is.

Oracles: the library's processor and its `generate()`. Knows nothing of windows and of VAT.
"""

from __future__ import annotations

import re

import pytest

from laser_core import pipeline
from laser_core.models.closed_vocabulary import ClosedVocabulary
from laser_core.models.loading import load_lvlm
from laser_core.settings import (
    AnswerSettings,
    CropSettings,
    DecodeSettings,
    LaserSettings,
    PromptSettings,
)
from laser_core.steps.answer_input import make_plain_stream
from laser_core.steps.certainty import plain_certainty
from tools.benchmarks.speed.count import decoder_tokens
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import library_inputs
from tools.testbed.tiny import (
    AVAILABLE,
    REPRESENTATIVES,
    WITH_MASKS,
    WITH_STATES,
    library_ids,
)

QUESTION = "what colour is the square ?"
SENTENCE = "Answer the question using a single word or phrase."
SIZE = (84, 84)  # square: framing adds nothing, and the processors see the same picture

families = pytest.mark.parametrize("model_type", AVAILABLE)


# ---- which text does which job ----------------------------------------------------------------


@families
def test_the_prompts_that_locate_are_the_librarys_with_the_familys_sentence(model_type):
    lvlm = lvlm_of(model_type)
    inputs = lvlm.encode(noise_picture(SIZE))
    asked, free = lvlm.branch_prompts(inputs, QUESTION, PromptSettings())
    assert asked.input_ids.tolist() == library_ids(
        model_type, noise_picture(SIZE), f"{QUESTION}\n{SENTENCE}"
    )
    assert free.input_ids.tolist() == library_ids(model_type, noise_picture(SIZE), SENTENCE)


@families
@pytest.mark.parametrize("instruction", ["", "Read the text."])
def test_the_prompt_that_answers_is_the_librarys_with_the_users_instruction_or_none(
    model_type, instruction
):
    settings = LaserSettings(answer=AnswerSettings(instruction=instruction))
    stream = make_plain_stream(lvlm_of(model_type), noise_picture(SIZE), QUESTION, settings)
    text = f"{QUESTION}\n{instruction}" if instruction else QUESTION
    assert stream.prompt.input_ids.tolist() == library_ids(model_type, noise_picture(SIZE), text)


def test_what_is_set_for_one_job_is_not_read_in_the_other():
    lvlm = lvlm_of("llava")
    settings = LaserSettings.of(locate_instruction="Name it.", instruction="Read the text.")
    assert lvlm.locating_text(QUESTION, settings.prompt) == f"{QUESTION}\nName it."
    assert lvlm.query_free_text(settings.prompt) == "Name it."
    assert lvlm.answering_text(QUESTION, settings.answer) == f"{QUESTION}\nRead the text."


def test_without_a_sentence_the_question_alone_locates():
    nothing = PromptSettings(locate_instruction="")
    assert lvlm_of("llava").locating_text(QUESTION, nothing) == QUESTION
    assert lvlm_of("llava").query_free_text(nothing) == ""


def test_a_sentence_that_ends_the_question_is_not_added_again():
    asked = f"{QUESTION}\n{SENTENCE}"
    assert lvlm_of("llava").locating_text(asked, PromptSettings()) == asked
    same = AnswerSettings(instruction=SENTENCE)
    assert lvlm_of("llava").answering_text(asked, same) == asked


def test_a_models_own_sentence_does_both_jobs_unless_the_user_gives_another():
    lvlm = load_lvlm("demo")
    question = "what number is on the dog?"
    asked = f"{question}\nanswer briefly ."
    assert lvlm.locating_text(question, PromptSettings()) == asked
    assert lvlm.answering_text(question, AnswerSettings()) == asked
    given = AnswerSettings(instruction="name the colour .")
    assert lvlm.answering_text(question, given) == f"{question}\nname the colour ."


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
def test_a_refusal_names_what_the_model_itself_says_of_the_picture(model_type):
    lvlm = lvlm_of(model_type, fresh=True)
    lvlm.instruction = SENTENCE
    lvlm.closed_vocabulary = ClosedVocabulary("I know little.", "is there any {}?")
    for size in (SIZE, (120, 60)):
        inputs = lvlm.encode(noise_picture(size))
        asked = library_inputs(lvlm, lvlm.prompt([inputs], SENTENCE))
        word = lvlm.model.generate(**asked, max_new_tokens=1, do_sample=False)[0, -1:]
        example = repr(f"is there any {lvlm.tokenizer.decode(word)}?")
        with pytest.raises(ValueError, match=f"^try {re.escape(example)}: this model does not"):
            lvlm.answer_prompt([inputs], "what is the zebra ?", LaserSettings())


# ---- how sure the answering prompt makes the model --------------------------------------------


def located(lvlm, instruction="", **decoding):
    """A location, answered by one plain stream where the model is sure, and the crop's if not."""
    settings = LaserSettings(
        crop=CropSettings(min_side_px=20),
        answer=AnswerSettings(instruction=instruction),
        decode=DecodeSettings(max_tokens=4, alpha=0.0, **decoding),
    )
    return pipeline.locate(lvlm, noise_picture(SIZE), QUESTION, settings)


def plain_of(lvlm, found):
    return make_plain_stream(lvlm, found.inputs, found.question, found.settings)


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS])
@pytest.mark.parametrize("instruction", ["", SENTENCE], ids=["differ", "equal"])
def test_certainty_is_generates_first_probability_on_the_answering_prompt(model_type, instruction):
    lvlm = lvlm_of(model_type)
    found = located(lvlm, instruction)
    plain = plain_of(lvlm, found)
    inputs = library_inputs(lvlm, plain.prompt)
    generated = lvlm.model.generate(
        **inputs,
        max_new_tokens=1,
        do_sample=False,
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = float(generated.scores[0].float().softmax(-1).max())
    assert plain_certainty(lvlm, plain, found).certainty == pytest.approx(expected, abs=1e-5)
    assert (found.maps.certainty == pytest.approx(expected, abs=1e-5)) is bool(instruction)


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
@pytest.mark.parametrize("instruction", ["", SENTENCE], ids=["differ", "equal"])
def test_certainty_costs_one_suffix_where_the_prompts_differ_and_nothing_where_they_are_equal(
    model_type, instruction
):
    lvlm = lvlm_of(model_type)
    found = located(lvlm, instruction)
    plain = plain_of(lvlm, found)
    with decoder_tokens(lvlm) as counted:
        plain_certainty(lvlm, plain, found)
    assert counted == ([] if instruction else [plain.prompt.suffix_length])


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES])
def test_a_sure_answer_continues_from_what_its_certainty_read(model_type):
    lvlm = lvlm_of(model_type)
    expected = pipeline.answer_from(lvlm, located(lvlm), with_plain=True).plain.tokens
    found = located(lvlm, adaptive=1e-6)
    with decoder_tokens(lvlm) as counted:
        result = pipeline.answer_from(lvlm, found)
    assert not result.looked_closer
    # In one go, or the last token alone where a state is kept before it
    assert sum(counted) == plain_of(lvlm, found).prompt.suffix_length + len(expected)
    for one, other in zip(result.answer.tokens, expected, strict=True):
        assert one.token_id == other.token_id
        assert one.logit_with == pytest.approx(other.logit_with, abs=1e-4)
