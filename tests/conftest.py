"""What every test runs under: one thread, no GPU, and the same examples every time.

Only tests/gpu needs a GPU, and `./run-tests --gpu` runs it without this file.
"""

import gc
import os
import sys
from pathlib import Path

# Before torch is imported: waiting threads must sleep, or busy cores slow generate() tenfold
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Before too: `auto` means the CPU and float32 wherever the tests run, in their processes as well
os.environ["CUDA_VISIBLE_DEVICES"] = ""

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hypothesis
import torch

torch.set_num_threads(1)
if hasattr(torch, "accelerator"):  # what that variable does not hide, such as Apple's
    torch.accelerator.is_available = lambda: False

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_finish():
    """The modules and tests stay to the end: no collection of garbage need look through them."""
    gc.collect()
    gc.freeze()
