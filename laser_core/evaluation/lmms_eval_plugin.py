"""What lmms-eval, the evaluation harness, finds of this package: its model `--model laser`.

The entry point in pyproject.toml (group "lmms_eval.models") names `manifest`. The class is in a
module of its own, which is imported only when the model is asked for: nothing else needs lmms-eval.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model's name and where its class is, as lmms-eval's registry takes it."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("laser", simple_class_path=f"{__package__}.lmms_eval_model.Laser")
