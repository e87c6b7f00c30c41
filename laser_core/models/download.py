"""A model's files from the hub, whole or not at all. Loads nothing; knows nothing of ComfyUI."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from ..errors import first_words
from .catalogue import CURATED_IDS, ORIGIN, TEXT_ENCODERS, ListedModel, Roots, copies
from .folder_check import check_type, check_version
from .model_files import FETCHED, PICKLED, is_weights, missing_files

POLL_SECONDS = 0.5
LONGEST_ID = 96  # characters: the hub's own limit
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # never a way up or out


def is_hub_id(text: str) -> bool:
    fits = len(text) <= LONGEST_ID and ".." not in text
    return fits and _HUB_ID.fullmatch(text) is not None


def downloaded(
    repository: str,
    roots: Roots = (),
    progress: Callable[[str, int, int], None] | None = None,
    pickled: bool = False,
) -> Path:
    """The folder of a hub model: a whole copy in `roots` or in the hub's cache, or a new download.

    Nobody is asked for a model that is here. Downloads go to the first root that is not for text
    encoders, or to the cache if there is none; one that broke off is continued. pickled: also
    download pickled weights, where there are no safetensors. Raises ValueError, remedy first, for a
    model that somebody else left incomplete or that cannot be downloaded.
    """
    here = copies(repository, roots)
    whole = next((model.path for model in here if not model.missing), None)
    if whole is not None:
        return whole
    targets = [folder for name, folder in roots if name != TEXT_ENCODERS]
    if not targets:
        return _download(repository, None, progress, pickled)
    owner, name = repository.split("/")
    root = Path(targets[0])
    part, target = root / f".{owner}--{name}.part", root / name
    if here:
        part = target = _ours(here[0])
    elif target.exists():  # another owner's model of the same name
        target = root / owner / name
    try:
        part.mkdir(parents=True, exist_ok=True)
        _download(repository, part, progress, pickled)
        (part / ORIGIN).write_text(repository + "\n", "utf-8")
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the hub client's notes for resuming
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
    except OSError as error:
        raise ValueError(
            f"make room for {target} and run again to continue the download: it cannot be put "
            f"there ({error})"
        ) from error
    return target


def _ours(model: ListedModel) -> Path:
    """The folder of an incomplete model that was downloaded here; ValueError for anyone else's."""
    assert model.path is not None
    if not (model.path / ORIGIN).is_file():
        raise ValueError(
            f"delete {model.path} to download the model again, or complete it: it lacks "
            f"{len(model.missing)} files, such as {model.missing[0]}"
        )
    return model.path


def _download(
    repository: str,
    folder: Path | None,
    progress: Callable[[str, int, int], None] | None,
    pickled: bool,
) -> Path:
    """Download the model's files into `folder`, continuing what is there, or into the cache.

    Returns the folder that holds them. Raises ValueError if the download fails.
    """
    task = _Download(repository, folder, pickled)
    task.start()
    known = CURATED_IDS.get(repository.casefold())
    guess = known.size_bytes if known else 10**9
    try:
        alive = True
        while alive:
            task.join(POLL_SECONDS)
            alive = task.is_alive()
            if progress and folder:
                total = task.total or guess
                progress(f"downloading {repository}", min(_size(folder), total), total)
    finally:
        task.stop = True  # after an interrupt: no further file begins; the next try continues
    error = task.error
    if isinstance(error, _Unusable):
        raise error
    if isinstance(error, OSError) and error.filename:  # a disk, no network
        raise ValueError(
            f"make room in {folder or 'the cache of Hugging Face (HF_HOME)'}, or allow writing "
            f"there: {repository} cannot be stored ({error})"
        ) from error
    if error is not None:
        raise ValueError(
            "check the name and the network (proxy, HF_ENDPOINT), or give a local folder: "
            f"{repository} cannot be downloaded ({first_words(error)})"
        ) from error
    assert task.folder is not None  # where config.json, the first file, was put
    missing = missing_files(task.folder)
    if missing:
        raise ValueError(
            f"run again to continue the download: {repository} lacks {len(missing)} files, such "
            f"as {missing[0]}"
        )
    return task.folder


class _Unusable(ValueError):
    """A model that cannot be loaded for its type or its weights, whatever the network does."""


class _Download(threading.Thread):
    """Runs the hub's client, file by file, while another thread watches for interrupts."""

    def __init__(self, repository: str, folder: Path | None, pickled: bool) -> None:
        super().__init__(daemon=True)
        self.repository, self.folder, self.pickled = repository, folder, pickled
        self.stop = False
        self.total = 0  # bytes, once the hub has told them
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._fetch()
        except Exception as error:  # whatever client or network raise: `_download` reports it
            self.error = error

    def _fetch(self) -> None:
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.utils import filter_repo_objects

        info = HfApi().model_info(self.repository, files_metadata=True)
        sizes = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}
        names = sorted(filter_repo_objects(sizes, allow_patterns=list(FETCHED)))
        if self.pickled and not any(map(is_weights, names)):
            names = sorted(filter_repo_objects(sizes, allow_patterns=[*FETCHED, PICKLED]))
        self.total = sum(sizes[name] for name in names)
        if "config.json" not in names:
            raise _Unusable(f"choose another model: {self.repository} has no config.json")
        if not any(map(is_weights, names)):
            raise _Unusable(
                "choose a model with safetensors weights, or set weights to 'safetensors or "
                f"pickled' (--weights): {self.repository} has none"
            )
        # The first file shows whether a model is supported, before its weights are downloaded
        names.sort(key=lambda name: (name != "config.json", is_weights(name)))
        # Given a commit, the cache would not note which one is the newest
        into, revision = self.folder, info.sha if self.folder else None
        for name in names:
            if self.stop:
                return
            _check_inside(name, self.repository)
            path = hf_hub_download(self.repository, name, revision=revision, local_dir=into)
            if name == "config.json":
                self.folder = Path(path).parent
                self._check_type(self.folder)

    def _check_type(self, folder: Path) -> None:
        try:
            check_type(folder, self.repository)
            check_version(folder, self.repository)
        except ValueError as error:
            raise _Unusable(str(error)) from error


def _check_inside(name: str, repository: str) -> None:
    """Refuse names that lead out of the folder: the client writes where the list says."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or ":" in parts[0]:
        raise _Unusable(
            f"choose another model: {repository} lists a file outside its folder: {name!r}"
        )


def _size(folder: Path) -> int:
    """Bytes in a folder whose files come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total
