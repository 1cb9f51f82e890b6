"""Parts that learn what happens to jobs: metrics and traces. Without any, an event costs a loop over nothing.

An observer never changes the outcome of a job: what it raises is logged, at most once a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import ParamSpec, Protocol, Self, TypeAlias, TypeVar

from attrs import frozen

from backjob.lifecycle import Conclusion
from backjob.model import Job, Request
from backjob.process import Outage
from backjob.protocols import Clock

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Run(Protocol):
    """A run of a job in this process, as an observer sees it.

    The action gets the header ``fields``, and runs within the ``surroundings``, which are entered once in each thread that
    works for it. An observer may change both when the run begins.
    """

    job: Job
    fields: dict[str, str | None]
    surroundings: list[Callable[[], AbstractContextManager[object]]]


@frozen(eq=False, repr=False)
class RunEnd:
    """How the action of a run ended: what follows, the response's status (0: none), the error it raised, and seconds it took."""

    conclusion: Conclusion
    status: int
    error: BaseException | None
    seconds: float


AtEnd: TypeAlias = Callable[[RunEnd], object]
"""Called when the action of a run has returned."""


class Observer:
    """Base class of observers, whose methods do nothing. Any thread may call them, and they must not block."""

    def starting(self, starting: Starting) -> Callable[[BaseException | None], object] | None:  # noqa: ARG002
        """Note that a call of ``start()`` is about to write its job. This may replace ``starting.request``.

        Returns a function to be called with the error that the call raises, or with None once ``starting.job`` is set.
        """
        return None

    def accepted(self, job: Job) -> None:
        """Note that a new job was written, and committed."""

    def run_began(self, run: Run) -> AtEnd | None:  # noqa: ARG002
        """Note that this process has claimed a run. Returns a function to be called at the end of its action."""
        return None

    def ended(self, job: Job) -> None:
        """Note that this process has written the end of a job."""

    def refused(self) -> None:
        """Note that a duplicate was refused: a worker request for a run that was claimed before, or an engine's message."""


class Observers:
    """Passes each event on to all observers."""

    def __init__(self, observers: Iterable[Observer], clock: Clock) -> None:
        self._all = tuple(observers)
        self._faults = Outage(clock)

    def __bool__(self) -> bool:
        return bool(self._all)

    def starting(self, request: Request, queue: str) -> Starting:
        """Return the context of a call of ``start()``; see `Observer.starting`."""
        return Starting(self, request, queue)

    def accepted(self, job: Job) -> None:
        """See `Observer.accepted`."""
        for observer in self._all:
            self.contained(observer.accepted, job)

    def run_began(self, run: Run) -> list[AtEnd]:
        """See `Observer.run_began`. Returns the functions for `run_ended`."""
        if not self._all:
            return []
        begun = (self.contained(observer.run_began, run) for observer in self._all)
        return [at_end for at_end in begun if at_end is not None]

    def run_ended(self, at_end: list[AtEnd], end: RunEnd) -> None:
        """Call what `run_began` has returned, last first."""
        while at_end:
            self.contained(at_end.pop(), end)

    def ended(self, job: Job) -> None:
        """See `Observer.ended`."""
        for observer in self._all:
            self.contained(observer.ended, job)

    def refused(self) -> None:
        """See `Observer.refused`."""
        for observer in self._all:
            self.contained(observer.refused)

    def begun(self, starting: Starting) -> list[Callable[[BaseException | None], object]]:
        """Have all observers see a call of ``start()``. Returns their functions for its end."""
        begun = (self.contained(observer.starting, starting) for observer in self._all)
        return [at_end for at_end in begun if at_end is not None]

    def contained(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Call the function. Returns None if it raises, which is logged."""
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self._faults.warn("an observer of jobs failed, so a metric or a trace is incomplete: %r", error)
            return None


class Starting:
    """The context of one call of ``start()``. Its ``request`` is the one to store; set ``job`` once that is done."""

    __slots__ = ("_at_end", "_observers", "job", "queue", "request")

    def __init__(self, observers: Observers, request: Request, queue: str) -> None:
        self._observers = observers
        self.request = request
        self.queue = queue
        self.job: Job | None = None
        self._at_end: list[Callable[[BaseException | None], object]] = []

    def __enter__(self) -> Self:
        if self._observers:
            self._at_end = self._observers.begun(self)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        while self._at_end:
            self._observers.contained(self._at_end.pop(), error)
