"""Loading: what opens, and what a user is told where it does not."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from laser_core import pipeline
from laser_core.models.loading import load_lvlm
from laser_core.settings import (
    CropSettings,
    DecodeSettings,
    LaserSettings,
    LoadSettings,
)
from tools.testbed.hub import FakeHub
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import REPRESENTATIVES, build, save

QUESTION = "what colour is the square ?"
SETTINGS = LaserSettings(
    crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=3, adaptive=0.0)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved tiny LLaVA; tests that break it copy it first."""
    return save(build("llava"), tmp_path_factory.mktemp("tiny-llava"))


@pytest.fixture
def broken(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


@pytest.mark.parametrize("model_type", REPRESENTATIVES)
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


@pytest.mark.parametrize(
    ("kind", "since"), [("qwen3_5", "5.17"), ("glm46v", "5.0"), ("gemma4", "5.17")]
)
def test_a_family_that_this_transformers_lacks_says_which_has_it(broken, kind, since, monkeypatch):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    monkeypatch.setattr("laser_core.models.folder_check.version", lambda package: "4.57.6")
    with pytest.raises(ValueError, match=f"^update transformers to {since} or newer: .*{kind}"):
        load_lvlm(str(broken))


def test_flash_is_refused_for_a_family_whose_code_calls_it_wrongly(tmp_path):
    folder = save(build("glm4v"), tmp_path)
    with pytest.raises(ValueError, match=r"^set attention to auto: under flash"):
        load_lvlm(str(folder), LoadSettings(attention="flash"))


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
    assert lvlm.instruction == lvlm.locate_instruction == "answer briefly ."
    picture = lvlm.encode(noise_picture())
    with pytest.raises(
        ValueError, match=r"^try 'what is it .': this model does not know \"zebra\""
    ):
        lvlm.answer_prompt([picture], "what is the zebra ?", LaserSettings())


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
    """A hub with the tiny model."""
    source = shutil.copytree(folder, tmp_path / "hub")
    return FakeHub(source, tmp_path / "cache").install(monkeypatch.setattr)


@pytest.fixture
def pickling_hub(hub):
    """A hub that has the model's weights pickled, in place of safetensors."""
    weights = hub.source / "model.safetensors"
    torch.save(load_file(weights), hub.source / "pytorch_model.bin")
    weights.unlink()
    return hub


def test_a_hub_model_without_safetensors_is_refused_and_its_pickles_are_not_fetched(pickling_hub):
    with pytest.raises(ValueError, match=r"^choose a model with safetensors weights, .*--weights"):
        load_lvlm("someone/pickled")
    assert pickling_hub.files == []


def test_pickled_weights_of_a_hub_model_are_fetched_where_they_are_asked_for(pickling_hub):
    pickled = LoadSettings(weights="safetensors or pickled")
    load_lvlm("someone/pickled", pickled)


def test_a_hub_model_is_fetched_once_and_then_asks_nobody(hub, monkeypatch):
    assert load_lvlm("someone/tiny").name == "someone/tiny"
    fetched = list(hub.files)
    assert fetched[0] == "config.json"
    assert fetched[-1] == "model.safetensors"
    monkeypatch.setattr(hub, "model_info", lambda *asked, **options: pytest.fail("asked the hub"))
    load_lvlm("someone/tiny")
    assert hub.files == fetched


def test_a_download_that_broke_off_goes_on_next_time(hub):
    hub.fail = ConnectionError("connection lost")
    with pytest.raises(ValueError, match=r"^check the name and the network .*connection lost"):
        load_lvlm("someone/tiny")
    hub.fail = None
    load_lvlm("someone/tiny")


def test_an_unsupported_hub_model_is_refused_before_anything_else_is_fetched(hub):
    (hub.source / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"^choose a model of type llava"):
        load_lvlm("someone/bert")
    assert hub.files == ["config.json"]


@pytest.mark.parametrize(
    ("raised", "remedy"),
    [
        (ImportError("Using SOCKS proxy, but the 'socksio' package is not installed."),
         "check the name and the network (proxy, HF_ENDPOINT), "),
        (RuntimeError("Request URL is missing an 'http://' or 'https://' protocol."),
         "check the name and the network (proxy, HF_ENDPOINT), "),
        (NotADirectoryError(20, "Not a directory", "/home/hub"),
         "make room in the cache of Hugging Face (HF_HOME), or allow writing there: "),
        (OSError(28, "No space left on device", "/home/hub"),
         "make room in the cache of Hugging Face (HF_HOME), or allow writing there: "),
    ],
)  # fmt: skip
def test_whatever_the_hubs_client_raises_becomes_a_remedy(hub, monkeypatch, raised, remedy):
    def model_info(*asked, **options):
        raise raised

    monkeypatch.setattr(hub, "model_info", model_info)
    with pytest.raises(ValueError) as caught:
        load_lvlm("someone/tiny")
    assert str(caught.value).startswith(remedy)
    assert raised.args[-1] in str(caught.value) or raised.strerror in str(caught.value)


# What is raised though the files are whole: each keeps its own words and gets its own remedy
NO_FAULT_OF_THE_FILES = {
    "paging file": (
        OSError("The paging file is too small for this operation. (os error 1455)"),
        "enlarge the paging file, or choose a smaller model or a quantization: ",
    ),
    "paging file of a Chinese Windows": (
        OSError("页面文件太小, 无法完成操作 (os error 1455)"),
        "enlarge the paging file, or choose a smaller model or a quantization: ",
    ),
    "kernel image": (
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        "install a PyTorch that fits this GPU and its driver, or set device to cpu ",
    ),
    "driver": (
        RuntimeError("The NVIDIA driver on your system is too old (found version 11040)."),
        "install a PyTorch that fits this GPU and its driver, or set device to cpu ",
    ),
    "PyTorch without CUDA": (
        AssertionError("Torch not compiled with CUDA enabled"),
        "install a PyTorch that fits this GPU and its driver, or set device to cpu ",
    ),
    "protobuf": (
        ImportError("LlamaConverter requires the protobuf library but it was not found."),
        "install what ",
    ),
    "torchvision": (
        RuntimeError("operator torchvision::nms does not exist"),
        "install the torchvision of this PyTorch, or remove it: ",
    ),
    "network drive": (
        OSError(112, "Host is down", "/nas/model.safetensors"),
        "check that the disk or network drive of ",
    ),
    "whatever else": (
        KeyError("qwen9_vl"),
        "choose another model, or fix what the library names: ",
    ),
}


@pytest.mark.parametrize("part", ["AutoModelForImageTextToText", "AutoTokenizer", "AutoConfig"])
@pytest.mark.parametrize("case", NO_FAULT_OF_THE_FILES)
def test_what_is_no_fault_of_the_files_never_says_to_download_again(
    folder, monkeypatch, part, case
):
    import transformers

    raised, remedy = NO_FAULT_OF_THE_FILES[case]

    def fail(*args, **options):
        raise raised

    monkeypatch.setattr(getattr(transformers, part), "from_pretrained", fail)
    with pytest.raises(ValueError) as caught:
        load_lvlm(str(folder))
    assert str(caught.value).startswith(remedy)
    assert str(raised).split(" (")[0].split("]")[-1].strip(" '") in str(caught.value)
    assert "download" not in str(caught.value)


def test_a_folder_that_cannot_be_read_is_told_from_a_damaged_one(folder, monkeypatch):
    def gone(path, *args, **options):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(type(folder), "read_text", gone)
    with pytest.raises(ValueError, match=r"^check that the disk or network drive of .*output err"):
        load_lvlm(str(folder))


@pytest.mark.parametrize("where", ["top", "text_config"])
def test_an_output_tied_to_the_input_needs_no_weights_wherever_the_config_says_so(where, tmp_path):
    saved = save(build("qwen3_vl"), tmp_path)
    weights = load_file(saved / "model.safetensors")
    embeddings = next(weights[name] for name in weights if name.endswith("embed_tokens.weight"))
    del weights["lm_head.weight"]
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((saved / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    config["text_config"].pop("tie_word_embeddings", None)
    (config if where == "top" else config["text_config"])["tie_word_embeddings"] = True
    (saved / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_lvlm(str(saved)).model.get_output_embeddings().weight, embeddings)


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
    "truncated weights": (_truncate, "download .* again: its model.safetensors is damaged"),
    "empty weights": (_cut_to_nothing, "download .* again: its model.safetensors is damaged"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "download .* again: it lacks 1 files, such as model.safetensors",
    ),
    "missing tensors": (_drop_tensors, "download .* again: its weights lack"),
    "reshaped tensor": (_reshape_a_tensor, "choose another model, or "),
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
    "tokenizer is no JSON": (
        _written("tokenizer.json", '{"version": "1.0", '),
        "download .* again: its tokenizer.json is damaged",
    ),
    "an image processor without the name of a class": (
        _written("preprocessor_config.json", '{"image_processor_type": 5}'),
        "choose another model, or update transformers: its image processor is a 5",
    ),
    "chat_template.json is no JSON": (
        _written("chat_template.json", "{"),
        "fix or remove chat_template.json",
    ),
    "laser.json is no JSON": (
        _written("laser.json", "{"),
        "fix or remove laser.json",
    ),
    "laser.json of another shape": (
        _written("laser.json", '{"closed_vocabulary": {"a": 1}}'),
        "fix or remove laser.json",
    ),
    "laser.json with a number for an instruction": (
        _written("laser.json", '{"instruction": 5}'),
        "fix or remove laser.json",
    ),
    "laser.json with a number for a notice": (
        _written("laser.json", '{"notice": 5}'),
        "fix or remove laser.json",
    ),
    "laser.json with a number for a message": (
        _written("laser.json", '{"closed_vocabulary": {"message": 5, "example": "x"}}'),
        "fix or remove laser.json",
    ),
    "a chat template that is a number": (
        _written("chat_template.json", '{"chat_template": 5}'),
        "fix the chat template",
    ),
    "chat templates without a default": (
        _written("chat_template.json", '{"chat_template": {"a": "b"}}'),
        "fix the chat template",
    ),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "download .* again: it lacks 1 files, such as tokenizer.json",
    ),
    "no image processor": (
        lambda folder: [path.unlink() for path in folder.glob("*processor_config.json")],
        "download .* again: it lacks 1 files, such as preprocessor_config.json",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_with_the_remedy_first(case, broken):
    breaking, message = BROKEN[case]
    breaking(broken)
    with pytest.raises(ValueError, match=message) as caught:
        load_lvlm(str(broken))
    assert caught.match(r"^(download|choose|fix) ")


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


def test_flash_attention_and_quantization_name_what_is_missing(folder, monkeypatch):
    for package in ("flash_attn", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
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
    with pytest.raises(ValueError, match=r"fix the chat template of "):
        pipeline.answer(lvlm, noise_picture(), QUESTION, SETTINGS)


def test_of_several_chat_templates_the_default_is_used(broken):
    (broken / "chat_template.jinja").unlink()
    listed = [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]
    (broken / "chat_template.json").write_text(json.dumps({"chat_template": listed}))
    assert load_lvlm(str(broken)).chat.template == "b"


def test_a_reply_names_a_handful_of_unknown_words():
    from laser_core.models.closed_vocabulary import ClosedVocabulary

    closed = ClosedVocabulary("I know little.", "is it a {} ?")
    said = 'this model does not know "a", "b". I know little.'
    assert closed.reply(["a", "b"], "dog") == f"try 'is it a dog ?': {said}"
    assert closed.reply(["a", "b"], "") == f"use other words: {said}"
    reply = closed.reply(["x" * 100_000, *(f"w{index}" for index in range(15_000))], "dog")
    assert '"w0", "w1", "w2", "w3" and 14996 more. I know little.' in reply
    assert len(reply) < 200


@pytest.mark.parametrize("device", ["cuda:99", "xpu:99", "meta", "nosuch"])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(ValueError, match=rf"^set device to auto, cpu or a GPU .* no '{device}'"):
        load_lvlm(settings=LoadSettings(device=device))


@pytest.mark.parametrize("device", ["", "GPU 1", "cuda:", "cuda:x"])
def test_what_is_no_devices_name_is_refused(device):
    with pytest.raises(ValueError, match=r"^choose auto, or a name like cpu or cuda:1: device is "):
        LoadSettings(device=device)
