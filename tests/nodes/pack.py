"""The pack, imported as ComfyUI does it: a package by its path, under a name of its choice."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
