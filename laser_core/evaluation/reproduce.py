"""Public benchmarks with this method, its preset *paper* and their controls, into one JSON file.

Reads the data sets as they are published and scores by their official rules (`data_sets`,
`scoring`), not through a harness: so the controls read the same windows on the same reading of each
picture, differences are paired question by question, and a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import platform
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..console import ProgressLine, quiet_libraries
from ..files import to_json, to_plain, write_atomically
from ..many.resumable_lines import Line, ResultLines
from ..many.running import embedded, fill, same_load
from ..models.catalogue import copies, own_roots
from ..models.download import is_hub_id
from ..models.loading import load_lvlm
from ..models.lvlm import Lvlm
from ..models.model_files import is_weights
from ..pipeline import locate
from ..settings import LaserSettings, LoadSettings
from .data_sets import DATA_SETS, DataSet, Sample, chosen, digests, files_of, samples
from .intervals import in_words
from .measuring import MeasuringWork, check_names, sorted_out
from .metrics import mass_in
from .refcoco import digest_of
from .reproduced import SCHEMA, VERSION, figures_of, read_own
from .scoring import yes_or_no
from .ways import WAYS, answers_by_way, shares_by_way

SUITES = ("small", "full")
MAX_TOKENS = 16
FIRST_BYTES = 1 << 20  # of each file of weights: they tell models apart, and reading all takes long


@dataclass(frozen=True)
class Reproduction:
    """What to run, by which model, into which .json file.

    data: a folder of data sets, None for the hub's cache. download: fetch data sets and the model
    where they are not here. Lines of questions lie beside `out`, in a file for each task: another
    run may ask for fewer tasks or for more.
    """

    model: str
    load: LoadSettings
    suite: str
    tasks: Sequence[str]
    data: Path | None
    out: Path
    download: bool = False

    def run(self, progress: ProgressLine) -> dict[str, Any]:
        """Measure what is missing; the content of the file.

        Raises ValueError, remedy first, for data sets or a model that are not here, for files of
        another run, and if nothing could be measured.
        """
        self._check()
        files = {task: files_of(DATA_SETS[task], self.data, self.download) for task in self.tasks}
        progress.stage("checking the data")
        data = {
            task: {"repository": DATA_SETS[task].repository, "files": digests(paths)}
            for task, paths in files.items()
        }
        progress.stage("loading the model")
        with quiet_libraries():
            lvlm = load_lvlm(self.model, self.load)
            lvlm.check_answers()
            run = {"model": lvlm.name, "weights": weights_of(lvlm), "suite": self.suite}
            run |= {"load": same_load(self.load), "settings": LaserSettings().to_dict()}
            with ExitStack() as opened:
                results = {task: self._results(task) for task in self.tasks}
                for task, own in results.items():  # all are checked before any is measured
                    opened.enter_context(closing(own))
                    own.begin(SCHEMA, VERSION, {**run, "data": data[task]})
                lines = [
                    line
                    for task, own in results.items()
                    for line in self._measure(lvlm, task, files[task], own, progress)
                ]
        content = {
            "schema": SCHEMA, "version": VERSION, **run, "data": data,
            "versions": versions(), "hardware": hardware(lvlm, self.load.device),
            **collected(self.tasks, lines),
        }  # fmt: skip
        content = to_plain({**content, "figures": figures_of(content["rows"])})
        write_atomically(self.out, to_json(content) + "\n")
        return content

    def _check(self) -> None:
        if self.out.suffix != ".json":
            raise ValueError(f"choose an --out that ends in .json: it is {str(self.out)!r}")
        if self.out.exists():
            read_own(self.out)  # anyone else's file stays
        if self.suite not in SUITES:
            raise ValueError(f"choose a --suite of {', '.join(SUITES)}: it is {self.suite!r}")
        check_names("--tasks", self.tasks, DATA_SETS)
        if self.data is not None and not self.data.is_dir():
            raise ValueError(f"choose an existing folder: there is no {str(self.data)!r}")
        absent = is_hub_id(self.model) and not Path(self.model).exists()
        if absent and not self.download and not _is_here(self.model):
            raise ValueError(
                f"give --download, or the model's folder: {self.model} is not here, and nothing is "
                "fetched unasked"
            )

    def _results(self, task: str) -> ResultLines:
        return ResultLines(self.out.with_name(f"{self.out.stem}-{task}.jsonl"))

    def _measure(
        self,
        lvlm: Lvlm,
        task: str,
        paths: Sequence[Path],
        results: ResultLines,
        progress: ProgressLine,
    ) -> list[Line]:
        """A line for each question of a task, in order; measured where there is none."""
        data, done = DATA_SETS[task], set(results.ids())
        rows = chosen(paths, data.small if self.suite == "small" else 0)
        missing = [row for row in rows if f"{task} {row}" not in done]
        work = MeasuringWork(lambda: lvlm, partial(_head, task), partial(_timed, data))
        # Here and not on another engine: the file says of which weights and device its figures are
        fill(results, work, samples(data, paths, missing), len(missing), embedded, progress, task)
        return results.merge([f"{task} {row}" for row in rows])


def _head(task: str, sample: Sample) -> Line:
    return {"id": f"{task} {sample.id}", "task": task, "picture": sample.group}


def _timed(data: DataSet, lvlm: Lvlm, sample: Sample) -> Line:
    started = time.perf_counter()
    return {**_measured(lvlm, data, sample), "seconds": time.perf_counter() - started}


def _measured(lvlm: Lvlm, data: DataSet, sample: Sample) -> Line:
    """scores: by way, and what map and window hold where boxes are known; said: by way."""
    picture = sample.opened()
    if data.score is None:
        return {"scores": _aggregation(lvlm, sample)}
    said, found = answers_by_way(
        lvlm, picture, sample.question,
        look_for=sample.look_for, instruction=data.instruction, max_tokens=MAX_TOKENS,
        seed=zlib.crc32(sample.id.encode()),
    )  # fmt: skip
    scores = {way: data.score(text, sample.answers) for way, text in said.items()}
    if data.score is yes_or_no:  # much of a gain on POPE may be a shift towards "yes" (2504.10020)
        yes = {way: float(text.lower().startswith("yes")) for way, text in said.items()}
        scores |= {f"says yes, {way}": share for way, share in yes.items()}
    if sample.boxes:
        scores |= shares_by_way(found, sample.boxes)
    return {"scores": scores, "said": said}


def _aggregation(lvlm: Lvlm, sample: Sample) -> dict[str, float]:
    """Attention Aggregation by the paper's rule and by ours; `area`: a blind map's."""
    found = locate(lvlm, sample.opened(), sample.question)
    scores = shares_by_way(found, sample.boxes)
    paper = locate(lvlm, found.picture, sample.question, LaserSettings.of("paper"))
    if not paper.evidence.degenerate:
        scores["paper, mass"] = mass_in(paper.evidence, sample.boxes)
    return scores


def collected(tasks: Sequence[str], lines: Sequence[Line]) -> dict[str, Any]:
    """rows by task, as `figures_of` takes them; what failed, with how often; seconds in all.

    A task without any result has no rows. Raises ValueError as `sorted_out` does.
    """
    rows, (measured, failed) = {}, sorted_out(lines)
    for task in tasks:
        own = [line for line in measured if line["task"] == task]
        if not own:
            continue
        names = list(dict.fromkeys(name for line in own for name in line["scores"]))
        rows[task] = {
            "ids": [line["id"] for line in own],
            "groups": [line["picture"] for line in own],
            "ways": [way for way in WAYS if way in names],
            "scores": {name: [line["scores"].get(name) for line in own] for name in names},
        }
    seconds = sum(line["seconds"] for line in measured)
    return {"seconds": float(seconds), "failed": failed, "rows": rows}


def weights_of(lvlm: Lvlm) -> dict[str, str]:
    """What tells a model's files apart: SHA-256 of config.json, and of the names, sizes and first
    MiB of its weights; the hub's commit, where they lie in its cache."""
    folder = lvlm.folder
    if folder is None:
        raise ValueError("choose a model folder or a hub id: a single file is not identified")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if is_weights(path.name)):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode() + file.read(FIRST_BYTES))
    config = digest_of(folder / "config.json")
    commit = folder.name if folder.parent.name == "snapshots" else ""
    return {"config": config, "weights": digest.hexdigest(), "commit": commit}


