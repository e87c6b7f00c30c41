"""The shipped demo models: the same answers everywhere, and small details read after a crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from laser_core import pipeline
from laser_core.models.loading import load_lvlm
from laser_core.settings import LaserSettings, LoadSettings
from tools.demo_model.evaluate import answers
from tools.demo_model.world import held_out_items

ROOT = Path(__file__).parents[2]
QUESTION = "what digit is on the red heart ?"  # a 2, on pictures/scene_2.png
# (with LASER, without the evidence, plain): logits of the first token that each says
LOGITS = {"demo": (9.5300, 5.5223, 5.6982), "demo-qwen": (9.2393, 8.0454, 8.0427)}


@pytest.fixture(scope="module", params=LOGITS)
def lvlm(request):
    return load_lvlm(request.param, LoadSettings(precision="fp32"))


def test_the_logits_are_the_same_on_every_version_of_the_libraries(lvlm):
    picture = Image.open(ROOT / "pictures/scene_2.png")
    result = pipeline.answer(lvlm, picture, QUESTION, LaserSettings(), with_plain=True)
    said, plain = result.answer.tokens[0], result.plain.tokens[0]
    assert result.answer.text == "2"
    measured = said.logit_with, said.logit_without, plain.logit_with
    assert measured == pytest.approx(LOGITS[lvlm.name], abs=2e-3)


def test_small_details_are_read_after_the_true_crop_and_often_missed_before(lvlm):
    """At least 15 points apart, on held-out questions on small evidence."""
    items = [item for item in held_out_items("test", 420, 7) if item.size_class == "small"][:100]
    shares = {
        name: np.mean([said == item.answer for said, item in zip(given, items, strict=True)])
        for name in ("plain", "crop")
        for given in [answers(lvlm.model, items, name)]
    }
    assert shares["crop"] >= 0.7
    assert shares["plain"] + 0.15 <= shares["crop"]


def test_both_together_are_small():
    weights = list(ROOT.glob("laser_core/demo_model*/*.safetensors"))
    assert len(weights) == 2
    assert sum(file.stat().st_size for file in weights) < 20e6
