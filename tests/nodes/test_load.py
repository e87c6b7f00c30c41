"""Load LVLM: what is listed, what is downloaded where, and who owns the memory."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from tools.testbed.hub import FakeHub, store
from tools.testbed.tiny import build, save

from .graphs import QUESTION, Interrupted, pictures_batch
from .pack import check_managed, inputs_of, node, part, run

models = part("nodes.models")
catalogue = part("laser_core.models.catalogue")
download = part("laser_core.models.download")


def choices() -> list[str]:
    return list(inputs_of("LaserLoadLVLM")["model"][0])


def model_folder(folder, model_type="llava"):
    """A model's folder that lacks its weights alone."""
    folder.mkdir(parents=True)
    config = {"model_type": model_type, "text_config": {}, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    return folder


# ---- the list ----------------------------------------------------------------------------------

LLAVA = "llava-hf/llava-1.5-7b-hf"


def whole_folder(folder, model_type="llava", size=0):
    """A model's folder by its files alone; its weights hold nothing."""
    with open(model_folder(folder, model_type) / "model.safetensors", "wb") as file:
        file.truncate(size)
    return folder


def about(value):
    """What the page shows of a model."""
    return inputs_of("LaserLoadLVLM")["model"][1]["about"][value]


def test_the_demo_model_comes_first_and_the_curated_ids_last(comfyui):
    model_folder(comfyui.llm / "my-llava")
    listed = choices()
    assert listed[0] == models.DEMO_LABEL
    assert listed[1] == "LLM/my-llava"
    assert listed[2:] == [model.value for model in catalogue.CURATED]
    assert list(inputs_of("LaserLoadLVLM")["model"][1]["about"]) == listed


def test_extra_paths_are_kept(comfyui, tmp_path):
    comfyui.folder_paths.add_model_folder_path("LLM", str(tmp_path / "extra"))
    model_folder(tmp_path / "extra" / "maker" / "mine")
    assert "LLM/maker/mine" in choices()
    assert "LLM/maker/mine" in choices()  # asked again, nothing is added twice
    assert len(comfyui.folder_paths.get_folder_paths("LLM")) == 2


def test_a_model_of_each_of_two_roots_is_loaded_though_their_paths_are_the_same(comfyui, tmp_path):
    comfyui.folder_paths.add_model_folder_path("LLM", str(tmp_path / "extra"))
    first = whole_folder(comfyui.llm / "same")
    second = whole_folder(tmp_path / "extra" / "same")
    for value, folder in (("LLM/same", first), (second.as_posix(), second)):
        assert value in choices()
        assert models.find(value, "")[1] == str(folder)


def test_without_comfyui_there_are_the_demo_and_the_ids():
    assert len(choices()) == 1 + len(catalogue.CURATED)


def test_a_saved_workflow_with_a_model_that_is_gone_is_told_so(comfyui):
    for gone in ("gone", "LLM/gone", "owner/name", "Qwen2.5-VL 3B (download 7.5 GB, 9 GB memory)"):
        assert models.complaint(gone, "").startswith("choose another model"), gone
    for model, custom in ((models.DEMO_LABEL, ""), (choices()[-1], None), ("gone", "owner/name")):
        assert models.complaint(model, custom) is None


def test_a_custom_model_that_is_none_is_refused_before_the_run(comfyui):
    check = node("LaserLoadLVLM").VALIDATE_INPUTS
    assert check(None) is True  # linked: known when it runs
    assert check("") is check("owner/name") is True
    beyond = ("a/..", "../a", "a/.b", "-a/b", "a/b\0", "a/b?", "a b/c", "é/b", "a|b/c", "LLM/gone")
    paths = ("/no/such/folder", "one", "a/b/c", "~/none", "~no-such-user/x", "C:/none", "C:\\none")
    for wrong in (*paths, *beyond, "a" * 5000, "a/" + "b" * 5000):
        assert check(wrong).startswith("check custom_model"), wrong


def test_only_a_model_folder_is_taken_for_one_and_never_by_a_way_up(tmp_path, monkeypatch):
    folder = model_folder(tmp_path / "up" / "model")
    (tmp_path / "up" / "work").mkdir()
    monkeypatch.chdir(tmp_path / "up" / "work")
    check = node("LaserLoadLVLM").VALIDATE_INPUTS
    assert models.find("", str(folder)) == ("model", str(folder))
    here = ("..", ".", "../model", "../work/../model", str(tmp_path / "up" / "work" / "../model"))
    for wrong in (*here, "/", "/etc", str(tmp_path)):
        assert check(wrong).startswith("check custom_model"), wrong
        with pytest.raises(ValueError, match=r"^check custom_model"):
            models.find(models.DEMO_LABEL, wrong)


def test_what_a_model_needs_is_told_before_it_runs(comfyui):
    whole_folder(comfyui.llm / "mine", size=8 * 10**9)
    config = comfyui.llm / "mine" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "torch_dtype": "bfloat16"}))
    comfyui.device, comfyui.memory_bytes = "cuda", 8 * 2**30
    shown = about("LLM/mine")
    assert (shown["size"], shown["precision"], shown["memory"]) == ("8.0 GB", "bf16", "8 GB")
    assert shown["here"] and shown["lacks"] is None
    assert {way: need["fits"] for way, need in shown["needs"].items()} == {
        "none": False, "8-bit": True, "4-bit": True,
    }  # fmt: skip
    comfyui.device, comfyui.memory_bytes = "cpu", 32 * 2**30
    assert about("LLM/mine")["needs"] == {"none": {"size": "17 GB", "fits": True}}  # in float32
    assert about(LLAVA)["here"] is False
    assert about(models.DEMO_LABEL) == {"bundled": True}


