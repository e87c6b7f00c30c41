"""A model's files from the hub, whole or not at all. Loads nothing; knows nothing of ComfyUI."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .folder_check import SUPPORTED

ORIGIN = "laser_origin.txt"  # in a downloaded folder: the id it came from
FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
PICKLED = "pytorch_model*.bin"  # only where asked for, and only without safetensors
POLL_SECONDS = 0.5
LONGEST_ID = 96  # characters: the hub's own limit
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # never a way up or out


@dataclass(frozen=True)
class Curated:
    """A model to download. gigabytes: of its weights; memory: what it takes to run it."""

    name: str
    repository: str
    gigabytes: float

    @property
    def label(self) -> str:
        memory = round(self.gigabytes * 1.05 + 1.5)
        return f"{self.name} (download {self.gigabytes:g} GB, {memory} GB memory)"


CURATED = (
    Curated("LLaVA-1.5 7B", "llava-hf/llava-1.5-7b-hf", 14.1),
    Curated("LLaVA-1.5 13B", "llava-hf/llava-1.5-13b-hf", 26.7),
    Curated("LLaVA-NeXT 7B", "llava-hf/llava-v1.6-mistral-7b-hf", 15.1),
    Curated("Qwen2-VL 2B", "Qwen/Qwen2-VL-2B-Instruct", 4.4),
    Curated("Qwen2-VL 7B", "Qwen/Qwen2-VL-7B-Instruct", 16.6),
    Curated("Qwen2.5-VL 3B", "Qwen/Qwen2.5-VL-3B-Instruct", 7.5),
    Curated("Qwen2.5-VL 7B", "Qwen/Qwen2.5-VL-7B-Instruct", 16.6),
    Curated("Qwen3-VL 2B", "Qwen/Qwen3-VL-2B-Instruct", 4.3),
    Curated("Qwen3-VL 4B", "Qwen/Qwen3-VL-4B-Instruct", 8.9),
    Curated("Qwen3-VL 8B", "Qwen/Qwen3-VL-8B-Instruct", 17.5),
)


BY_LABEL = {model.label: model for model in CURATED}
_REPOSITORIES = {model.repository for model in CURATED}


def is_hub_id(text: str) -> bool:
    fits = len(text) <= LONGEST_ID and ".." not in text
    return fits and _HUB_ID.fullmatch(text) is not None


def model_type_of(folder: Path) -> str | None:
    try:
        return json.loads((folder / "config.json").read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def downloaded(
    repository: str,
    roots: Sequence[str],
    progress: Callable[[str, int, int], None] | None,
    gigabytes: float | None = None,
    pickled: bool = False,
) -> str:
    """The folder of a hub model, in one of `roots` or fetched to the first.

    Without roots the id itself, which the hub's own cache serves.
    """
    if not roots:
        return repository
    owner, name = repository.split("/")
    for root in map(Path, roots):
        for folder in (root / name, root / owner / name):
            if _holds(folder, repository):
                return str(folder)
    target = Path(roots[0]) / name
    if target.exists():  # another owner's model of the same name
        target = Path(roots[0]) / owner / name
    part = Path(roots[0]) / f".{owner}--{name}.part"
    try:
        _download(repository, part, progress, gigabytes, pickled)
        (part / ORIGIN).write_text(repository + "\n", "utf-8")
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub client's notes for resuming
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
    except OSError as error:
        raise ValueError(
            f"make room for {target} and run again to continue the download: it cannot be put "
            f"there ({error})"
        ) from error
    return str(target)


def _holds(folder: Path, repository: str) -> bool:
    """True where a folder holds this very model. ValueError where it does but is incomplete.

    A folder that the user put there does not say whose model it is, unless it lies in a folder
    named after the owner, or it has the name of a model of the list.
    """
    if not (folder / "config.json").is_file():
        return False
    origin = folder / ORIGIN
    if origin.is_file():
        if origin.read_text("utf-8", "replace").strip() != repository:
            return False
    elif repository not in _REPOSITORIES and folder.parent.name != repository.split("/")[0]:
        return False
    missing = _missing_files(folder)
    if missing:
        raise ValueError(
            f"delete {folder} to download the model anew, or complete it: it lacks {len(missing)} "
            f"files, such as {missing[0]}"
        )
    return True


def _download(
    repository: str,
    folder: Path,
    progress: Callable[[str, int, int], None] | None,
    gigabytes: float | None,
    pickled: bool,
) -> None:
    """Fetch the model's files into `folder`, continuing what is there. ValueError if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    task = _Download(repository, folder, pickled)
    task.start()
    guess = int((gigabytes or 1) * 1e9)
    try:
        alive = True
        while alive:
            task.join(POLL_SECONDS)
            alive = task.is_alive()
            if progress:
                total = task.total or guess
                progress(f"downloading {repository}", min(_size(folder), total), total)
    finally:
        task.stop = True  # after an interrupt: no further file is begun, the next try continues
    if isinstance(task.error, _Unusable):
        raise task.error
    if task.error is not None:
        raise ValueError(
            f"check the name and the network, or put the model into {folder.parent} by hand: "
            f"{repository} cannot be downloaded ({task.error})"
        ) from task.error
    missing = _missing_files(folder)
    if missing:
        raise ValueError(
            f"run again to continue the download: {repository} lacks {len(missing)} files, such "
            f"as {missing[0]}"
        )


