"""A served application and, in this process, the `BackJob` that starts its jobs, on one SQLite file."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import frozen

from backjob import BackJob
from backjob.access import new_job_id
from backjob.model import Draft, Grant, Request
from backjob.running import Running
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from tests.benchmarks.notes import END, FIRST_LINE, KEY, Notes
from tests.benchmarks.raw import RawStore, bare_request
from tests.scenarios.servers import KINDS

__all__ = ["Site", "open_site"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_BACKLOG: Final = 1024
_TIMEOUT: Final = 30.0


@frozen
class Site:
    """``jobs`` starts here what the server at ``address`` runs. ``raw`` is for the same work done by hand."""

    address: tuple[str, int]
    store: Path
    jobs: BackJob
    raw: RawStore
    notes: Notes

    def start(self) -> str:
        """Start the action that does nothing."""
        return self.jobs.start("/work", {"id": 5}, as_current_user=False)

    def first_line(self) -> float:
        """When an action's, or the bare route's, first line ran (s)."""
        return self.notes.wait(FIRST_LINE)

    def end_of_job(self) -> float:
        """When a job's end, or a bare route's second update, had been written (s)."""
        return self.notes.wait(END)

    def rest(self) -> None:
        """Return when this process has nothing left to deliver: what follows is measured undisturbed."""
        until, pause = time.monotonic() + _TIMEOUT, threading.Event()
        while self.jobs.monitor._deliveries._held:
            pause.wait(0.0005)
            assert time.monotonic() < until, "a job was not concluded"

    def running(self) -> Running:
        """A job that was claimed here, whose action is whatever runs within ``active()``."""
        draft = Draft(id=new_job_id(), request=Request("GET", "/work?id=5"), due=3600.0, error_timeout=3600.0)
        job = self.jobs.store.create(draft)
        now = int(job.created_time.timestamp())
        signed = self.jobs.signer.sign(draft.request, Grant(job.id, 1, now, now + 600))
        verified = self.jobs.worker.open(signed)
        assert verified is not None
        return self.jobs.worker.claim(verified, b"")


@contextmanager
def open_site(server: str, directory: Path, store: Path) -> Iterator[Site]:
    """The application on one of the servers of `tests.scenarios.servers`."""
    raw = RawStore(directory / "raw.db")
    notes = Notes(directory / "notes")
    with socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listening:
        host, port = listening.getsockname()
        url = f"http://{host}:{port}"
        jobs = BackJob(SQLiteStore(store), SocketTransport(url), MessageSigner(KEY))
        waiting = jobs.start("/work", {"id": 5}, as_current_user=False, delay=86400)
        raw.take_template(store, waiting)
        jobs.cancel(waiting)
        process = subprocess.Popen(
            KINDS[server].command("tests.benchmarks.app:application", listening, directory),
            cwd=_ROOT,
            env=os.environ
            | {
                "BENCHMARK_STORE": str(store),
                "BENCHMARK_RAW": str(raw.path),
                "BENCHMARK_URL": url,
                "BENCHMARK_NOTES": str(notes.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr if "BENCHMARK_DEBUG" in os.environ else subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
        )
        try:
            bare_request((host, port), "/ready")
            yield Site((host, port), store, jobs, raw, notes)
        finally:
            jobs.close()
            raw.close()
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()
            notes.close()