def test_a_folder_that_lacks_files_is_listed_with_what_it_lacks(comfyui):
    model_folder(comfyui.llm / "torn")
    assert about("LLM/torn")["lacks"] == "model.safetensors"


def test_a_quantized_model_is_not_quantized_again(comfyui):
    folder = whole_folder(comfyui.llm / "mine", size=10**9)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq"}
    (folder / "config.json").write_text(json.dumps(config))
    comfyui.device = "cuda"
    assert list(about("LLM/mine")["needs"]) == ["none"]


# ---- what is here ------------------------------------------------------------------------------


@pytest.fixture
def no_hub(monkeypatch):
    """Offline: whoever asks the hub fails the test."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("HfApi", "hf_hub_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", lambda *_, **__: pytest.fail("asked"))


PLACES = ("{name}", "Qwen-VL/{name}", "a/b/c/{name}", "{owner}/{name}", "x/{owner}--{name}")


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("repository", [LLAVA, "someone/Their-Finetune"])
def test_a_model_that_is_here_is_used_wherever_it_lies(comfyui, no_hub, place, repository):
    owner, name = repository.split("/")
    folder = whole_folder(comfyui.llm / place.format(owner=owner, name=name))
    assert models.find("", repository) == (repository, str(folder))
    if repository == LLAVA:
        assert models.find(repository, "") == (repository, str(folder))
        assert about(repository)["here"]
        assert f"LLM/{place.format(owner=owner, name=name)}" in about(repository)["description"]


def test_a_model_in_the_hubs_cache_is_listed_by_its_id_and_loaded(
    comfyui, no_hub, hub_cache, tmp_path
):
    store(save(build("llava"), tmp_path / "made"), hub_cache, "someone/tiny")
    assert "someone/tiny" in choices()
    for chosen in ({"model": "someone/tiny"}, {"custom_model": "someone/tiny"}):
        assert str(run("LaserLoadLVLM", **chosen).lvlm).startswith("someone/tiny (LLaVA-1.5")
    assert not list(comfyui.llm.iterdir())


def test_a_hub_cache_in_models_llm_is_found_as_well(comfyui, no_hub, tmp_path):
    snapshot = store(save(build("llava"), tmp_path / "made"), comfyui.llm, "someone/tiny")
    assert "LLM/models--someone--tiny" in choices()
    assert models.find("", "someone/tiny")[1] == str(snapshot)


def test_two_names_of_one_model_share_it(comfyui, no_hub, tmp_path):
    save(build("llava"), comfyui.llm / "llava-1.5-7b-hf")
    by_path, by_id = (run("LaserLoadLVLM", model=value).lvlm for value in
                      ("LLM/llava-1.5-7b-hf", LLAVA))  # fmt: skip
    assert by_path is by_id


# ---- downloads ---------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with one model, which can fail or be slow."""
    made = FakeHub(save(build("llava"), tmp_path / "hub"), tmp_path / "cache")
    made.extra.append("pytorch_model.bin")
    monkeypatch.setattr(download, "POLL_SECONDS", 0.01)
    return made.install(monkeypatch.setattr)