class _Unusable(ValueError):
    """A model that no network brings: of a type, or with weights, that cannot be loaded."""


class _Download(threading.Thread):
    """The hub's client, file by file, beside the thread that watches for interrupts."""

    def __init__(self, repository: str, folder: Path, pickled: bool) -> None:
        super().__init__(daemon=True)
        self.repository, self.folder, self.pickled = repository, folder, pickled
        self.stop = False
        self.total = 0  # bytes, once the hub has told them
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            from huggingface_hub import HfApi, hf_hub_download
            from huggingface_hub.utils import filter_repo_objects

            info = HfApi().model_info(self.repository, files_metadata=True)
            sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings}
            names = sorted(filter_repo_objects(sizes, allow_patterns=list(FILES)))
            if self.pickled and not any(map(_is_weights, names)):
                names = sorted(filter_repo_objects(sizes, allow_patterns=[*FILES, PICKLED]))
            self.total = sum(sizes[name] for name in names)
            if not any(map(_is_weights, names)):
                raise _Unusable(
                    "choose a model with safetensors weights, or set weights to 'safetensors or "
                    f"pickled': {self.repository} has none"
                )
            # The small files first: an unsupported model is found out before its weights are here
            names.sort(key=_is_weights)
            for name in names:
                if self.stop:
                    return
                _check_inside(name, self.repository)
                if _is_weights(name):
                    _check_supported(self.folder, self.repository)
                hf_hub_download(self.repository, name, revision=info.sha, local_dir=self.folder)
        except Exception as error:  # whatever the client or the network raises: told in `_download`
            self.error = error


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def _check_supported(folder: Path, repository: str) -> None:
    kind = model_type_of(folder)
    if kind not in SUPPORTED:
        raise _Unusable(
            f"choose a model of type {', '.join(SUPPORTED)}: {repository} is of type {kind!r}"
        )


def _check_inside(name: str, repository: str) -> None:
    """The list of files comes from outside, and the client would write where it says."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise _Unusable(f"choose another model: {repository} names a file elsewhere, {name!r}")


def _missing_files(folder: Path) -> list[str]:
    """What a model folder lacks of its config and its weights, by their index or as one file."""
    weights = "model.safetensors"
    if not any(folder.glob("*.safetensors")) and any(folder.glob(PICKLED)):
        weights = "pytorch_model.bin"
    index = folder / f"{weights}.index.json"
    needed = {weights}
    try:
        if index.is_file():
            needed = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        files = ["config.json", *sorted(needed)]
        return [name for name in files if not (folder / name).is_file()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return [f"a readable {index.name}"]


def _size(folder: Path) -> int:
    """Bytes in a folder whose files come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
