"""A hub in a folder, in place of huggingface_hub's client: it can fail, be slow, and lack things.

Knows the client's three functions that this project calls, and the layout of its cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

COMMIT = "abc"


class FakeHub:
    """One model, the files of `source`, under any id; `install` puts it in the client's place.

    files: what was fetched, in order. extra: more names the hub lists. sizes: bytes it tells by
    name. fail: raised where weights are fetched. wait: an event each fetch waits for.
    """

    def __init__(self, source: Path, cache: Path) -> None:
        self.source, self.cache = source, cache
        self.files: list[str] = []
        self.extra = ["README.md"]
        self.sizes: dict[str, int] = {}
        self.fail: Exception | None = None
        self.wait: threading.Event | None = None

    def install(self, set_attribute: Callable[[Any, str, Any], None]) -> FakeHub:
        """set_attribute: monkeypatch's setattr."""
        import huggingface_hub

        set_attribute(huggingface_hub, "HfApi", lambda: self)
        set_attribute(huggingface_hub, "hf_hub_download", self.hf_hub_download)
        set_attribute(huggingface_hub.constants, "HF_HUB_CACHE", str(self.cache))
        return self

    def snapshot(self, repository: str) -> Path:
        """The folder of a model in the cache."""
        return self.cache / f"models--{repository.replace('/', '--')}" / "snapshots" / COMMIT

    def model_info(self, repository: str, files_metadata: bool) -> SimpleNamespace:
        assert files_metadata
        names = [*sorted(path.name for path in self.source.iterdir()), *self.extra]
        siblings = [SimpleNamespace(rfilename=name, size=self.sizes.get(name)) for name in names]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def hf_hub_download(
        self,
        repository: str,
        name: str,
        revision: str | None = None,
        local_dir: Path | None = None,
    ) -> str:
        assert revision == (COMMIT if local_dir else None)
        if self.wait is not None:
            self.wait.wait(20)
        if self.fail is not None and name.endswith(".safetensors"):
            raise self.fail
        self.files.append(name)
        folder = local_dir
        if folder is None:
            folder = self.snapshot(repository)
            folder.mkdir(parents=True, exist_ok=True)
            (folder.parents[1] / "refs").mkdir(exist_ok=True)
            (folder.parents[1] / "refs" / "main").write_text(COMMIT)
        return shutil.copy(self.source / name, folder)


def store(source: Path, cache: Path, repository: str, commit: str = COMMIT) -> Path:
    """Put a model into a cache as the hub's client does; the folder of its files.

    Blobs are named by their hash, a revision's files are links to them, `main` is the last one.
    """
    model = cache / f"models--{repository.replace('/', '--')}"
    snapshot = model / "snapshots" / commit
    for folder in (model / "blobs", model / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        blob = model / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    (model / "refs" / "main").write_text(commit)
    return snapshot