def test_a_download_goes_to_models_llm_and_is_found_there_afterwards(comfyui, hub):
    name, folder = models.find(choices()[0], "someone/tiny")
    assert name == "someone/tiny"
    assert folder == str(comfyui.llm / "tiny")
    assert "README.md" not in hub.files and "pytorch_model.bin" not in hub.files
    assert hub.files[-1].endswith(".safetensors")
    count = len(hub.files)
    assert models.find(choices()[0], "someone/tiny")[1] == folder
    assert len(hub.files) == count
    assert "LLM/tiny" in choices()
    loaded = run("LaserLoadLVLM", model="LLM/tiny").lvlm
    assert str(loaded).startswith("LLM/tiny (LLaVA-1.5")


def test_another_owners_model_of_the_same_name_gets_a_folder_of_its_own(comfyui, hub):
    first = models.find(choices()[0], "someone/tiny")[1]
    second = models.find(choices()[0], "another/tiny")[1]
    assert second == str(comfyui.llm / "another" / "tiny")
    assert models.find(choices()[0], "someone/tiny")[1] == first


def test_a_model_that_somebody_else_left_incomplete_is_not_downloaded_beside_it(comfyui, hub):
    folder = model_folder(comfyui.llm / "Qwen-VL" / "llava-1.5-7b-hf")
    for choice in ((LLAVA, ""), ("", LLAVA)):
        with pytest.raises(ValueError, match=r"^delete .*llava-1.5-7b-hf.*model.safetensors"):
            models.find(*choice)
    assert not about(LLAVA)["here"]
    (folder / "model.safetensors").touch()
    assert models.find(LLAVA, "") == (LLAVA, str(folder))
    assert hub.files == []


def test_a_download_that_has_lost_a_file_is_completed_where_it_lies(comfyui, hub):
    models.find("", "someone/tiny")
    (comfyui.llm / "kept").mkdir()
    folder = (comfyui.llm / "tiny").rename(comfyui.llm / "kept" / "tiny")
    (folder / "model.safetensors").unlink()
    assert models.find("", "someone/tiny")[1] == str(folder)
    assert (folder / "model.safetensors").is_file()
    assert not (comfyui.llm / "tiny").exists()


def test_a_model_that_is_whole_in_the_hubs_cache_is_not_downloaded_again(comfyui, hub):
    cached = download.downloaded("someone/tiny")
    assert cached == hub.snapshot("someone/tiny")
    count = len(hub.files)
    assert models.find(choices()[0], "someone/tiny")[1] == str(cached)
    assert len(hub.files) == count
    (cached / "model.safetensors").unlink()
    assert models.find(choices()[0], "someone/tiny")[1] == str(comfyui.llm / "tiny")


BROKEN_INDEXES = {
    "empty": b"{}",
    "torn": b'{"weight_map":',
    "a list": b"[]",
    "of numbers": b'{"weight_map": {"a": 5}}',
    "of lists": b'{"weight_map": {"a": []}}',
    "no map": b'{"weight_map": 5}',
    "no text": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "of long names": b'{"weight_map": {"a": "%s"}}' % (b"x" * 5000),
}


