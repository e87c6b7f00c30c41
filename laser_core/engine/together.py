"""Runs over several pictures side by side, so that what they ask of the model is asked at once.

Each run is unchanged code in a thread of its own, and one of all threads works at a time. A run
stops where it needs the model; once all have stopped, what they wait for is computed together.
Knows no model, no prompt and no step: what can be computed together, and how, is said by those
who ask.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from itertools import islice
from typing import Any, TypeVar

import torch

from ..errors import is_for_the_user
from ..models.lvlm import Lvlm
from ..one_at_a_time import turn
from ..out_of_memory import is_out_of_memory
from .few_calls import LEAST_FILLED, pictures_at_once
from .memory import FreeBytes, empty_cache, measured
from .memory import free_bytes as free_on

Item = TypeVar("Item")
Request = TypeVar("Request")
Result = TypeVar("Result")

Serve = Callable[[list[Request]], Sequence[Result | Exception]]
"""What computes requests together: for each, its result, or the error that is its own."""


def ask(serve: Serve[Request, Result], request: Request, *, late: bool = False) -> Result:
    """`serve`'s result for this request, alone or together with those of runs beside this one.

    late: only when no run waits for anything that is not, so that more can join.
    """
    run = _RUN.get()
    [found] = serve([request]) if run is None else [run.wait_for(serve, request, late)]
    if isinstance(found, Exception):
        raise found
    return found


def its_own_error(call: Callable[[], Result]) -> Result | Exception:
    """What `call` returns, or what it raises where that is one request's fault."""
    try:
        return call()
    except Exception as error:
        if not is_for_the_user(error):
            raise
        return error


def in_batches(
    serve: Serve[Request, Result],
    requests: Sequence[Request],
    kind_and_length: Callable[[Request], tuple[Hashable, int]],
) -> list[Result | Exception]:
    """What `serve` finds for each request, called with those of one kind and of like length.

    kind_and_length: of a request. None is shorter than LEAST_FILLED of its batch's longest.
    """
    batches: dict[Hashable, list[list[int]]] = {}
    kinds = [kind_and_length(request) for request in requests]
    for index, (kind, length) in sorted(enumerate(kinds), key=lambda each: -each[1][1]):
        alike = batches.setdefault(kind, [])
        if not alike or length < LEAST_FILLED * kinds[alike[-1][0]][1]:
            alike.append([])
        alike[-1].append(index)
    found: dict[int, Result | Exception] = {}
    for batch in (batch for alike in batches.values() for batch in alike):
        found |= zip(batch, serve([requests[index] for index in batch]), strict=True)
    return [found[index] for index in range(len(requests))]


