"""Trains a demo model from nothing within a given time and writes its folder.

    python -m tools.demo_model.train --minutes 4.5 [--arch llava|qwen2_5_vl] [--seed N] --out FOLDER

Made for one GPU; on a CPU it runs, much too slowly to learn. Worker processes make scenes and
questions, the device draws them; no scene is seen twice. Rates follow elapsed time, so that a run
always ends decayed and in time. First the tower alone learns to say what its patches show; then
everything learns from questions, from some point on also with a crop beside the picture. The
decoder starts from ordinary random weights, and its attention is never supervised.
"""

import argparse
import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from .batches import Batches, slot_lengths
from .drawing import Atlas, draw, paint_layer
from .export import export, library_model
from .llava import Llava
from .muon import Muon
from .network import Network, Shape
from .patch_labels import PatchHeads, patch_labels
from .progress_check import ProgressCheck
from .qwen import SHAPE as QWEN_SHAPE
from .qwen import Qwen

ARCHITECTURES: dict[str, tuple[type[Network], Shape]] = {
    "llava": (Llava, Shape()),
    "qwen2_5_vl": (Qwen, QWEN_SHAPE),
}
_OVERSAMPLE = 1.25


@dataclass(frozen=True)
class Recipe:
    """What a run does; shares are of the time.

    batch: views a step. muon, adam: highest rates of matrices and of all else. tower_share: the
    tower alone. Of the time after it: paired_from: batches with a crop begin, `paired` of them;
    decay_from: the rates begin to fall to nothing; easy_until: easy scenes have fallen from
    `easy_first` to `easy`. tower_rate: of the tower in that time. label_share: the patch labels'
    weight in the loss then.
    """

    batch: int = 128
    muon: float = 0.02
    adam: float = 2e-3
    tower_share: float = 0.2
    tower_rate: float = 0.3
    paired_from: float = 0.4
    paired: float = 0.4
    decay_from: float = 0.4
    easy_first: float = 0.5
    easy: float = 0.1
    easy_until: float = 0.3
    label_share: float = 0.3


