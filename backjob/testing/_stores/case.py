"""What the parts of the store contract share: a store for each test, jobs in every state, and how a promise is checked."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.lifecycle import End, claimed, completed, ended
from backjob.model import Draft, Expect, Job, Request
from backjob.protocols import Clock, Store
from backjob.testing._stores.watched import METHODS, WatchedStore
from backjob.testing.clock import FakeClock

__all__ = [
    "ALIKE",
    "MICROSECOND",
    "PATIENCE",
    "UNKNOWN",
    "StoreCase",
    "at_once",
    "draft",
    "kept",
    "plainly",
    "refused",
    "same",
    "unread",
    "whole_output",
]

T = TypeVar("T")

COMPLETED: Final = completed("done")
MICROSECOND: Final = 0.000001
PATIENCE: Final = 60.0
"""Seconds after which a race that has not ended counts as a deadlock."""
UNKNOWN: Final = ("", "nobody", "JOB", "job ", "x" * 5000, "' OR 1=1 --")
"""Ids that no job has."""
ALIKE: Final = (
    *("job", "JOB", "Job", "jÖb", "jöb", "jo\u0308b", "job ", "job  ", " job", "job\t", "", " ", "ＪＯＢ", "𝐣𝐨𝐛"),
    *("ss", "ß", "ﬁ", "fi", "i", "İ", "ı", "%", "_", "j%", "jo_", "*", "j*", "[j]ob", "jo?", "\\", "job\\", "'", '"'),
    *("0", "00", "1e0", "1", "null", "NULL", "😀", "😁", "{job}", "job:x", "job\n", "e\u0301", "\u00e9"),
)
"""Texts that some comparison or other takes for the same, or for a pattern."""
_TURN: Final = 1e-6


# --- promises -------------------------------------------------------------------------------------------------------


def kept(truth: object, promise: str) -> None:
    """Fail, naming the promise, unless it was kept."""
    __tracebackhide__ = True
    if not truth:
        raise AssertionError(f"promise broken: {promise}")


def same(found: T, expected: T, promise: str) -> None:
    """Fail, naming the promise and both sides, unless they are equal."""
    __tracebackhide__ = True
    if found != expected:
        raise AssertionError(f"promise broken: {promise}\n  expected: {expected!r}\n  found:    {found!r}")


def refused(call: Callable[[], object], promise: str) -> None:
    """Fail, naming the promise, unless the call raises `InvalidRequest`."""
    __tracebackhide__ = True
    try:
        returned = call()
    except AssertionError as broken:
        if not isinstance(broken.__cause__, InvalidRequest):
            raise
        return
    raise AssertionError(f"promise broken: {promise}: by InvalidRequest; the call returned {returned!r}")


def plainly(run: Callable[[], None]) -> None:
    """Run generated tests. Their failure is the broken promise itself, even where a race fails only now and then."""
    try:
        run()
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(AssertionError)
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if error is None:
            raise
        raise error from group


# --- values ---------------------------------------------------------------------------------------------------------


def draft(job_id: str = "job", **fields: Any) -> Draft:
    """A draft that says as little as it can."""
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


def unread(job: Job) -> Job:
    """The job but for the moment of reading."""
    return evolve(job, read_time=job.created_time)


def whole_output(store: Store, job_id: str, limit: int = 65536) -> str:
    """All output of a job, read piece by piece as a watcher does."""
    text, offset = "", 0
    deadline = time.monotonic() + PATIENCE
    while (piece := store.output(job_id, offset, limit)).text:
        text += piece.text
        kept(piece.next_offset > offset, "every piece leads on to the next")
        kept(time.monotonic() < deadline, "output has an end")
        offset = piece.next_offset
    return text


# --- threads --------------------------------------------------------------------------------------------------------


@contextmanager
def _restless() -> Iterator[None]:
    """Threads take turns far more often than usual: else a step that is not atomic would hardly ever be caught at it."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def at_once(calls: Sequence[Callable[[], T]], patience: float = PATIENCE) -> list[T]:
    """What the calls return, made from as many threads at the same moment. The first that fails is raised.

    After ``patience`` seconds it is a broken promise that they have not returned; their threads are left behind.
    """
    results: dict[int, T] = {}
    errors: dict[int, BaseException] = {}
    barrier = threading.Barrier(len(calls))

    def run(index: int, call: Callable[[], T]) -> None:
        try:
            barrier.wait(patience)
            results[index] = call()
        except BaseException as error:
            errors[index] = error

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(calls)]
    deadline = time.monotonic() + patience
    with _restless():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    stuck = [thread for thread in threads if thread.is_alive()]
    error = errors[min(errors)] if errors else None
    if stuck:
        where = sys._current_frames().get(stuck[0].ident or 0)  # noqa: SLF001 - made for this
        raise _Deadlock(
            f"promise broken: calls from many threads all return; {len(stuck)} had not after {patience:g} s\n"
            f"one of them stands here:\n{''.join(traceback.format_stack(where))}"
        ) from error
    if error is not None:
        raise error
    return [results[index] for index in range(len(calls))]


class _Deadlock(AssertionError):
    """Threads are left behind within calls to a store."""


# --- one test -------------------------------------------------------------------------------------------------------


class StoreCase:
    """One test's surroundings. ``directory`` is empty and the test's own, ``clock`` moves only by the test.

    ``store`` is watched: an error it raises, or a value of another type than the protocol's, fails the test.
    """

    directory: Path
    clock: FakeClock
    store: Store

    patience = PATIENCE
    """Seconds after which calls that race, and have not returned, count as a deadlock."""

    def make_store(self, clock: Clock) -> Store:
        """A new, empty store whose time is ``clock``; override this. It may be called several times in one test."""
        raise NotImplementedError("a subclass of StoreContract says how its store is made: override make_store(clock)")

    def new_store(self, clock: Clock) -> Store:
        """A new store, watched."""
        store = self.make_store(clock)
        missing = [name for name in METHODS if not callable(getattr(store, name, None))]
        kept(not missing, f"a store has ten methods; missing here: {', '.join(missing)}")
        return WatchedStore(store)

    @pytest.fixture(autouse=True)
    def _a_store_for_each_test(self, tmp_path: Path) -> Iterator[None]:
        self.directory = tmp_path
        self.clock = FakeClock()
        self.store = self.new_store(self.clock)
        self._is_stuck = False
        yield
        if not self._is_stuck:
            self.store.close()

    def at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """What the calls return, made from as many threads at the same moment."""
        __tracebackhide__ = True
        try:
            return at_once(calls, self.patience)
        except _Deadlock:
            self._is_stuck = True  # closing might only be the next
            raise

    def read(self, job_id: str = "job") -> Job:
        """The job as it stands; it has to."""
        __tracebackhide__ = True
        job = self.store.get(job_id)
        if job is None:
            raise AssertionError(f"promise broken: a job that was written is found again ({job_id!r})")
        return job

    def running(self, job_id: str = "job", token: str = "token", **fields: Any) -> Job:  # noqa: S107 - no password
        """A job that was created and claimed."""
        __tracebackhide__ = True
        self.store.create(draft(job_id, **fields))
        job = self.store.change(job_id, *claimed(token))
        if job is None:
            raise AssertionError("promise broken: a STARTED job can be claimed")
        return job

    def ended(self, job_id: str = "job", end: End = COMPLETED, **fields: Any) -> Job:
        """A job that was created, claimed and ended."""
        __tracebackhide__ = True
        running = self.running(job_id, **fields)
        job = self.store.change(job_id, Expect(token=running.token), ended(end))
        if job is None:
            raise AssertionError("promise broken: an IN_PROGRESS job can be ended")
        return job
