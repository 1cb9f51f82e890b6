"""A served application, and in this process a `BackJob` on the same store that starts its jobs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.model import Draft, Grant, Request
from backjob.signing import MessageSigner
from backjob.signing.tokens import new_job_id
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from backjob.worker.running import Running
from tests.benchmarks.kinds import StoreKind
from tests.benchmarks.notes import END, FIRST_LINE, KEY, Notes
from tests.benchmarks.raw import Raw, bare_request
from tests.benchmarks.serving import serving
from tests.scenarios.servers import KINDS

__all__ = ["Site", "open_site"]

_TIMEOUT: Final = 30.0
_MANY: Final = 1000


@frozen
class Site:
    """``jobs`` starts jobs here, and the server at ``address`` runs them. ``raw`` does the same work without backjob.

    ``store`` is the URL of the store of both processes.
    """

    address: tuple[str, int]
    kind: StoreKind
    store: str
    jobs: BackJob
    raw: Raw
    notes: Notes

    def start(self) -> str:
        """Start the action that does nothing."""
        return self.jobs.start("/work", {"id": 5}, as_current_user=False)

    def first_line(self) -> float:
        """Wait for the first line of an action or of the bare route; return its time (s)."""
        return self.notes.wait(FIRST_LINE)

    def end_of_job(self) -> float:
        """Wait until a job's end, or a bare route's second update, is written; return the time (s)."""
        return self.notes.wait(END)

    def drain(self) -> None:
        """Wait until this process has nothing left to deliver, so that it can't disturb the next measurement."""
        until, pause = time.monotonic() + _TIMEOUT, threading.Event()
        while engine_of(self.jobs).monitor._deliveries._by_id:
            pause.wait(0.0005)
            assert time.monotonic() < until, "a delivery did not finish"

    def running(self) -> Running:
        """Return a job claimed in this process; code inside ``active()`` runs as its action."""
        draft = Draft(id=new_job_id(), request=Request("GET", "/work?id=5"), due=3600.0, error_timeout=3600.0)
        job = engine_of(self.jobs).store.create(draft)
        now = int(job.created_time.timestamp())
        signed = self.jobs.signer.sign(draft.request, Grant(job.id, 1, 1, now, now + 600))
        verified = engine_of(self.jobs).worker.open(signed)
        assert verified is not None
        return engine_of(self.jobs).worker.claim(verified, b"")


@contextmanager
def open_site(kind: StoreKind, server: str, directory: Path) -> Iterator[Site]:
    """Serve the application with an empty store, on one of the servers of `tests.scenarios.servers`.

    This process, which has no server, may run any number of jobs.
    """
    with serving(kind, KINDS[server].command, directory) as served:
        jobs = BackJob(open_store(served.store), SocketTransport(served.url), MessageSigner(KEY), max_running=_MANY)
        with closing(jobs):
            waiting = jobs.start("/work", {"id": 5}, as_current_user=False, delay=86400)
            served.raw.take_template(served.store, waiting)
            jobs.cancel(waiting)
            bare_request(served.address, "/ready")
            yield Site(served.address, kind, served.store, jobs, served.raw, served.notes)
