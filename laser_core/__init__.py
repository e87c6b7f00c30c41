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
    from .output.token_maps import token_map
    from .pictures import read_picture
    from .pipeline import answer, locate
    from .recipes.check import check
    from .recipes.find import find
    from .recipes.pick import pick
    from .steps.attention import read_attention

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "answer",
    "check",
    "find",
    "load_lvlm",
    "load_maps",
    "locate",
    "maps_page",
    "overlay",
    "pick",
    "read_attention",
    "read_picture",
    "save_maps",
    "token_map",
]


def __getattr__(name: str) -> Any:
    if name in ("answer", "locate"):
        from . import pipeline
        from .output import notebook  # noqa: F401  so that what these give shows itself

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
    if name in ("load_maps", "save_maps"):
        from .output import maps_file

        return getattr(maps_file, name)
    if name == "load_lvlm":
        from .models.loading import load_lvlm

        return load_lvlm
    if name == "maps_page":
        from .output.maps_page import maps_page

        return maps_page
    if name == "overlay":
        from .output.drawing import overlay

        return overlay
    if name == "read_attention":
        from .steps.attention import read_attention

        return read_attention
    if name == "read_picture":
        from .pictures import read_picture

        return read_picture
    if name == "token_map":
        from .output.token_maps import token_map

        return token_map
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
