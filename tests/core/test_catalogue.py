"""The list of models: what is found where, under which name, and what it costs to ask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laser_core.models import catalogue
from laser_core.models.loading import load_lvlm
from tools.testbed.hub import FakeHub, store
from tools.testbed.tiny import build, save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "LLM").mkdir()
    return tmp_path / "LLM"


def model_in(folder, model_type="llava", **config):
    """A model's files, whose weights hold nothing."""
    folder.mkdir(parents=True)
    described = {"model_type": model_type, "text_config": {}, "vision_config": {}, **config}
    (folder / "config.json").write_text(json.dumps(described))
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


def values(*roots):
    return [model.value for model in catalogue.in_folders([("LLM", root) for root in roots])]


# ---- folders -----------------------------------------------------------------------------------


def test_models_are_found_at_any_depth_and_named_from_their_root_on(root):
    for name in ("b", "Qwen-VL/Qwen3-VL-4B-Instruct", "a/b/c/d", "b/inside/another"):
        model_in(root / name)
    model_in(root / "text only", "llama")
    model_in(root / ".someone--tiny.part")
    model_in(root / "maker" / ".cache" / "hidden")
    (root / "empty").mkdir()
    assert values(root) == ["LLM/Qwen-VL/Qwen3-VL-4B-Instruct", "LLM/a/b/c/d", "LLM/b"]


def test_models_beside_a_config_in_the_root_itself_are_found(root):
    model_in(root / "mine")
    (root / "config.json").write_text("{}")
    assert values(root) == ["LLM/mine"]


def test_no_link_is_followed_in_a_circle(root):
    model_in(root / "maker" / "mine")
    (root / "maker" / "up").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    (root / "alias").symlink_to(root / "maker")
    assert values(root) == ["LLM/alias/mine", "LLM/maker/mine"]


def test_of_two_folders_with_one_path_the_second_goes_by_its_whole_path(root, tmp_path):
    model_in(root / "same")
    other = model_in(tmp_path / "extra" / "same")
    assert values(root, tmp_path / "extra") == ["LLM/same", other.as_posix()]
    assert values(tmp_path / "extra", tmp_path / "extra") == ["LLM/same"]
    assert values(root, tmp_path / "no such folder") == ["LLM/same"]


def test_asked_again_no_file_is_read_and_each_folder_is_looked_into_twice_at_most(
    root, monkeypatch
):
    for index in range(200):
        folder = model_in(root / f"maker {index % 10}" / f"model {index}")
        (folder / "assets").mkdir()
        for number in range(10):
            (folder / f"{number}.txt").touch()
    assert len(values(root)) == 200
    looked, read, scandir = [], [], os.scandir
    monkeypatch.setattr("os.scandir", lambda path: looked.append(path) or scandir(path))
    monkeypatch.setattr("pathlib.Path.read_text", lambda path, *_: read.append(path))
    monkeypatch.setattr("builtins.open", lambda path, *_: read.append(path))
    assert len(values(root)) == 200
    monkeypatch.undo()
    assert read == []
    assert len(looked) == 1 + 10 + 2 * 200


def test_a_folder_that_changes_is_read_again(root):
    folder = model_in(root / "mine")
    assert not catalogue.in_folders([("LLM", root)])[0].missing
    (folder / "model.safetensors").unlink()
    assert catalogue.in_folders([("LLM", root)])[0].missing == ("model.safetensors",)
    (folder / "config.json").write_text("{")
    assert values(root) == []


@pytest.mark.parametrize(
    ("config", "precision"),
    {
        "bf16": ({"torch_dtype": "bfloat16"}, "bf16"),
        "since 4.56": ({"dtype": "float16"}, "fp16"),
        "of the text model": ({"text_config": {"dtype": "float32"}}, "fp32"),
        "quantized": ({"dtype": "float16", "quantization_config": {"quant_method": "awq"}}, "awq"),
        "not said": ({}, ""),
    }.values(),
)
def test_the_precision_is_what_the_config_says(root, config, precision):
    model_in(root / "mine", **config)
    assert catalogue.in_folders([("LLM", root)])[0].precision == precision


@pytest.mark.parametrize(
    ("precision", "weight_bytes", "weights"),
    [("bf16", 2, 8), ("bf16", 4, 16), ("fp32", 2, 4), ("fp8", 2, 16), ("awq", 4, 8), ("", 2, None)],
)
def test_memory_goes_by_the_bytes_of_a_weight_when_it_runs(precision, weight_bytes, weights):
    model = catalogue.ListedModel("a/b", None, "", precision, 8 * 10**9)
    needed = model.memory_bytes(weight_bytes)
    assert needed == (weights and pytest.approx(weights * 1.05e9 + 1.5e9))


