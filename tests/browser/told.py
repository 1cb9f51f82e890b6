"""A site on a real uvicorn, with jobs that do what a test says: each state is written straight into their store."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode

from attrs import frozen

from backjob import BackJob, Status
from backjob.model import Changes, Draft, Expect, JsonValue, Report, Request
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport
from tests.docs.pages import ROOT
from tests.docs.serving import served

__all__ = ["Told", "ToldJob"]

SAYS: Final = r"Uvicorn running on http://127\.0\.0\.1:(\d+)"
TOKEN: Final = "told"


@frozen
class ToldJob:
    """A job that nobody runs. Times are the clock's of its site."""

    site: Told
    id: str

    @property
    def source(self) -> str:
        """Its status address, with the right to cancel."""
        return self.site.jobs.status_url(self.id, cancel=True)

    def claim(self) -> ToldJob:
        """IN_PROGRESS from now on."""
        claimed = self.site.store.change(
            self.id, Expect(status=Status.STARTED), Changes(status=Status.IN_PROGRESS, token=TOKEN, alive=True)
        )
        assert claimed is not None
        return self

    def report(self, progress: int | None = None, text: str | None = None, output: str = "") -> ToldJob:
        """What an action would say."""
        told = Report(progress=progress, text=text, output=output)
        assert self.site.store.report(self.id, TOKEN, told) is not None
        return self

    def end(self, status: Status, text: str, result: JsonValue = None) -> ToldJob:
        """The end, as a worker writes it."""
        progress = Changes(status=status, status_text=text, result=result, end=True)
        if status is Status.COMPLETED:
            progress = Changes(status=status, status_text=text, result=result, end=True, progress=100)
        assert self.site.store.change(self.id, Expect(token=TOKEN), progress) is not None
        return self


class Told(AbstractContextManager["Told"]):
    """The site; `kill` and `start` while the context lasts. Its server may be another one behind the same port."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.store = SQLiteStore(folder / "jobs.db", clock=self.clock)
        self.key = secrets.token_urlsafe(32)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
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
        """Serve; returns when connections are accepted."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SITE_KEY": self.key}
        command = [sys.executable, str(Path(__file__).with_name("uvicorn_site.py")), str(self.port)]
        self._server.enter_context(served(command, self.folder, environment, SAYS))

    def kill(self) -> None:
        """End the server as by a power cut."""
        self._server.close()

    def job(self, due: float = 0.0, scope: str = "") -> ToldJob:
        """A new job, STARTED, that no monitor delivers: somebody else says to be at it."""
        draft = Draft(
            id=secrets.token_urlsafe(18), request=Request("GET", "/work"), due=due, scope=scope,
            lessee="the test", lease=3600.0,
        )  # fmt: skip
        return ToldJob(self, self.store.create(draft).id)

    def page(self, *jobs: ToldJob, **attributes: str) -> str:
        """The address of a page with an element for each job; ``on_done_href`` is the attribute on-done-href."""
        pairs = [("job", job.source) for job in jobs]
        pairs += [(name.replace("_", "-"), value) for name, value in attributes.items()]
        return f"{self.url}/?{urlencode(pairs)}"