def run_together(
    lvlm: Lvlm,
    items: Iterable[Item],
    job: Callable[[Lvlm, Item], Result],
    batch: int = 0,
    free_bytes: FreeBytes = free_on,
) -> Iterator[Result | Exception]:
    """`job` of every item, in order, `batch` of them side by side; 0: as many as fit.

    job: called with the model and an item. Where several run at once, each gets the same model with
    a prefix of its own, in a thread of its own; else the model itself, in this thread.
    free_bytes: of a device, by whoever manages its memory.
    Lazy: of the items, no more are read than one batch. An error that is the user's (or an item for
    which alone there is not enough memory) is yielded in the item's place. What fills the memory in
    a batch halves it from there on, and what was not finished is run again. Any other error, and
    what callbacks raise, ends all runs and is raised.
    """
    remaining, size, unmeasured = iter(items), batch or 1, not batch
    try:
        while chunk := list(islice(remaining, size)):
            found: dict[int, Any] = {}
            with measured(lvlm.device, unmeasured) as taken:
                while left := [index for index in range(len(chunk)) if index not in found]:
                    part = left[:size]
                    done, full = _run_part(lvlm, [chunk[index] for index in part], job)
                    found |= {part[index]: one for index, one in done.items()}
                    if full:
                        size = max(1, len(part) // 2)
                        lvlm.release()
                        gc.collect()
                        empty_cache(lvlm.device)
            yield from (found[index] for index in range(len(chunk)))
            if unmeasured and not isinstance(found[0], Exception):
                unmeasured = False
                if taken.bytes:
                    size = pictures_at_once(taken.bytes, free_bytes(lvlm.device))
    finally:
        if size > 1:
            lvlm.steps = []  # of a whole batch


def _run_part(
    lvlm: Lvlm, items: Sequence[Item], job: Callable[[Lvlm, Item], Any]
) -> tuple[dict[int, Any], bool]:
    """(outcomes by index, whether memory ran out: then some may be missing)."""
    if len(items) == 1:
        try:
            return {0: job(lvlm, items[0])}, False
        except Exception as error:
            if is_out_of_memory(error):
                # Without what holds the tensors that filled it
                error.__context__ = error.__cause__ = None
                return {0: error.with_traceback(None)}, True
            if not is_for_the_user(error):
                raise
            return {0: error}, False
    with turn():
        return _side_by_side(lvlm, items, job)


def _side_by_side(
    lvlm: Lvlm, items: Sequence[Item], job: Callable[[Lvlm, Item], Any]
) -> tuple[dict[int, Any], bool]:
    lvlm.prefix = None  # each run has its own
    runs = [_Run(job, lvlm.beside(), item) for item in items]
    full = False
    try:
        for run in runs:
            run.go()
        while waiting := [run for run in runs if run.asks]:
            _serve_some(waiting)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        full = True
    finally:
        for run in runs:
            run.end()
    return {index: run.outcome for index, run in enumerate(runs) if run.finished}, full


def _serve_some(waiting: list[_Run]) -> None:
    """Compute what all those wait for that wait for the same as the first that cannot wait."""
    first = next((run for run in waiting if not run.late), waiting[0])
    group = [run for run in waiting if run.serve is first.serve]
    found: Sequence[Any]
    try:
        with torch.inference_mode():
            found = first.serve([run.request for run in group])
    except Exception as error:
        if is_out_of_memory(error) or not is_for_the_user(error):
            raise
        found = [error] * len(group)  # it is every request's
    for run, result in zip(group, found, strict=True):
        run.go(result)


class _Ended(BaseException):
    """Ends a run from outside, through all that it must restore."""


class _Run:
    """A job in a thread of its own, which works only while `go` waits for it.

    asks: whether it waits for `serve` to compute its `request`. finished: whether `outcome` is what
    the job returned, or raised where that is the user's.
    """

    def __init__(self, job: Callable[[Lvlm, Any], Any], lvlm: Lvlm, item: Any) -> None:
        self.asks = self.late = self.finished = False
        self.serve: Callable = its_own_error  # and then what was asked
        self.request: Any = None
        self.outcome: Any = None
        self._error: BaseException | None = None
        self._answer: Any = None
        self._may_go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        work = copy_context().run  # with the turn, and what a host says of the run
        self._thread = threading.Thread(
            target=work, args=(self._work, job, lvlm, item), daemon=True
        )
        self._began = False

    def go(self, answer: Any = None) -> None:
        """Go on, with what was asked for, until it asks again or ends. Raises what ended it."""
        self._answer, self.request, self.asks = answer, None, False
        if not self._began:
            self._began = True
            self._thread.start()
        self._may_go.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Return once the thread has ended, early if need be."""
        while self._began and self._thread.is_alive():
            self._answer = _Ended()
            self._may_go.release()
            self._thread.join(0.05)  # it may be working still, where this thread was interrupted
        self._answer = self._error = self.request = None

    def wait_for(self, serve: Callable, request: Any, late: bool) -> Any:
        """Called by the job: what `serve` finds for the request."""
        self.serve, self.request, self.late, self.asks = serve, request, late, True
        self._stopped.release()
        self._may_go.acquire()
        answer, self._answer = self._answer, None
        if isinstance(answer, _Ended):
            raise answer
        return answer

    def _work(self, job: Callable[[Lvlm, Any], Any], lvlm: Lvlm, item: Any) -> None:
        _RUN.set(self)
        self._may_go.acquire()
        try:
            if not isinstance(self._answer, _Ended):
                self.outcome = job(lvlm, item)
                self.finished = True
        except _Ended:
            pass
        except BaseException as error:
            if isinstance(error, Exception) and is_for_the_user(error):
                self.outcome, self.finished = error, True
            else:
                self._error = error
        finally:
            lvlm.prefix = None  # a view of the whole batch's, which an error's frames would hold
            self._stopped.release()


_RUN: ContextVar[_Run | None] = ContextVar("run", default=None)
