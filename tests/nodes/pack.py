"""The pack, imported as ComfyUI does it: a package by its path, under a name of its choice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
NAME = "custom_nodes_laser_pack"


@cache
def pack() -> ModuleType:
    """The root package."""
    spec = importlib.util.spec_from_file_location(
        NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def part(name: str) -> ModuleType:
    """A module of the loaded pack, such as part("nodes.views") or part("laser_core.steps.vaq")."""
    pack()
    return importlib.import_module(f"{NAME}.{name}")


def node(node_id: str) -> type:
    return pack().NODE_CLASS_MAPPINGS[node_id]


def inputs_of(node_id: str) -> dict[str, tuple]:
    """Required and optional inputs, in order."""
    types = node(node_id).INPUT_TYPES()
    return {**types["required"], **types.get("optional", {})}


def run(node_id: str, **given: Any) -> SimpleNamespace:
    """A node's outputs by name (and `ui`), its other inputs at their defaults."""
    kind = node(node_id)
    defaults = {
        name: spec[1]["default"]
        for name, spec in inputs_of(node_id).items()
        if len(spec) > 1 and "default" in spec[1]
    }
    unknown = set(given) - set(inputs_of(node_id)) - set(kind.INPUT_TYPES().get("hidden", {}))
    assert not unknown, f"{node_id} has no input {unknown}"
    with torch.inference_mode():  # as ComfyUI runs nodes
        result = getattr(kind(), kind.FUNCTION)(**{**defaults, **given})
    shown = {}
    if isinstance(result, dict):
        shown, result = result["ui"], result["result"]
    assert len(result) == len(kind.RETURN_TYPES)
    return SimpleNamespace(ui=shown, **dict(zip(kind.RETURN_NAMES, result, strict=True)))


# Before the checks: `handle` holds the model that is at `path`, ComfyUI's manager its memory
MANAGED = """
import sys
sys.argv[1:] = ["--cpu"]
sys.path.insert(0, {comfyui!r})
import comfy.options
comfy.options.enable_args_parsing()
import comfy.model_management as memory, comfy.model_patcher, comfy.utils
import importlib.util, os, torch
spec = importlib.util.spec_from_file_location(
    "pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
from pack.nodes import runtime
path = {path!r}
handle = pack.NODE_CLASS_MAPPINGS["LaserLoadLVLM"]().load("", path, True, **{settings!r})[0]
lvlm = handle._lvlm
handle._patcher = runtime.manage(lvlm.model, torch.device("cpu"), lvlm.release)
"""


def comfyui_path() -> str:
    """The ComfyUI checkout to test with; skips the test where there is none."""
    comfyui = os.environ.get("COMFYUI_PATH")
    if not comfyui:
        pytest.skip("set COMFYUI_PATH (and COMFYUI_PYTHON) to a ComfyUI checkout to run this")
    return comfyui


def check_managed(path: str, checks: str, **settings: Any) -> None:
    """Run checks in a real ComfyUI, on a model that its memory manager holds."""
    comfyui, python = comfyui_path(), os.environ.get("COMFYUI_PYTHON", sys.executable)
    loaded = MANAGED.format(comfyui=comfyui, root=str(ROOT), path=path, settings=settings)
    command = [python, "-c", loaded + checks]
    done = subprocess.run(command, capture_output=True, text=True, cwd=comfyui)
    assert done.returncode == 0, done.stderr