class Trainer:
    """A network with its throw-away heads, optimisers and batches."""

    def __init__(
        self, network: Network, recipe: Recipe, seed: int, device: torch.device, workers: int
    ) -> None:
        self.network, self.recipe, self.device = network.to(device), recipe, device
        self.heads = PatchHeads(network.features_width).to(device)
        self.atlas = Atlas(device)
        self.slots = slot_lengths(network.answer_opening)
        self.batches = Batches(seed, recipe.batch, network.answer_opening)
        self.batches.easy.fill_(recipe.easy_first)
        cuda = device.type == "cuda"
        loader = DataLoader(self.batches, None, num_workers=workers, pin_memory=cuda)
        self._loader = iter(loader)
        self.paint = paint_layer
        tower = [*network.tower_parameters()]
        known = set(map(id, tower))
        others = [p for p in network.parameters() if id(p) not in known]
        matrices = {id(p) for p in network.matrices()}
        self.optimisers = {
            "tower": self._optimisers(tower, matrices),
            "rest": self._optimisers([*others, *self.heads.parameters()], matrices),
        }

    def _optimisers(self, parameters: list, matrices: set[int]) -> list[torch.optim.Optimizer]:
        inner = [p for p in parameters if id(p) in matrices]
        outer = [p for p in parameters if id(p) not in matrices]
        adam = torch.optim.AdamW(outer, self.recipe.adam, betas=(0.9, 0.98), weight_decay=0.0)
        return [Muon(inner, self.recipe.muon), adam]

    def compile(self) -> None:
        """Blocks and painting as compiled functions."""
        blocks = self.network.blocks
        self.network.blocks = {
            name: torch.compile(block, dynamic=False) for name, block in blocks.items()
        }
        self.paint = torch.compile(paint_layer, dynamic=False)

    def follow(self, share: float) -> tuple[bool, float, float]:
        """What this share of the time asks for: questions or not, rates of the tower and the rest.

        Also sets what batches are made.
        """
        recipe = self.recipe
        if share < recipe.tower_share:
            part = share / recipe.tower_share
            rate = min(1.0, part / 0.05 + 0.02) * min(1.0, 0.25 + (1 - part) / 0.5)
            return False, rate, rate
        part = (share - recipe.tower_share) / (1 - recipe.tower_share)
        decay = min(1.0, (1 - part) / (1 - recipe.decay_from))
        easy = max(0.0, 1 - part / recipe.easy_until) * (recipe.easy_first - recipe.easy)
        self.batches.easy.fill_(recipe.easy + easy)
        self.batches.paired.fill_(recipe.paired if part >= recipe.paired_from else 0.0)
        return True, recipe.tower_rate * decay, min(1.0, part / 0.02 + 0.02) * decay

    def step(self, asks: bool, tower_rate: float, rest_rate: float) -> tuple[torch.Tensor, int]:
        """One update; answers' loss, their first words right, labels' loss, things and numbers
        right, on the device; and the number of views."""
        batch = {
            name: tensor.to(self.device, non_blocking=True)
            for name, tensor in next(self._loader).items()
        }
        network, pictures = self.network, batch["views"].shape[1]
        views = batch["views"].transpose(0, 1).flatten(0, 1)
        layers, backgrounds, boxes = (
            batch[name].repeat(pictures, *[1] * (batch[name].ndim - 1))
            for name in ("layers", "backgrounds", "boxes")
        )
        with torch.no_grad():
            images = draw(
                self.atlas, layers, backgrounds, views, network.shape.side, _OVERSAMPLE, self.paint
            )
            labels = patch_labels(boxes, views, network.shape.grid)
        with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
            features = network.features(images)
            projected = network.project(features)
            label_loss = self.heads.loss(network, features, projected, labels)
            loss, figures = label_loss, [torch.zeros((), device=self.device)] * 2
            if asks:
                figures = self._answer_loss([*projected.chunk(pictures)], batch)
                loss = figures[0] + self.recipe.label_share * label_loss
        loss.backward()
        for part, rate in (("tower", tower_rate), ("rest", rest_rate)):
            for optimiser, highest in zip(
                self.optimisers[part], (self.recipe.muon, self.recipe.adam), strict=True
            ):
                optimiser.param_groups[0]["lr"] = highest * rate
                optimiser.step()
                optimiser.zero_grad()
        right = self.heads.right(features.detach(), labels)
        figures = [*figures, label_loss, *right]
        return torch.stack([figure.detach().float() for figure in figures]), len(views)

    def _answer_loss(
        self, pictures: list[torch.Tensor], batch: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """Loss of the answers' tokens, and the share of their first words that are right."""
        hidden = self.network.hidden(pictures, batch["tokens"], self.slots)[:, :-1]
        logits = F.linear(hidden, self.network.head).float()
        truth, weights = batch["tokens"][:, 1:], batch["weights"][:, 1:]
        losses = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none")
        loss = (losses * weights.flatten()).sum() / weights.sum()
        words = weights > 0.9
        right = ((logits.argmax(-1) == truth) & words).sum() / words.sum().clamp(min=1)
        return [loss, right]


@contextlib.contextmanager
def _not_compiled(network: Network, blocks: dict) -> Iterator[None]:
    """Within it the network runs these functions: other shapes would be compiled anew."""
    held, network.blocks = network.blocks, blocks
    try:
        yield
    finally:
        network.blocks = held


def train(
    trainer: Trainer, seconds: float, check: ProgressCheck | None, every: float = 20.0
) -> list[str]:
    """Trains for this long; prints and returns lines of how it went."""
    network, blocks, log = trainer.network, dict(trainer.network.blocks), []
    if trainer.device.type == "cuda":
        trainer.compile()
    begin = printed = time.time()
    sums, count, steps, views = torch.zeros(5), 0, 0, 0
    while (share := (time.time() - begin) / seconds) < 1:
        figures, seen = trainer.step(*trainer.follow(share))
        sums, count, steps, views = sums + figures.cpu(), count + 1, steps + 1, views + seen
        if time.time() - printed < every:
            continue
        loss, right, label_loss, things, numbers = (sums / count).tolist()
        line = (
            f"{100 * share:.0f} %, step {steps}, {views} views, answers {loss:.3f} "
            f"({100 * right:.1f} %), labels {label_loss:.3f} "
            f"(things {100 * things:.1f} %, numbers {100 * numbers:.1f} %)"
        )
        if not np.isfinite(loss + label_loss):
            raise SystemExit(f"use smaller rates: the loss is not a number ({line})")
        if check is not None and loss:
            with _not_compiled(network, blocks):
                line += "; " + check.line(network)
        print(line, flush=True)
        log.append(line)
        sums, count, printed = torch.zeros(5), 0, time.time()
    log.append(f"{steps} steps, {views} views in {time.time() - begin:.0f} s")
    print(log[-1], flush=True)
    network.blocks = blocks
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--minutes", type=float, required=True, help="of training; writing follows")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="llava")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="views a step")
    parser.add_argument("--workers", type=int, default=max(2, (os.cpu_count() or 2) - 3))
    parser.add_argument("--check-items", type=int, default=420, help="asked every 20 seconds")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    build, shape = ARCHITECTURES[options.arch]
    device, recipe = torch.device(options.device), Recipe(batch=options.batch)
    trainer = Trainer(build(shape, options.seed), recipe, options.seed, device, options.workers)
    check = ProgressCheck(trainer.network, trainer.atlas, options.check_items)
    log = train(trainer, 60 * options.minutes, check)
    export(library_model(trainer.network), options.out)
    record = {name: str(value) for name, value in vars(options).items()} | vars(recipe)
    record = {"options": record, "log": log}
    (options.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
