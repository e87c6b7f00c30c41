"""Chats as token ids: templates that take parts, texts or no pictures, against written-out prompts.

Knows tiny models with templates put in their place; knows nothing of attention and of answers.
"""

from __future__ import annotations

import json

import pytest

from laser_core.models.chat_formats import QWEN2_CHATML, VICUNA
from laser_core.models.loading import load_lvlm
from tools.testbed.tiny import build, save

# A text model's: contents are texts, pictures are unknown
TEXT_ONLY = "{% for m in messages %}{{ '[INST] ' + m['content'].strip() + ' [/INST]' }}{% endfor %}"
# The same, written so that a list of parts is written out and not refused
LENIENT = "{% for m in messages %}{{ '[INST] ' ~ m['content'] ~ ' [/INST]' }}{% endfor %}"
# JoyCaption's kind: contents are texts, and the template puts the picture there itself
PLACING = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }} {% else %}"
    "{{ 'USER: <s><image></s>' + m['content'].replace('<image>', '') }}{% endif %}{% endfor %}"
    " ASSISTANT:"
)
PLACING_LENIENT = PLACING.replace("m['content'].replace('<image>', '')", "m['content'] | string")


def chat_of(model_type, tmp_path, template, file="chat_template.jinja"):
    folder = save(build(model_type, layers=1), tmp_path, chat_template=False)
    if file.endswith(".json"):
        content = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
        template = json.dumps({**content, "chat_template": template})
    (folder / file).write_text(template)
    return load_lvlm(str(folder)).chat


def written(chat, pictures=1, text="what is it ?", system=""):
    return chat._tokenizer.decode(chat.ids(pictures, text, system))


@pytest.mark.parametrize("template", [PLACING, PLACING_LENIENT])
def test_a_template_that_takes_texts_places_the_picture_itself(template, tmp_path):
    chat = chat_of("llava", tmp_path, template)
    expected = "USER: <s><image></s> what is it ? ASSISTANT:"
    assert written(chat).split() == expected_tokens(chat, expected)
    assert written(chat, system="small").split() == expected_tokens(chat, "small " + expected)


def expected_tokens(chat, text):
    """The text as the tokenizer itself writes it."""
    return chat._tokenizer.decode(chat._tokenizer(text)["input_ids"]).split()


def test_two_pictures_stand_where_the_template_places_one(tmp_path):
    chat = chat_of("llava", tmp_path, PLACING)
    expected = "USER: <s><image></s><s><image></s> what is it ? ASSISTANT:"
    assert written(chat, 2).split() == expected_tokens(chat, expected)


@pytest.mark.parametrize("template", [TEXT_ONLY, LENIENT])
@pytest.mark.parametrize(("model_type", "known"), [("llava", VICUNA), ("qwen2_5_vl", QWEN2_CHATML)])
def test_a_text_models_template_gives_way_to_the_one_with_pictures(
    model_type, known, template, tmp_path
):
    chat = chat_of(model_type, tmp_path / "text", template)
    own = chat_of(model_type, tmp_path / "own", known)
    assert chat.ids(2, "what is it ?", "small") == own.ids(2, "what is it ?", "small")


def test_a_text_model_that_is_not_known_has_the_picture_before_the_text(tmp_path):
    chat = chat_of("llava", tmp_path, TEXT_ONLY)
    chat._known = None
    expected = "[INST] <image>\nwhat is it ? [/INST]"
    assert chat.ids(1, "what is it ?") == chat._tokenizer(expected)["input_ids"]


def test_a_model_without_any_template_whose_text_model_is_not_known_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("laser_core.models.lvlm.chat_template_of", lambda config, tokenizer: None)
    folder = save(build("llava", layers=1), tmp_path, chat_template=False)
    with pytest.raises(ValueError, match=r"^put the model's chat template into its folder as"):
        load_lvlm(str(folder))


@pytest.mark.parametrize("file", ["processor_config.json", "chat_template.json"])
def test_a_template_is_found_where_a_processor_keeps_it(file, tmp_path):
    assert chat_of("llava", tmp_path, PLACING, file).template == PLACING
