"""Offers the example pictures to Load Image, before ComfyUI lists its input folder.

ComfyUI runs this file at start. A picture that is already there, or cannot be written, is left.
"""

import logging
import os
import shutil
from pathlib import Path


def offer_examples(input_folder: Path) -> None:
    """Copies pictures/scene*.* into `input_folder`, where Load Image looks, as laser_scene*.*."""
    for example in sorted((Path(__file__).parent / "pictures").glob("scene*.*")):
        copy = input_folder / f"laser_{example.name}"
        try:
            if not copy.exists():
                part = copy.with_name(f".{copy.name}.{os.getpid()}.part")  # never half a picture
                try:
                    shutil.copyfile(example, part)
                    part.replace(copy)
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            logging.warning("LASER: the example %s is not in the input folder: %s", copy, error)


if __name__ != "__main__":
    try:
        import folder_paths
    except ImportError:  # not in ComfyUI
        pass
    else:
        offer_examples(Path(folder_paths.get_input_directory()))
