"""Which models are at hand: the demo models, folders on disk, the hub's cache.

Reads config.json files only; loads nothing and downloads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .download import cached
from .families import FAMILIES, Family
from .loading import DEMO_FOLDERS
from .model_files import read_json, weights_in


@dataclass(frozen=True)
class InstalledModel:
    """name: what --model takes. size_bytes: of its weights. supported: whether it can be loaded."""

    name: str
    model_type: str
    size_bytes: int

    @property
    def supported(self) -> bool:
        return self.model_type in FAMILIES


def demo_models() -> dict[str, InstalledModel | None]:
    """The bundled models by name, None where one was left out."""
    found = {name: _read(folder, name) for name, folder in DEMO_FOLDERS.items()}
    return {name: model if model and model.size_bytes else None for name, model in found.items()}


def models_in(folder: Path) -> list[InstalledModel]:
    """Model folders in `folder`, two levels deep, or `folder` itself. ValueError if it is none."""
    if not folder.is_dir():
        raise ValueError(f"choose an existing folder: there is no folder {str(folder)!r}")
    configs = sorted(
        path for pattern in ("", "*/", "*/*/") for path in folder.glob(f"{pattern}config.json")
    )
    found = (_read(path.parent, str(path.parent)) for path in configs)
    return [model for model in found if model is not None]


def models_in_hub_cache() -> list[InstalledModel]:
    """Supported models that were downloaded from the hub."""
    from huggingface_hub import constants

    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        owner, _, name = folder.name.removeprefix("models--").partition("--")
        snapshot = cached(f"{owner}/{name}")
        if snapshot is not None:
            found.append(_read(snapshot, f"{owner}/{name}"))
    return [model for model in found if model and model.supported and model.size_bytes]


def describe(family: Family) -> str:
    """How a family takes pictures, in a line."""
    if family.native_resolution:
        taken = "pictures at their own resolution"
    elif family.max_aspect == 1:
        taken = "pictures padded to a square"
    else:
        taken = f"pictures padded to {family.max_aspect:g} : 1 at most, whole and in tiles"
    made_for = "one picture" if family.max_pictures == 1 else f"{family.max_pictures} pictures"
    return f"{taken}; made for {made_for} a prompt"


def _read(folder: Path, name: str) -> InstalledModel | None:
    """The model in a folder, None where its config.json is missing or unreadable."""
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except (OSError, ValueError):
        return None
    safetensors = [path for path in weights_in(folder) if path.suffix == ".safetensors"]
    return InstalledModel(name, str(kind), sum(path.stat().st_size for path in safetensors))
