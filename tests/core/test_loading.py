"""Loading: what opens, and what a user is told where it does not."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from laser_core import pipeline
from laser_core.models.families import FAMILIES
from laser_core.models.loading import load_lvlm
from laser_core.settings import (
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LoadSettings,
    PromptSettings,
)
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

QUESTION = "what colour is the square ?"
SETTINGS = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved tiny LLaVA; tests that break it copy it first."""
    return save(build("llava"), tmp_path_factory.mktemp("tiny-llava"))


@pytest.fixture
def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("chat_template", [True, False])
def test_a_folder_answers_like_the_model_it_was_saved_from(model_type, chat_template, tmp_path):
    from laser_core.models.lvlm import Lvlm

    tiny = build(model_type)
    saved = save(tiny, tmp_path, chat_template=chat_template)
    load = LoadSettings(max_visual_tokens=9)
    loaded = load_lvlm(str(saved), load)
    direct = Lvlm(tiny.model, tiny.tokenizer, loaded.image_processor)
    answers = [
        pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS).answer.tokens
        for lvlm in (loaded, direct)
    ]
    assert answers[0] == answers[1]


def test_a_chat_template_in_chat_template_json_is_used(broken):
    (broken / "chat_template.jinja").unlink()
    template = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    template += "<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} end"
    (broken / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert load_lvlm(str(broken)).chat.template == template


def test_laser_json_sets_instruction_and_vocabulary(broken):
    extras = {
        "instruction": "answer briefly .",
        "closed_vocabulary": {"message": "I know little.", "example": "what is it ?"},
    }
    (broken / "laser.json").write_text(json.dumps(extras))
    lvlm = load_lvlm(str(broken))
    assert lvlm.instruction == "answer briefly ."
    with pytest.raises(ValueError, match=r'^I know little\. It does not know "zebra"\. Try: '):
        lvlm.question_text("what is the zebra ?", PromptSettings())


def test_visual_token_limits_reach_the_processor(tmp_path):
    saved = save(build("qwen2_5_vl"), tmp_path)
    lvlm = load_lvlm(str(saved), LoadSettings(max_visual_tokens=16))
    assert 4 <= lvlm.encode(noise_picture((2000, 1500))).token_count <= 16


def test_a_models_own_visual_tokens_hold_until_others_are_chosen(tmp_path):
    saved = save(build("qwen2_5_vl"), tmp_path)
    (saved / "laser.json").write_text('{"visual_tokens": [8, 12]}')
    picture = noise_picture((600, 600))
    assert load_lvlm(str(saved)).encode(picture).token_count == 9
    chosen = LoadSettings(max_visual_tokens=8)
    assert load_lvlm(str(saved), chosen).encode(picture).token_count == 4


def test_precision_is_honoured(folder):
    assert load_lvlm(str(folder), LoadSettings(precision="bf16")).dtype == torch.bfloat16
    assert load_lvlm(str(folder), LoadSettings(device="cpu")).dtype == torch.float32


def test_two_threads_take_turns_to_load(folder, monkeypatch):
    from transformers import AutoModelForImageTextToText as Auto

    library, inside, seen = Auto.from_pretrained, [], []

    def from_pretrained(*args, **kwargs):
        inside.append(None)
        time.sleep(0.1)
        seen.append(len(inside))
        loaded = library(*args, **kwargs)
        inside.pop()
        return loaded

    monkeypatch.setattr(Auto, "from_pretrained", from_pretrained)
    threads = [threading.Thread(target=load_lvlm, args=[str(folder)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1, 1]


@pytest.fixture
def hub(folder, tmp_path, monkeypatch):
    """A hub whose models have the tiny model's files, and pickles in place of safetensors."""
    import huggingface_hub

    def snapshot_download(name, allow_patterns):
        for path in folder.iterdir():
            if any(path.match(pattern) for pattern in allow_patterns) and path != weights:
                shutil.copy(path, tmp_path)
        if name == "someone/pickled" and any("bin" in pattern for pattern in allow_patterns):
            torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
        return str(tmp_path)

    weights = folder / "model.safetensors"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)


def test_a_hub_model_without_safetensors_is_refused_and_its_pickles_are_not_fetched(hub, tmp_path):
    with pytest.raises(ValueError, match=r"^choose a model with safetensors weights, .*--weights"):
        load_lvlm("someone/pickled")
    assert not list(tmp_path.glob("*.bin"))


def test_pickled_weights_of_a_hub_model_are_fetched_where_they_are_asked_for(hub):
    pickled = LoadSettings(weights="safetensors or pickled")
    load_lvlm("someone/pickled", pickled)


def _truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _written(name, text):
    return lambda folder: (folder / name).write_text(text)


def _cut_to_nothing(folder):
    (folder / "model.safetensors").write_bytes(b"")


def _drop_tensors(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    kept = {name: value for name, value in tensors.items() if "layers.1." not in name}
    save_file(kept, path, metadata={"format": "pt"})


def _reshape_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name][:, :-8].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _edit_config(**values):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return edit


BROKEN = {
    "truncated weights": (_truncate, "download .* again: its weights are missing, truncated"),
    "empty weights": (_cut_to_nothing, "download .* again: its weights are missing, truncated"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "download .* again: its weights are missing, truncated",
    ),
    "missing tensors": (_drop_tensors, "download .* again: its weights lack"),
    "reshaped tensor": (_reshape_a_tensor, "download .* again: its weights"),
    "unsupported type": (_edit_config(model_type="bert"), "choose a model of type llava, "),
    "no type": (_edit_config(model_type=None), "choose a model of type llava, "),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "choose a folder with a config.json",
    ),
    "config is no JSON": (
        _written("config.json", "{"),
        "download .* again: its config.json",
    ),
    "chat_template.json is no JSON": (
        _written("chat_template.json", "{"),
        "mend or remove chat_template.json",
    ),
    "laser.json is no JSON": (
        _written("laser.json", "{"),
        "mend or remove laser.json",
    ),
    "laser.json of another shape": (
        _written("laser.json", '{"closed_vocabulary": {"a": 1}}'),
        "mend or remove laser.json",
    ),
    "laser.json with a number for an instruction": (
        _written("laser.json", '{"instruction": 5}'),
        "mend or remove laser.json",
    ),
    "laser.json with a number for a message": (
        _written("laser.json", '{"closed_vocabulary": {"message": 5, "example": "x"}}'),
        "mend or remove laser.json",
    ),
    "a chat template that is a number": (
        _written("chat_template.json", '{"chat_template": 5}'),
        "mend the chat template",
    ),
    "chat templates without a default": (
        _written("chat_template.json", '{"chat_template": {"a": "b"}}'),
        "mend the chat template",
    ),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "download .* again: its tokenizer",
    ),
    "no image processor": (
        lambda folder: [path.unlink() for path in folder.glob("*processor_config.json")],
        "download .* again: its tokenizer or image processor",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_with_the_remedy_first(case, broken):
    breaking, message = BROKEN[case]
    breaking(broken)
    with pytest.raises(ValueError, match=message) as caught:
        load_lvlm(str(broken))
    assert caught.match(r"^(download|choose|mend) ")


@pytest.mark.parametrize(
    "name",
    [
        "nowhere",
        "../../x",
        "./no/folder",
        "a/b/c",
        "/",
        "",
        "a/..",
        "my models/x",
        "~nosuchuser/x",
        "x" * 5000,
    ],
)
def test_a_name_that_is_nothing_is_refused(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"^choose "):
        load_lvlm(name)


def test_flash_attention_and_quantization_name_what_is_missing(folder):
    for load, message in (
        (LoadSettings(attention="flash"), "install flash-attn, or set attention to auto"),
        (LoadSettings(quantization="4-bit"), "install bitsandbytes, or set quantization to none"),
    ):
        with pytest.raises(ValueError, match=message):
            load_lvlm(str(folder), load)


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages + 1 }}", "{% include 'x' %}",
     "{% for i in range(10**7) %}a{% endfor %}", "{% if %}"],
)  # fmt: skip
def test_a_chat_template_that_fails_is_named(broken, template):
    (broken / "chat_template.jinja").write_text(template)
    lvlm = load_lvlm(str(broken))
    with pytest.raises(ValueError, match=r"mend the chat template of "):
        pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS)


def test_of_several_chat_templates_the_default_is_used(broken):
    (broken / "chat_template.jinja").unlink()
    listed = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    (broken / "chat_template.json").write_text(json.dumps({"chat_template": listed}))
    assert load_lvlm(str(broken)).chat.template == "b"


def test_a_reply_names_a_handful_of_unknown_words():
    from laser_core.models.closed_vocabulary import ClosedVocabulary

    closed = ClosedVocabulary("I know little.", "what is it ?")
    assert closed.reply(["a", "b"]).endswith('It does not know "a", "b". Try: what is it ?')
    reply = closed.reply(["x" * 100_000, *(f"w{index}" for index in range(15_000))])
    assert '"w0", "w1", "w2", "w3" and 14996 more. Try: what is it ?' in reply
    assert len(reply) < 200
