"""A scenario site that runs on a real server, and the jobs in its store: what the tests work with."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from attrs import frozen

from backjob import BackJob, JobState
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.transports.sockets import SocketTransport
from tests.scenarios.client import WAIT, Client, Page
from tests.scenarios.servers import Kind, Server, running

__all__ = ["KEY", "STREAMS", "Site", "jobs_at", "result_of", "serving", "settings", "store_url"]

KEY: Final = "the scenarios' own secret, 5a1c0f7e93b24d68"

STREAMS: Final = 2
"""How many event streams each process of the common sites serves."""


def settings(directory: Path) -> dict[str, str]:
    """The environment of every process of a site that keeps its jobs in this directory."""
    return {
        "BACKJOB_STORE": store_url(directory),
        "BACKJOB_KEY": KEY,
        "SCENARIO_RUNS": str(directory / "runs"),
    }


@contextmanager
def serving(kind: Kind, app: str, directory: Path, **more: str) -> Iterator[Site]:
    """A site within its block: the app (``module:name`` below `apps`) on a server, with further settings."""
    environment = settings(directory) | more
    with running(kind, f"tests.scenarios.apps.{app}", directory, environment) as server, jobs_at(directory) as jobs:
        yield Site(server, jobs, directory)


def store_url(directory: Path) -> str:
    """The URL of the jobs of a site that keeps them in this directory."""
    return f"sqlite:///{directory / 'jobs.db'}"


def jobs_at(directory: Path, **options: Any) -> BackJob:
    """A `BackJob` on the same jobs as the site in this directory, to watch them: its own transport leads nowhere."""
    return BackJob(
        open_store(store_url(directory)), SocketTransport("http://127.0.0.1:9"), MessageSigner(KEY), **options
    )


def result_of(state: JobState) -> Any:
    """What a job left as its result; a test knows its shape."""
    return state.result


@frozen
class Site:
    """A running site as a test sees it: its pages through its server's client, its jobs through ``jobs``."""

    server: Server
    jobs: BackJob
    directory: Path

    @property
    def kind(self) -> Kind:
        return self.server.kind

    @property
    def client(self) -> Client:
        return self.server.client

    def start(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        visitor: Mapping[str, str] | None = None,
        source: str | None = None,
        mount: str = "",
        **options: Any,
    ) -> str:
        """Have the site start a job with these arguments of ``start()``, by a visitor with these header fields."""
        return str(self.started(path, query, visitor=visitor, source=source, mount=mount, **options)["id"])

    def started(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        visitor: Mapping[str, str] | None = None,
        source: str | None = None,
        mount: str = "",
        **options: Any,
    ) -> Any:
        """`start`, and all that the site answers: ``id``, ``url`` to watch and cancel it, ``pid`` of the process."""
        body = json.dumps({"path": path, "query": query, **options}).encode()
        page = self.client.request("POST", f"{mount}/start", headers=visitor, body=body, source=source)
        assert page.status == 202, page.text
        return page.json()

    def refused(self, path: str, **options: Any) -> Any:
        """The error that ``start()`` raises on the site: its name and its text."""
        page = self.client.request("POST", "/start", body=json.dumps({"path": path, **options}).encode())
        assert page.status == 400, page.text
        return page.json()

    def run(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> JobState:
        """Start a job, and wait for its end."""
        return self.end(self.start(path, query, **options))

    def steps(self, *steps: list[Any], **options: Any) -> JobState:
        """Run a job that calls these methods, each given as its name and what it is called with."""
        named = [
            [step[0], step[1:-1], step[-1]] if isinstance(step[-1], dict) else [step[0], step[1:], {}] for step in steps
        ]
        return self.run("/work/steps", {"steps": json.dumps(named)}, **options)

    def end(self, job_id: str) -> JobState:
        """Wait for a job's end."""
        return self.jobs.join(job_id, WAIT)

    def until(self, job_id: str, holds: Callable[[JobState], bool]) -> JobState:
        """Look at a job until something holds of its state."""
        looks, deadline = threading.Event(), time.monotonic() + WAIT
        while not holds(state := self.jobs.status(job_id)):
            assert time.monotonic() < deadline, state
            looks.wait(0.01)
        return state

    def text(self, job_id: str) -> str:
        """A job's whole output."""
        return self.jobs.output(job_id).text

    def page(self, path: str, query: Mapping[str, Any] | None = None, **options: Any) -> Page:
        """A page of the site, as a browser gets it."""
        return self.client.get(f"{path}?{urlencode(query)}" if query else path, **options)

    def runs(self, job_id: str) -> int:
        """How often actions were run for this job."""
        file = self.directory / "runs"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return sum(line.split()[0] == job_id for line in lines)
