"""Memory that a batch of frames takes beside itself, in multiples of its own bytes."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import torch

from .pack import part, run

SIZE = 720, 1280  # of HD, where a drawing is largest beside a frame
FRAMES = 12


class PeakOfProcess:
    """Inside, watches the process; afterwards `grown` is the most it grew by, in bytes."""

    def __enter__(self):
        self._process = psutil.Process()
        self._before, self.grown, self._watching = self._process.memory_info().rss, 0, True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while self._watching:
            self.grown = max(self.grown, self._process.memory_info().rss - self._before)
            time.sleep(0.002)

    def __exit__(self, *exception):
        self._watching = False
        self._thread.join()


def frames(count):
    return torch.rand(1, *SIZE, 3).expand(count, *SIZE, 3).contiguous()


@pytest.mark.parametrize(("connected", "most"), [(False, 1.0), (True, 2.0)])
def test_a_batch_of_frames_takes_little_beside_itself(connected, most, monkeypatch):
    monkeypatch.setattr(part("nodes.runtime"), "is_connected", lambda *output: connected)
    mask = torch.zeros(1, *SIZE)
    mask[:, 200:300, 400:600] = 1
    run("LaserConViCrop", image=frames(2), mask=mask)  # what it takes once, for any batch
    batch = frames(FRAMES)
    with PeakOfProcess() as peak:
        result = run("LaserConViCrop", image=batch, mask=mask)
    assert (result.overlay is not None) == connected
    kept = sum(one.nbytes for one in vars(result).values() if isinstance(one, torch.Tensor))
    assert kept / 2 < peak.grown, "the case must be measured"  # of a mask, zeros take no memory
    assert peak.grown <= most * batch.nbytes
