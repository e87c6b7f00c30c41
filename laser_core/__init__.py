"""LASER: layer-adaptive visual localization and decoding for vision-language models.

arXiv 2602.04304, without ComfyUI. Hands out what a user of the library needs, each when it is first
asked for: importing the package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.loading import load_lvlm
    from .output.drawing import overlay
    from .output.maps_file import load_maps, save_maps
    from .output.maps_page import maps_page
    from .pictures import read_picture
    from .pipeline import answer, locate
    from .steps.attention import read_attention

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "answer",
    "load_lvlm",
    "load_maps",
    "locate",
    "maps_page",
    "overlay",
    "read_attention",
    "read_picture",
    "save_maps",
]

_MODULES = {
    "answer": "pipeline",
    "load_lvlm": "models.loading",
    "load_maps": "output.maps_file",
    "locate": "pipeline",
    "maps_page": "output.maps_page",
    "overlay": "output.drawing",
    "read_attention": "steps.attention",
    "read_picture": "pictures",
    "save_maps": "output.maps_file",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    if name in ("answer", "locate"):  # what these give shows itself in a notebook
        importlib.import_module(f"{__name__}.output.notebook")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
