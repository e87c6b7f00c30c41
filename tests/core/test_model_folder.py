"""What a model's folder may hold: no code, no pickles, nothing from elsewhere, nothing half."""

from __future__ import annotations

import json
import os
import pickle
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from laser_core.models.loading import load_lvlm
from laser_core.out_of_memory import is_out_of_memory
from laser_core.settings import LoadSettings
from tools.testbed.tiny import build, save

VALUES = [None, "x", -1, 0, True, [], {}, {"model_type": "bert"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(build("llava", layers=2), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    build("llava", layers=2).model.save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    for path in save(build("llava", layers=2), tmp_path / "rest").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, tmp_path / "sharded")
    return tmp_path / "sharded"


def refused(folder, pattern):
    with pytest.raises(ValueError, match=pattern):
        load_lvlm(str(folder))


def edit(path, **values):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **values}))


# ---- code --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "AutoModelForImageTextToText"),
        ("config.json", "AutoConfig"),
        ("tokenizer_config.json", "AutoTokenizer"),
        ("preprocessor_config.json", "AutoImageProcessor"),
        ("processor_config.json", "AutoProcessor"),
    ],
)
def test_code_in_the_folder_is_refused_and_never_run(copy, file, key, capfd):
    (copy / "own.py").write_text("print('RUN')\nclass Own: pass\n")
    edit(copy / file, auto_map={key: "own.Own"})
    refused(copy, rf"^choose a model without code of its own: {file} of .*auto_map")
    assert "RUN" not in "".join(capfd.readouterr())


def test_code_asked_for_inside_a_part_is_refused(copy):
    edit(copy / "config.json", vision_config={"auto_map": {"AutoConfig": "own.Own"}})
    refused(copy, "^choose a model without code of its own")


def test_a_python_file_that_nothing_asks_for_is_no_reason_to_refuse(copy, capfd):
    (copy / "modeling_llava.py").write_text("print('RUN')")
    load_lvlm(str(copy))
    assert "RUN" not in "".join(capfd.readouterr())


def test_a_generate_of_the_folders_own_is_refused_and_never_run(copy, capfd):
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate" / "generate.py").write_text("print('RUN')\ndef generate(): pass\n")
    refused(copy, "^choose a model without code of its own: .* has some in custom_generate")
    assert "RUN" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("attention", ["someone/kernel", "flash_attention_2"])
def test_a_config_cannot_choose_the_attention_which_may_be_a_kernel_to_fetch(copy, attention):
    edit(copy / "config.json", _attn_implementation=attention)
    assert load_lvlm(str(copy)).attention == "sdpa"


class _Bomb:
    def __reduce__(self):
        return os.abort, ()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickled_weights_are_refused_unopened(copy, file):
    (copy / "model.safetensors").unlink()
    (copy / file).write_bytes(pickle.dumps(_Bomb()))
    refused(copy, rf"^convert .* to safetensors, or set weights .*--weights.*pickled \({file}\)")


PICKLED = LoadSettings(weights="safetensors or pickled")


@pytest.fixture(params=["one file", "shards"])
def pickled(request, copy):
    """The folder with its weights pickled, and its tensors."""
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    if request.param == "one file":
        torch.save(weights, copy / "pytorch_model.bin")
        return copy
    names = list(weights)
    shards = {name: f"pytorch_model-{index % 2 + 1}.bin" for index, name in enumerate(names)}
    for shard in set(shards.values()):
        torch.save({n: weights[n] for n in names if shards[n] == shard}, copy / shard)
    (copy / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": shards})
    )
    return copy


def test_pickled_weights_are_read_where_they_are_asked_for(pickled, folder):
    loaded = load_lvlm(str(pickled), PICKLED).model.state_dict()
    expected = load_lvlm(str(folder)).model.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_a_missing_shard_of_pickled_weights_is_named(pickled):
    file = sorted(pickled.glob("pytorch_model*.bin"))[-1]
    file.unlink()
    with pytest.raises(ValueError, match=r"^download .* again"):
        load_lvlm(str(pickled), PICKLED)


def test_code_in_pickled_weights_never_runs(copy):
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match=r"^choose another model, or fix what the library names: "):
        load_lvlm(str(copy), PICKLED)


@pytest.mark.parametrize("length", [0, 1000])
def test_a_pickle_that_breaks_off_is_damaged(copy, length):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    content = (copy / "pytorch_model.bin").read_bytes()
    (copy / "pytorch_model.bin").write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"^download .* again: its pytorch_model.bin is damaged"):
        load_lvlm(str(copy), PICKLED)


def test_of_pickled_weights_only_the_librarys_own_name_is_read(copy):
    (copy / "model.safetensors").unlink()
    (copy / "model.pt").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(ValueError, match=r"^convert .* only pytorch_model.bin is read"):
        load_lvlm(str(copy), PICKLED)


@pytest.mark.parametrize("settings", [LoadSettings(), PICKLED])
def test_pickles_beside_safetensors_are_not_opened(copy, settings):
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    load_lvlm(str(copy), settings)


def test_an_adapter_is_refused_since_its_base_model_may_be_anything(copy):
    edit(copy / "adapter_config.json", base_model_name_or_path="someone/else")
    refused(copy, "^merge the adapter into its model")


# ---- links -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_link_to_a_file_outside_is_refused(copy, file, tmp_path):
    (copy / file).rename(tmp_path / file)
    (copy / file).symlink_to(tmp_path / file)
    refused(copy, rf"^copy {file} into the folder of .*, or link the whole folder")


