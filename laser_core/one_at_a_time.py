"""One run at a time, across all threads.

A run adds hooks to its model, keeps a prefix there and seeds the process's random generator. Two
runs at once would interfere, so they take turns. On one device, running together would hardly be
faster.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_TURN = threading.RLock()


def one_at_a_time(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator: of all functions so marked, one runs at a time; it may call the others."""

    @functools.wraps(function)
    def wait_and_run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _TURN:
            return function(*args, **kwargs)

    return wait_and_run
