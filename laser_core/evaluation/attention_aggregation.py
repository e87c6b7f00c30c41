"""Attention Aggregation: the share of the evidence map that lies in the ground-truth box.

`Aggregation` measures many referring expressions, on as many processes as `accelerate launch`
starts, into one JSONL file that a stopped run continues (`resumable_lines`).
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils.memory import clear_device_cache

from ..console import ProgressLine, quiet_libraries
from ..errors import is_for_the_user
from ..geometry import Box, whole_picture
from ..models.loading import load_lvlm
from ..models.lvlm import Lvlm
from ..out_of_memory import is_out_of_memory
from ..pictures import read_picture
from ..pipeline import locate
from ..settings import LOCATE_GROUPS, LaserSettings, LoadSettings
from ..steps.vaq import contrast, make_evidence
from .intervals import Bootstrap
from .refcoco import ReferringItem, find_picture
from .resumable_lines import Line, ResultLines

SCHEMA, VERSION = "laser-aggregation", 1
KINDS = ("contrastive", "raw", "relative")
SHARES = (*KINDS, "area", "window")


def measure(lvlm: Lvlm, item: ReferringItem, folder: Path, settings: LaserSettings) -> Line:
    """What one item shows: shares 0..1, and the layer of the highest VAQ, or the one set.

    contrastive, raw, relative: share of each kind of map that lies in the box. All use the layers
    and heads that VAQ chose and the same two readings, so they differ only by kind. ViCrop's own
    relative map divides by a generic question's reading: set `query_free` for that. area: share of
    the picture in the box, which is what a blind map would score. window: share of the box in the
    first window.

    Raises ValueError for a picture that cannot be read, a box outside it and an empty map.
    """
    picture = read_picture(find_picture(folder, item.picture))
    whole = Box(*whole_picture(picture.size))
    box = item.box.intersect(whole)
    if min(box.width, box.height) <= 0:
        raise ValueError("correct the box: nothing of it lies on the picture")
    found = locate(lvlm, picture, item.question, settings)
    maps, chosen = found.maps, found.evidence.choice
    assert maps is not None and chosen is not None  # no mask from elsewhere was the evidence
    shares = {}
    for kind in KINDS:
        mapped = contrast(maps, dataclasses.replace(settings.contrast, kind=kind))
        heads = chosen.heads.clamp(max=mapped.shape[1] - 1)  # a ratio has but one
        choice = dataclasses.replace(chosen, heads=heads)
        shares[kind] = make_evidence(mapped, choice, maps).share_in(box)
        if math.isnan(shares[kind]):
            raise ValueError(f"leave this item out: its {kind} map is empty or not finite")
    window = box.intersect(Box(*found.windows[0]))
    shares |= {"area": box.area / whole.area, "window": window.area / box.area}
    return {"layer": chosen.layer, "layers": chosen.count, **shares}


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """What to measure, by which model, into which .jsonl file.

    items: all that the file may hold; the first `limit` of them are measured (0: all).
    source: what else two runs must share to fill the same file, such as the input's digest.
    """

    items: Sequence[ReferringItem]
    folder: Path
    out: Path
    model: str
    load: LoadSettings
    settings: LaserSettings
    limit: int = 0
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, progress: ProgressLine) -> dict[str, Any] | None:
        """Measure what is missing. Returns the run's record with its summary in the first process,
        else None. Items that failed before are tried again.

        Raises ValueError, remedy first, for files of another run and if nothing could be measured.
        """
        self._check()
        gpu = torch.cuda.is_available() or torch.xpu.is_available()
        state = PartialState(
            cpu=self.load.device == "cpu" or not gpu,
            timeout=timedelta(weeks=1),  # the first to finish waits for the last
        )
        results = ResultLines(self.out, state.process_index)
        if state.is_main_process:
            results.begin(SCHEMA, VERSION, self._description())
        state.wait_for_everyone()
        done = results.lines()
        missing = [
            item for item in self._own_share(state) if "error" in done.get(item.id, {"error": ""})
        ]
        if missing:
            self._measure(missing, results, progress if state.is_main_process else None)
        state.wait_for_everyone()
        record = self._finish(results) if state.is_main_process else None
        if state.num_processes > 1:
            state.destroy_process_group()
        return record

    def _check(self) -> None:
        if self.settings.contrast.kind != KINDS[0]:
            raise ValueError("leave out --kind: maps of all kinds are measured")
        if self.limit < 0:
            raise ValueError(f"give --limit a number from 0, all, on: it is {self.limit}")
        if not self.folder.is_dir():
            raise ValueError(f"choose an existing folder: there is no {str(self.folder)!r}")

    def _wanted(self) -> Sequence[ReferringItem]:
        return self.items[: self.limit or None]

    def _description(self) -> dict[str, Any]:
        load = self.load.to_dict()
        del load["device"]  # a run may go on elsewhere
        settings = self.settings.to_dict()
        used = {group: settings[group] for group in LOCATE_GROUPS if group in settings}
        return {"model": self.model, **self.source, "load": load, **used}

    def _own_share(self, state: PartialState) -> list[ReferringItem]:
        """Every n-th picture, with all its items, so that it is read once for all of them."""
        numbers = {name: n for n, name in enumerate(dict.fromkeys(i.picture for i in self.items))}
        return [
            item
            for item in self._wanted()
            if numbers[item.picture] % state.num_processes == state.process_index
        ]

    def _measure(
        self, items: Sequence[ReferringItem], results: ResultLines, progress: ProgressLine | None
    ) -> None:
        if progress:
            progress.stage("loading the model")
        with quiet_libraries(), results.appending() as append:
            lvlm = load_lvlm(self.model, self.load)
            for index, item in enumerate(items):
                if progress:
                    progress.bar("measuring", index, len(items))
                head = {"id": item.id, "picture": item.picture, "question": item.question}
                append({**head, "box": item.box, **self._shares(lvlm, item)})
            if progress:
                progress.bar("measuring", len(items), len(items))

    def _shares(self, lvlm: Lvlm, item: ReferringItem) -> Line:
        try:
            return measure(lvlm, item, self.folder, self.settings)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = "choose a smaller model or a --quantization: the GPU's memory is full"
        except ValueError as error:
            if not is_for_the_user(error):
                raise
            return {"error": " ".join(str(error).split())}
        # Only here: the error no longer holds the tensors that filled the memory
        lvlm.release()
        clear_device_cache()
        return {"error": failure}

    def _finish(self, results: ResultLines) -> dict[str, Any]:
        lines = results.merge([item.id for item in self.items])
        lacking = {item.id for item in self._wanted()} - {line["id"] for line in lines}
        if lacking:
            raise ValueError(
                f"run the same command again: {len(lacking)} items are missing, as if another run "
                "had been writing to the same files"
            )
        return results.summarise(summarise(lines))


def summarise(lines: Sequence[Line]) -> dict[str, Any]:
    """Means of the shares with 95 % intervals, how often each layer was best, what failed.

    lines: at least one. The intervals come from a bootstrap over pictures; a picture's items stay
    together.
    Raises ValueError if there is no result.
    """
    measured = [line for line in lines if "error" not in line]
    failures = Counter(line["error"] for line in lines if "error" in line)
    if not measured:
        reason, count = failures.most_common(1)[0]
        raise ValueError(f"{reason} (nothing could be measured; {count} items failed so)")
    pictures = [line["picture"] for line in measured]
    bootstrap = Bootstrap(pictures)
    shares = {name: bootstrap.mean(np.array([line[name] for line in measured])) for name in SHARES}
    layers = Counter(line["layer"] for line in measured)
    return {
        "items": len(lines),
        "measured": len(measured),
        "pictures": len(set(pictures)),
        "shares": {
            name: {"mean": share.value, "interval": [share.low, share.high]}
            for name, share in shares.items()
        },
        "layers_of_model": measured[0]["layers"],
        "best_layers": {str(layer): layers[layer] for layer in sorted(layers)},
        "failed": dict(failures.most_common()),
    }


def describe(summary: Mapping[str, Any]) -> list[str]:
    """A summary in lines for people."""
    names = {
        "contrastive": "contrastive map in the box",
        "raw": "raw map in the box",
        "relative": "relative map in the box",
        "area": "the box's part of the picture (chance)",
        "window": "the box's part in the window",
    }
    failed = sum(summary["failed"].values())
    lines = [
        f"{summary['measured']} items on {summary['pictures']} pictures, {failed} failed; "
        "means in per cent with 95 % intervals over pictures"
    ]
    for name, share in summary["shares"].items():
        low, high = share["interval"]
        lines.append(
            f"  {names[name]:<40}{100 * share['mean']:5.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        )
    best = sorted(summary["best_layers"].items(), key=lambda pair: -pair[1])
    parts = [f"{layer} ({count / summary['measured']:.1%})" for layer, count in best]
    count = summary["layers_of_model"]
    lines.append(f"layer of the highest VAQ, or as set, of {count}: {', '.join(parts)}")
    return lines + [f"failed {count}: {reason}" for reason, count in summary["failed"].items()]
