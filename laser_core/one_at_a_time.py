"""One run at a time, across all threads.

A run adds hooks to its model, keeps a prefix there and seeds the process's random generator. Two
runs at once would interfere, so they take turns. What is faster together is a single run
(engine/together.py).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_TURN = threading.Lock()


class _Run:
    """What has the turn: a run, not a thread, for a batch's threads share the turn of one run.

    going: False once it has ended, whatever was begun within it and still remembers it.
    """

    going = True


_RUN: ContextVar[_Run | None] = ContextVar("run", default=None)


@contextmanager
def turn() -> Iterator[None]:
    """Inside, no other run is; what is within a run already, goes on with its turn."""
    within = _RUN.get()
    if within and within.going:
        yield
        return
    with _TURN:
        run = _Run()
        before = _RUN.set(run)
        try:
            yield
        finally:
            run.going = False
            _RUN.reset(before)


def one_at_a_time(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Decorator: of all functions so marked, one runs at a time; it may call the others."""

    @functools.wraps(function)
    def wait_and_run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with turn():
            return function(*args, **kwargs)

    return wait_and_run
