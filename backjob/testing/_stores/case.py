"""Shared by the parts of the store contract: a store per test, jobs in every state, and checks that name a promise."""

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
from backjob.lifecycle import End, Requeue, claimed, completed, ended, requeued
from backjob.model import Draft, Expect, Job, Request
from backjob.protocols import Clock, Store
from backjob.testing._stores.watched import METHODS, WatchedStore
from backjob.testing.clock import FakeClock

T = TypeVar("T")

COMPLETED: Final = completed("done")
RETRY: Final = Requeue("the process that ran it ended")
MICROSECOND: Final = 0.000001
LEASE: Final = 100_000.0
"""Seconds of a run lease that no test outlives unless it is about leases."""
PATIENCE: Final = 60.0
"""Seconds after which an unfinished race counts as a deadlock."""
UNKNOWN: Final = ("", "nobody", "JOB", "job ", "x" * 5000, "' OR 1=1 --")
"""Ids that no job of a test has."""
ALIKE: Final = (
    *("job", "JOB", "Job", "jÖb", "jöb", "jo\u0308b", "job ", "job  ", " job", "job\t", "", " ", "ＪＯＢ", "𝐣𝐨𝐛"),
    *("ss", "ß", "ﬁ", "fi", "i", "İ", "ı", "%", "_", "j%", "jo_", "*", "j*", "[j]ob", "jo?", "\\", "job\\", "'", '"'),
    *("0", "00", "1e0", "1", "null", "NULL", "😀", "😁", "{job}", "job:x", "job\n", "e\u0301", "\u00e9"),
)
"""Texts that some collation considers equal, or that some query language reads as a pattern."""
_TURN: Final = 1e-6


# --- promises -------------------------------------------------------------------------------------------------------


def kept(truth: object, promise: str) -> None:
    """Fail, naming the promise, unless it is kept."""
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
    raise AssertionError(f"promise broken: {promise}with InvalidRequest; the call returned {returned!r}")


def plainly(run: Callable[[], None]) -> None:
    """Run a generated test. It fails with the broken promise itself, even if a race fails only sometimes."""
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
    """A draft with only the required fields."""
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


def bodiless(job: Job) -> Job:
    """The job as a reader sees it that does not ask for the request's body."""
    return job if job.request is None else evolve(job, request=evolve(job.request, body=b""))


def unread(job: Job) -> Job:
    """The job without its moment of reading."""
    return evolve(job, read_time=job.created_time)


def whole_output(store: Store, job_id: str, limit: int = 65536) -> str:
    """All output of a job, read in chunks as a watcher does."""
    text, offset = "", 0
    deadline = time.monotonic() + PATIENCE
    while (chunk := store.output(job_id, offset, limit)).text:
        text += chunk.text
        kept(chunk.next_offset > offset, "next_offset of a chunk is past its beginning")
        kept(time.monotonic() < deadline, "reading output comes to an end")
        offset = chunk.next_offset
    return text


# --- threads --------------------------------------------------------------------------------------------------------


@contextmanager
def _restless() -> Iterator[None]:
    """Switch threads far more often than usual, so that steps that are not atomic are caught."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def at_once(calls: Sequence[Callable[[], T]], patience: float = PATIENCE) -> list[T]:
    """The results of the calls, each made from its own thread at the same moment. Raises the first error.

    Calls that have not returned after ``patience`` seconds break a promise; their threads are abandoned.
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
        where = sys._current_frames().get(stuck[0].ident or 0)  # noqa: SLF001 - the documented way
        raise _Deadlock(
            f"promise broken: calls from many threads all return; {len(stuck)} did not within {patience:g} s\n"
            f"stack of one of them:\n{''.join(traceback.format_stack(where))}"
        ) from error
    if error is not None:
        raise error
    return [results[index] for index in range(len(calls))]


class _Deadlock(AssertionError):
    """Threads are stuck in calls to a store."""


# --- one test -------------------------------------------------------------------------------------------------------


class StoreCase:
    """The fixtures of one test: an empty ``directory``, a ``clock`` that only the test moves, and a ``store``.

    ``store`` is watched: an error that it raises, or a value of a wrong type, fails the test.
    """

    directory: Path
    clock: FakeClock
    store: Store

    patience = PATIENCE
    """Seconds after which an unfinished race counts as a deadlock."""

    def make_store(self, clock: Clock) -> Store:
        """A new, empty store whose time is ``clock``; override this. A test may call it several times."""
        raise NotImplementedError("a subclass of StoreContract must override make_store(clock)")

    def new_store(self, clock: Clock) -> Store:
        """A new store, watched."""
        store = self.make_store(clock)
        missing = [name for name in METHODS if not callable(getattr(store, name, None))]
        kept(not missing, f"a store has twelve methods; missing here: {', '.join(missing)}")
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
        """The results of the calls, each made from its own thread at the same moment."""
        __tracebackhide__ = True
        try:
            return at_once(calls, self.patience)
        except _Deadlock:
            self._is_stuck = True  # close() might deadlock too
            raise

    def read(self, job_id: str = "job") -> Job:
        """The job, which must exist."""
        __tracebackhide__ = True
        job = self.store.get(job_id)
        if job is None:
            raise AssertionError(f"promise broken: a job that was written can be read ({job_id!r})")
        return job

    def running(
        self,
        job_id: str = "job",
        token: str = "token",  # noqa: S107 - no password
        run_lease: float = LEASE,
        **fields: Any,
    ) -> Job:
        """A job that was created and claimed."""
        __tracebackhide__ = True
        self.store.create(draft(job_id, **fields))
        return self.claimed(job_id, token, run_lease=run_lease)

    def claimed(
        self,
        job_id: str = "job",
        token: str = "token",  # noqa: S107 - no password
        *,
        run: int = 1,
        run_lease: float = LEASE,
    ) -> Job:
        """A waiting job after its claim."""
        __tracebackhide__ = True
        job = self.store.change(job_id, *claimed(token, run, run_lease))
        if job is None:
            raise AssertionError("promise broken: a job that waits for this run can be claimed")
        return job

    def requeued(self, job_id: str = "job", requeue: Requeue = RETRY) -> Job:
        """A running job after its run was given up; another run follows."""
        __tracebackhide__ = True
        before = self.read(job_id)
        expect = Expect(run=before.run, token=before.token)
        job = self.store.change(job_id, expect, requeued(before, requeue, self.clock.now()))
        if job is None:
            raise AssertionError("promise broken: a running job can be requeued")
        return job

    def ended(self, job_id: str = "job", end: End = COMPLETED, **fields: Any) -> Job:
        """A job that was created, claimed and ended."""
        __tracebackhide__ = True
        running = self.running(job_id, **fields)
        job = self.store.change(job_id, Expect(token=running.token), ended(end))
        if job is None:
            raise AssertionError("promise broken: an IN_PROGRESS job can be ended")
        return job
