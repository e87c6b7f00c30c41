"""LASER: layer-adaptive visual localization and decoding for vision-language models.

arXiv 2602.04304, without ComfyUI. Hands out what a user of the library needs, each when it is first
asked for: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.loading import load_lvlm
    from .output.drawing import overlay
    from .pictures import read_picture
    from .pipeline import answer, locate
    from .recipes.check import check
    from .recipes.find import find
    from .recipes.pick import pick

__version__ = "0.1.0"
__all__ = [
    "__version__", "answer", "check", "find", "load_lvlm", "locate", "overlay", "pick",
    "read_picture",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("answer", "locate"):
        from . import pipeline

        return getattr(pipeline, name)
    if name == "check":
        from .recipes.check import check

        return check
    if name == "find":
        from .recipes.find import find

        return find
    if name == "pick":
        from .recipes.pick import pick

        return pick
    if name == "load_lvlm":
        from .models.loading import load_lvlm

        return load_lvlm
    if name == "overlay":
        from .output.drawing import overlay

        return overlay
    if name == "read_picture":
        from .pictures import read_picture

        return read_picture
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
