"""Memory that a batch of frames takes beside itself, in multiples of its own bytes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from .pack import part, run

SIZE = 720, 1280  # of HD, where a drawing is largest beside a frame
FRAMES = 12


def most_held(work):
    """(the most bytes that tensors made by `work` held at one time, what it returned)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run_of_it:
        result = work()
    events = run_of_it.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in changes)), result


def frames(count):
    return torch.rand(1, *SIZE, 3).expand(count, *SIZE, 3).contiguous()


@pytest.mark.parametrize(("connected", "most"), [(False, 1.0), (True, 2.0)])
def test_a_batch_of_frames_takes_little_beside_itself(connected, most, monkeypatch):
    monkeypatch.setattr(part("nodes.runtime"), "is_connected", lambda *output: connected)
    mask = torch.zeros(1, *SIZE)
    mask[:, 200:300, 400:600] = 1
    run("LaserConViCrop", image=frames(2), mask=mask)  # what it takes once, for any batch
    batch = frames(FRAMES)
    most_bytes, result = most_held(lambda: run("LaserConViCrop", image=batch, mask=mask))
    assert (result.overlay is not None) == connected
    kept = sum(one.nbytes for one in vars(result).values() if isinstance(one, torch.Tensor))
    assert kept <= most_bytes <= most * batch.nbytes
