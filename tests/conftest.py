"""What every test runs under: one thread, and the same examples every time."""

import os
import sys
from pathlib import Path

# Before torch is imported: waiting threads must sleep, or busy cores slow generate() tenfold
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import hypothesis
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=50, database=None
)
hypothesis.settings.load_profile("repeatable")
