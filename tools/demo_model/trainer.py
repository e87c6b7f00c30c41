"""What both stages of training share: the recipe's numbers, optimisers, rates, log, checkpoints."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .architectures import ARCHITECTURES
from .batches import IGNORED, MosaicMaker
from .dataset import Views
from .muon import Muon
from .network import PatchLabels


@dataclass(frozen=True)
class Recipe:
    """The network's architecture and every number of its training run."""

    architecture: str = "llava"
    seed: int = 0
    adamw_rate: float = 2e-3
    muon_rate: float = 0.02
    whole_rate: float = 0.5  # the whole stage learns at this share of the two
    vision_steps: int = 900
    vision_batch: int = 32
    align_batches: int = 16
    steps: int = 1650
    batch: int = 8
    questions_per_view: int = 16
    frozen_share: float = 0.12  # of the whole stage, the tower does not learn
    tower_rate: float = 0.2  # and then learns at this share of the rate
    label_weight: float = 0.4
    pair_from: float = 0.4  # two-picture prompts: from this share of the stage
    pair_share: float = 0.28  # in this share of its batches
    decay_from: float = 0.35


# Background fills most patches: a quarter of the weight each.
_SHAPE_WEIGHTS = torch.tensor([0.25] + [1.0] * 8)
_HIDDEN = ("layers.", "blocks.", "projector.", "merger.")  # where Muon's matrices are
_SAVE_EVERY = 100
_LOG_EVERY = 50


class Trainer:
    """Model, patch-label head, optimisers, random generator and step of one stage."""

    def __init__(self, recipe: Recipe, views: Views, stage: str, out: Path) -> None:
        self.recipe, self.views, self.stage = recipe, views, stage
        self.checkpoint = out / f"{stage}.pt"
        self.log = out / f"{stage}.jsonl"
        self.rng = np.random.default_rng([recipe.seed, len(stage)])
        self.step = 0
        self.minutes = 0.0
        self.averages: dict[str, tuple[float, float]] = {}
        self.mosaics = MosaicMaker(views)
        self.architecture = ARCHITECTURES[recipe.architecture]
        self.model = self.architecture.build(recipe.seed)
        self.labels = PatchLabels(self.architecture.feature_width)
        self.optimisers = self._build_optimisers()

    def _build_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers' matrices, AdamW for the rest; `share` scales a group's rate."""
        tower = list(self.architecture.tower(self.model).named_parameters())
        tower_share = 1.0 if self.stage == "vision" else self.recipe.tower_rate
        groups = [(tower + list(self.labels.named_parameters()), tower_share)]
        if self.stage == "whole":
            parts = {
                "decoder": self.model.model.language_model,
                "head": self.model.lm_head,
            }
            rest = [
                (f"{part}.{name}", weight)
                for part, module in parts.items()
                for name, weight in module.named_parameters()
            ]
            groups.append((rest, 1.0))
            # Scaled like its tower: its inputs are large, so are its updates' effects.
            groups.append((self._projector_beside(tower), tower_share))
        hidden, other = [], []
        for named, share in groups:
            matrices = [w for n, w in named if w.ndim == 2 and any(part in n for part in _HIDDEN)]
            ids = {id(w) for w in matrices}
            hidden.append({"params": matrices, "share": share})
            other.append({"params": [w for _, w in named if id(w) not in ids], "share": share})
        self.weights = [w for named, _ in groups for _, w in named]
        adamw = torch.optim.AdamW(other, betas=(0.9, 0.98), weight_decay=0.03, fused=True)
        return [Muon(hidden), adamw]

    def _projector_beside(self, tower: list) -> list[tuple[str, nn.Parameter]]:
        """The projector's parameters, where the tower does not hold it."""
        known = {id(weight) for _, weight in tower}
        linears = enumerate(self.architecture.projector(self.model))
        named = [(f"projector.{i}.{n}", w) for i, m in linears for n, w in m.named_parameters()]
        return [(name, weight) for name, weight in named if id(weight) not in known]

    @property
    def total_steps(self) -> int:
        return self.recipe.vision_steps if self.stage == "vision" else self.recipe.steps

    @property
    def progress(self) -> float:
        return self.step / self.total_steps

    def set_rates(self) -> None:
        """Warm-up, constant, then linear decay to a twentieth."""
        decay = max(0.0, self.progress - self.recipe.decay_from) / (1 - self.recipe.decay_from)
        scale = min(1.0, (self.step + 1) / 60) * (1 - 0.95 * decay)
        if self.stage == "whole":
            scale *= self.recipe.whole_rate
        rates = (self.recipe.muon_rate, self.recipe.adamw_rate)
        for optimiser, rate in zip(self.optimisers, rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * scale * group["share"]

    def update(self, loss: torch.Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1

    def average(self, name: str, total: float, count: float = 1.0, keep: float = 0.97) -> None:
        """Running mean of `total / count`, weighted by count."""
        old_total, old_count = self.averages.get(name, (0.0, 0.0))
        self.averages[name] = (old_total * keep + total, old_count * keep + count)

    def write_log(self) -> None:
        values = {n: round(t / c, 3) for n, (t, c) in sorted(self.averages.items()) if c}
        line = {"step": self.step, "minutes": round(self.minutes, 1), **values}
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "labels": self.labels.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "rng": self.rng.bit_generator.state,
            "step": self.step,
            "minutes": self.minutes,
        }
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.checkpoint)

    def load(self) -> None:
        state = torch.load(self.checkpoint, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.labels.load_state_dict(state["labels"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.rng.bit_generator.state = state["rng"]
        self.step, self.minutes = state["step"], state["minutes"]

    def run(self, one_step: Callable[["Trainer"], None]) -> None:
        """Calls `one_step(self)` until the stage's steps are done; logs and saves on the way."""
        while self.step < self.total_steps:
            started = time.monotonic()
            self.set_rates()
            one_step(self)
            self.minutes += (time.monotonic() - started) / 60
            if self.step % _LOG_EVERY == 0:
                self.write_log()
            if self.step % _SAVE_EVERY == 0:
                self.save()
        self.save()

    def pictures(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.views.pictures[rows])

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, side, side, 3) uint8 -> (B, patches, feature width)."""
        return self.architecture.features(self.model, pictures)

    def label_losses(
        self, features: torch.Tensor, labels: tuple[torch.Tensor, ...]
    ) -> list[torch.Tensor]:
        """Cross-entropies of shape, colour and digit against `patch_labels`."""
        class_weights = (_SHAPE_WEIGHTS, None, None)
        guesses = self.labels(features)
        return [
            F.cross_entropy(z.flatten(0, 1), y.flatten(), weight=w, ignore_index=IGNORED)
            for z, y, w in zip(guesses, labels, class_weights, strict=True)
        ]