# ---- the hub's cache ---------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    return model_in(tmp_path / "made", "qwen2_vl")


def test_a_model_in_the_hubs_cache_is_listed_by_its_id(cache, source):
    snapshot = store(source, cache, "someone/tiny")
    (found,) = catalogue.in_hub_cache()
    assert (found.value, found.path, found.description) == ("someone/tiny", snapshot, "qwen2_vl")


LIST = "from laser_core.models.catalogue import in_hub_cache as f; print(*(m.value for m in f()))"


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HOME", "hub"), ("HF_HUB_CACHE", ""), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_hubs_cache_is_where_its_client_has_it_offline_too(variable, below, tmp_path, source):
    store(source, tmp_path / "set" / below, "someone/tiny")
    environment = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
    environment |= {variable: str(tmp_path / "set"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LIST], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["someone/tiny"], done.stderr


def test_what_the_hubs_cache_lacks_a_file_of_is_not_listed(cache, source):
    snapshot = store(source, cache, "someone/tiny")
    (snapshot / "model.safetensors").resolve().unlink()  # as while it is downloaded
    assert catalogue.in_hub_cache() == []
    assert catalogue.copies("someone/tiny") == []


def test_an_older_whole_revision_is_taken_where_the_newest_is_in_part(cache, source):
    older = store(source, cache, "someone/tiny", "aaa")
    (source / "model.safetensors").unlink()
    store(source, cache, "someone/tiny", "bbb")
    assert [model.path for model in catalogue.in_hub_cache()] == [older]


def test_of_whole_revisions_that_of_main_is_taken(cache, source):
    newest = store(source, cache, "someone/tiny", "aaa")
    store(source, cache, "someone/tiny", "bbb")
    (cache / "models--someone--tiny" / "refs" / "main").write_text("aaa\n")
    assert [model.path for model in catalogue.in_hub_cache()] == [newest]


def test_a_curated_model_in_the_hubs_cache_is_listed_once_and_not_for_download(cache, source):
    store(source, cache, "Qwen/Qwen2-VL-2B-Instruct")
    found = [model for model in catalogue.listed() if model.value == "Qwen/Qwen2-VL-2B-Instruct"]
    assert [model.path is None for model in found] == [False]
    assert found[0].description == "Qwen2-VL 2B (Hugging Face cache)"


# ---- which copy is which model -----------------------------------------------------------------


def test_a_folder_named_after_owner_and_model_goes_before_one_named_after_the_model(root):
    for name in ("a/tiny", "someone/tiny", "x/someone--tiny"):
        model_in(root / name)
    found = [copy.value for copy in catalogue.copies("someone/tiny", [("LLM", root)])]
    assert found == ["LLM/someone/tiny", "LLM/x/someone--tiny", "LLM/a/tiny"]


def test_a_folder_that_notes_its_id_is_that_model_and_no_other_whatever_its_name(root):
    (model_in(root / "renamed") / catalogue.ORIGIN).write_text("someone/tiny\n")
    (model_in(root / "tiny") / catalogue.ORIGIN).write_text("other/tiny\n")
    found = [copy.value for copy in catalogue.copies("someone/tiny", [("LLM", root)])]
    assert found == ["LLM/renamed"]


def test_the_hubs_cache_is_asked_for_the_very_id(cache, source, root):
    store(source, cache, "other/Qwen3-VL-4B-Instruct")
    assert catalogue.copies("Qwen/Qwen3-VL-4B-Instruct", [("LLM", root)]) == []


def test_an_incomplete_folder_named_after_the_model_alone_is_nobodys_copy(root):
    (model_in(root / "tiny") / "model.safetensors").unlink()
    (model_in(root / "someone--tiny") / "model.safetensors").unlink()
    found = [copy.value for copy in catalogue.copies("someone/tiny", [("LLM", root)])]
    assert found == ["LLM/someone--tiny"]


# ---- without ComfyUI ---------------------------------------------------------------------------


def test_inside_comfyui_the_core_finds_and_fills_its_models_folder(tmp_path, monkeypatch):
    llm = tmp_path / "models" / "LLM"
    llm.mkdir(parents=True)
    package = tmp_path / "custom_nodes" / "pack" / "laser_core"
    monkeypatch.setattr(catalogue, "_PACKAGE", package)
    hub = FakeHub(save(build("llava"), tmp_path / "hub"), tmp_path / "cache")
    hub.install(monkeypatch.setattr)
    load_lvlm("someone/tiny")
    assert (llm / "tiny" / "model.safetensors").is_file()
    fetched = list(hub.files)
    for name in ("someone/tiny", "LLM/tiny"):
        assert load_lvlm(name).name == name
    assert hub.files == fetched
