"""Captured attention rows against the library's eager attention, a line per model family.

    python tools/check_capture.py

Tiny random models. float32: the largest difference over layers, heads and patches, both branches.
bfloat16: the mean error to float32 truth as a multiple of eager attention's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent))

from laser_core.models.families import FAMILIES
from laser_core.models.lvlm import Lvlm
from laser_core.settings import PromptSettings
from laser_core.steps.attention import read_attention
from tools.testbed.lvlms import lvlm_of, noise_picture
from tools.testbed.reference import eager_rows

QUESTION = "what colour is the square ?"
PICTURES = 12


def rows_and_oracle(lvlm: Lvlm, truth: Lvlm, seed: int) -> tuple[torch.Tensor, ...]:
    """(ours, the oracle's) rows of both branches, stacked: (2, L, H, N)."""
    picture, settings = noise_picture((90, 60), seed), PromptSettings()
    maps = read_attention(lvlm, picture, QUESTION, settings)
    inputs = lvlm.encode(picture)
    texts = (lvlm.question_text(QUESTION, settings), lvlm.query_free_text(settings))
    oracle = torch.stack([eager_rows(truth, truth.prompt([inputs], text)) for text in texts])
    return torch.stack([maps.with_query, maps.without_query]).flatten(3), oracle


def main() -> None:
    torch.set_num_threads(1)
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print("| family | decoder | float32, largest difference | bfloat16, error / eager's error |")
    print("|---|---|---|---|")
    for model_type, family in FAMILIES.items():
        windows = (None,) if model_type in ("llava_next", "qwen3_vl") else (None, 24)
        for window in windows:
            lvlm = lvlm_of(model_type, sliding_window=window)
            pairs = [rows_and_oracle(lvlm, lvlm, seed) for seed in range(PICTURES)]
            worst = max(float((ours - oracle).abs().max()) for ours, oracle in pairs)
            half = lvlm_of(model_type, fresh=True, sliding_window=window)
            half.model.to(torch.bfloat16)
            truth = lvlm_of(model_type, fresh=True, sliding_window=window)
            truth.model.load_state_dict({n: v.float() for n, v in half.model.state_dict().items()})
            ours_error = eager_error = 0.0
            for seed in range(PICTURES):
                ours, oracle = rows_and_oracle(half, truth, seed)
                _, eager = rows_and_oracle(half, half, seed)
                ours_error += float((ours - oracle).abs().mean())
                eager_error += float((eager - oracle).abs().mean())
            decoder = "sliding window" if window else "full attention"
            print(f"| {family.name} | {decoder} | {worst:.1e} | {ours_error / eager_error:.2f} |")


if __name__ == "__main__":
    main()
