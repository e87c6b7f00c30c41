"""Which models Load LVLM offers, what it shows of each, and where a chosen one lies.

Lists without importing torch or transformers, because ComfyUI asks for the list often.
Nothing is downloaded before a model is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..laser_core.models.catalogue import ListedModel, listed
from ..laser_core.models.download import LONGEST_ID, downloaded, is_hub_id
from ..laser_core.models.text_encoders import SUFFIXES
from . import runtime

DEMO_LABEL = "demo (96 everyday things, numbers, colours)"
DEMOS = {DEMO_LABEL: "demo"}
"""The bundled models: what Load LVLM shows, and what the core calls them."""

# Memory as a share of the weights' bytes in 16 bits, with what stays unquantized
QUANTIZED_SHARE = {"8-bit": 0.6, "4-bit": 0.4}


def choices() -> dict[str, dict[str, Any]]:
    """What Load LVLM offers, the demo model first: what a workflow stores -> what the page shows.

    bundled: True for the demos, of which nothing else is shown. here: whether the model is on this
    computer. lacks: a file that it needs, or None. memory: of the device, None where it is not
    known. needs: quantization -> what a run takes of the memory, and whether that fits.
    """
    has = runtime.device_memory()
    shown = {model.value: _shown(model, has) for model in _listed().values()}
    return {**{label: {"bundled": True} for label in DEMOS}, **shown}


def _listed() -> dict[str, ListedModel]:
    return {model.value: model for model in listed(runtime.models_folders())}


def _shown(model: ListedModel, has: runtime.DeviceMemory | None) -> dict[str, Any]:
    return {
        "description": model.description,
        "precision": model.precision,
        "size": model.size,
        "here": model.path is not None,
        "lacks": model.missing[0] if model.missing else None,
        "memory": has and _gigabytes(has.size_bytes),
        "needs": _needs(model, has) if has else {},
    }


def _needs(model: ListedModel, has: runtime.DeviceMemory) -> dict[str, dict[str, Any]]:
    weight_bytes = {"none": float(has.weight_bytes)}
    if has.quantizes and model.quantizable:
        weight_bytes |= {name: 2 * share for name, share in QUANTIZED_SHARE.items()}
    needed = {name: model.memory_bytes(size) for name, size in weight_bytes.items()}
    return {
        name: {"size": _gigabytes(size), "fits": size <= has.size_bytes}
        for name, size in needed.items()
        if size is not None
    }


def _gigabytes(size: int) -> str:
    """As memory is counted, and sold."""
    return f"{size / 2**30:.0f} GB"


def complaint(model: str | None, custom: str | None) -> str | None:
    """Why this choice cannot be loaded, remedy first, or None. Downloads nothing."""
    custom = (custom or "").strip()
    if custom:
        if _custom_path(custom) is not None or _is_on_the_hub(custom):
            return None
        return (
            "check custom_model, or leave it empty: it is no model's folder or file (without '..') "
            f"and no Hugging Face id like 'owner/name': {custom[:LONGEST_ID]!r}"
        )
    if model is None or model in DEMOS or model in _listed():
        return None
    return (
        "choose another model, put the folder back into models/LLM, or write an id into "
        f"custom_model: there is no supported model {model[:LONGEST_ID]!r} here"
    )


def find(
    model: str,
    custom: str,
    progress: Callable[[str, int, int], None] | None = None,
    pickled: bool = False,
) -> tuple[str, str]:
    """(name for people, what the core loads) of a choice, downloaded to models/LLM if missing.

    pickled: whether weights may be pickled where there are no safetensors.
    Raises ValueError for a model that is not there or cannot be downloaded.
    """
    problem = complaint(model, custom)
    if problem:
        raise ValueError(problem)
    custom = custom.strip()
    if not custom and model in DEMOS:
        return DEMOS[model], DEMOS[model]
    name, known = custom or model, _listed()
    path = _custom_path(custom) if custom else known[model].path
    if path is None:
        path = downloaded(name, runtime.models_folders(), progress, pickled)
    elif name not in known and not is_hub_id(name):  # a path
        name = path.name
    return name, str(path)


def _is_on_the_hub(custom: str) -> bool:
    """Whether a text may be an id, and is no path of the list whose folder is gone."""
    roots = {name for name, _ in runtime.models_folders()}
    is_id = is_hub_id(custom) and not custom.endswith(SUFFIXES)
    return is_id and custom.split("/")[0] not in roots


def _custom_path(custom: str) -> Path | None:
    """The model folder or text encoder that a text names; a path with `..` names none."""
    try:
        path = Path(custom).expanduser()
        is_file = path.suffix in SUFFIXES and path.is_file()
        if ".." not in path.parts and (is_file or (path / "config.json").is_file()):
            return path
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a null byte
        return None
    known = _listed().get(custom)
    return known and known.path
