"""What a model's folder may hold: a supported type, safetensors, and nothing that runs or escapes.

Reads names and small JSON files, never weights; knows neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .model_files import SUPPORTED, missing_files, read_json

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_type(folder: Path, name: str) -> None:
    """Raise ValueError unless config.json names a supported model type."""
    kind = _json(folder / "config.json", name).get("model_type")
    if not isinstance(kind, str) or kind not in SUPPORTED:
        raise ValueError(
            f"choose a model of type {', '.join(SUPPORTED)}: {name} is of type {kind!r}, "
            "which is not supported"
        )


def check_contents(folder: Path, name: str, *, pickled: bool = False) -> None:
    """Raise ValueError for a folder with code, pickles, an adapter or files from elsewhere.

    pickled: whether weights may be pickled where there are no safetensors.
    The folder itself may be a link, as on a second disk. A file in it may be a link to inside the
    folder or, in a hub cache, to a blob of the same model, as the hub's client stores models. Any
    other link would let a downloaded folder read the user's own files.
    """
    home = folder.resolve()
    # models--owner--name/snapshots/revision beside models--owner--name/blobs
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    for path in sorted(folder.rglob("*")):
        try:
            target = path.resolve(strict=path.is_symlink())
        except (OSError, RuntimeError) as error:  # a loop, or a link to nothing
            raise ValueError(
                f"make {path.name} in the folder of {name} readable, or connect its drive: "
                f"the link leads nowhere ({error})"
            ) from error
        if not target.is_relative_to(home) and not target.is_relative_to(blobs):
            raise ValueError(
                f"copy {path.name} into the folder of {name}, or link the whole folder: it is a "
                "link to a file outside the folder, which is not read"
            )
    if (folder / "custom_generate").exists():
        raise ValueError(
            f"choose a model without code of its own: {name} has some in custom_generate, and "
            "such code is never run"
        )
    for path in sorted(folder.glob("*config.json")):
        if _asks_for_code(_json(path, name)):
            raise ValueError(
                f"choose a model without code of its own: {path.name} of {name} asks for it "
                "(auto_map), and such code is never run"
            )
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"merge the adapter into its model, and choose the merged folder: {name} is an adapter"
        )
    _check_weights(folder, name, pickled)


def _check_weights(folder: Path, name: str, pickled: bool) -> None:
    if not any(folder.glob("*.safetensors*")):  # or their index
        found = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if found and not pickled:
            raise ValueError(
                f"convert {name} to safetensors, or set weights to 'safetensors or pickled' "
                f"(--weights): its weights are pickled ({found[0]})"
            )
        if found and not any(path.startswith("pytorch_model") for path in found):
            raise ValueError(
                f"convert {name} to safetensors: of pickled weights only pytorch_model.bin is "
                f"read, and it has {found[0]}"
            )
    missing = missing_files(folder)
    if missing:
        raise ValueError(
            f"download {name} again: it lacks {len(missing)} files, such as {missing[0]}"
        )


def _asks_for_code(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value.get("auto_map")) or any(map(_asks_for_code, value.values()))
    return isinstance(value, list) and any(map(_asks_for_code, value))


def _json(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a file of the model's folder."""
    try:
        return read_json(path)
    except ValueError as error:
        raise ValueError(
            f"download {name} again: its {path.name} cannot be read ({error})"
        ) from error
