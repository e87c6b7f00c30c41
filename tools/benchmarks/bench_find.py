"""How well Find, Pick and Check do on the demo world, beside what is simpler.

    python -m tools.benchmarks.bench_find [--scenes 60] [--seed 5] [--json FILE]

Scenes of the test split that no other benchmark uses. Find: the share of phrases whose first point
lies on the thing, and whose mask overlaps the thing's box by half and more (intersection over
union); beside the plain peak of the map, the centre of the picture, and the map cut off at half its
height. Absent things: told, and false alarms on what is there. Pick: the thing's true mask among
those of the whole scene. Check: how often an option is right that got such a probability.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from laser_core.evaluation.intervals import Bootstrap, Estimate, in_words
from laser_core.evaluation.metrics import peak
from laser_core.geometry import Box, Window
from laser_core.models.loading import load_lvlm
from laser_core.models.lvlm import Lvlm
from laser_core.output.heat import heat_map
from laser_core.recipes.check import check
from laser_core.recipes.find import find
from laser_core.recipes.pick import pick
from laser_core.results import Evidence, Finding
from tools.build.markdown import markdown
from tools.demo_model.questions import EXIST_KINDS, Asker
from tools.demo_model.scenes import Scene, Thing, sample_scene
from tools.demo_model.things import COLOURS
from tools.demo_model.world import PICTURE_SIDE_PX, draw_scene, held_out_items, scene_generator

KINDS = ("thing", "coloured thing", "number's owner", "relation", "absent")
NAMES_AS = {"owner": "number's owner", "rel": "relation"}
TRIES = 12  # to find something to ask of a scene
HALF = 0.5
BINS = (0.0, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)
LEVEL = 8  # a thing covers the pixels that it changes by more than this, of 255


@dataclass(frozen=True)
class Asked:
    """A phrase about a scene; thing: None where nothing of that kind is there."""

    kind: str
    phrase: str
    thing: Thing | None


def phrases_of(asker: Asker) -> Iterator[Asked]:
    """One phrase of each kind, where the scene has one, and an absent thing of POPE's kinds."""
    rng = asker.rng
    alone = [thing for thing in asker.things if len(asker.by_name[thing.name]) == 1]
    if alone:
        thing = rng.choice(alone)
        yield Asked("thing", thing.name, thing)
    coloured = [thing for thing in asker.things if thing.colour]
    if coloured:
        thing = rng.choice(coloured)
        yield Asked("coloured thing", f"{thing.colour} {thing.name}", thing)
    for kind, name in NAMES_AS.items():
        asked = next(filter(None, (asker.ask(kind) for _ in range(TRIES))), None)
        if asked:
            yield Asked(name, asked.text, asked.asked)
    kind = rng.choice(EXIST_KINDS)
    absent = next(filter(None, (asker._absent(kind) for _ in range(TRIES))), None)
    if absent:
        yield Asked("absent", absent, None)


def scenes(count: int, seed: int) -> Iterator[tuple[Scene, Asker]]:
    for index in range(count):
        rng = scene_generator("test", 10_000 + seed, index)
        scene = sample_scene(rng)
        yield scene, Asker(rng, scene.things)


def box_of_thing(thing: Thing) -> Window:
    return Window(*(round(share * PICTURE_SIDE_PX) for share in thing.box))


def on_thing(point: tuple[float, float], thing: Thing) -> bool:
    x, y = (value / PICTURE_SIDE_PX for value in point)
    return any(x1 <= x <= x2 and y1 <= y <= y2 for x1, y1, x2, y2 in thing.boxes)


def overlap(mask: torch.Tensor, box: Window) -> float:
    """Intersection over union of a mask (H, W) and a box."""
    inside = float(mask[max(box.y1, 0) : box.y2, max(box.x1, 0) : box.x2].sum())
    area = Box(*box).area
    return inside / (area + float(mask.sum()) - inside)