@pytest.mark.parametrize("content", BROKEN_INDEXES.values(), ids=BROKEN_INDEXES)
def test_a_model_whose_index_is_broken_is_incomplete(comfyui, hub, content):
    folder = model_folder(comfyui.llm / "llava-1.5-7b-hf")
    (folder / "model.safetensors.index.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^delete .*a readable model.safetensors.index"):
        models.find(LLAVA, "")
    assert hub.files == []


def test_folders_with_broken_notes_are_passed_over(comfyui, hub):
    (model_folder(comfyui.llm / "tiny") / catalogue.ORIGIN).write_bytes(b"\xff\xfe")
    deep = model_folder(comfyui.llm / "deep") / "config.json"
    deep.write_text("[" * 100_000)
    assert [value for value in choices() if value.startswith("LLM/")] == ["LLM/tiny"]
    assert models.find(choices()[0], "someone/tiny")[1] == str(comfyui.llm / "someone" / "tiny")


def test_a_folder_that_notes_another_id_is_not_taken_for_a_model_of_the_same_name(comfyui, hub):
    noted = whole_folder(comfyui.llm / "tiny", "qwen3_vl") / catalogue.ORIGIN
    noted.write_text("other/tiny\n")
    assert models.find(choices()[0], "other/tiny")[1] == str(comfyui.llm / "tiny")
    assert models.find(choices()[0], "someone/tiny")[1] == str(comfyui.llm / "someone" / "tiny")
    assert {path.name for path in (comfyui.llm / "someone" / "tiny").iterdir()} >= {
        "config.json", "model.safetensors", catalogue.ORIGIN,
    }  # fmt: skip


def test_downloads_go_to_models_llm_though_other_paths_come_first(comfyui, hub, tmp_path):
    comfyui.folder_paths.add_model_folder_path("LLM", str(tmp_path / "nas"))
    assert models.find(choices()[0], "someone/tiny")[1] == str(comfyui.llm / "tiny")


def test_a_download_leaves_no_notes_of_the_client(comfyui, hub):
    notes = comfyui.llm / ".someone--tiny.part" / ".cache"
    notes.mkdir(parents=True)
    models.find(choices()[0], "someone/tiny")
    assert not (comfyui.llm / "tiny" / ".cache").exists()


def test_a_download_in_whose_way_something_lies_says_so(comfyui, hub):
    (comfyui.llm / ".someone--tiny.part").touch()
    with pytest.raises(ValueError, match=r"^make room for .*tiny and run again"):
        models.find(choices()[0], "someone/tiny")


def test_the_bar_of_a_download_ends_at_what_the_hub_says(comfyui, hub):
    hub.sizes = {path.name: path.stat().st_size for path in hub.source.iterdir()}
    hub.sizes["pytorch_model.bin"] = 10**12
    seen = []
    models.find(choices()[0], "someone/tiny", lambda stage, done, total: seen.append(total))
    assert seen[-1] == sum(hub.sizes[name] for name in hub.files)


