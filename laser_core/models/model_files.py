"""Which files a model has: which are downloaded, missing, or broken by their own format.

Reads names, small JSON files and headers, never weights. Knows neither torch nor transformers, and
refuses nothing (`folder_check` does).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUPPORTED = (
    *("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_vl_moe", "glm4v", "glm46v", "glm4v_moe"),
    *("gemma3", "gemma4", "minicpmv4_6"),
)
"""The keys of `families.FAMILIES`, in its order, for code that must not import torch."""

SINCE = {
    **dict.fromkeys(("qwen3_5", "qwen3_5_moe", "gemma4", "minicpmv4_6"), "5.17"),
    "glm46v": "5.0",
}
"""The first transformers whose code for a type is read right, where not every one serves."""

FETCHED = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
PICKLED = "pytorch_model*.bin"  # only where asked for, and only without safetensors

# Of each, one is enough
_NEEDED = (
    ("config.json",),
    ("tokenizer.json", "tokenizer.model", "vocab.json"),
    ("preprocessor_config.json", "processor_config.json"),
)
_LONGEST_NAME = 255  # bytes, of any file system
_LONGEST_HEADER = 100_000_000  # bytes: the format's own limit


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError where it holds none."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def quantized_by(folder: Path) -> str | None:
    """The method that a folder's weights are quantized with, as transformers names it."""
    try:
        block = read_json(folder / "config.json").get("quantization_config")
    except (OSError, ValueError):
        return None
    if not isinstance(block, dict):
        return None
    old = block.get("load_in_4bit") or block.get("load_in_8bit")  # bitsandbytes before it had names
    return str(block.get("quant_method") or ("bitsandbytes" if old else "an unknown method"))


def is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def weights_in(folder: Path) -> list[Path]:
    """The files of weights that are there; pickled ones only where there are no others."""
    found = list(folder.glob("*.safetensors")) or list(folder.glob(PICKLED))
    return sorted(path for path in found if path.is_file())


def missing_files(folder: Path) -> list[str]:
    """What a folder lacks to be a complete model: weights by their index, or as one file."""
    # An index alone counts as well
    whole = any(folder.glob("*.safetensors*")) or not any(folder.glob(PICKLED))
    weights = "model.safetensors" if whole else "pytorch_model.bin"
    index = folder / f"{weights}.index.json"
    needed = list(_NEEDED)
    try:
        shards = _shards(index) if index.is_file() else {weights}
    except (ValueError, LookupError, TypeError, AttributeError):
        return [f"a readable {index.name}"]
    needed += [(shard,) for shard in sorted(shards)]
    return [names[0] for names in needed if not any((folder / name).is_file() for name in names)]


def _shards(index: Path) -> set[str]:
    """The files that an index of weights names. Raises ValueError unless all are of its folder."""
    shards = set(read_json(index)["weight_map"].values())
    plain = all(Path(shard).name == shard and len(shard) <= _LONGEST_NAME for shard in shards)
    if not (shards and plain):
        raise ValueError("it names no files of its folder")
    return shards


def damaged_file(folder: Path) -> str | None:
    """The name of a file that is broken by its own format, None if there is none.

    JSON that does not parse, weights that end before or after what their header says, a zip (the
    form of a pickle) without its end. Raises OSError for files that cannot be read at all.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError):
            return path.name
    for path in weights_in(folder):
        whole = _whole_safetensors if path.suffix == ".safetensors" else _whole_pickle
        if not whole(path):
            return path.name
    return None


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor. dtype: as safetensors names it, such as F8_E4M3."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """The header of a file of safetensors.

    metadata: what the file says of itself. whole: whether the file ends where the header says.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: dict[str, Any]
    whole: bool


def read_header(path: Path) -> Header:
    """Eight bytes with the length of a JSON header, the header, and the tensors it lists.

    Raises ValueError for a file that does not begin with one.
    """
    with open(path, "rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
        if not 0 < length <= min(size - 8, _LONGEST_HEADER):
            raise ValueError("it does not begin with a header of safetensors")
        content = file.read(length)
    try:
        entries = json.loads(content)
        metadata = entries.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        tensors = {
            name: StoredTensor(str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for name, entry in entries.items()
        }
        whole = 8 + length + end == size
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError("its header is none of safetensors") from error
    return Header(tensors, metadata if isinstance(metadata, dict) else {}, whole)


def metadata_of(path: Path) -> dict[str, Any]:
    """What a file of safetensors says of itself; nothing where its header cannot be read."""
    try:
        return read_header(path).metadata
    except ValueError:
        return {}


def _whole_safetensors(path: Path) -> bool:
    try:
        return read_header(path).whole
    except ValueError:
        return False


def _whole_pickle(path: Path) -> bool:
    """A pickle of old has no end to look for."""
    with open(path, "rb") as file:
        start = file.read(2)
    return bool(start) and (start != b"PK" or zipfile.is_zipfile(path))
