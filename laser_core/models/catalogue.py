"""Which models there are: bundled, in folders, in the hub's cache, and curated ones to download.

One list for the nodes and the command line. Reads names, small JSON files and headers, and asks no
network. Knows neither torch nor transformers, so that the list can be asked for often.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .folder_check import is_listed
from .gguf_encoders import NoTower, is_mmproj
from .gguf_files import GGUF
from .model_files import missing_files, quantized_by, read_json, weights_in
from .text_encoders import SUFFIXES, read_encoder

if TYPE_CHECKING:
    from .families import Family

DEMO = "demo"
_PACKAGE = Path(__file__).absolute().parents[1]
DEMO_FOLDERS = {DEMO: _PACKAGE / "demo_model"}
"""The bundled models by name."""

TOKENIZER_IN_COMFY = Path("text_encoders", "qwen25_tokenizer")
"""Below ComfyUI's package `comfy`: read at run time, never copied."""

ORIGIN = "laser_origin.txt"  # in a folder that was downloaded to: the id it came from
LLM = "LLM"  # the name of the root that models are downloaded to
TEXT_ENCODERS = "text_encoders"  # the name of the roots that image models' text encoders lie in

Roots = Sequence[tuple[str, Path]]
"""(name, folder): where models are looked for. Several folders may have one name."""

_Stamp = tuple[str, int, int]  # of a file: name, size, time of its last change
_CACHED = "models--"  # before owner--name: how the hub's client names a model's folder
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_WEIGHT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "16-bit": 2, "fp8": 1}
_RUN_AS_STORED = ("bitsandbytes", "gptq", "awq")
# What a run takes beside the weights: of any model, and in proportion to it
_BESIDE_BYTES, _BESIDE_SHARE = int(1.5e9), 0.05


@dataclass(frozen=True)
class ListedModel:
    """A model of the list.

    value: what a workflow stores and --model takes: a hub id, or a path that begins with the name
    of its root. path: its folder or file; None for one that is downloaded when it is first used.
    description: what it is. precision: of its weights, or what quantized them; "" if not known.
    missing: the files that it lacks. origin: the id, casefolded, that its folder says it was
    downloaded from.
    """

    value: str
    path: Path | None
    description: str
    precision: str
    size_bytes: int
    missing: tuple[str, ...] = ()
    origin: str = ""

    @property
    def size(self) -> str:
        """Of its weights, for people."""
        size = self.size_bytes
        return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"

    @property
    def is_file(self) -> bool:
        """Whether it is a text encoder in one file."""
        return self.path is not None and self.path.suffix in SUFFIXES

    @property
    def quantizable(self) -> bool:
        """Whether weights can be quantized on loading, and nothing has quantized them already."""
        return not self.is_file and _WEIGHT_BYTES.get(self.precision, 1) > 1

    def memory_bytes(self, weight_bytes: float) -> int | None:
        """About what a run takes if a weight takes `weight_bytes`; None where that is not known."""
        packed = self.is_file and self.precision not in _PRECISIONS.values()
        if packed or self.precision in _RUN_AS_STORED:
            loaded = float(self.size_bytes)
        elif self.precision in _WEIGHT_BYTES:
            loaded = self.size_bytes * weight_bytes / _WEIGHT_BYTES[self.precision]
        else:
            return None
        return int(loaded * (1 + _BESIDE_SHARE)) + _BESIDE_BYTES


def _curated(name: str, repository: str, gigabytes: float) -> ListedModel:
    return ListedModel(repository, None, name, "16-bit", int(gigabytes * 1e9))


CURATED = (
    _curated("LLaVA-1.5 7B", "llava-hf/llava-1.5-7b-hf", 14.1),
    _curated("LLaVA-1.5 13B", "llava-hf/llava-1.5-13b-hf", 26.7),
    _curated("LLaVA-NeXT 7B", "llava-hf/llava-v1.6-mistral-7b-hf", 15.1),
    _curated("JoyCaption Beta One", "fancyfeast/llama-joycaption-beta-one-hf-llava", 17.0),
    _curated("Qwen2-VL 2B", "Qwen/Qwen2-VL-2B-Instruct", 4.4),
    _curated("Qwen2-VL 7B", "Qwen/Qwen2-VL-7B-Instruct", 16.6),
    _curated("Qwen2.5-VL 3B", "Qwen/Qwen2.5-VL-3B-Instruct", 7.5),
    _curated("Qwen2.5-VL 7B", "Qwen/Qwen2.5-VL-7B-Instruct", 16.6),
    _curated("Qwen3-VL 2B", "Qwen/Qwen3-VL-2B-Instruct", 4.3),
    _curated("Qwen3-VL 4B", "Qwen/Qwen3-VL-4B-Instruct", 8.9),
    _curated("Qwen3-VL 8B", "Qwen/Qwen3-VL-8B-Instruct", 17.5),
    _curated("Qwen3-VL 30B MoE", "Qwen/Qwen3-VL-30B-A3B-Instruct", 62.1),
    _curated("Qwen3.5 4B", "Qwen/Qwen3.5-4B", 9.3),
    _curated("Qwen3.5 9B", "Qwen/Qwen3.5-9B", 19.3),
    _curated("GLM-4.1V 9B Thinking", "zai-org/GLM-4.1V-9B-Thinking", 20.6),
    _curated("Gemma 4 E2B", "google/gemma-4-E2B-it", 10.2),
    _curated("MiniCPM-V 4.6", "openbmb/MiniCPM-V-4.6", 2.6),
)
"""Models to download, with the size of their weights on the hub."""
CURATED_IDS = {model.value.casefold(): model for model in CURATED}


