"""Trains the demo model from nothing, in two stages, on a CPU, in float32.

    python -m tools.demo_model.dataset --out DATA --shards 13 --scenes 2000
    python -m tools.demo_model.train --data DATA --out RUN
    python -m tools.demo_model.export --checkpoint RUN/whole.pt --out laser_core/demo_model

1. Vision: the tower alone, with a throw-away head that labels each patch (shape, colour, digit).
2. Whole: the language model on questions and captions, answers only; the tower stays frozen at
   first and then follows at a fifth of the rate; the patch labels keep their share of the loss.
   Before its first step the projector is aligned with the embeddings of the words for what the
   patches show. Attention is never supervised.

On two shared cores the vision stage took eighteen minutes and the whole stage about half an hour.
`--resume` goes on from the last checkpoint of either stage.
"""

import argparse
from pathlib import Path

import torch

from .architectures import ARCHITECTURES
from .dataset import load_views
from .trainer import Recipe, Trainer
from .vision_stage import vision_step
from .whole_stage import align_projector, whole_step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default=Recipe.architecture)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--vision-steps", type=int, default=Recipe.vision_steps)
    parser.add_argument("--vision-batch", type=int, default=Recipe.vision_batch)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        architecture=options.architecture,
        seed=options.seed,
        vision_steps=options.vision_steps,
        vision_batch=options.vision_batch,
        steps=options.steps,
    )
    torch.manual_seed(recipe.seed)
    views = load_views(options.data)

    vision = Trainer(recipe, views, "vision", options.out)
    if options.resume and vision.checkpoint.exists():
        vision.load()
    vision.run(vision_step)

    whole = Trainer(recipe, views, "whole", options.out)
    tower, trained = (whole.architecture.tower(stage.model) for stage in (whole, vision))
    tower.load_state_dict(trained.state_dict())
    whole.labels.load_state_dict(vision.labels.state_dict())
    if options.resume and whole.checkpoint.exists():
        whole.load()
    else:
        align_projector(whole)
    whole.run(whole_step)


if __name__ == "__main__":
    main()
