"""Parts of the tests with an outage of a site's store: the site, its counting jobs, and an observer of jobs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from attrs import field, frozen

from backjob import BackJob, JobState, Status
from backjob.errors import StoreUnavailable
from backjob.protocols import Job, Store
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.scenarios.client import WAIT
from tests.scenarios.servers import KINDS, Kind, gunicorn, running
from tests.scenarios.sites import KEY, Site

__all__ = [
    "PROCESSES",
    "Counters",
    "Observer",
    "end_of",
    "outage_site",
    "two_processes",
    "until",
    "warnings",
    "whole_output",
]

PROCESSES: Final = 2


def two_processes(jobs: int) -> Kind:
    """gunicorn with two workers, each of which can run ``jobs`` jobs and serve a few pages beside them.

    Chance may give all jobs to one worker, and then a page that it accepts would wait for them.
    """
    threads = jobs + 5
    command = gunicorn(f"--workers={PROCESSES}", "--worker-class=gthread", f"--threads={threads}")
    return Kind(name="gunicorn", command=command, workers=PROCESSES * threads, address="configured")


@contextmanager
def outage_site(store_url: str, directory: Path, kind: Kind = KINDS["gunicorn-threads"], **more: str) -> Iterator[Site]:
    """The running site of `outage_app`, with its jobs in this store."""
    environment = {
        "BACKJOB_STORE": store_url,
        "BACKJOB_KEY": KEY,
        "SCENARIO_RUNS": str(directory / "runs"),
        "OUTAGE_ENDS": str(directory / "ends"),
        "BACKJOB_MAX_RUNNING": "1000",  # as many as the test holds
        **more,
    }
    with (
        running(kind, "tests.faults.outage_app:app", directory, environment) as server,
        BackJob(open_store(store_url), SocketTransport("http://127.0.0.1:9"), MessageSigner(KEY)) as jobs,
    ):
        yield Site(server, jobs, directory)


def until(is_done: Callable[[], object], failure: str) -> None:
    """Wait until a condition is true."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT
    while not is_done():
        assert time.monotonic() < deadline, failure
        pause.wait(0.01)


def end_of(site: Site, job_id: str) -> JobState:
    """Wait for a job's end, even if a connection from before the outage turns out to be dead."""
    ends: list[JobState] = []

    def has_ended() -> bool:
        with suppress(StoreUnavailable):
            ends.append(site.end(job_id))
        return bool(ends)

    until(has_ended, f"{job_id} did not end")
    return ends[0]


# --- counting jobs --------------------------------------------------------------------------------------------------


class Counters:
    """Connections to at most ``most`` running jobs of the counting action."""

    def __init__(self, most: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=most)
        self._listening.settimeout(WAIT)
        self.port: int = self._listening.getsockname()[1]
        self._running: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for connection in [self._listening, *self._running]:
            connection.close()

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` jobs run."""
        while len(self._running) < count:
            self._running.append(self._listening.accept()[0])

    def count(self, times: int) -> None:
        """Wait until each job has reported ``times`` more times."""
        for connection in self._running:
            connection.setblocking(False)
            with suppress(BlockingIOError):
                while connection.recv(65536):
                    pass
            connection.settimeout(WAIT)
        for connection in self._running:
            left = times
            while left > 0:
                received = len(connection.recv(left))
                assert received, "a counting action has ended"
                left -= received

    def release(self) -> None:
        """Let all jobs end."""
        for connection in self._running:
            connection.sendall(b".")


# --- observing ------------------------------------------------------------------------------------------------------


@frozen(eq=False)
class Observer:
    """A thread that polls jobs through its own store, and notes states that must never occur.

    ``away`` counts the reads that raised `StoreUnavailable`, and ``wrong`` lists the errors found.
    """

    _store: Store
    _ids: Sequence[str]
    wrong: list[str] = field(factory=list)
    _seen: dict[str, Job] = field(factory=dict)
    _away: list[float] = field(factory=list)
    _stop: threading.Event = field(factory=threading.Event)

    @classmethod
    @contextmanager
    def of(cls, store_url: str, ids: Sequence[str]) -> Iterator[Observer]:
        """A running observer. Asserts at the end that it found no errors."""
        with closing(open_store(store_url)) as store:
            observer = cls(store, ids)
            thread = threading.Thread(target=observer._poll)
            thread.start()
            try:
                yield observer
            finally:
                observer._stop.set()
                thread.join(WAIT)
        assert observer.wrong == []

    @property
    def away(self) -> int:
        return len(self._away)

    def version(self, job_id: str) -> int:
        """The version of a job when it was last read."""
        return self._seen[job_id].version if job_id in self._seen else 0

    def _poll(self) -> None:
        while not self._stop.is_set():
            for job_id in self._ids:
                try:
                    self._compare(job_id, self._store.get(job_id))
                except StoreUnavailable:
                    self._away.append(time.monotonic())
                    self._stop.wait(0.01)
                except Exception as error:  # a store must raise nothing else
                    self.wrong.append(repr(error))
            self._stop.wait(0.01)

    def _compare(self, job_id: str, job: Job | None) -> None:
        before = self._seen.get(job_id)
        if job is None:
            self.wrong.append(f"{job_id} is lost")
            return
        self._seen[job_id] = job
        if before is None:
            return
        if job.version < before.version or job.output_size < before.output_size or job.status < before.status:
            self.wrong.append(f"{job_id} went back: {_brief(before)}, then {_brief(job)}")
        elif before.status.is_final and job.version != before.version:
            self.wrong.append(f"{job_id} changed after its end: {_brief(before)}, then {_brief(job)}")
        elif job.status is not before.status and job.version == before.version:
            self.wrong.append(f"{job_id} changed without a new version: {_brief(before)}, then {_brief(job)}")


def _brief(job: Job) -> str:
    return f"{Status(job.status).name}, version {job.version}, {job.output_size} bytes"


def warnings(log: str) -> list[str]:
    """The lines of a server's log without those of level INFO, which gunicorn writes when it starts and stops."""
    return [text for text in log.splitlines() if "[INFO]" not in text]


def whole_output(jobs: BackJob, job_id: str) -> str:
    """All of a job's output."""

    def chunks() -> Iterable[str]:
        offset = 0
        while (chunk := jobs.output(job_id, offset)).text:
            offset = chunk.next_offset
            yield chunk.text

    return "".join(chunks())
