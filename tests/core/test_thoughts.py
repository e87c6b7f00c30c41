"""Models that think: chats that leave thoughts out or close them, and answers told apart from them.

Knows tiny models that recite a thought and an answer; the templates' lines are those published.
"""

from __future__ import annotations

import pytest
import torch

from laser_core import pipeline
from laser_core.engine.token_records import text_of_tokens
from laser_core.models.chat import Stream
from laser_core.models.lvlm import Lvlm
from laser_core.output.report import report, summary
from laser_core.output.sentences import describe_answer
from laser_core.progress import THINKING
from laser_core.settings import AnswerSettings, DecodeSettings, LaserSettings, PromptSettings
from laser_core.steps.answer_input import make_plain_stream
from laser_core.steps.certainty import plain_certainty
from laser_core.steps.decode import decode
from tools.testbed.lvlms import noise_picture
from tools.testbed.reciting import BEGINS, chain, reciting_lvlm
from tools.testbed.reference import next_logits, two_loops
from tools.testbed.tiny import build

MARKS = ("<think>", "</think>")
QUESTION = "what colour is the square ?"
THOUGHT = ["the", "question", "is", "of", "color", ":", "square", "red", "or"]
SAYS = [*THOUGHT, "</think>", "blue", "<|im_end|>"]

# The ends of published chat templates (Apache-2.0; GLM's: MIT), where the answer begins
OPENS = "{{- '<|im_start|>assistant\\n<think>\\n' }}"  # Qwen3-VL-Thinking
MAY_OPEN = (  # Qwen3.5
    "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is "
    "false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- else %}{{- '<think>\\n' }}{%- endif %}"
)
MAY_THINK = (  # Qwen3
    "{{- '<|im_start|>assistant\\n' }}{%- if enable_thinking is defined and enable_thinking is "
    "false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)
GLM = (  # GLM-4.5V; its mark of the assistant is another
    "<|im_start|>assistant{{- '\\n<think></think>' if (enable_thinking is defined and not "
    "enable_thinking) else '' -}}"
)
EMPTY = "<think>\n\n</think>\n\n"
SILENT = (  # GLM-4.1V: the model thinks whatever it is told
    "[gMASK]<sop>{% for m in messages %}<|user|>\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ c.text }}"
    "{% endif %}{% endfor %}{% endfor %}<|assistant|>{{ '\\n' }}"
)


def thinking(says=SAYS, template_end=OPENS):
    return reciting_lvlm(chain(says), template_end=template_end, tokens=MARKS)


def prompt_of(lvlm, **options):
    return lvlm.prompt([lvlm.encode(noise_picture())], QUESTION, **options)


def written(prompt, lvlm):
    return lvlm.tokenizer.decode(prompt.input_ids[0]).replace(" ", "")


def streams(lvlm, contrasted=True):
    positive = Stream(prompt_of(lvlm))
    other = lvlm.prompt([lvlm.encode(noise_picture(seed=1))], QUESTION)
    return positive, Stream(other) if contrasted else None


def ids(answer):
    return [token.token_id for token in answer.tokens]


# ---- chats ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template_end", "empty"), [(MAY_OPEN, EMPTY), (MAY_THINK, EMPTY), (GLM, "<think></think>")]
)
def test_a_template_that_can_is_told_to_leave_thoughts_out(template_end, empty):
    lvlm = thinking(template_end=template_end)
    for closed in (False, True):
        assert written(prompt_of(lvlm, thought_closed=closed), lvlm).endswith(empty)


@pytest.mark.parametrize(
    ("template_end", "opened", "empty"),
    [
        (OPENS, "<think>\n", EMPTY),
        (OPENS.replace("<think>\\n", "<think>"), "<think>", "<think></think>"),
    ],
)
def test_a_thought_that_the_template_opens_is_closed_where_attention_is_read(
    template_end, opened, empty
):
    lvlm = thinking(template_end=template_end)
    assert written(prompt_of(lvlm), lvlm).endswith(f"<|im_start|>assistant\n{opened}")
    picture = lvlm.encode(noise_picture())
    for prompt in lvlm.branch_prompts(picture, QUESTION, PromptSettings()):
        assert written(prompt, lvlm).endswith(f"<|im_start|>assistant\n{empty}")


