"""Memory that the whole method takes beyond the weights: the plain model, the peers' way, ours.

    python -m tools.benchmarks.bench_memory [--shapes llava qwen2.5-vl] [--json FILE]
    python -m tools.benchmarks.bench_memory --gpu --json FILE     # the 7B shapes in bf16 on a GPU

Each figure is the most tensor memory held at once beyond what was held before, of one answer with
nothing cached. On the CPU it is summed from the profiler's record of every allocation, on a GPU
from the allocator. "Kept" is what stays afterwards: the cached prefix, freed with the model.
Growth is the peak over the picture's tokens, of reading a picture and of the whole answer from
picture and crop: the slope of a straight line, and how far from it the peaks are at the most.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from laser_core.models.lvlm import Lvlm
from laser_core.steps.attention import read_attention
from tools.benchmarks.speed import ways
from tools.benchmarks.speed.count import MB, peak_bytes
from tools.benchmarks.speed.modes import PICTURE_AND_CROP, QUESTION, Mode, modes_of
from tools.benchmarks.speed.options import DTYPES, parsed, parser_of, record_of, save
from tools.benchmarks.speed.shapes import lvlm_of_shape, picture_of
from tools.benchmarks.speed.timing import unless_full
from tools.build.markdown import markdown
from tools.testbed.lvlms import noise_picture

TOKENS = 10  # of every answer
GROWTH = (0.5, 0.65, 0.8, 1.0)  # of the shape's picture, a side
HEADER = ("model", "answer input", "plain MB", "peers' way", "ours", "ours / plain", "kept MB")


def whole(name: str, lvlm: Lvlm, mode: Mode, device: str, with_peers: bool) -> dict[str, Any]:
    """Peak megabytes of every way of one mode, and what ours keeps."""
    picture, settings = picture_of(name), mode.settings(TOKENS)
    asked = lvlm, picture, QUESTION, settings
    row: dict[str, Any] = {"mode": mode.name, "plain": _peak(lvlm, ways.plain, asked, device)}
    if with_peers and ways.peers_fit(lvlm, ways.prompt_of(*asked).length):
        run = partial(_peak, lvlm, ways.peers, asked, device)
        row["peers"] = unless_full(f"{name}, {mode.name}, peers", run)
    row["ours"] = _peak(lvlm, ways.ours, asked, device)
    row["kept"] = lvlm.prefix.nbytes / MB
    lvlm.release()
    return row


def _peak(lvlm: Lvlm, way: Callable, asked: tuple, device: str) -> float:
    lvlm.release()
    way(*asked)  # what is made once and stays is no part of an answer
    lvlm.release()
    return peak_bytes(partial(way, *asked), device) / MB


def growth(name: str, lvlm: Lvlm, device: str) -> dict[str, dict[str, Any]]:
    """The peak over the picture's tokens, and how far it is from a straight line."""
    settings = PICTURE_AND_CROP.settings(TOKENS)
    width, height = picture_of(name).size
    sizes = [(round(width * share), round(height * share)) for share in GROWTH]
    pictures = [noise_picture(size, seed=1) for size in sizes]
    encoded = [lvlm.encode(picture) for picture in pictures]
    asked = {
        "reading": (read_attention, [(lvlm, inputs, QUESTION) for inputs in encoded]),
        "picture + crop": (ways.ours, [(lvlm, one, QUESTION, settings) for one in pictures]),
    }
    lengths, fits = [inputs.token_count for inputs in encoded], {}
    for part, (way, every) in asked.items():
        fits[part] = straight_line(lengths, [_peak(lvlm, way, one, device) for one in every])
    lvlm.release()
    return fits


def straight_line(tokens: list[int], peaks: list[float]) -> dict[str, Any]:
    """The line through peaks (MB) over tokens, and the largest distance from it as a share."""
    slope, start = np.polyfit(tokens, peaks, 1)
    off = np.abs(np.polyval((slope, start), tokens) - peaks) / peaks
    return {
        "tokens": tokens,
        "peak_mb": peaks,
        "bytes_per_token": float(slope * MB),
        "off_the_line": float(off.max()),
    }


def cells(name: str, row: dict[str, Any]) -> list[str]:
    plain, peers, ours = row["plain"], row.get("peers"), row["ours"]
    theirs = f"{peers:.0f} ({peers / plain:.1f})" if peers else ""
    return [name, row["mode"], f"{plain:.0f}", theirs, f"{ours:.0f}", f"{ours / plain:.2f}",
            f"{row['kept']:.0f}"]  # fmt: skip


def measure(
    name: str, chosen: argparse.Namespace, record: dict[str, Any], rows: list[list[str]]
) -> None:
    """All of one model, added to the record (and its file) and to the rows one by one."""
    lvlm = unless_full(name, partial(lvlm_of_shape, name, chosen.device, DTYPES[chosen.dtype]))
    if lvlm is None:
        return
    entry = record["shapes"][name] = {"whole": []}
    for mode in modes_of(lvlm):
        run = partial(whole, name, lvlm, mode, chosen.device, not chosen.no_peers)
        row = unless_full(f"{name}, {mode.name}", run)
        if row is None:
            lvlm.release()
            continue
        entry["whole"].append(row)
        save(record, chosen.json)
        rows.append(cells(name, row))
    if lvlm.family.native_resolution:
        entry["growth"] = unless_full(f"{name}, growth", partial(growth, name, lvlm, chosen.device))
        save(record, chosen.json)
        print(f"{name}, growth:", entry["growth"], flush=True)


def main() -> None:
    chosen = parsed(parser_of(__doc__))
    record, rows = record_of(chosen), []
    for name in chosen.shapes:
        measure(name, chosen, record, rows)
        gc.collect()  # the weights go before the next model's are made
    print(markdown(HEADER, rows))


if __name__ == "__main__":
    main()