def find_row(asked: Asked, found: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": asked.kind, "found": found.found, "score": found.score}
    if asked.thing is None:
        return row
    box, centre = box_of_thing(asked.thing), (PICTURE_SIDE_PX / 2,) * 2
    cut_off = heat_map(found.evidence) >= HALF
    return {
        **row,
        "size": asked.thing.size,
        "peak": bool(found.points) and on_thing(found.points[0], asked.thing),
        "plain peak": on_thing(peak(found.evidence), asked.thing),
        "centre": on_thing(centre, asked.thing),
        "mask": overlap(found.mask, box),
        "cut off": overlap(cut_off, box),
    }


def masks_of(scene: Scene) -> list[torch.Tensor]:
    """The true mask (H, W) of each thing: where the picture differs from that without it."""
    whole = np.asarray(draw_scene(scene, PICTURE_SIDE_PX), dtype=int)
    masks = []
    for thing in scene.things:
        others = tuple(other for other in scene.things if other is not thing)
        without = draw_scene(replace(scene, things=others), PICTURE_SIDE_PX)
        change = np.abs(np.asarray(without, dtype=int) - whole).max(-1)
        masks.append(torch.from_numpy(change > LEVEL).float())
    return masks


def pick_row(
    lvlm: Lvlm,
    scene: Scene,
    picture: Image.Image,
    masks: list[torch.Tensor],
    asked: Asked,
    evidence: Evidence,
) -> dict[str, Any]:
    picked = pick(lvlm, picture, masks, asked.phrase)
    right = None if asked.thing is None else scene.things.index(asked.thing)
    row = {"kind": asked.kind, "pick": picked.index == right, "score": picked.score}
    if right is None:
        return row
    x, y = peak(evidence)
    ys, xs = np.mgrid[:PICTURE_SIDE_PX, :PICTURE_SIDE_PX]
    far = (xs - x) ** 2 + (ys - y) ** 2
    nearest = min(range(len(masks)), key=lambda n: far[masks[n].numpy() > 0].min(initial=1e9))
    largest = max(range(len(masks)), key=lambda n: float(masks[n].sum()))
    return {
        **row,
        "chance": 1 / len(masks),
        "largest": largest == right,
        "plain peak": nearest == right,
    }


def check_rows(lvlm: Lvlm, count: int, seed: int) -> list[dict[str, Any]]:
    """Yes-or-no questions and colours, each with the probability of the likeliest option."""
    rows = []
    for item in held_out_items("test", count, 20_000 + seed, types=("exist", "colour")):
        options = ("yes", "no") if item.type == "exist" else tuple(COLOURS)
        checked = check(lvlm, item.picture, item.question, options)
        rows.append(
            {
                "kind": item.type,
                "probability": checked.probabilities[checked.index],
                "right": options[checked.index] == item.answer,
            }
        )
    return rows


# ---- tables ------------------------------------------------------------------------------------


def figure(estimate: Estimate) -> str:
    return in_words(vars(estimate), estimate.items, digits=0)


def shares(rows: list[dict], names: tuple[str, ...], kinds: tuple[str, ...]) -> list[list[str]]:
    """A row of figures for each kind: its number of items, then the share of each column."""
    table = []
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind and names[0] in row]
        if not own:
            continue
        boot = Bootstrap([row["scene"] for row in own])
        columns = [np.array([float(row[name]) for row in own]) for name in names]
        table.append([kind, str(len(own)), *(figure(boot.mean(column)) for column in columns)])
    return table


def difference(rows: list[dict], one: str, other: str) -> str:
    own = [row for row in rows if one in row and other in row]
    values = np.array([float(row[one]) - float(row[other]) for row in own])
    return f"{one} minus {other}: {figure(Bootstrap([row['scene'] for row in own]).mean(values))}"


def report(found: list[dict], picked: list[dict], checked: list[dict]) -> str:
    there = [
        {**row, "mask": row["mask"] >= HALF, "cut off": row["cut off"] >= HALF}
        for row in found
        if row["kind"] != "absent"
    ]
    kinds = KINDS[:-1]
    columns = ("peak", "plain peak", "centre", "mask", "cut off")
    sizes = [{**row, "kind": row["size"]} for row in there if row["kind"] in KINDS[:2]]
    absent = [{**row, "told": not row["found"]} for row in found if row["kind"] == "absent"]
    alarms = [{**row, "false alarm": not row["found"]} for row in there]
    parts = [
        markdown(
            ["phrase", "n", "first point on it", "plain peak", "centre", "mask", "map cut off"],
            shares(there, columns, kinds) + shares(sizes, columns, ("large", "medium", "small")),
        ),
        difference(there, "peak", "plain peak"),
        difference(there, "mask", "cut off"),
        markdown(["absent", "n", "told"], shares(absent, ("told",), ("absent",))),
        markdown(["there", "n", "said to be absent"], shares(alarms, ("false alarm",), kinds)),
        markdown(
            ["Pick", "n", "right", "plain peak", "largest", "chance"],
            shares(
                [row for row in picked if "chance" in row],
                ("pick", "plain peak", "largest", "chance"),
                kinds,
            ),
        ),
        difference(picked, "pick", "plain peak"),
        markdown(["Pick", "n", "none"], shares(picked, ("pick",), ("absent",))),
        markdown(["said", "n", "mean probability", "right"], reliability(checked)),
    ]
    return "\n\n".join(parts)


def reliability(rows: list[dict]) -> list[list[str]]:
    table = []
    for low, high in pairwise(BINS):
        own = [
            row
            for row in rows
            if low <= row["probability"] < high or (high == 1 == row["probability"])
        ]
        if own:
            said, right = (np.mean([row[name] for row in own]) for name in ("probability", "right"))
            name = f"{low:.0%} to {high:.0%}"
            table.append([name, str(len(own)), f"{100 * said:.0f}", f"{100 * right:.0f}"])
    said, right = (np.mean([row[name] for row in rows]) for name in ("probability", "right"))
    return [*table, ["all", str(len(rows)), f"{100 * said:.0f}", f"{100 * right:.0f}"]]


def measure(lvlm: Lvlm, count: int, seed: int) -> dict[str, list[dict]]:
    found: list[dict] = []
    picked: list[dict] = []
    for number, (scene, asker) in enumerate(scenes(count, seed)):
        picture = draw_scene(scene, PICTURE_SIDE_PX)
        masks, asked = masks_of(scene), list(phrases_of(asker))
        things = find(lvlm, picture, [one.phrase for one in asked])
        pairs = list(zip(asked, things, strict=True))
        found += [{"scene": number, **find_row(*pair)} for pair in pairs]
        for one, thing in pairs:
            row = pick_row(lvlm, scene, picture, masks, one, thing.evidence)
            picked.append({"scene": number, **row})
        print(f"scene {number + 1} of {count}", flush=True)
    return {"find": found, "pick": picked, "check": check_rows(lvlm, 3 * count, seed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write every record there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measure(load_lvlm("demo"), arguments.scenes, arguments.seed)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows))
    print(report(rows["find"], rows["pick"], rows["check"]))


if __name__ == "__main__":
    main()
