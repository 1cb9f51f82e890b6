"""A site on a real uvicorn with scripted jobs: the test writes their states straight into the store."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode

from attrs import evolve, frozen

from backjob import BackJob, Status
from backjob.jobs import engine_of
from backjob.lifecycle import Requeue, requeued
from backjob.model import Changes, Draft, Expect, JsonValue, Report, Request
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport
from tests.docs.pages import ROOT
from tests.docs.serving import served
from tests.ports import free_port

__all__ = ["ScriptedJob", "ScriptedSite"]

PORT_LINE: Final = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"
TOKEN: Final = "scripted"
LEASE: Final = 3600.0  # s


@frozen
class ScriptedJob:
    """A job without an action: the test writes its states, at the times of the site's clock."""

    site: ScriptedSite
    id: str

    @property
    def source(self) -> str:
        """The status URL, which may cancel the job."""
        return self.site.jobs.status_url(self.id, cancel=True)

    def claim(self) -> ScriptedJob:
        """Set the job to IN_PROGRESS."""
        changes = Changes(status=Status.IN_PROGRESS, token=TOKEN, lease=None, claimed=True, alive=True)
        assert self.site.store.change(self.id, Expect(unclaimed=True), changes) is not None
        return self

    def requeue(self, requeue: Requeue) -> ScriptedJob:
        """End this run, so that another one follows."""
        job = self.site.store.get(self.id)
        assert job is not None
        changes = evolve(requeued(job, requeue, self.site.clock.now()), lessee="the test", lease=LEASE)
        assert self.site.store.change(self.id, Expect(token=TOKEN), changes) is not None
        return self

    def report(self, progress: int | None = None, text: str | None = None, output: str = "") -> ScriptedJob:
        """Write a report, as an action would."""
        report = Report(progress=progress, text=text, output=output)
        assert self.site.store.report(self.id, TOKEN, report) is not None
        return self

    def end(self, status: Status, text: str, result: JsonValue = None) -> ScriptedJob:
        """Write the end, as a worker would."""
        changes = Changes(status=status, status_text=text, result=result, end=True)
        if status is Status.COMPLETED:
            changes = evolve(changes, progress=100)
        assert self.site.store.change(self.id, Expect(token=TOKEN), changes) is not None
        return self


class ScriptedSite(AbstractContextManager["ScriptedSite"]):
    """The site. Within its context you may `kill` and `start` its server, which keeps its port."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.store = SQLiteStore(folder / "jobs.db", clock=self.clock)
        self.key = secrets.token_urlsafe(32)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.jobs = BackJob(self.store, SocketTransport(self.url), MessageSigner(self.key))
        self._server = ExitStack()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.jobs.close()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SITE_KEY": self.key}
        command = [sys.executable, str(Path(__file__).with_name("uvicorn_site.py")), str(self.port)]
        self._server.enter_context(served(command, self.folder, environment, PORT_LINE))

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self._server.close()

    def job(self, due: float = 0.0, scope: str = "") -> ScriptedJob:
        """A new job, STARTED. No monitor delivers it, because the test has its lease."""
        draft = Draft(
            id=secrets.token_urlsafe(18), request=Request("GET", "/work"), due=due, scope=scope,
            retries=3, lessee="the test", lease=LEASE,
        )  # fmt: skip
        return ScriptedJob(self, engine_of(self.jobs).store.create(draft).id)

    def page(self, *jobs: ScriptedJob, **attributes: str) -> str:
        """The URL of a page with an element for each job. Underscores in names of attributes stand for hyphens."""
        pairs = [("job", job.source) for job in jobs]
        pairs += [(name.replace("_", "-"), value) for name, value in attributes.items()]
        return f"{self.url}/?{urlencode(pairs)}"
