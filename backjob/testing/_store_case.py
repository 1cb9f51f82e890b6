"""What the parts of the store contract share: a store for each test, jobs in every state, and how a promise is checked."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, Final, TypeVar

import pytest

from backjob.lifecycle import End, claimed, completed, ended
from backjob.model import Draft, Expect, Job, Request
from backjob.protocols import Clock, Store
from backjob.testing.clock import FakeClock

__all__ = ["MICROSECOND", "PATIENCE", "StoreCase", "at_once", "draft", "kept", "same", "whole_output"]

T = TypeVar("T")

COMPLETED: Final = completed("done")
MICROSECOND: Final = 0.000001
PATIENCE: Final = 60.0
"""Seconds after which a race that has not ended counts as a deadlock."""
_TURN: Final = 1e-6


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


def draft(job_id: str = "job", **fields: Any) -> Draft:
    """A draft that says as little as it can."""
    return Draft(id=job_id, **{"request": Request("GET", "/work"), **fields})


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


@contextmanager
def _restless() -> Iterator[None]:
    """Threads take turns far more often than usual: else a step that is not atomic would hardly ever be caught at it."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """What the calls return, made from as many threads at the same moment."""
    barrier = Barrier(len(calls), timeout=PATIENCE)

    def run(call: Callable[[], T]) -> T:
        barrier.wait()
        return call()

    with _restless(), ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(PATIENCE) for future in [pool.submit(run, call) for call in calls]]


class StoreCase:
    """One test's surroundings. ``directory`` is empty and the test's own, ``clock`` moves only by the test."""

    directory: Path
    clock: FakeClock
    store: Store

    def make_store(self, clock: Clock) -> Store:
        """A new, empty store whose time is ``clock``; override this. It may be called several times in one test."""
        raise NotImplementedError("a subclass of StoreContract says how its store is made: override make_store(clock)")

    @pytest.fixture(autouse=True)
    def _a_store_for_each_test(self, tmp_path: Path) -> Iterator[None]:
        self.directory = tmp_path
        self.clock = FakeClock()
        self.store = self.make_store(self.clock)
        yield
        self.store.close()

    def read(self, job_id: str = "job") -> Job:
        """The job as it stands; it has to."""
        job = self.store.get(job_id)
        if job is None:
            raise AssertionError(f"promise broken: a job that was written is found again ({job_id!r})")
        return job

    def running(self, job_id: str = "job", token: str = "token", **fields: Any) -> Job:  # noqa: S107 - no password
        """A job that was created and claimed."""
        self.store.create(draft(job_id, **fields))
        job = self.store.change(job_id, *claimed(token))
        if job is None:
            raise AssertionError("promise broken: a STARTED job can be claimed")
        return job

    def ended(self, job_id: str = "job", end: End = COMPLETED, **fields: Any) -> Job:
        """A job that was created, claimed and ended."""
        running = self.running(job_id, **fields)
        job = self.store.change(job_id, Expect(token=running.token), ended(end))
        if job is None:
            raise AssertionError("promise broken: an IN_PROGRESS job can be ended")
        return job
