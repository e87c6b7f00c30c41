"""Attention Aggregation: the share of the evidence map that lies in the ground-truth box.

Knows one item, and the summary of many; `measuring` runs them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..console import ProgressLine
from ..geometry import Box, whole_picture
from ..many.resumable_lines import Line
from ..models.lvlm import Lvlm
from ..pictures import read_picture
from ..pipeline import locate
from ..settings import LOCATE_GROUPS, LaserSettings
from ..steps.vaq import contrast, make_evidence
from .intervals import Bootstrap, in_words
from .measuring import Measurement, sorted_out
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


def aggregate(over: Measurement, progress: ProgressLine) -> dict[str, Any]:
    """Measure the items; the run's record with its summary. Raises ValueError as the run does, and
    for settings that choose a kind of map."""
    if over.settings.contrast.kind != KINDS[0]:
        raise ValueError("leave out --kind: maps of all kinds are measured")
    settings = over.settings.to_dict()
    return over.run(
        progress, stage="measuring", schema=SCHEMA, version=VERSION,
        asked={group: settings[group] for group in LOCATE_GROUPS if group in settings},
        measure=functools.partial(measure, folder=over.folder, settings=over.settings),
        summarise=summarise,
    )  # fmt: skip


def summarise(lines: Sequence[Line]) -> dict[str, Any]:
    """Means of the shares with 95 % intervals, how often each layer was best, what failed.

    lines: at least one. The intervals come from a bootstrap over pictures; a picture's items stay
    together.
    Raises ValueError if there is no result.
    """
    measured, failed = sorted_out(lines)
    pictures = [line["picture"] for line in measured]
    bootstrap = Bootstrap(pictures)
    layers = Counter(line["layer"] for line in measured)
    return {
        "items": len(lines),
        "measured": len(measured),
        "pictures": len(set(pictures)),
        "shares": {
            name: bootstrap.mean(np.array([line[name] for line in measured])) for name in SHARES
        },
        "layers_of_model": measured[0]["layers"],
        "best_layers": {str(layer): layers[layer] for layer in sorted(layers)},
        "failed": failed,
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
        lines.append(f"  {names[name]:<40}{in_words(share, summary['measured'])}")
    best = sorted(summary["best_layers"].items(), key=lambda pair: -pair[1])
    parts = [f"{layer} ({count / summary['measured']:.1%})" for layer, count in best]
    count = summary["layers_of_model"]
    lines.append(f"layer of the highest VAQ, or as set, of {count}: {', '.join(parts)}")
    return lines + [f"failed {count}: {reason}" for reason, count in summary["failed"].items()]