def versions() -> dict[str, str]:
    names = ("transformers", "pyarrow", "pillow")
    return {
        "laser_core": __version__,
        "torch": torch.__version__,
        **{name: version(name) for name in names},
        "python": platform.python_version(),
    }


def hardware(lvlm: Lvlm, device: str) -> dict[str, str]:
    """What it ran on, without names of machines or users."""
    names = getattr(torch.get_device_module(lvlm.device), "get_device_name", None)
    name = names(lvlm.device) if names else platform.machine()
    return {"device": lvlm.device.type, "asked for": device, "name": name, "dtype": str(lvlm.dtype)}


def describe(content: Mapping[str, Any]) -> list[str]:
    """A file's figures in lines for people."""
    lines = []
    for task, figures in content["figures"].items():
        rows = content["rows"][task]
        pictures, count = len(set(rows["groups"])), len(rows["ids"])
        lines.append(
            f"{DATA_SETS[task].title}: {count} questions on {pictures} pictures; per "
            "cent, 95 % intervals over pictures"
        )
        for name, figure in figures.items():
            over = figure["over plain"]
            against = f", over plain {in_words(over, count, '+')}" if over else ""
            mean = in_words(figure["mean"], count)
            lines.append(f"  {NAMES.get(name, name):<40}{mean}{against}")
    for task in content["data"]:
        if task not in content["rows"]:
            lines.append(f"{DATA_SETS[task].title}: nothing could be measured")
    return lines + [f"failed {count}: {why}" for why, count in content["failed"].items()]


NAMES = {
    "area": "the boxes' part of the picture (chance)",
    "mass": "map in the boxes",
    "paper, mass": "map in the boxes, the paper's rule",
    "holds": "first window holds the boxes",
}


def _is_here(model: str) -> bool:
    return any(not copy.missing for copy in copies(model, own_roots()))
