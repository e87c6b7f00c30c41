"""Long runs over many pictures: is memory flat, and do both engines make the same rows?

    python -m tools.checks.many_runs [--tiny 5000] [--demo 300] [--workers 2]

--tiny: pictures for a tiny random model, --demo: scenes for the demo model; 0 leaves one out. Linux
only (reads /proc). Ends with exit code 1 if memory after the last row is more than 1.1 times that
after row 500 (or a tenth of a shorter run), or if rows differ. Without Ray its runs are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import psutil
import torch

from laser_core.console import ProgressLine
from laser_core.many.laser_map import LaserMap
from laser_core.many.ray_engine import RayEngine
from laser_core.many.resumable_lines import Line, ResultLines
from laser_core.many.running import Engine, embedded, run
from laser_core.many.sources import Source
from laser_core.settings import CropSettings, DecodeSettings, LaserSettings
from tools.checks.soak import resident_mb
from tools.demo_model.world import held_out_items
from tools.testbed.lvlms import noise_picture
from tools.testbed.tiny import build, save

MOST_GROWTH = 1.1
SETTLED = 500  # rows after which memory must be flat
QUESTION = "what colour is the square ?"
TINY = LaserSettings(crop=CropSettings(min_side_px=20), decode=DecodeSettings(max_tokens=2))


class Watch(ProgressLine):
    """Notes memory when the run has settled, and at its end. workers: of Ray, all together."""

    def __init__(self) -> None:
        super().__init__()
        self.settled_mb = self.last_mb = self.workers_mb = 0.0
        self.started = 0.0  # after the first row: what loading takes is left out

    def bar(self, stage: str, done: int, total: int) -> None:
        super().bar(stage, done, total)
        if done == 1:
            self.started = time.monotonic()
        if done == min(SETTLED, total // 10):
            self.settled_mb, self.workers_mb = resident_mb(), workers_mb()
        if done == total:
            self.last_mb = resident_mb()
            self.rate = (total - 1) / (time.monotonic() - self.started)


def workers_mb() -> float:
    found = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if "".join(process.cmdline()).startswith("ray::MapWorker"):
                found += process.memory_info().rss
    return found / 2**20


def measured(folder: Path, name: str, engine: Engine, work: LaserMap) -> tuple[bool, list[Line]]:
    """Whether memory stayed flat, and the rows; prints a line of what was measured."""
    out, watch = folder / f"{name}.jsonl", Watch()
    source = Source(str(folder / "rows.jsonl"), "")
    started = time.monotonic()
    run(source, work, ResultLines(out), engine, watch,
        stage=name, schema="laser-many-runs", version=1, asked={})  # fmt: skip
    growth = watch.last_mb / watch.settled_mb
    print(f"{name}: {watch.rate:.2f} rows/s, {time.monotonic() - started:.0f} s in all; memory "
          f"{watch.settled_mb:.0f} MB, {watch.last_mb:.0f} MB at the end ({growth:.3f}); workers "
          f"{watch.workers_mb:.0f} MB", flush=True)  # fmt: skip
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    return growth <= MOST_GROWTH, sorted(rows, key=lambda row: row["row"])


def both(folder: Path, work: LaserMap, workers: int) -> bool:
    """Whether all is well with the rows of a folder."""
    flat, rows = measured(folder, "embedded", embedded, work)
    if any(row["error"] for row in rows):
        flat = False
    if importlib.util.find_spec("ray") is None:
        print("ray: left out, it is not installed")
        return flat
    ray_flat, ray_rows = measured(folder, "ray", RayEngine(workers), work)
    different = sum(one != other for one, other in zip(rows, ray_rows, strict=True))
    print(f"{different} of {len(rows)} rows differ")
    return flat and ray_flat and not different


def write_rows(folder: Path, questions: Sequence[str]) -> None:
    rows = [{"image": f"{n}.png", "question": question} for n, question in enumerate(questions)]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", type=int, default=5000)
    parser.add_argument("--demo", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    well = True
    with tempfile.TemporaryDirectory() as name:
        if arguments.tiny:
            folder = Path(name, "tiny")
            save(build("llava", layers=2), folder / "model")
            for number in range(arguments.tiny):
                noise_picture((40, 30), number).save(folder / f"{number}.png")
            write_rows(folder, [QUESTION] * arguments.tiny)
            well &= both(folder, LaserMap("", TINY, model=str(folder / "model")), arguments.workers)
        if arguments.demo:
            folder = Path(name, "demo")
            folder.mkdir()
            items = held_out_items("test", arguments.demo)
            for number, item in enumerate(items):
                item.picture.save(folder / f"{number}.png")
            write_rows(folder, [item.question for item in items])
            well &= both(folder, LaserMap(), arguments.workers)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
