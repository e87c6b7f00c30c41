"""The method as a model of lmms-eval, the evaluation harness: `--model laser`.

A package of its own because nothing else may need lmms-eval: the entry point in pyproject.toml
(group "lmms_eval.models") names `manifest`, and the harness imports `model` when it is asked for.
`answering` is what the model does with one request and knows nothing of the harness.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What lmms-eval's registry asks of a plugin: the model's name and where its class is."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("laser", simple_class_path=f"{__name__}.model.Laser")
