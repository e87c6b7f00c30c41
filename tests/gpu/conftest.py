"""What the tests of tests/gpu run on, and why they are skipped where there is no GPU.

`./run-tests --gpu` runs them without tests/conftest.py, which hides every GPU from the others.
"""

from __future__ import annotations

import importlib.util

import pytest
import torch
import transformers

from laser_core.models.loading import device_of
from laser_core.settings import LoadSettings


def _gpu() -> torch.device | None:
    """The one that `auto` takes."""
    device = device_of(LoadSettings())
    return None if device.type == "cpu" else device


def _name(device: torch.device | None) -> str:
    if device is None:
        return "no GPU"
    module = torch.get_device_module(device)
    return module.get_device_name() if hasattr(module, "get_device_name") else str(device)


def pytest_report_header() -> str:
    quantized = "" if importlib.util.find_spec("bitsandbytes") else "no "
    return (
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{quantized}bitsandbytes, {_name(_gpu())}"
    )


@pytest.fixture(scope="session")
def device() -> torch.device:
    device = _gpu()
    if device is None:
        pytest.skip("needs a GPU: ./run-tests --gpu, where PYTHON's torch sees one")
    return device


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 off: its products differ from float32's in the third digit."""
    switches = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    yield
    for switch, value in zip(switches, before, strict=True):
        switch.allow_tf32 = value