def test_a_thought_is_opened_for_a_model_that_opens_one_itself():
    tiny = build("glm4v")
    tiny.tokenizer.add_tokens(["<answer>", "</answer>"])
    lvlm = Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor, chat_template=SILENT)
    assert lvlm.chat.opens_thought(prompt_of(lvlm))
    for prompt in lvlm.branch_prompts(lvlm.encode(noise_picture()), QUESTION, PromptSettings()):
        assert written(prompt, lvlm).endswith("<|assistant|>\n<think></think>\n<answer>")
    said = lvlm.tokenizer("<answer> red square </answer>")["input_ids"]
    assert text_of_tokens(lvlm, said) == "red square"


def test_marks_of_thoughts_in_a_question_are_read_as_characters():
    lvlm = thinking(template_end=BEGINS)
    marks = set(lvlm.tokenizer.convert_tokens_to_ids(list(MARKS)))
    assert not marks & set(lvlm.chat.ids(1, "</think> what is it ? <think>"))


# ---- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("contrasted", [True, False])
@pytest.mark.parametrize(
    ("says", "template_end"),
    [(SAYS, OPENS), (["<think>", *SAYS], BEGINS)],
    ids=["the template opens it", "the model opens it"],
)
def test_an_answer_is_told_apart_from_the_thoughts_before_it(says, template_end, contrasted):
    lvlm = thinking(says, template_end)
    answer = decode(lvlm, *streams(lvlm, contrasted), DecodeSettings(max_tokens=2))
    assert (answer.text, answer.thoughts) == ("blue", " ".join(THOUGHT))
    assert lvlm.tokenizer.convert_ids_to_tokens(ids(answer)) == says
    assert answer.thought_tokens == len(says) - 2
    assert (answer.stop_reason, answer.notes) == ("end of answer", ())


def test_thoughts_do_not_count_towards_the_answers_limit():
    lvlm = thinking(["the", "</think>", "blue", "and", "green", "<|im_end|>"])
    answer = decode(lvlm, *streams(lvlm), DecodeSettings(max_tokens=2))
    assert (answer.text, answer.stop_reason) == ("blue and", "max tokens")


@pytest.mark.parametrize("contrasted", [True, False])
@pytest.mark.parametrize("limit", [0, 1, 4])
def test_a_thought_is_closed_at_its_limit_and_the_answer_follows(limit, contrasted):
    lvlm = thinking()
    chosen = DecodeSettings(max_tokens=5, max_thinking_tokens=limit)
    answer = decode(lvlm, *streams(lvlm, contrasted), chosen)
    words = [*THOUGHT[:limit], "</think>", "blue", "<|im_end|>"]
    assert lvlm.tokenizer.convert_ids_to_tokens(ids(answer)) == words
    assert (answer.text, answer.thoughts) == ("blue", " ".join(THOUGHT[:limit]))
    cut_off = f"the thoughts were cut off after {limit} tokens: raise max_thinking_tokens"
    assert any(note.startswith(cut_off) for note in answer.notes) == (limit > 0)


def test_after_a_forced_end_both_streams_go_on_from_the_same_tokens():
    lvlm = reciting_lvlm([], template_end=OPENS, tokens=MARKS)
    fresh = torch.Generator().manual_seed(0)
    with torch.no_grad():  # no more reciting: what comes depends on the prompt
        for name, weight in lvlm.model.named_parameters():
            if "o_proj" in name or "down_proj" in name or "lm_head" in name:
                weight.copy_(torch.randn(weight.shape, generator=fresh))
    lvlm.model.generation_config.eos_token_id = None
    lvlm.tokenizer.eos_token = None
    positive, negative = streams(lvlm)
    closing, steps = lvlm.tokenizer.convert_tokens_to_ids("</think>"), iter(range(9))

    def choose(scores):
        return closing if next(steps) == 3 else int(scores.argmax())

    expected, logits = two_loops(lvlm, positive.prompt, negative.prompt, 1.0, 8, choose)
    assert closing not in expected[:3], "the case must need force"
    chosen = DecodeSettings(max_tokens=4, max_thinking_tokens=3)
    answer = decode(lvlm, positive, negative, chosen)
    assert ids(answer) == expected
    for token, (with_evidence, without) in zip(answer.tokens, logits, strict=True):
        assert token.logit_with == pytest.approx(float(with_evidence[token.token_id]), abs=1e-3)
        assert token.logit_without == pytest.approx(float(without[token.token_id]), abs=1e-3)


