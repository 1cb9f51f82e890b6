"""Shared by the parts of the store contract: a store per test, jobs in every state, and checks that name a promise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from attrs import evolve

from backjob.errors import InvalidRequest
from backjob.lifecycle import End, Requeue, claimed, completed, ended, requeued
from backjob.model import Draft, Expect, Job, Output, Report, Request, check_duration
from backjob.protocols import Clock, Store
from backjob.testing._stores.deadline import Deadline
from backjob.testing._stores.differences import difference
from backjob.testing._stores.watched import METHODS, WatchedStore
from backjob.testing.clock import FakeClock

T = TypeVar("T")

COMPLETED: Final = completed("done")
RETRY: Final = Requeue("the process that ran it ended")
MICROSECOND: Final = 0.000001
LEASE: Final = 100_000.0
"""Seconds of a run lease that no test outlives unless it is about leases."""
PATIENCE: Final = 60.0
"""Seconds after which a call or a race that has not ended counts as a deadlock."""
UNKNOWN: Final = ("", "nobody", "JOB", "job ", "x" * 5000, "' OR 1=1 --")
"""Ids that no job of a test has."""
ALIKE: Final = (
    *("job", "JOB", "Job", "jÖb", "jöb", "jo\u0308b", "job ", "job  ", " job", "job\t", "", " ", "ＪＯＢ", "𝐣𝐨𝐛"),
    *("ss", "ß", "ﬁ", "fi", "i", "İ", "ı", "%", "_", "j%", "jo_", "*", "j*", "[j]ob", "jo?", "\\", "job\\", "'", '"'),
    *("0", "00", "1e0", "1", "null", "NULL", "😀", "😁", "{job}", "job:x", "job\n", "e\u0301", "\u00e9"),
)
"""Texts that some collation considers equal, or that some query language reads as a pattern."""


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
        raise AssertionError(f"promise broken: {promise}{difference(found, expected)}")


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


# --- one test -------------------------------------------------------------------------------------------------------


class StoreCase:
    """The fixtures of one test: an empty ``directory``, a ``clock`` that only the test moves, and a ``store``.

    ``store`` is watched: an error that it raises, a value of a wrong type, or a call that does not return fails the test.
    """

    directory: Path
    clock: FakeClock
    store: Store
    deadline: Deadline

    patience = PATIENCE
    """Seconds after which a call or a race that has not ended counts as a deadlock."""

    def make_store(self, clock: Clock) -> Store:
        """A new, empty store whose time is ``clock``; override this. A test may call it several times."""
        raise NotImplementedError("a subclass of StoreContract must override make_store(clock)")

    def new_store(self, clock: Clock) -> Store:
        """A new store, watched."""
        store = self.deadline.call("make_store", self.make_store, clock)
        missing = [name for name in METHODS if not callable(getattr(store, name, None))]
        kept(not missing, f"a store has twelve methods; missing here: {', '.join(missing)}")
        return WatchedStore(store, self.deadline)

    def close(self, store: Store) -> None:
        """Close a store, unless a call is stuck: closing might never return either."""
        if not self.deadline.is_stuck:
            store.close()

    @pytest.fixture(autouse=True)
    def _a_store_for_each_test(self, tmp_path: Path) -> Iterator[None]:
        with self.opened(tmp_path):
            yield

    @contextmanager
    def opened(self, directory: Path) -> Iterator[None]:
        """The attributes of one test."""
        self.directory = directory
        self.clock = FakeClock()
        self.patience = check_duration("patience", self.patience)
        self.deadline = Deadline(self.patience)
        with self.deadline.watched():
            self.store = self.new_store(self.clock)
            try:
                yield
            finally:
                self.close(self.store)

    def at_once(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of the calls, each made from its own thread at the same moment."""
        __tracebackhide__ = True
        return self.deadline.at_once(calls)

    def read(self, job_id: str = "job") -> Job:
        """The job, which must exist."""
        __tracebackhide__ = True
        job = self.store.get(job_id)
        if job is None:
            raise AssertionError(f"promise broken: a job that was written can be read ({job_id!r})")
        return job

    def blank(self, job_id: str) -> None:
        """Create a job, claim it and let it report; it must show nothing of the jobs that were removed before."""
        __tracebackhide__ = True
        request = Request("GET", f"/{job_id}")
        created = self.store.create(draft(job_id, request=request))
        promise = "a new job has nothing of a removed one, even if the store uses its number again"
        same(self.store.output(job_id), Output("", 0), promise)
        same(self.store.get(job_id, body=True), created, promise)
        self.claimed(job_id)
        kept(
            self.store.report(job_id, "token", Report(output=f"{job_id};", truncated=True)),
            "a report with the current token is written",
        )
        same(self.store.output(job_id), Output(f"{job_id};", len(job_id) + 1, truncated=True), promise)

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
