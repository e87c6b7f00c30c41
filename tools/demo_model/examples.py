"""Paints the example pictures of the repository.

    python -m tools.demo_model.examples --out pictures

Scenes of the "dev" split, so that no training run has seen them, at twice the scene's size: there
is more in the picture than the model can see at once.
"""

import argparse
from pathlib import Path

from .scenes import SCENE_SIDE_PX, render, sample_scene
from .world import scene_generator

# File name -> index of the scene, picked by eye: each holds a small digit that the shipped model
# misreads on the whole picture and reads on a crop (blue star, red heart, red star).
EXAMPLES = {"scene.png": 3, "scene_2.png": 1, "scene_3.png": 2614}
_SEED = 7


def paint_examples(out: Path) -> None:
    """Writes every example into the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for name, index in EXAMPLES.items():
        scene = sample_scene(scene_generator("dev", _SEED, index))
        render(scene, 2 * SCENE_SIDE_PX).save(out / name, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    paint_examples(parser.parse_args().out)


if __name__ == "__main__":
    main()
