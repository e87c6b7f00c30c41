"""Attention Aggregation: the share of the evidence map that lies in the ground-truth box.

`Aggregation` measures many referring expressions into one JSONL file that a stopped run continues,
on any engine of `many`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..console import ProgressLine
from ..geometry import Box, whole_picture
from ..many.laser_map import OwnModel
from ..many.resumable_lines import Line, ResultLines
from ..many.running import Engine, embedded, fill
from ..models.lvlm import Lvlm
from ..pictures import read_picture
from ..pipeline import locate
from ..settings import LOCATE_GROUPS, LaserSettings, LoadSettings
from ..steps.vaq import contrast, make_evidence
from .failures import line_or_error
from .intervals import Bootstrap, in_words
from .refcoco import ReferringItem, find_picture

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
class Measuring:
    """The work on items: a line for each."""

    model: OwnModel
    folder: Path
    settings: LaserSettings

    def rows(self, items: Iterable[ReferringItem]) -> Iterator[Line]:
        lvlm = self.model()
        for item in items:
            head = {"id": item.id, "picture": item.picture, "question": item.question}
            work = functools.partial(measure, lvlm, item, self.folder, self.settings)
            found = line_or_error(lvlm, work)
            yield {**head, "box": item.box, **found}


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
    engine: Engine = embedded

    def run(self, progress: ProgressLine) -> dict[str, Any]:
        """Measure what is missing. Returns the run's record with its summary. Items that failed
        before are tried again.

        Raises ValueError, remedy first, for files of another run and if nothing could be measured.
        """
        self._check()
        work = Measuring(OwnModel(self.model, self.load), self.folder, self.settings)
        with contextlib.closing(ResultLines(self.out)) as results:
            results.begin(SCHEMA, VERSION, self._description())
            done = set(results.ids())
            missing = [item for item in self.items[: self.limit or None] if item.id not in done]
            fill(results, work, missing, len(missing), self.engine, progress, "measuring")
            lines = results.merge([item.id for item in self.items])
            return results.summarise(summarise(lines))

    def _check(self) -> None:
        if self.settings.contrast.kind != KINDS[0]:
            raise ValueError("leave out --kind: maps of all kinds are measured")
        if self.limit < 0:
            raise ValueError(f"give --limit a number from 0, all, on: it is {self.limit}")
        if not self.folder.is_dir():
            raise ValueError(f"choose an existing folder: there is no {str(self.folder)!r}")

    def _description(self) -> dict[str, Any]:
        load = self.load.to_dict()
        del load["device"]  # a run may go on elsewhere
        settings = self.settings.to_dict()
        used = {group: settings[group] for group in LOCATE_GROUPS if group in settings}
        return {"model": self.model, **self.source, "load": load, **used}


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
        behind = {"items": summary["measured"], "pictures": summary["pictures"]}
        figure = {"value": share["mean"], "low": low, "high": high, **behind}
        lines.append(f"  {names[name]:<40}{in_words(figure, summary['measured'])}")
    best = sorted(summary["best_layers"].items(), key=lambda pair: -pair[1])
    parts = [f"{layer} ({count / summary['measured']:.1%})" for layer, count in best]
    count = summary["layers_of_model"]
    lines.append(f"layer of the highest VAQ, or as set, of {count}: {', '.join(parts)}")
    return lines + [f"failed {count}: {reason}" for reason, count in summary["failed"].items()]
