"""Attention read at the end of a draft (`read_at`), against eager attention over both."""

from __future__ import annotations

import pytest
import torch

from laser_core.engine.last_rows import DRAFT_TOKENS, read_last_row
from laser_core.settings import LaserSettings, PromptSettings
from laser_core.steps.attention import read_attention
from laser_core.steps.presence import read_presence
from tools.benchmarks.speed.count import decoder_tokens
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows, library_inputs
from tools.testbed.tiny import REPRESENTATIVES, WITH_MASKS, WITH_STATES

QUESTION = "what colour is the square ?"
DRAFTED = PromptSettings(read_at="last token")
PICTURE = noise_picture((90, 60))


def library_draft(lvlm, prompt):
    """The library's greedy answer of at most as many tokens, without the token that ends it."""
    inputs = library_inputs(lvlm, prompt)
    output = lvlm.model.generate(**inputs, max_new_tokens=DRAFT_TOKENS, do_sample=False)
    written = output[0, prompt.length :].tolist()
    return [token for token in written if token != lvlm.tokenizer.eos_token_id]


@pytest.mark.parametrize("model_type", [*REPRESENTATIVES, *WITH_STATES, *WITH_MASKS])
def test_rows_equal_eager_attention_at_the_last_token_of_each_branchs_draft(model_type):
    lvlm = lvlm_of(model_type)
    maps = read_attention(lvlm, PICTURE, QUESTION, DRAFTED)
    prompts = lvlm.branch_prompts(lvlm.encode(PICTURE), QUESTION, DRAFTED)
    for rows, prompt in zip((maps.with_query, maps.without_query), prompts, strict=True):
        oracle = eager_rows(lvlm, prompt, library_draft(lvlm, prompt))
        assert float((rows.flatten(2) - oracle).abs().max()) <= 1e-5
    first = read_attention(lvlm, PICTURE, QUESTION)
    assert maps.certainty == pytest.approx(first.certainty, abs=1e-5)
    assert not torch.allclose(maps.with_query, first.with_query, atol=1e-3)


def test_a_draft_ends_before_the_end_of_the_answer_and_may_say_nothing():
    lvlm = lvlm_of("llava", fresh=True)
    inputs = lvlm.encode(PICTURE)
    prompt = lvlm.branch_prompts(inputs, QUESTION, DRAFTED)[0]

    def drafted(*ends):
        return read_last_row(lvlm, prompt, prompt.map_spans[0], most=DRAFT_TOKENS, ends=ends)

    said = drafted().draft
    assert len(said) == DRAFT_TOKENS
    assert drafted(said[2]).draft == said[:2]
    empty = drafted(said[0])
    assert empty.draft == ()
    assert torch.allclose(empty.attention.flatten(2), eager_rows(lvlm, prompt), atol=1e-5)


def test_the_pictures_prefix_is_read_once_for_all_drafts():
    lvlm = lvlm_of("qwen2_5_vl", fresh=True)
    inputs = lvlm.encode(PICTURE)
    prompts = lvlm.branch_prompts(inputs, QUESTION, DRAFTED)
    with decoder_tokens(lvlm) as fed:
        read_attention(lvlm, inputs, QUESTION, DRAFTED)
    suffixes = sum(prompt.suffix_length for prompt in prompts)
    assert sum(fed) <= prompts[0].prefix_length + suffixes + 2 * DRAFT_TOKENS


def test_find_reads_where_the_setting_says():
    lvlm = lvlm_of("llava")
    [seen] = read_presence(lvlm, PICTURE, ["dog"], DRAFTED)
    [usual] = read_presence(lvlm, PICTURE, ["dog"])
    assert seen.presence == pytest.approx(usual.presence, abs=1e-5)
    asked = read_attention(lvlm, PICTURE, lvlm.presence_question("dog"), DRAFTED)
    assert torch.allclose(seen.maps.with_query, asked.with_query, atol=1e-5)


def test_a_model_that_writes_nothing_says_what_to_set():
    lvlm = lvlm_of("llava", fresh=True)
    lvlm.silent = "choose a whole model: this one has no head"
    with pytest.raises(ValueError, match=r"set read_at to 'first token': .*has no head"):
        read_attention(lvlm, PICTURE, QUESTION, DRAFTED)


def test_every_preset_reads_where_the_paper_does():
    for preset in ("default", "paper", "fast"):
        assert LaserSettings.of(preset).prompt.read_at == "first token"
