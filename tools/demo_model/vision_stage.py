"""First stage: the tower learns to label patches, by itself.

An answer-only loss reaches the tower through the whole decoder and teaches it nothing for longer
than the training lasts; labels for every patch teach it to read digits in minutes.
"""

import functools

import numpy as np
import torch

from .batches import patch_labels, sample_rows
from .dataset import Views, make_shard
from .network import GRID
from .scenes import MODEL_SIDE_PX
from .trainer import Trainer


def vision_step(trainer: Trainer) -> None:
    """One batch of mosaics and of views, mostly mosaics at first."""
    recipe, rng = trainer.recipe, trainer.rng
    mosaic_share = float(np.interp(trainer.progress, (0.4, 0.8), (0.8, 0.3)))
    mosaics = round(recipe.vision_batch * mosaic_share)
    rows = sample_rows(trainer.views, rng, recipe.vision_batch - mosaics, 0.3)
    pieced, pieced_labels = trainer.mosaics(rng, mosaics)
    labels = patch_labels(trainer.views.objects[rows])
    labels = tuple(torch.cat(pair) for pair in zip(labels, pieced_labels, strict=True))
    features = trainer.features(torch.cat([trainer.pictures(rows), pieced]))
    shape, colour, digit = trainer.label_losses(features, labels)
    trainer.update(shape + colour + 1.5 * digit)
    for name, loss in (("shape", shape), ("colour", colour), ("digit", digit)):
        trainer.average(name, loss.item())
    if trainer.step % 200 == 0:
        for name, value in label_accuracy(trainer).items():
            trainer.averages[name] = (value, 1.0)


@torch.no_grad()
def label_accuracy(trainer: Trainer) -> dict[str, float]:
    """Digit and shape accuracy at object centres of 100 development scenes, by object pixels."""
    views = _development_views()
    right: dict[str, list[bool]] = {}
    for start in range(0, len(views), 100):
        rows = slice(start, start + 100)
        pictures = torch.from_numpy(views.pictures[rows])
        guesses = [z.argmax(-1).numpy() for z in trainer.labels(trainer.features(pictures))]
        for b, objects in enumerate(views.objects[rows]):
            for x1, y1, x2, y2, shape, _, digit, visible in objects:
                if visible < 0.8:
                    continue
                # The outline's box is 1.2 sides wide.
                side_px = (x2 - x1) / 1.2 * MODEL_SIDE_PX
                row, column = (
                    min(GRID - 1, max(0, int((low + high) / 2 * GRID)))
                    for low, high in ((y1, y2), (x1, x2))
                )
                patch = row * GRID + column
                group = next(str(limit) for limit in (13, 20, 30, 999) if side_px < limit)
                hit = guesses[2][b][patch] == (10 if digit < 0 else digit)
                right.setdefault(f"digit<{group}px", []).append(hit)
                right.setdefault(f"shape<{group}px", []).append(guesses[0][b][patch] == shape + 1)
    return {name: float(np.mean(hits)) for name, hits in sorted(right.items())}


@functools.cache
def _development_views() -> Views:
    return make_shard(0, 100, split="dev")