def test_thoughts_get_what_the_context_has_left():
    lvlm = thinking()
    positive, _ = streams(lvlm)
    text = lvlm.model.config.get_text_config()
    text.max_position_embeddings = positive.prompt.length + 5 + 2
    answer = decode(lvlm, positive, None, DecodeSettings(max_tokens=5))
    assert (answer.text, answer.thoughts) == ("blue", " ".join(THOUGHT[:2]))
    assert "the model's context has no room for longer ones" in answer.notes[0]


def test_a_model_that_ends_within_its_thoughts_gives_no_answer():
    lvlm = thinking([*THOUGHT, "<|im_end|>"])
    answer = decode(lvlm, *streams(lvlm), DecodeSettings())
    assert (answer.text, answer.thoughts) == ("", " ".join(THOUGHT))
    assert answer.stop_reason == "unfinished thought"
    assert "there is no answer" in describe_answer(answer)


def test_the_growing_text_tells_thoughts_from_the_answer():
    lvlm = thinking(["the", "question", "</think>", "blue", "square", "<|im_end|>"])
    said = []
    decode(lvlm, *streams(lvlm), DecodeSettings(), on_text=said.append)
    thoughts = [THINKING + "the", THINKING + "the question"]
    assert [text for text in said if text] == [*thoughts, "blue", "blue square", "blue square"]


def test_progress_never_runs_backwards_and_ends_within_its_total():
    lvlm, seen = thinking(), []
    chosen = DecodeSettings(max_tokens=4, max_thinking_tokens=20)
    decode(lvlm, *streams(lvlm), chosen, lambda *one: seen.append(one))
    shares = [done / total for stage, done, total in seen if stage == "answering"]
    assert shares == sorted(shares)
    assert shares[-1] <= 1


def test_a_thoughts_first_word_decides_nothing():
    lvlm = thinking()
    answer = decode(lvlm, *streams(lvlm), DecodeSettings(adaptive=0.1))
    assert answer.contrasted


def test_before_a_thought_the_certainty_is_that_of_the_answers_first_token():
    links = [
        *chain(["the", "</think>"], "<think>"),
        ("</think>", "blue", 3),
        ("</think>", "red", 3),
    ]
    end = OPENS.replace("<think>\\n", "<think>")
    lvlm = reciting_lvlm(links, template_end=end, tokens=MARKS)
    chosen = LaserSettings(answer=AnswerSettings(instruction="Name the color."))
    found = pipeline.locate(lvlm, noise_picture(), QUESTION, chosen)
    plain = make_plain_stream(lvlm, noise_picture(), QUESTION, chosen)
    closed = lvlm.answer_prompt(plain.prompt.pictures, QUESTION, chosen, thought_closed=True)
    expected = float(next_logits(lvlm, closed, []).softmax(-1).max())
    assert expected < 0.9 < float(next_logits(lvlm, plain.prompt, []).softmax(-1).max())
    known = plain_certainty(lvlm, plain, found)
    assert known.certainty == pytest.approx(expected, abs=1e-4)
    assert known.prompt is plain.prompt  # the answer still has its thoughts


def test_the_report_has_the_thoughts_beside_the_answer():
    lvlm = thinking()
    chosen = LaserSettings(decode=DecodeSettings(max_thinking_tokens=4))
    result = pipeline.answer(lvlm, noise_picture(), QUESTION, chosen)
    content = report(result, lvlm)
    answer = content["generated"]["answer"]
    assert (content["answer"], answer["thoughts"]) == ("blue", " ".join(THOUGHT[:4]))
    assert (answer["thought_tokens"], len(answer["tokens"])) == (5, 7)
    lines = summary(content)
    assert "stopped at end of answer, 7 tokens, 5 of them thoughts" in lines
    assert any("thoughts were cut off after 4 tokens" in line for line in lines)
