"""What a model's folder may hold: a supported type, safetensors, and nothing that runs or escapes.

Reads names and small JSON files, never weights; knows neither torch nor transformers.
"""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .model_files import SINCE, SUPPORTED, metadata_of, missing_files, read_json

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
TRAINERS = ("trainer_state.json", "global_step*", "pytorch_model_fsdp*", "*.distcp")
"""What trainers write beside or in place of a model."""


def check_type(folder: Path, name: str) -> None:
    """Raise ValueError unless config.json describes a model of a supported type, as transformers
    writes it."""
    config = _json(folder / "config.json", name)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in SUPPORTED:
        raise ValueError(
            f"choose a model of type {', '.join(SUPPORTED)}: {name} is of type {kind!r}, "
            "which is not supported"
        )
    other = _described_otherwise(config)
    if other:
        raise _not_for_transformers(name, other)
    text = config.get("text_config")
    if not isinstance(config.get("vision_config"), dict) or not (
        isinstance(text, dict) or "hidden_size" in config
    ):
        # The library would make up the model's sizes, and fill many gigabytes with random values
        raise ValueError(
            f"choose a folder with the model's whole config.json: that of {name} does not "
            "describe its text model and its vision tower"
        )


def check_version(folder: Path, name: str) -> None:
    """Raise ValueError for a model that the installed transformers lacks. After `check_type`."""
    kind, found = _json(folder / "config.json", name)["model_type"], version("transformers")
    since = SINCE.get(kind, "0")
    if _numbers(found) < _numbers(since):
        raise ValueError(
            f"update transformers to {since} or newer: {name} is of type {kind!r}, which {found} "
            "cannot run"
        )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def is_listed(folder: Path) -> bool:
    """Whether a folder is a model's of a supported type, in a format that can be loaded."""
    try:
        check_type(folder, "")
        return not _stored_otherwise(folder)
    except (OSError, ValueError):
        return False


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


def check_format(folder: Path, name: str) -> None:
    """Raise ValueError for weights in a format of other programs."""
    other = _stored_otherwise(folder)
    if other:
        raise _not_for_transformers(name, other)
    if any(any(folder.glob(mark)) for mark in TRAINERS):
        missing = missing_files(folder)
        if missing:
            raise ValueError(
                "choose the model that the training exported, or complete this folder from its "
                f"base model: {name} is a trainer's checkpoint without {missing[0]}"
            )


def _not_for_transformers(name: str, other: str) -> ValueError:
    return ValueError(
        f"choose the same model as transformers saves it (safetensors): {name} is in the format "
        f"of {other}"
    )


def _described_otherwise(config: dict[str, Any]) -> str | None:
    """Whose format a config.json is in, None for transformers'."""
    if "mm_vision_tower" in config:
        return "LLaVA's own code (such as llava-hf/llava-1.5-7b-hf has it for transformers)"
    return "MLX" if isinstance(config.get("quantization"), dict) else None


def _stored_otherwise(folder: Path) -> str | None:
    """Whose format weights are in, None for those that transformers reads, and where none are."""
    safetensors = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    if safetensors:
        return "MLX" if metadata_of(safetensors[0]).get("format") == "mlx" else None
    if any(folder.glob("pytorch_model*")):
        return None
    gguf = "llama.cpp (GGUF): its file itself may be chosen"
    others = {"*.gguf": gguf, "*.onnx": "ONNX", "onnx/*.onnx": "ONNX"}
    return next((other for files, other in others.items() if any(folder.glob(files))), None)


def _check_weights(folder: Path, name: str, pickled: bool) -> None:
    check_format(folder, name)
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
