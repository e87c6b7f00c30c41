"""Which errors are for the user, and what to do about libraries that are missing or broken.

Imports no library before it is asked to.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

NEEDED = {"transformers": (4, 57), "accelerate": (1, 0)}
PACKAGES = {"PIL": "pillow"}  # packages named differently from what is imported
# Each version of it fits one version of PyTorch; nothing here needs it
TORCHVISION = "install the torchvision of this PyTorch, or remove it"
LONGEST_WORDS = 300  # characters of a library's message


def is_for_the_user(error: Exception) -> bool:
    """True for a ValueError that this package raised; one from a library would be our bug."""
    if not isinstance(error, ValueError):
        return False
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals if trace else {}
    package = module.get("__package__") or ""
    return package == __package__ or package.startswith(f"{__package__}.")


def first_words(error: BaseException) -> str:
    """A library's own message in one line, shortened."""
    # Some messages say little without their type: KeyError's is the key
    known = isinstance(error, (OSError, ValueError, RuntimeError, ImportError)) and str(error)
    text = " ".join((str(error) if known else repr(error)).split())
    return text if len(text) <= LONGEST_WORDS else text[: LONGEST_WORDS - 3] + "..."


@contextmanager
def explained_imports() -> Iterator[None]:
    """Inside, a library that is missing, too old or broken raises ValueError, remedy first.

    For code that imports torch and the others before the work begins.
    """
    for name, least in NEEDED.items():
        _check_version(name, least)
    try:
        # Some are needed only after a model has run
        import huggingface_hub  # noqa: F401
        import jinja2  # noqa: F401
        import matplotlib.figure  # noqa: F401
        import safetensors  # noqa: F401
        import transformers  # noqa: F401

        yield
    except Exception as error:  # a broken library may raise anything
        missing = (getattr(error, "name", None) or "").partition(".")[0]
        found = missing in NEEDED or sys.modules.get(missing) is not None
        if isinstance(error, ModuleNotFoundError) and missing and not found:
            package = PACKAGES.get(missing, missing)
            raise ValueError(f"install {package} ({_pip(package)}): it is missing") from error
        remedy = "install transformers 4.57, or 5.0 or newer"
        if "torchvision" in str(error):
            remedy = TORCHVISION
        raise ValueError(
            f"{remedy}: transformers {metadata.version('transformers')} cannot be imported "
            f"({first_words(error)})"
        ) from error


def _check_version(name: str, least: tuple[int, int]) -> None:
    needed = ".".join(map(str, least))
    try:
        installed = metadata.version(name)
    except metadata.PackageNotFoundError as error:
        raise ValueError(
            f"install {name} {needed} or newer ({_pip(f'{name}>={needed}')}): it is missing"
        ) from error
    if tuple(int(part) for part in re.findall(r"\d+", installed)[:2]) < least:
        raise ValueError(
            f"update {name} to {needed} or newer ({_pip(f'{name}>={needed}')}): "
            f"{installed} is installed"
        )


def _pip(wanted: str) -> str:
    return f'run: "{sys.executable}" -m pip install -U "{wanted}", then start again'
