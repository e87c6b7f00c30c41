"""Paints the example pictures of the repository.

    python -m tools.demo_model.examples --out pictures

Scenes of the "dev" split, so that no training run has seen them, at four times the size that the
model sees.
"""

import argparse
from pathlib import Path

from PIL import Image

from .scenes import sample_scene
from .world import PICTURE_SIDE_PX, draw_scene, scene_generator

# File name -> index of the scene, picked by eye: each holds a small number that the shipped model
# misreads on the whole picture and reads on a crop (shoe, hat, carrot).
EXAMPLES = {"scene.png": 19, "scene_2.png": 28, "scene_3.png": 3}
_SEED = 7


def paint_example(name: str) -> Image.Image:
    """The example of that file name."""
    scene = sample_scene(scene_generator("dev", _SEED, EXAMPLES[name]))
    return draw_scene(scene, PICTURE_SIDE_PX)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name in EXAMPLES:
        paint_example(name).save(out / name, optimize=True)


if __name__ == "__main__":
    main()
