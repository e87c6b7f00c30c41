"""Memory that the whole method takes beyond the weights: the plain model, the peers' way, ours.

    python tools/bench_memory.py [--shapes llava qwen2.5-vl] [--json FILE]
    python tools/bench_memory.py --gpu         # the 7B shapes in bf16: one command for a GPU

Each figure is the most tensor memory held at once beyond what was held before, of one answer with
nothing cached. On the CPU it is summed from the profiler's record of every allocation, on a GPU
from the allocator. "Kept" is what stays afterwards: the cached prefix, freed with the model.
Growth is the slope of reading a picture over N, in bytes per token and per token squared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from laser_core.attention import read_attention
from laser_core.lvlm import Lvlm
from tests.core.lvlms import noise_picture
from tools.bench_speed import DTYPES, MODES, PEERS_LIMIT, QUARTER_MODES, QUESTION
from tools.markdown import markdown
from tools.speed import ways
from tools.speed.count import MB, peak_bytes
from tools.speed.shapes import DEMO, NAMES, SHAPES, lvlm_of_shape, picture_of, versions

GROWTH = (0.5, 0.65, 0.8, 1.0)  # of the shape's picture, a side
HEADER = ("model", "answer input", "plain MB", "peers' way", "ours", "ours / plain",
          "ours without what is kept", "/ plain", "kept MB")  # fmt: skip


def whole(name: str, lvlm: Lvlm, device: str, with_peers: bool) -> list[dict[str, Any]]:
    """Peak megabytes of every way, by answer input."""
    picture, rows = picture_of(name), []
    native = name != DEMO and lvlm.family.native_resolution
    text = lvlm.model.config.get_text_config()
    heads = text.num_hidden_layers * text.num_attention_heads
    for mode in MODES + QUARTER_MODES * native:
        settings = mode.settings(10)
        tokens = ways.prompt_of(lvlm, picture, QUESTION, settings).length
        # Picture and crop in one prompt, and two branches' attention kept
        attention = lvlm.dtype.itemsize * heads * (2 * tokens) ** 2
        row: dict[str, Any] = {"mode": mode.name}
        for way in (ways.plain, ways.peers, ways.ours):
            if way is ways.peers and not (with_peers and attention < PEERS_LIMIT):
                continue

            def run(way: Callable = way, settings: Any = settings) -> None:
                way(lvlm, picture, QUESTION, settings)

            lvlm.release()
            run()  # what is made once and stays is no part of an answer
            lvlm.release()
            row[way.__name__] = peak_bytes(run, device) / MB
        row["kept"] = lvlm.prefix.nbytes / MB
        lvlm.release()
        rows.append(row)
    return rows


def growth(name: str, lvlm: Lvlm, device: str) -> dict[str, float]:
    """Fit of the peak of reading both branches over N: bytes per token, and per token squared."""
    lengths, peaks = [], []
    width, height = SHAPES[name].picture_px
    for share in GROWTH:
        size = round(width * share), round(height * share)
        inputs = lvlm.encode(noise_picture(size, seed=1))
        lvlm.release()
        peaks.append(peak_bytes(lambda one=inputs: read_attention(lvlm, one, QUESTION), device))
        lengths.append(inputs.token_count)
    lvlm.release()
    quadratic, linear, _ = np.polyfit(lengths, peaks, 2)
    return {"bytes_per_token": float(linear), "bytes_per_token_squared": float(quadratic)}


def cells(name: str, row: dict[str, Any]) -> list[str]:
    plain, ours, kept = row["plain"], row["ours"], row["kept"]
    peers = f"{row['peers']:.0f} ({row['peers'] / plain:.1f})" if "peers" in row else ""
    return [name, row["mode"], f"{plain:.0f}", peers, f"{ours:.0f}", f"{ours / plain:.2f}",
            f"{ours - kept:.0f}", f"{(ours - kept) / plain:.2f}", f"{kept:.0f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=NAMES, default=["llava", "qwen2.5-vl"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers' way out")
    parser.add_argument("--gpu", action="store_true", help="the 7B shapes on a GPU in bf16")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.gpu:
        if not torch.cuda.is_available():
            parser.error("run --gpu on a machine with a CUDA GPU: PyTorch finds none here")
        chosen.shapes = ["llava-1.5-7b", "qwen2.5-vl-7b"]
        chosen.device, chosen.dtype = "cuda", "bf16"
    torch.set_num_threads(1)
    record: dict[str, Any] = {"versions": versions(), "dtype": chosen.dtype, "shapes": {}}
    rows = []
    for name in chosen.shapes:
        lvlm = lvlm_of_shape(name, chosen.device, DTYPES[chosen.dtype])
        entry = record["shapes"][name] = {
            "whole": whole(name, lvlm, chosen.device, not chosen.no_peers)
        }
        rows += [cells(name, row) for row in entry["whole"]]
        if name in SHAPES and lvlm.family.native_resolution:
            entry["growth"] = growth(name, lvlm, chosen.device)
            print(f"{name}, reading:", entry["growth"])
        del lvlm
    print(markdown(HEADER, rows))
    if chosen.json:
        chosen.json.write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    main()
