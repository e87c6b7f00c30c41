"""Tiny models as the core takes them, and pictures to show them.

Knows `tiny.build` and `Lvlm`; knows no step of the method and no expected result.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from laser_core.models.lvlm import Lvlm
from tools.testbed.tiny import build


def lvlm_of(model_type: str, *, fresh: bool = False, **options: Any) -> Lvlm:
    """A tiny random model; shared between tests unless `fresh`."""
    return _new(model_type, **options) if fresh else _shared(model_type, **options)


def _new(model_type: str, **options: Any) -> Lvlm:
    tiny = build(model_type, **options)
    return Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor)


_shared = cache(_new)


def noise_picture(size: tuple[int, int] = (90, 60), seed: int = 0) -> Image.Image:
    """A (width, height) picture of coarse random blocks: every patch differs."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