def test_a_linked_folder_is_refused(copy, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (copy / "additional_chat_templates").symlink_to(tmp_path / "elsewhere")
    refused(copy, "^copy additional_chat_templates into the folder")


def test_the_folder_itself_may_be_a_link(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy, target_is_directory=True)
    load_lvlm(str(tmp_path / "link"))


def test_a_link_inside_the_folder_is_followed(copy):
    (copy / "model.safetensors").rename(copy / "weights.safetensors")
    (copy / "model.safetensors").symlink_to("weights.safetensors")
    load_lvlm(str(copy))


def test_a_link_one_level_down_to_a_file_outside_is_refused(copy, tmp_path):
    (tmp_path / "secret.jinja").write_text("{{ messages }}")
    (copy / "additional_chat_templates").mkdir()
    (copy / "additional_chat_templates" / "default.jinja").symlink_to(tmp_path / "secret.jinja")
    refused(copy, "^copy default.jinja into the folder of .*, or link the whole folder")


@pytest.mark.parametrize("target", ["loop.json", "nothing.json"])
def test_a_link_that_leads_nowhere_is_refused(copy, target):
    (copy / "loop.json").symlink_to(target)
    refused(copy, "^make loop.json .* readable, or connect its drive: the link leads nowhere")


@pytest.mark.parametrize("blobs_of", ["tiny", "another"])
def test_only_links_to_its_own_blobs_are_followed_in_a_hub_cache(folder, tmp_path, blobs_of):
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / "0a1b"
    blobs = tmp_path / "hub" / f"models--someone--{blobs_of}" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir(parents=True)
    for path in folder.iterdir():
        shutil.copy(path, blobs / f"hash-of-{path.name}")
        (snapshot / path.name).symlink_to(blobs / f"hash-of-{path.name}")
    if blobs_of == "tiny":
        load_lvlm(str(snapshot))
    else:
        refused(snapshot, "^copy .* into the folder of .*, or link the whole folder")


def test_an_index_that_names_files_elsewhere_is_refused(sharded, tmp_path):
    index = sharded / "model.safetensors.index.json"
    weights = json.loads(index.read_text())["weight_map"]
    name = next(iter(weights.values()))
    (sharded / name).rename(tmp_path / name)
    index.write_text(
        json.dumps({"weight_map": {k: f"../{v}" if v == name else v for k, v in weights.items()}})
    )
    refused(sharded, "^download .* again: .*, such as a readable model.safetensors.index.json")


# ---- half folders ------------------------------------------------------------------------------


def test_shards_load_and_a_missing_one_is_named(sharded):
    load_lvlm(str(sharded))
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    shards[2].unlink()
    refused(sharded, rf"^download .* again: it lacks 2 files, such as {shards[1].name}")


def test_a_truncated_shard_is_refused(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-64])
    refused(sharded, f"^download .* again: its {shard.name} is damaged")


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}']
)
def test_a_broken_index_is_refused(sharded, content):
    (sharded / "model.safetensors.index.json").write_text(content)
    refused(sharded, "^download .* again: ")


def test_a_tokenizer_without_a_chat_template_gets_its_familys(copy):
    (copy / "chat_template.jinja").unlink()
    lvlm = load_lvlm(str(copy))
    assert lvlm.tokenizer.chat_template is None
    assert lvlm.chat.template == lvlm.family.chat_template


def places(value, path=()):
    """The paths to every entry of nested JSON objects."""
    for key, item in value.items():
        yield (*path, key)
        if isinstance(item, dict):
            yield from places(item, (*path, key))


FILES = ["config.json", "tokenizer_config.json", "preprocessor_config.json"]


@settings(max_examples=40)
@given(file=st.sampled_from(FILES), value=st.sampled_from(VALUES), data=st.data())
def test_any_broken_entry_of_a_config_loads_or_is_refused_in_our_words(
    folder, tmp_path_factory, file, value, data
):
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("broken") / "model")
    content = json.loads((copy / file).read_text())
    *above, last = data.draw(st.sampled_from(list(places(content))))
    entry = content
    for key in above:
        entry = entry[key]
    entry[last] = value
    (copy / file).write_text(json.dumps(content))
    try:
        load_lvlm(str(copy))
    except ValueError as error:
        assert str(error).startswith(("choose ", "download ", "install ", "set "))
    shutil.rmtree(copy)


# ---- memory ------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    OSError(12, "Cannot allocate memory"),
]  # fmt: skip


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:20])
def test_memory_that_runs_out_while_loading_is_told_from_broken_weights(folder, monkeypatch, error):
    import transformers

    def out_of_memory(*args, **options):
        raise error

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", out_of_memory)
    assert is_out_of_memory(error)
    refused(folder, "^choose a smaller model or a quantization: .* does not fit into the memory")


def test_memory_that_runs_out_on_the_tokenizer_is_told_from_a_broken_one(folder, monkeypatch):
    import transformers

    def out_of_memory(*args, **options):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", out_of_memory)
    refused(folder, "^choose a smaller model or a quantization: .* does not fit into the memory")


def test_a_library_that_is_lacking_is_named(copy):
    edit(copy / "config.json", quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(ValueError, match=r"^(install what|download) "):
        load_lvlm(str(copy), LoadSettings(device="cpu"))


def test_loading_writes_nothing_into_the_folder(copy):
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    load_lvlm(str(copy))
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
