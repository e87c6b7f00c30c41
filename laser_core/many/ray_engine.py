"""The same rows through Ray Data: a worker for each GPU, the model loaded once in each.

The driver hands out parts of the list of items and gets rows back, so pictures go from where they
lie to the worker, and nowhere else. A part whose worker was lost is handed to another one. Ray is
imported by the first call.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import first_words, is_for_the_user
from ..files import to_plain
from .running import Work

LARGEST_PART = 64  # items: what a lost worker costs at most
PARTS_A_WORKER = 4  # at least, so that none waits long for the last
RETRIES = 5  # of a part whose worker was lost
WAVE = 1_000_000  # items that are handed to Ray at once
_PACKAGE = Path(__file__).resolve().parents[1]


def ray_data() -> ModuleType:
    """The library. Raises ValueError where it is not there."""
    try:
        import ray.data
    except ImportError as error:
        raise ValueError(
            'install the extra "cluster" (pip install "laser-lvlm[cluster]", or pip install '
            "'ray[data]'), or leave out --engine ray: Ray Data is missing"
        ) from error
    return ray


class RayEngine:
    """Runs work on the workers of a cluster, or of this computer.

    workers: how many, 0: one for each GPU, or one where there is none. address: of the cluster, as
    `ray.init` takes it; "" for this computer.
    """

    def __init__(self, workers: int = 0, address: str = "") -> None:
        if workers < 0:
            raise ValueError(f"give --workers a number, 0 for one a GPU: it is {workers}")
        self._ray, self._workers, self._address = ray_data(), workers, address

    def __call__(self, work: Work, items: Iterable[Any], total: int) -> Iterator[dict[str, Any]]:
        """A row for each item, in any order. Raises ValueError as `work` does."""
        ray = self._ray
        own = not ray.is_initialized()  # else the program that this runs in has connected already
        if own:
            self._connect()
        try:
            gpus = int(ray.cluster_resources().get("GPU", 0))
            workers = self._workers or max(gpus, 1)
            share = 1 / math.ceil(workers / gpus) if gpus else 0.0
            remaining = iter(items)
            with _quiet(ray):
                for first in remaining:
                    wave = list(chain([first], islice(remaining, WAVE - 1)))
                    yield from self._wave(work, wave, workers, share)
        except ray.exceptions.RayActorError as error:
            raise ValueError(
                "run the same command again, which goes on, with fewer --workers (and a smaller "
                f"--batch, where it takes one): a worker was lost {RETRIES + 1} times at the same "
                f"rows ({first_words(error)})"
            ) from error
        finally:
            if own:
                ray.shutdown()

    def _connect(self) -> None:
        here: dict[str, Any] = {"num_cpus": max(self._workers, 1) + 1, "include_dashboard": False}
        try:
            self._ray.init(
                self._address or "local",
                runtime_env={"py_modules": [str(_PACKAGE)]},  # the workers' own may be another
                log_to_driver=False,
                logging_level=logging.ERROR,
                **({} if self._address else here),
            )
        except Exception as error:  # it raises plain ones
            remedy = "check --address" if self._address else "run it again on a less busy machine"
            raise ValueError(f"{remedy}: Ray did not start ({first_words(error)})") from error

    def _wave(
        self, work: Work, items: list[Any], workers: int, gpus: float
    ) -> Iterator[dict[str, Any]]:
        ray = self._ray
        size = min(LARGEST_PART, max(1, len(items) // (PARTS_A_WORKER * workers)))
        parts = [{"items": items[at : at + size]} for at in range(0, len(items), size)]
        answered = ray.data.from_items(parts, override_num_blocks=len(parts)).map_batches(
            _Worker,
            fn_constructor_args=(work, os.getcwd()),
            batch_size=None,
            concurrency=min(workers, len(parts)),
            num_gpus=gpus,
            num_cpus=0 if gpus else 1,
            max_task_retries=RETRIES,
        )
        for batch in answered.iter_batches(batch_size=None, batch_format="numpy"):
            for line in batch["line"]:
                row = json.loads(line)
                if "stop" in row:
                    raise ValueError(row["stop"])
                yield row


@contextmanager
def _quiet(ray: ModuleType) -> Iterator[None]:
    """Inside, Ray Data shows no progress of its own."""
    logger, context = logging.getLogger("ray.data"), ray.data.DataContext.get_current()
    level, bars, start = (
        logger.level, context.enable_progress_bars, context.print_on_execution_start
    )  # fmt: skip
    try:
        logger.setLevel(logging.ERROR)
        context.enable_progress_bars = context.print_on_execution_start = False
        yield
    finally:
        logger.setLevel(level)
        context.enable_progress_bars, context.print_on_execution_start = bars, start


class _Worker:
    """Rows as JSON texts, which no table on the way converts."""

    def __init__(self, work: Work, folder: str) -> None:
        self._work = work
        if os.path.isdir(folder):  # so that relative paths mean what they mean to the driver
            os.chdir(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        items = chain.from_iterable(batch["items"])
        try:
            return {"line": [json.dumps(to_plain(row)) for row in self._work.rows(items)]}
        except Exception as error:
            if not is_for_the_user(error):
                raise
            return {"line": [json.dumps({"stop": str(error)})]}
