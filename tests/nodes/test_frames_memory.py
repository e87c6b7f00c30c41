"""Memory that a batch of frames takes beside itself, in multiples of its own bytes."""

from __future__ import annotations

import pytest
import torch

from tools.benchmarks.speed.count import peak_bytes

from .pack import part, run

SIZE = 720, 1280  # of HD, where a drawing is largest beside a frame
FRAMES = 6


@pytest.mark.parametrize(("connected", "most"), [(False, 1.0), (True, 2.0)])
def test_a_batch_of_frames_takes_little_beside_itself(connected, most, monkeypatch):
    monkeypatch.setattr(part("nodes.runtime"), "is_connected", lambda *output: connected)
    mask = torch.zeros(1, *SIZE)
    mask[:, 200:300, 400:600] = 1
    batch = torch.rand(1, *SIZE, 3).expand(FRAMES, *SIZE, 3).contiguous()
    results = []
    held = peak_bytes(lambda: results.append(run("LaserConViCrop", image=batch, mask=mask)), "cpu")
    [result] = results
    assert (result.overlay is not None) == connected
    kept = sum(one.nbytes for one in vars(result).values() if isinstance(one, torch.Tensor))
    assert kept <= held <= most * batch.nbytes
