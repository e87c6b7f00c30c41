"""Graphs of nodes on tiny models, wired as on the canvas."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import torch

from tools.testbed.tiny import build

from .pack import inputs_of, part, run

QUESTION = "what colour is the square ?"


@cache
def tiny_lvlm(model_type: str):
    tiny = build(model_type)
    return part("laser_core.models.lvlm").Lvlm(tiny.model, tiny.tokenizer, tiny.image_processor)


def handle_of(model_type: str = "llava", **options):
    """A new handle on a shared tiny model."""
    lvlm = tiny_lvlm(model_type)
    lvlm.release()
    settings = part("laser_core.settings").LoadSettings()
    return part("nodes.handles").LvlmHandle(lambda: (lvlm, None), settings, **options)


def pictures_batch(count: int, height: int = 60, width: int = 90, channels: int = 3):
    generator = torch.Generator().manual_seed(count * height)
    coarse = torch.rand(count, channels, 6, 9, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="nearest")
    return (fine * 255).round().div(255).movedim(1, -1).contiguous()


class Interrupted(BaseException):
    """ComfyUI's interrupt: no Exception, so that nodes cannot take it for an error."""


# Settings that a tiny picture and a tiny model need, and that make the streams differ. Five nodes
# look once and believe it, as LASER Answer does with `adaptive` off.
SMALL = {
    "prompt": {},
    "layer": {},
    "crop": {"min_side_px": 20},
    "counterfactual": {"amount": 0.2},
    "answer": {},
    "decode": {"max_tokens": 4, "alpha": 2.0, "adaptive": 0.0},
}


def all_of(settings: dict) -> dict:
    """The groups' settings as LASER Answer's inputs, those it lacks by way of LASER Settings."""
    chosen = {name: value for group in settings.values() for name, value in group.items()}
    carried = chosen.keys() & inputs_of("LaserAnswer").keys()
    others = {name: value for name, value in chosen.items() if name not in carried}
    settings = run("LaserSettings", **others).settings
    return {**{name: chosen[name] for name in carried}, "settings": settings}


def hand_wired(
    lvlm, image, question=QUESTION, *, mask=None, blocked_context=False, **groups
) -> SimpleNamespace:
    """The five nodes of the method, wired with the same settings as LASER Answer."""
    chosen = {**SMALL, **groups}
    found = {"mask": mask}
    if mask is None:
        attention = run(
            "LaserContrastiveAttention", lvlm=lvlm, image=image, question=question,
            **chosen["prompt"],
        )  # fmt: skip
        layer = run("LaserVAQLayerSelect", attention=attention.attention, **chosen["layer"])
        found = {"evidence": layer.evidence}
    window = run("LaserConViCrop", image=image, **found, **chosen["crop"])
    blocked = run(
        "LaserCounterfactualMask", image=image, **found, boxes=window.boxes,
        **chosen["counterfactual"],
    )  # fmt: skip
    asked = {k: v for k, v in chosen["prompt"].items() if k in inputs_of("LaserVATDecode")}
    decoded = run(
        "LaserVATDecode", lvlm=lvlm, question=question,
        positive=window.crop, counterfactual=blocked.counterfactual, context=image,
        counterfactual_context=blocked.counterfactual_context if blocked_context else None,
        boxes=window.boxes, **asked, **chosen["answer"], **chosen["decode"],
    )  # fmt: skip
    return SimpleNamespace(window=window, blocked=blocked, **vars(decoded))