def demo_models() -> dict[str, ListedModel | None]:
    """The bundled models by name, None where one was left out."""
    found = {name: _read(folder) for name, folder in DEMO_FOLDERS.items()}
    return {name: None if not model or model.missing else model for name, model in found.items()}


def listed(roots: Roots = ()) -> list[ListedModel]:
    """Every model but the bundled ones: in `roots`, then in the hub's cache, then the curated.

    A curated model that is already here has the path of its copy.
    """
    folders, cached = in_folders(roots), in_hub_cache()
    others = [model for model in cached if model.value.casefold() not in CURATED_IDS]
    return [*folders, *others, *(_with_its_copy(model, folders, cached) for model in CURATED)]


def _with_its_copy(
    curated: ListedModel, folders: list[ListedModel], cached: list[ListedModel]
) -> ListedModel:
    copies = _copies(curated.value, folders, cached)
    copy = next((copy for copy in copies if not copy.missing), None)
    if copy is None:
        return curated
    place = "Hugging Face cache" if copy in cached else copy.value
    return replace(copy, value=curated.value, description=f"{curated.description} ({place})")


def in_folders(roots: Roots) -> list[ListedModel]:
    """Models at any depth below `roots`, root by root, each in order; incomplete ones too.

    A model is a folder, or a text encoder's file. Where two have the same value, the second gets
    its whole path.
    """
    found: dict[str, ListedModel] = {}
    seen = set()
    for name, root in roots:
        top = Path(os.path.abspath(root))
        for path, model in _models_below(top):
            if model is not None and path not in seen:  # one root may lie in another
                seen.add(path)
                value = "/".join((name, *path.relative_to(top).parts))
                value = path.as_posix() if value in found else value
                found[value] = replace(model, value=value)
    return list(found.values())


def in_hub_cache() -> list[ListedModel]:
    """Whole models that the hub's client has downloaded."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return []
    found = []
    for entry in _entries(constants.HF_HUB_CACHE):
        owner, _, name = entry.name.removeprefix(_CACHED).partition("--")
        if entry.name.startswith(_CACHED) and name:
            model = _read(_snapshot_of(Path(entry.path)))
            if model is not None and not model.missing:
                found.append(replace(model, value=f"{owner}/{name}"))
    return found


def copies(repository: str, roots: Roots = ()) -> list[ListedModel]:
    """A hub model's copies in `roots` and in the hub's cache, the surest first.

    Sure are those that note the id they came from, and those named owner/name or owner--name. A
    folder that is named after the model alone counts too, unless it notes another id, or it is
    incomplete and nothing says that it is this very model, as the name of a curated one does.
    """
    return _copies(repository, in_folders(roots), in_hub_cache())


def _copies(
    repository: str, folders: Iterable[ListedModel], cached: Iterable[ListedModel]
) -> list[ListedModel]:
    wanted = repository.casefold()
    owner, _, name = wanted.partition("/")
    surely, by_name = [], []
    for model in folders:
        parent, last = ["", *model.value.casefold().split("/")][-2:]
        whole_name = last in (f"{owner}--{name}", f"{_CACHED}{owner}--{name}")
        if model.origin:
            surely += [model] if model.origin == wanted else []
        elif whole_name or (parent, last) == (owner, name):
            surely.append(model)
        elif last == name and (wanted in CURATED_IDS or not model.missing):
            by_name.append(model)
    return [*surely, *(model for model in cached if model.value.casefold() == wanted), *by_name]


def own_roots() -> Roots:
    """Of the ComfyUI that this package lies in, for runs without ComfyUI: where it has models."""
    below = (LLM, LLM), (TEXT_ENCODERS, TEXT_ENCODERS), (TEXT_ENCODERS, "clip")
    comfyui = _own_comfyui()
    roots = [(name, comfyui / "models" / folder) for name, folder in below] if comfyui else []
    return [(name, folder) for name, folder in roots if folder.is_dir()]


def own_tokenizer() -> Path | None:
    """The tokenizer for Qwen's models of the ComfyUI that this package lies in."""
    comfyui = _own_comfyui()
    folder = comfyui and comfyui / "comfy" / TOKENIZER_IN_COMFY
    return folder if folder and folder.is_dir() else None


