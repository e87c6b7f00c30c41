"""Which models there are: the bundled demos, folders in models/LLM, and ids that are downloaded.

Lists without importing torch or transformers, because ComfyUI asks for the list often.
Nothing is downloaded before a model is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..laser_core.models.download import CURATED, LONGEST_ID, curated, downloaded, is_hub_id
from ..laser_core.models.folder_check import is_listed
from . import runtime

DEMO_LABEL = "demo (96 everyday things, numbers, colours)"
DEMOS = {DEMO_LABEL: "demo"}
"""The bundled models: what Load LVLM shows, and what the core calls them."""


def choices() -> list[str]:
    """What Load LVLM offers: the demo models, models on disk, models to download."""
    return [*DEMOS, *local_models(), *(listed.label for listed in CURATED)]


def local_models() -> dict[str, Path]:
    """Folders of supported models in models/LLM and the extra paths, by name, sorted."""
    found: dict[str, Path] = {}
    for root in map(Path, runtime.models_folders()):
        for config in sorted([*root.glob("*/config.json"), *root.glob("*/*/config.json")]):
            folder = config.parent
            name = folder.relative_to(root).as_posix()
            hidden = any(part.startswith(".") for part in folder.relative_to(root).parts)
            if not hidden and name not in found and is_listed(folder):
                found[name] = folder
    return dict(sorted(found.items()))


def complaint(model: str | None, custom: str | None) -> str | None:
    """Why this choice cannot be loaded, remedy first, or None. Downloads nothing."""
    custom = (custom or "").strip()
    if custom:
        if _custom_folder(custom) is not None or is_hub_id(custom):
            return None
        return (
            "check custom_model, or leave it empty: it is neither a model folder (without '..') "
            f"nor a Hugging Face id like 'owner/name': {custom[:LONGEST_ID]!r}"
        )
    if model is None or model in DEMOS or curated(model) or model in local_models():
        return None
    return (
        f"choose another model, or put the folder back into models/LLM: there is no supported "
        f"model {model!r} there"
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
    if custom:
        folder = _custom_folder(custom)
        if folder is not None:
            return folder.name, str(folder)
        return custom, str(downloaded(custom, runtime.models_folders(), progress, pickled=pickled))
    if model in DEMOS:
        return DEMOS[model], DEMOS[model]
    chosen = curated(model)
    if chosen:
        folder = downloaded(chosen.repository, runtime.models_folders(), progress, chosen.gigabytes)
        return chosen.name, str(folder)
    return model, str(local_models()[model])


def _custom_folder(custom: str) -> Path | None:
    """The model folder that a text names; a path with `..` names none."""
    try:
        path = Path(custom).expanduser()
        if ".." not in path.parts and (path / "config.json").is_file():
            return path
    except (OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a null byte
        return None
    return local_models().get(custom)
