"""A tiny model behind a handle of the pack, and ComfyUI's own modules as thin stand-ins."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from .graphs import Interrupted, handle_of, pictures_batch


@pytest.fixture(autouse=True)
def hub_cache(monkeypatch, tmp_path):
    """A cache of the hub's client that is empty, whatever this computer has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def lvlm():
    return handle_of()


@pytest.fixture
def image() -> torch.Tensor:
    """Three pictures, (3, 60, 90, 3), whose values are whole bytes."""
    return pictures_batch(3)


@pytest.fixture
def comfyui(monkeypatch, tmp_path):
    """Stand-ins for what the pack uses of ComfyUI; they record what they are asked for."""
    seen = SimpleNamespace(
        bars=[],
        shown=[],
        loaded=[],
        freed=[],
        room=[],
        checks=0,
        stop_at=None,
        device="cpu",
        devices=["cpu"],
        memory_bytes=16 * 2**30,
    )

    def throw_if_interrupted():
        seen.checks += 1
        if seen.stop_at is not None and seen.checks >= seen.stop_at:
            raise Interrupted

    class ProgressBar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total=None, preview=None):
            seen.bars.append((value, total))

    class ModelPatcher:
        def __init__(self, model, load_device, offload_device):
            self.model, self.load_device, self.offload_device = model, load_device, offload_device
            self.model.device = load_device  # a bare transformers model refuses this

        def partially_load(self, device_to, extra_memory=0, force_patch_weights=False):
            seen.room.append(extra_memory)

        def unpatch_model(self, device_to=None, unpatch_weights=True):
            self.model.to(device_to)

        def detach(self):
            self.unpatch_model(self.offload_device)

    class LoadedModel:
        def __init__(self, model):
            self.model = model

        def model_unload(self):
            seen.freed.append(self.model)
            self.model.detach()
            return True

    memory = ModuleType("comfy.model_management")
    memory.current_loaded_models = []
    memory.throw_exception_if_processing_interrupted = throw_if_interrupted
    memory.get_torch_device = lambda: torch.device(seen.device)
    memory.get_all_torch_devices = lambda: [torch.device(name) for name in seen.devices]
    memory.get_total_memory = lambda device: seen.memory_bytes
    memory.text_encoder_offload_device = lambda: torch.device("cpu")
    memory.is_device_cpu = lambda device: device.type == "cpu"
    memory.should_use_bf16 = lambda device: True
    memory.should_use_fp16 = lambda device: True
    memory.soft_empty_cache = lambda: None

    def load_models_gpu(patchers, memory_required=0, force_full_load=False):
        assert force_full_load
        assert not torch.is_inference_mode_enabled()
        for patcher in patchers:
            seen.loaded.append((patcher, memory_required))
            if all(entry.model is not patcher for entry in memory.current_loaded_models):
                memory.current_loaded_models.append(LoadedModel(patcher))

    memory.load_models_gpu = load_models_gpu

    folders = ModuleType("folder_paths")
    folders.models_dir = str(tmp_path / "models")
    encoders = [str(tmp_path / "models" / name) for name in ("text_encoders", "clip")]
    paths: dict[str, list[str]] = {"LLM": [], "text_encoders": encoders}
    folders.add_model_folder_path = lambda name, path: (
        path in paths[name] or paths[name].append(path)
    )
    folders.get_folder_paths = lambda name: paths[name]
    folders.get_user_directory = lambda: str(tmp_path / "user")
    folders.get_temp_directory = lambda: str(tmp_path / "temp")
    (tmp_path / "models" / "LLM").mkdir(parents=True)

    server = ModuleType("server")
    server.PromptServer = SimpleNamespace(
        instance=SimpleNamespace(
            client_id="page", send_sync=lambda event, data, client: seen.shown.append((event, data))
        )
    )
    utils, patcher = ModuleType("comfy.utils"), ModuleType("comfy.model_patcher")
    utils.ProgressBar, patcher.ModelPatcher = ProgressBar, ModelPatcher
    package = ModuleType("comfy")
    package.__path__ = [str(tmp_path / "comfy")]
    package.model_management, package.utils, package.model_patcher = memory, utils, patcher
    for name, module in {
        "comfy": package,
        "comfy.model_management": memory,
        "comfy.utils": utils,
        "comfy.model_patcher": patcher,
        "folder_paths": folders,
        "server": server,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    seen.folder_paths, seen.memory = folders, memory
    seen.llm = tmp_path / "models" / "LLM"
    return seen