def _own_comfyui() -> Path | None:
    pack = _PACKAGE.parent
    return pack.parent.parent if pack.parent.name == "custom_nodes" else None


def describe(family: Family) -> str:
    """How a family takes pictures, in a line."""
    if family.taken:
        taken = family.taken
    elif family.native_resolution:
        taken = "pictures at their own resolution"
    elif family.max_aspect == 1:
        taken = "pictures padded to a square"
    else:
        taken = f"pictures padded to {family.max_aspect:g} : 1 at most, whole and in tiles"
    made_for = "one picture" if family.max_pictures == 1 else f"{family.max_pictures} pictures"
    return f"{taken}; made for {made_for} a prompt"


# ---- folders -----------------------------------------------------------------------------------


def _models_below(
    folder: Path, inside: tuple[str, ...] = ()
) -> Iterator[tuple[Path, ListedModel | None]]:
    """Folders with a config.json below a folder, those that the hub's client has made, and files.

    inside: the folders that it lies in, by their real paths, so that no link is followed in a
    circle. Nothing is looked for in hidden folders, and in a model's own folder but files of GGUF.
    """
    real = os.path.realpath(folder)
    if real in inside:
        return
    entries = _entries(folder)
    if any(entry.name == "config.json" for entry in entries) or (inside and _is_cached(folder)):
        yield folder, _read(_snapshot_of(folder) if _is_cached(folder) else folder)
        if inside:  # beside files of llama.cpp may lie the config.json that they were made from
            entries = [entry for entry in entries if entry.name.endswith(GGUF)]
    towers = tuple(_stamp(entry) for entry in entries if is_mmproj(entry.name))
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _models_below(Path(entry.path), (*inside, real))
        elif entry.name.endswith(SUFFIXES) and not is_mmproj(entry.name):
            yield Path(entry.path), _read_file(Path(entry.path), _stamp(entry), towers)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in order; nothing where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_cached(folder: Path) -> bool:
    return folder.name.startswith(_CACHED)


def _snapshot_of(stored: Path) -> Path:
    """The files of a model as the hub's client stores it: of the newest whole revision.

    The newest is the one of `main`. Where none is whole, `main`'s.
    """
    try:
        main = (stored / "refs" / "main").read_text("utf-8", "replace").strip()
    except OSError:
        main = ""
    newest = sorted(_entries(stored / "snapshots"), key=lambda entry: _stamp(entry)[2])
    newest.sort(key=lambda entry: entry.name == main)
    revisions = [Path(entry.path) for entry in reversed(newest)]
    read = ((path, _read(path)) for path in revisions)
    whole = (path for path, model in read if model is not None and not model.missing)
    return next(whole, revisions[0] if revisions else stored)


def _read(folder: Path) -> ListedModel | None:
    """The model in a folder; None where it is none that could be loaded."""
    return _read_once(folder, tuple(map(_stamp, _entries(folder))))


def _stamp(entry: os.DirEntry[str]) -> _Stamp:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing
        return entry.name, 0, 0
    return entry.name, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _read_once(folder: Path, stamps: tuple) -> ListedModel | None:
    """stamps: of its files, since what is in them is read again when they change."""
    if not is_listed(folder):
        return None
    try:
        config = read_json(folder / "config.json")
        size = sum(path.stat().st_size for path in weights_in(folder))
        origin = _origin(folder)
    except (OSError, ValueError):  # just taken away
        return None
    precision = quantized_by(folder) or _precision(config)
    missing = tuple(missing_files(folder))
    return ListedModel(str(folder), folder, config["model_type"], precision, size, missing, origin)


@lru_cache(maxsize=4096)
def _read_file(path: Path, stamp: _Stamp, towers: tuple[_Stamp, ...]) -> ListedModel | None:
    """The text encoder in a file; None where it is none.

    stamp: its name, size and time, since it is read again when they change. towers: of the files
    beside it that may hold its vision tower.
    """
    try:
        encoder = read_encoder(path)
        size = stamp[1] + (encoder.beside.stat().st_size if encoder and encoder.beside else 0)
    except OSError:  # just taken away, or not to be read
        return None
    except NoTower as error:
        lacks = ("an mmproj file with its vision tower",)
        return ListedModel(str(path), path, f"{error.model}, GGUF", "", stamp[1], lacks)
    if encoder is None:
        return None
    missing = () if encoder.whole else ("its end",)
    what, precision = encoder.description, encoder.precision
    return ListedModel(str(path), path, what, precision, size, missing)


def _precision(config: dict[str, Any]) -> str:
    """The number format that a config.json says its weights have."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name in ("dtype", "torch_dtype"):  # since 4.56 and before
            if part.get(name):
                return _PRECISIONS.get(str(part[name]).removeprefix("torch."), "")
    return ""


def _origin(folder: Path) -> str:
    noted = folder / ORIGIN
    return noted.read_text("utf-8", "replace").strip().casefold() if noted.is_file() else ""
