"""Whether the installed libraries can run a model: asked when one is loaded, not at import."""

from __future__ import annotations

import re

NEEDED = {"transformers": (4, 57), "accelerate": (1, 0)}


def check_libraries() -> None:
    """Raises RuntimeError, remedy first, if a library is missing, too old or not understood."""
    from importlib.metadata import PackageNotFoundError, version

    for name, needed in NEEDED.items():
        least = ".".join(map(str, needed))
        remedy = f"run: pip install -U '{name}>={least}' in ComfyUI's Python, then restart ComfyUI"
        try:
            installed = version(name)
        except PackageNotFoundError as error:
            raise RuntimeError(
                f"install {name} {least} or newer ({remedy}): it is not installed"
            ) from error
        if _numbers(installed) < needed:
            raise RuntimeError(f"update {name} to {least} or newer ({remedy}): {installed} is here")
    try:
        from ..laser_core import pipeline  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "transformers":
            raise RuntimeError(_other_transformers(error)) from error
        raise RuntimeError(
            f"install {error.name} (run: pip install -r requirements.txt in this pack's folder, "
            "with ComfyUI's Python, then restart ComfyUI): it is missing"
        ) from error
    except ImportError as error:
        raise RuntimeError(_other_transformers(error)) from error


def _other_transformers(error: ImportError) -> str:
    from importlib.metadata import version

    return (
        f"install another transformers, 4.57 or one from 5.0 to 5.23: version "
        f"{version('transformers')} cannot be used ({error})"
    )


def _numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 5.23.0rc1 -> (5, 23)."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])