def test_weights_of_another_kind_are_refused_before_anything_is_fetched(comfyui, hub):
    (hub.source / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^choose a model with safetensors weights, or set weigh"):
        models.find(choices()[0], "someone/tiny")
    assert hub.files == []


def test_pickled_weights_are_downloaded_and_loaded_where_they_are_asked_for(comfyui, hub):
    weights = hub.source / "model.safetensors"
    torch.save(load_file(weights), hub.source / "pytorch_model.bin")
    weights.unlink()
    hub.extra = []
    for _ in range(2):  # the second finds it there
        lvlm = run(
            "LaserLoadLVLM", custom_model="someone/tiny", weights="safetensors or pickled"
        ).lvlm
    assert hub.files.count("pytorch_model.bin") == 1
    ask(lvlm)


def test_pickled_weights_are_not_downloaded_beside_safetensors(comfyui, hub):
    models.find(choices()[0], "someone/tiny", pickled=True)
    assert "pytorch_model.bin" not in hub.files


def test_a_download_that_fails_says_so_and_continues_next_time(comfyui, hub):
    hub.fail = ConnectionError("connection lost")
    with pytest.raises(ValueError, match=r"^check the name and the network.*connection lost"):
        models.find(choices()[0], "someone/tiny")
    assert "LLM/tiny" not in choices()
    assert not (comfyui.llm / "tiny").exists()
    hub.fail = None
    assert os.path.isdir(models.find(choices()[0], "someone/tiny")[1])


def test_a_download_without_all_its_weights_is_not_taken(comfyui, hub):
    (hub.source / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"^run again to continue.*model-2\.safetensors"):
        models.find(choices()[0], "someone/tiny")
    assert not (comfyui.llm / "tiny").exists()


@pytest.mark.parametrize(
    "name", ["../out.json", "a/../../out.json", "/out.json", "C:/out.json", "..\\out.json"]
)
def test_a_file_that_would_lie_outside_the_models_folder_is_not_fetched(comfyui, hub, name):
    hub.extra.append(name)
    with pytest.raises(ValueError, match="lists a file outside its folder"):
        models.find(choices()[0], "someone/tiny")
    assert name not in hub.files


def test_a_linked_model_folder_is_listed_and_loaded(comfyui, tmp_path):
    comfyui.llm.mkdir(parents=True, exist_ok=True)
    (comfyui.llm / "linked").symlink_to(save(build("llava"), tmp_path / "second-disk"))
    assert "LLM/linked" in choices()
    assert str(run("LaserLoadLVLM", model="LLM/linked").lvlm).startswith("LLM/linked (LLaVA-1.5")


def test_an_unsupported_model_is_refused_before_its_weights(comfyui, hub):
    (hub.source / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"^choose a model of type llava"):
        models.find(choices()[0], "someone/tiny")
    assert not any(name.endswith(".safetensors") for name in hub.files)


def test_an_interrupted_download_stops_and_begins_no_further_file(comfyui, hub):
    hub.wait = threading.Event()
    comfyui.stop_at = 3
    progress = part("nodes.runtime").NodeProgress()
    with pytest.raises(Interrupted):
        models.find(choices()[0], "someone/tiny", progress)
    hub.wait.set()
    for _ in range(100):
        if not any(isinstance(t, download._Download) for t in threading.enumerate()):
            break
        time.sleep(0.05)
    assert len(hub.files) <= 1
    assert not (comfyui.llm / "tiny").exists()


# ---- memory ------------------------------------------------------------------------------------


@pytest.fixture
def tiny_folder(tmp_path):
    return str(save(build("llava"), tmp_path / "tiny"))


def ask(lvlm):
    return run(
        "LaserVATDecode", lvlm=lvlm, positive=pictures_batch(1), question=QUESTION, max_tokens=2
    )


def test_on_a_gpu_comfyui_owns_the_weights(comfyui, tiny_folder):
    comfyui.device = "cuda"  # weights stay in ordinary memory until the manager moves them
    with torch.inference_mode():  # as nodes run
        lvlm = run("LaserLoadLVLM", custom_model=tiny_folder).lvlm
        parameter = next(lvlm._lvlm.model.parameters())
        assert parameter.device.type == "cpu"
        assert not parameter.is_inference()
        assert lvlm._lvlm.dtype == torch.bfloat16  # as the GPU has it
        patcher = lvlm._patcher
        assert patcher.load_device.type == "cuda"
        assert patcher.partially_unload("cpu", 10**9) == 0
        patcher.partially_load("cuda", 0.1)  # as with --novram
        assert comfyui.room == [1e32]
        ask(lvlm)
    assert comfyui.loaded[0][0] is patcher
    assert comfyui.loaded[0][1] > 0
    assert comfyui.freed == []
    assert lvlm._lvlm.prefix is not None
    patcher.unpatch_model("cpu", unpatch_weights=False)  # the manager looks, nothing moves
    assert lvlm._lvlm.prefix is not None
    run("LaserUnload", lvlm=lvlm)
    assert comfyui.freed == [patcher]
    assert comfyui.memory.current_loaded_models == []
    assert not lvlm.loaded


def test_what_the_model_remembers_goes_with_its_weights(comfyui, tiny_folder):
    comfyui.device = "cuda"
    lvlm = run("LaserLoadLVLM", custom_model=tiny_folder).lvlm
    ask(lvlm)
    lvlm._patcher.detach()  # ComfyUI needs the room
    assert lvlm._lvlm.prefix is None


def test_keep_loaded_off_takes_the_weights_away_after_every_node(comfyui, tiny_folder):
    comfyui.device = "cuda"
    lvlm = run("LaserLoadLVLM", custom_model=tiny_folder, keep_loaded=False).lvlm
    ask(lvlm)
    assert comfyui.freed == [lvlm._patcher]
    assert lvlm.loaded
    with pytest.raises(ValueError, match=r"^write what to look for: the question is empty"):
        run("LaserVATDecode", lvlm=lvlm, positive=pictures_batch(1), question="")
    assert comfyui.freed == [lvlm._patcher] * 2


def test_a_quantized_model_has_room_made_and_leaves_with_keep_loaded_off(
    comfyui, tiny_folder, monkeypatch
):
    module, asked = part("nodes.load_lvlm"), []
    comfyui.device = "cuda"
    monkeypatch.setattr(module, "make_room", lambda device, size: asked.append((device, size)))
    monkeypatch.setattr(part("nodes.runtime"), "make_room", lambda *room: asked.append(room))
    loading = part("laser_core.models.loading")
    load = loading.load_lvlm

    def quantized(source, settings):  # as bitsandbytes leaves it: on the GPU, not to be moved
        assert settings.quantization == "4-bit"
        lvlm = load(source)
        lvlm.__class__ = type("OnGpu", (type(lvlm),), {"device": torch.device("cuda")})
        return lvlm

    monkeypatch.setattr(loading, "load_lvlm", quantized)
    for kept in (True, False):
        lvlm = run(
            "LaserLoadLVLM", custom_model=tiny_folder, quantization="4-bit", keep_loaded=kept
        ).lvlm
        assert asked[0][1] < os.path.getsize(os.path.join(tiny_folder, "model.safetensors"))
        assert lvlm._patcher is None
        with lvlm.running():
            assert asked[-1][1] > 0
        assert lvlm.loaded == kept


def test_a_folder_that_is_quantized_already_is_not_moved(comfyui, tiny_folder, monkeypatch):
    module, asked = part("nodes.load_lvlm"), []
    comfyui.device = "cuda"
    monkeypatch.setattr(module, "make_room", lambda device, size: asked.append(size))
    config = os.path.join(tiny_folder, "config.json")
    with open(config, encoding="utf-8") as file:
        described = json.load(file)
    with open(config, "w", encoding="utf-8") as file:
        json.dump({**described, "quantization_config": {"quant_method": "bitsandbytes"}}, file)

    def quantized(source, settings):
        assert settings.device == "cuda"
        return SimpleNamespace()

    monkeypatch.setattr(part("laser_core.models.loading"), "load_lvlm", quantized)
    _, manager = module.load_managed(
        "name", tiny_folder, part("laser_core.settings").LoadSettings()
    )
    assert manager is None
    assert asked == [os.path.getsize(os.path.join(tiny_folder, "model.safetensors"))]


def test_load_nodes_of_equal_settings_share_one_model(tiny_folder):
    first, second = (run("LaserLoadLVLM", custom_model=tiny_folder).lvlm for _ in range(2))
    assert first is second
    assert run("LaserLoadLVLM", custom_model=tiny_folder, precision="fp32").lvlm is not first


def test_on_the_cpu_nothing_is_managed(comfyui, tiny_folder):
    comfyui.device = "cuda"
    lvlm = run("LaserLoadLVLM", custom_model=tiny_folder, device="cpu").lvlm
    assert lvlm._patcher is None
    assert lvlm._lvlm.dtype == torch.float32
    comfyui.device = "cpu"  # ComfyUI itself runs with --cpu
    assert run("LaserLoadLVLM", custom_model=tiny_folder).lvlm._lvlm.dtype == torch.float32


LOADS_AGAIN = """
with torch.inference_mode(), handle.running() as model:
    model.prefix = "kept"
assert [entry.model for entry in memory.current_loaded_models] == [handle._patcher]
assert handle._patcher.loaded_size() == handle._patcher.model_size() > 0
with handle.running() as model:
    assert model.prefix == "kept"
memory.free_memory(1e30, torch.device("cpu"))
assert memory.current_loaded_models == [] and lvlm.prefix is None
with handle.running():
    pass
handle.unload()
assert memory.current_loaded_models == [] and not handle.loaded
"""


def test_the_real_memory_manager_loads_frees_and_loads_again(tiny_folder):
    check_managed(str(tiny_folder), LOADS_AGAIN)


@pytest.mark.parametrize("followed", [True, False])
def test_unload_runs_anew_where_nothing_follows_it(followed, monkeypatch):
    monkeypatch.setattr(part("nodes.load_lvlm"), "is_connected", lambda *output: followed)
    unload = node("LaserUnload")
    assert (unload.IS_CHANGED(unique_id="3") == unload.IS_CHANGED(unique_id="3")) is followed


def test_unload_passes_anything_through(tiny_folder):
    lvlm = run("LaserLoadLVLM", custom_model=tiny_folder).lvlm
    thing = object()
    assert run("LaserUnload", lvlm=lvlm, any=thing).any is thing
    kind = node("LaserUnload").INPUT_TYPES()["optional"]["any"][0]
    assert not (kind != "IMAGE"), "ComfyUI compares types with !="  # noqa: SIM202
    assert kind == "*"


def test_quantization_without_its_library_is_explained(tiny_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"^install bitsandbytes, or set quantization to none"):
        run("LaserLoadLVLM", custom_model=tiny_folder, quantization="4-bit")


def test_the_demo_model_is_loaded_by_default():
    assert str(run("LaserLoadLVLM").lvlm).startswith("demo (LLaVA-1.5")


def test_devices_are_comfyuis_and_the_chosen_one_has_the_memory_asked_for(comfyui, tiny_folder):
    comfyui.device, comfyui.devices = "cuda:0", ["cuda:0", "cuda:1"]
    choices, options = inputs_of("LaserLoadLVLM")["device"]
    assert choices == ["auto", "cuda:0", "cuda:1", "cpu"]
    assert options["default"] == "auto"
    for chosen, expected in {"auto": "cuda:0", "cuda:1": "cuda:1"}.items():
        handle = run("LaserLoadLVLM", custom_model=tiny_folder, device=chosen).lvlm
        with handle.running():
            pass
        assert str(comfyui.loaded[-1][0].load_device) == expected
    with pytest.raises(ValueError, match=r"^set device to auto or one of cpu, cuda:0, cuda:1: "):
        run("LaserLoadLVLM", custom_model=tiny_folder, device="cuda:2")


def test_a_mac_offers_its_own_device(comfyui):
    comfyui.device, comfyui.devices = "mps", ["mps"]
    assert inputs_of("LaserLoadLVLM")["device"][0] == ["auto", "mps", "cpu"]
    del comfyui.memory.get_all_torch_devices  # older ComfyUI
    assert inputs_of("LaserLoadLVLM")["device"][0] == ["auto", "mps", "cpu"]
