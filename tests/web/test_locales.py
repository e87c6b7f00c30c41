"""Locale files: what the nodes and the translations give today, for every node and no other."""

import json

import pytest

from tools.build.build_locales import FOLDER, LANGUAGES, TRANSLATIONS, node_definitions
from tools.build.pack_schema import own_ids, pack, schema


def definitions(language: str) -> dict:
    return json.loads((FOLDER / language / "nodeDefs.json").read_text("utf-8"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_locale_is_up_to_date(language):
    assert definitions(language) == node_definitions(language), "run: python -m tools.build.build_locales"


@pytest.mark.parametrize("language", LANGUAGES)
def test_locale_has_every_node_input_and_output(language):
    found = definitions(language)
    assert set(found) == set(own_ids())
    for node_id, node in found.items():
        spec = schema(node_id)
        assert list(node["inputs"]) == [entry.name for entry in spec.inputs]
        assert list(node["outputs"]) == [str(index) for index in range(len(spec.outputs))]
        entries = [node["display_name"], node["description"]]
        for part in (*node["inputs"].values(), *node["outputs"].values()):
            entries += [part["name"], part["tooltip"]]
        assert all(entry.strip() for entry in entries)


def test_english_names_are_the_ones_in_the_code_or_have_them_in_brackets():
    """ComfyUI shows the English locale instead of what Python says; errors say the name."""
    labels = json.loads((TRANSLATIONS / "en.json").read_text("utf-8"))["names"]
    shown = set()
    for node_id, node in definitions("en").items():
        assert node["display_name"] == pack().NODE_DISPLAY_NAME_MAPPINGS[node_id]
        for name, part in node["inputs"].items():
            assert part["name"] == name or part["name"].endswith(f" ({name})")
            shown |= {name} - {part["name"]}
    assert shown == set(labels)


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_every_choice_that_has_words_is_translated_and_no_other(language):
    named = json.loads((FOLDER / language / "main.json").read_text("utf-8"))["laserChoices"]
    inputs = [entry for node_id in own_ids() for entry in schema(node_id).inputs]
    choices = {
        value
        for entry in inputs
        if entry.name not in {"model", "format"}  # names of models, types of sockets
        for value in entry.options.get("values", ())
    }
    same = {"bf16", "fp16", "fp32", "8-bit", "4-bit", "flash", "eager", "cpu", "safetensors"}
    assert set(named) == choices - same


@pytest.mark.parametrize("language", [name for name in LANGUAGES if name != "en"])
def test_no_translation_is_left_over(language):
    known = json.loads((TRANSLATIONS / f"{language}.json").read_text("utf-8"))
    english = definitions("en").values()
    parts = [
        part for node in english for part in (*node["inputs"].values(), *node["outputs"].values())
    ]
    texts = {part["tooltip"] for part in parts} | {node["description"] for node in english}
    assert set(known["texts"]) == texts
    specs = [schema(node_id) for node_id in own_ids()]
    assert set(known["names"]) == {
        entry.name for spec in specs for entry in (*spec.inputs, *spec.outputs)
    }
    assert set(known["nodes"]) == set(own_ids())
